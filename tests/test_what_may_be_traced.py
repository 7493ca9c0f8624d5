"""What an energy may do while it is traced: print, count, make classes, call other libraries."""

from __future__ import annotations

import collections
import dataclasses
import math
import re

import numpy as np
import pytest
import torch

from funcebm.transforms import TracedValueError

from .helpers import counted
from .ways import WAYS, MineError, X, by_jit

pytestmark = [pytest.mark.compiled, pytest.mark.usefixtures("op_by_op")]
pytestmark = [pytest.mark.compiled, pytest.mark.usefixtures("op_by_op")]


# -- what works ---------------------------------------------------------------------------------------------------


def _assert_as_eager(energy):
    torch.testing.assert_close(by_jit(energy), energy((), X))
    for way in ("gradients", "sample"):
        WAYS[way](energy)


def test_printing_works(capsys):
    def energy(params, x):
        print("here", x.shape, x, params)
        return (x**2).sum()

    _assert_as_eager(energy)
    assert "here torch.Size([3])" in capsys.readouterr().out


def test_counters_count_traces():
    count = 0

    def energy(params, x):
        nonlocal count
        count += 1
        return (x**2).sum()

    assert float(by_jit(energy)) == float((X**2).sum())
    assert count == 1


def test_a_log_of_what_was_seen_works():
    seen, tallies = [], collections.Counter()

    def energy(params, x):
        seen.append(x.shape)
        tallies["calls"] += 1
        return (x**2).sum()

    _assert_as_eager(energy)
    assert seen and tallies["calls"] == len(seen)


@dataclasses.dataclass
class Parts:
    mean: torch.Tensor
    scale: float = 2.0

    def energy(self, x):
        return (((x - self.mean) / self.scale) ** 2).sum()


def test_classes_and_dataclasses_may_be_made_inside():
    class Local:
        def __init__(self, x):
            self.x = x

        def __add__(self, other):
            return Local(self.x + other)

    _assert_as_eager(lambda params, x: Parts(x.mean()).energy(x) + ((Local(x) + 1.0).x ** 2).sum())


def test_caches_generators_exceptions_and_comprehensions_work():
    cache = {}

    def energy(params, x):
        key = x.shape
        if key not in cache:
            cache[key] = math.prod(key)
        try:
            total = sum(part**2 for part in x.unbind())
            raise MineError
        except MineError:
            return total * cache[key] + torch.stack([x[i] for i in range(len(x)) if i % 2]).sum()

    _assert_as_eager(energy)


def test_third_party_code_works():
    interpolate = pytest.importorskip("scipy.interpolate")
    special = pytest.importorskip("scipy.special")
    knots = interpolate.CubicSpline([0.0, 1.0, 2.0], [0.0, 1.0, 4.0])
    nodes, weights = np.polynomial.hermite.hermgauss(5)

    def energy(params, x):
        table = torch.as_tensor(knots(np.linspace(0, 2, 3)), dtype=x.dtype)
        quadrature = torch.tensor(weights, dtype=x.dtype) * (x[0] + torch.tensor(nodes, dtype=x.dtype)) ** 2
        return (table * x**2).sum() + quadrature.sum() * float(special.gamma(3.0))

    _assert_as_eager(energy)


def test_distributions_and_modules_of_torch_work():
    layer = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.GELU(), torch.nn.LayerNorm(4), torch.nn.Linear(4, 1))
    normal = torch.distributions.Normal(torch.zeros(3), torch.tensor([1.0, 2.0, 3.0]), validate_args=False)

    def energy(params, x):
        own = torch.distributions.Gamma(2.0, x.exp(), validate_args=False)
        return layer(x).squeeze() - normal.log_prob(x).sum() - own.log_prob(x.abs()).sum()

    _assert_as_eager(energy)


def test_linear_algebra_sorting_and_fourier_transforms_work():
    def energy(params, x):
        matrix = torch.eye(3) + 0.1 * torch.outer(x, x)
        lower = torch.linalg.cholesky(matrix)
        waves = torch.fft.rfft(x).abs().square().sum()
        values, _ = torch.sort(x)
        return (
            lower.diagonal().log().sum() + torch.linalg.solve(matrix, x) @ x + waves + values[0] * x.max() + x.median()
        )

    _assert_as_eager(energy)


def test_numbers_that_do_not_depend_on_the_arguments_may_be_asked_for():
    scale, power = torch.tensor(2.0), torch.tensor(2)

    def energy(params, x):
        return (float(scale) * x ** int(power)).sum() if scale.item() > 1 else x.sum() * torch.tensor(3.0).item()

    _assert_as_eager(energy)


def test_a_doctest_like_definition_without_a_file_says_its_line_as_well_as_it_can():
    namespace = {}
    exec(compile("def energy(params, x):\n    return x if x.sum() > 0 else -x\n", "<stdin>", "exec"), namespace)
    with pytest.raises(TracedValueError, match=re.escape("in energy, <stdin>, line 2")):
        by_jit(namespace["energy"])


def test_an_error_is_no_trace_that_is_kept():
    is_right = False

    def energy(params, x):
        if not is_right:
            raise MineError
        return (x**2).sum()

    with pytest.raises(MineError):
        by_jit(energy)
    is_right = True
    with counted() as counts:
        assert float(by_jit(energy)) == float((X**2).sum())
    assert counts.traces == 1
