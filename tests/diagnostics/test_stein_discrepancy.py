"""The kernel Stein discrepancy: zero on its distribution, the quadrature of its double integral elsewhere; and its test."""

import math

import pytest
import torch
from torch.func import vmap

from funcebm import random
from funcebm.diagnostics import kernel_stein_discrepancy, stein_test


def _skewed(x):
    """A score that is not odd: of the density prop. to exp(-x^4 / 4 + x^2 / 2 + x / 3)."""
    return -(x**3) + x + 1 / 3


def _by_definition(x, score, length):
    """s(x) s(y) k + s(x) dk/dy + s(y) dk/dx + d2k/dxdy by automatic differentiation. ``(n, n)``."""

    def kernel(a, b):
        return 1 / torch.sqrt(1 + (a - b) ** 2 / length**2)

    first, second = torch.func.grad(kernel, 0), torch.func.grad(kernel, 1)

    def stein(a, b):
        mixed = torch.func.grad(second, 0)(a, b)
        return score(a) * score(b) * kernel(a, b) + score(a) * second(a, b) + score(b) * first(a, b) + mixed

    return vmap(vmap(stein, (None, 0)), (0, None))(x, x)


def test_it_is_the_double_sum_of_its_definition():
    x = random.normal(random.key(0), (9,), dtype=torch.float64)
    kernel = _by_definition(x, _skewed, 0.8)
    every = kernel_stein_discrepancy(x, _skewed(x), length_scale=0.8, unbiased=False)
    torch.testing.assert_close(every, kernel.mean())
    pairs = kernel_stein_discrepancy(x, _skewed(x), length_scale=0.8)
    torch.testing.assert_close(pairs, (kernel.sum() - kernel.trace()) / 72)


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.5, 1.0), (0.0, 1.4)])
def test_it_is_unbiased_for_the_double_integral(shift, scale):
    """Samples of N(shift, scale^2) under the score of N(0, 1): zero at home, elsewhere by quadrature."""
    grid = torch.linspace(-9, 9, 1201, dtype=torch.float64)
    weight = torch.exp(-(((grid - shift) / scale) ** 2) / 2)
    weight = weight / weight.sum()
    expected = weight @ _by_definition(grid, lambda x: -x, 1.0) @ weight
    assert (abs(expected) < 1e-12) == (shift == 0 and scale == 1)
    x = scale * random.normal(random.key(1), (500, 30), dtype=torch.float64) + shift
    values = vmap(lambda row: kernel_stein_discrepancy(row, -row, length_scale=1.0))(x)
    assert abs(values.mean() - expected) < 5 * values.std() / math.sqrt(len(x))


def test_the_error_and_the_p_value_of_the_test_hold_under_the_law():
    """The p-value is exact in the limit only: at 60 points it is allowed a hundredth."""
    repeats, num = 400, 99
    x = random.normal(random.key(2), (repeats, 60, 2), dtype=torch.float64)
    keys = random.split(random.key(3), repeats)
    test = vmap(lambda key, row: stein_test(key, row, -row, length_scale=1.0, num_flips=num))(keys, x)
    squares = (test.value / test.standard_error).square()
    assert abs(squares.mean() - 1) < 5 * squares.std() / math.sqrt(repeats)
    for level in (0.1, 0.25, 0.5, 0.75):
        share = (test.p_value <= level + 1e-9).double().mean()
        assert abs(share - level) < 0.01 + 5 * math.sqrt(level * (1 - level) / repeats)


def test_it_sees_a_wrong_shift_and_a_wrong_scale_of_trees():
    x = {"a": random.normal(random.key(4), (300,)), "b": random.normal(random.key(5), (300, 2))}
    for change in (lambda leaf: -2 * leaf, lambda leaf: 0.3 - leaf):
        test = stein_test(random.key(6), x, {name: change(leaf) for name, leaf in x.items()}, num_flips=199)
        assert test.p_value == 1 / 200
        assert test.value > 5 * test.standard_error


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: kernel_stein_discrepancy(x, {"a": x}), "same structure"),
        (lambda x: kernel_stein_discrepancy(x, x[0]), "x and scores must both be"),
        (lambda x: kernel_stein_discrepancy(x[:1], x[:1]), "n at least 2"),
        (lambda x: kernel_stein_discrepancy(x, x, length_scale=0.0), "length_scale must be positive"),
        (lambda x: kernel_stein_discrepancy(x, x, exponent=0.5), "exponent must be in"),
        (lambda x: stein_test(random.key(0), x, x, num_flips=0), "num_flips must be"),
    ],
)
def test_bad_arguments_say_what_must_hold(call, words):
    with pytest.raises(ValueError, match=words):
        call(torch.zeros(3, 2))
