"""What a function that is compiled may do, and what is said where it may not: in the user's words, with the user's line."""

from __future__ import annotations

import inspect
import math
import traceback

import numpy as np
import pytest
import torch
from torch.func import vmap

import funcebm as ebm
from funcebm import loops
from funcebm.transforms import TracedValueError

from .ways import WAYS, MineError, X, by_jit, by_jit_in_a_loop, ways

pytestmark = [pytest.mark.compiled, pytest.mark.usefixtures("op_by_op")]

# -- numbers that have no value yet -------------------------------------------------------------------------------


def branches(params, x):
    if x[0] > 0:  # the line
        return (x**2).sum()
    return (x**4).sum()


def chooses(params, x):
    return (x**2).sum() if x.sum() > 0 else (x**4).sum()  # the line


def loops_on(params, x):
    while x.sum() < 10:  # the line
        x = x + 1
    return x.sum()


def asserts(params, x):
    is_large = x.abs().max() < 1e6
    if not is_large:  # the line
        raise AssertionError
    return (x**2).sum()


def asks_item(params, x):
    return (x**2).sum() + x[0].item()  # the line


def makes_float(params, x):
    return (x**2).sum() * float(x[1])  # the line


def makes_int(params, x):
    return (x**2).sum() * int(x[1])  # the line


def makes_list(params, x):
    return torch.tensor(x.tolist()).sum()  # the line


def counts_with(params, x):
    return sum(x[0] for _ in range(x[2].long()))  # the line


def goes_to_numpy(params, x):
    return torch.as_tensor(np.sum(x.numpy() ** 2))  # the line


def goes_to_numpy_detached(params, x):
    return torch.as_tensor(np.sum(x.detach().cpu().numpy() ** 2))  # the line


def calls_numpy(params, x):
    return torch.as_tensor(np.square(x)).sum()  # the line


def calls_math(params, x):
    return x.sum() * math.sin(x[0])  # the line


def formats(params, x):
    text = f"{x[0]:.3f}"  # the line
    return (x**2).sum() * len(text)


def selects_by_a_mask(params, x):
    return (x[x > 0] ** 2).sum()  # the line


def asks_in_a_helper(params, x):
    return (x**2).sum() * branches(params, x)


ASKING = (
    branches,
    chooses,
    loops_on,
    asserts,
    asks_item,
    makes_float,
    makes_int,
    makes_list,
    counts_with,
    goes_to_numpy,
    goes_to_numpy_detached,
    calls_numpy,
    calls_math,
    formats,
    selects_by_a_mask,
    asks_in_a_helper,
)


def _line(energy):
    lines, first = inspect.getsourcelines(branches if energy is asks_in_a_helper else energy)
    return first + next(index for index, line in enumerate(lines) if line.rstrip().endswith("# the line"))


def _assert_said(error, energy):
    text = str(error)
    assert "torch.where" in text
    assert "jit=False" in text or "all chains at once" in text or "a whole batch at once" in text
    name = "branches" if energy is asks_in_a_helper else energy.__name__
    assert f"in {name}, test_tracing_errors.py, line {_line(energy)}" in text, text
    assert "# the line" in text


@pytest.mark.parametrize("energy", ASKING, ids=lambda energy: energy.__name__)
def test_a_number_that_is_asked_for_its_value_is_an_error_with_the_users_line(energy):
    with pytest.raises(TracedValueError) as caught:
        by_jit(energy)
    _assert_said(caught.value, energy)


@ways
@pytest.mark.parametrize("energy", [branches, asks_item, goes_to_numpy], ids=lambda energy: energy.__name__)
def test_so_it_is_wherever_an_energy_is_compiled(energy, way):
    with pytest.raises(TracedValueError) as caught:
        WAYS[way](energy)
    _assert_said(caught.value, energy)


def test_a_condition_of_a_while_loop_must_be_a_tensor_and_not_a_branch():
    with pytest.raises(TracedValueError, match=r"torch.where"):
        ebm.jit(lambda x: loops.while_loop(lambda x: bool(x.sum() < 9), lambda x: 2 * x, x))(X)


