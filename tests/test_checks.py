"""Messages at the door: what must hold, what came, how to fix it; and never a look at numbers that are traced."""

from __future__ import annotations

import math

import pytest
import torch
from torch.func import vmap

from funcebm import checks


def test_require_says_three_things():
    checks.require(True, "it must hold", 1, "Do.")
    with pytest.raises(TypeError, match=r"^it must hold\. Got 'x'\. Do\.$"):
        checks.require(False, "it must hold", ("x",)[0].__repr__(), "Do.", TypeError)


@pytest.mark.parametrize("value", [0, 0.0, -1.0, math.inf, math.nan, torch.tensor(0.0), torch.tensor([1.0, math.nan])])
def test_positive_refuses(value):
    with pytest.raises(ValueError, match=r"a must be positive and finite. Got"):
        checks.positive("a", value)


@pytest.mark.parametrize("value", [1, 0.1, None, torch.tensor(0.1), torch.ones(2)])
def test_positive_takes(value):
    checks.positive("a", value)


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "1", None])
def test_positive_int_refuses(value):
    with pytest.raises(ValueError, match=r"a must be an integer of at least 1. Got"):
        checks.positive_int("a", value)


def test_traced_numbers_are_not_looked_at():
    def function(x):
        assert not checks.is_concrete(x)
        checks.positive("x", x)
        return x

    vmap(function)(-torch.ones(2))
    torch.func.grad(function)(-torch.ones(()))
    assert checks.is_concrete(torch.ones(2))


def test_one_structure_names_the_leaves_or_the_containers():
    a, b = torch.zeros(1), torch.zeros(1)
    checks.one_structure("x", {"a": a}, "y", {"a": b})
    with pytest.raises(ValueError, match=r"leaves missing: \['b'\], leaves not expected: \['a'\]"):
        checks.one_structure("x", {"a": a}, "y", {"b": b})
    with pytest.raises(ValueError, match=r"Got PyTreeSpec\(\[\*\]\) in place of PyTreeSpec\(\(\*,\)\)"):
        checks.one_structure("x", [a], "y", (b,))


def test_same_device_names_the_trees():
    checks.same_device(a=torch.zeros(1), b=(), c={"d": 1.0})
    with pytest.raises(ValueError, match=r"a and b must be on one device. Got a on \['cpu'\], b on \['meta'\]"):
        checks.same_device(a=torch.zeros(1), b=torch.zeros(1, device="meta"))