def test_after_an_error_everything_goes_on():
    for _ in range(2):
        with pytest.raises(TracedValueError):
            by_jit_in_a_loop(branches)
        torch.testing.assert_close(ebm.jit(vmap(lambda x: (x**2).sum()))(X[:, None]), X**2)
        assert not loops.is_compiling()


# -- changes in place ---------------------------------------------------------------------------------------------


def _adds(x):
    x += 1
    return x


def _sets(x):
    x[0] = 1
    return x.sum()


def _sets_a_view(x):
    x.reshape(-1)[1:].mul_(2)
    return x.sum()


@pytest.mark.parametrize("function", [_adds, _sets, _sets_a_view])
def test_an_argument_must_not_be_changed_in_place(function):
    x = X.clone()
    with pytest.raises(ValueError, match=r"must not change its arguments, .* Write x = x \+ 1 in place of x \+= 1"):
        ebm.jit(function)(x)
    assert torch.equal(x, X)


def test_what_lies_outside_must_not_be_changed_in_place():
    outside = torch.zeros(3)

    def function(x):
        outside.add_(x)
        return outside.sum()

    with pytest.raises(ValueError, match="must not change its arguments, or what it reads from outside, in place"):
        ebm.jit(function)(X)
    assert outside.tolist() == [0, 0, 0]


def test_a_carry_must_not_be_changed_in_place_but_a_copy_may():
    def body(carry, x):
        carry = carry.clone()
        carry[0] = x
        carry += 1
        carry[1:].mul_(2)
        return carry, carry.sum()

    xs = torch.arange(4.0)
    got, expected = ebm.jit(lambda c: loops.scan(body, c, xs))(X), loops.scan(body, X.clone(), xs)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


# -- errors of the user -------------------------------------------------------------------------------------------


@ways
@pytest.mark.parametrize(
    "error", [KeyError("mine"), MineError("mine"), RuntimeError("mine"), ZeroDivisionError("mine")]
)
def test_an_error_of_the_user_keeps_its_type_its_words_and_its_place(way, error):
    def energy(params, x):
        raise error

    with pytest.raises(type(error)) as caught:
        WAYS[way](energy)
    assert caught.value is error and str(error) in ("mine", "'mine'")  # beside them there may be a note
    assert any(frame.name == "energy" for frame in traceback.extract_tb(caught.value.__traceback__))


def test_shapes_that_do_not_fit_are_the_error_of_torch():
    with pytest.raises(RuntimeError, match=r"size|shape|dim") as caught:
        ebm.jit(lambda x: x @ torch.ones(4, 2))(torch.ones(3, 3))
    assert not isinstance(caught.value, TracedValueError)


@pytest.mark.parametrize("way", ["sample", "warm-up", "fit"])
@pytest.mark.parametrize(
    ("energy", "words"),
    [
        (lambda params, x: 1.0, "Got a float"),
        (lambda params, x: None, "Got a NoneType"),
        (lambda params, x: "low", "Got a str"),
        (lambda params, x: x**2, r"Got the shape \(3,\)"),
    ],
    ids=["float", "None", "str", "vector"],
)
def test_an_energy_that_is_no_number_is_told_what_to_return(way, energy, words):
    with pytest.raises(ValueError, match="must return a 0-d tensor for one particle. " + words):
        WAYS[way](energy)


def test_what_a_function_returns_besides_tensors_is_a_constant():
    got = ebm.jit(lambda x: {"double": 2 * x, "name": "sum", "num": 3, "none": None, "empty": ()})(X)
    torch.testing.assert_close(got.pop("double"), 2 * X)
    assert got == {"name": "sum", "num": 3, "none": None, "empty": ()}


def test_a_body_of_a_loop_that_gives_no_tensor_is_a_clear_error():
    with pytest.raises((TypeError, ValueError), match=r"tensor"):
        ebm.jit(lambda x: loops.scan(lambda x, _: (x, 1.0), x, torch.zeros(2)))(X)
    with pytest.raises((TypeError, ValueError), match=r"tensor|structure"):
        ebm.jit(lambda x: loops.scan(lambda x, _: (1.0, x), x, torch.zeros(2)))(X)
