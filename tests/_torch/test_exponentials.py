"""Exponentials of kernels: to two units in the last place for every exponent, at the edges, alone as in a vector."""

from __future__ import annotations

import math

import pytest
import torch

import funcebm as ebm
from funcebm._torch import exponentials

FUNCTIONS = (torch.exp, torch.expm1, torch.tanh, torch.sigmoid)
LARGEST = 88.72283  # whose exponential is finite


def _all_exponents():
    """Each float32 exponent with 64 mantissas, both signs; numbers about the ends of the range; what is no number."""
    mantissas = torch.arange(64, dtype=torch.int32) * 131_071 + 17
    bits = (torch.arange(255, dtype=torch.int32)[:, None] * 2**23 + mantissas).reshape(-1)
    positive = torch.cat([bits.view(torch.float32), torch.linspace(80, 105, 4001), torch.linspace(0, 20, 8001)])
    edges = torch.tensor([0.0, math.inf, LARGEST, 87.33655, 103.97, math.log(2) / 2, 0.625, 1e-45, 3.4e38])
    positive = torch.cat([positive, edges])
    return torch.cat([positive, -positive, torch.tensor([math.nan])])


def _units(found, exact):
    """The error in units in the last place of float32, or of its least normal number."""
    _, exponent = torch.frexp(exact.abs().clamp(min=2.0**-126))
    return (found.double() - exact).abs() / torch.ldexp(torch.ones_like(exact), exponent - 24)


@pytest.mark.compiled
def test_exponentials_are_right_to_two_units_in_the_last_place():
    """And a number alone has the bits that it has in a vector."""
    compiled = ebm.jit(lambda x, alone: [(function(x), function(alone)) for function in FUNCTIONS])
    x, alone = _all_exponents(), torch.tensor(0.3)
    for function, (found, _) in zip(FUNCTIONS, compiled(x, alone), strict=True):
        exact = function(x.double())
        is_finite = exact.isfinite() & (exact.abs() <= torch.finfo(torch.float32).max)
        units = _units(found, exact)
        if function is torch.sigmoid:  # a sum, a ratio, and 1 / (1 + infinity): as eager
            units = torch.where(exact < 2.0**-126, units * 2.0**-23, units - 1)
        assert float(units[is_finite].max()) < 2, function
        overflows = exact.isfinite() & ~is_finite & (x > LARGEST + 1e-4)
        assert bool((found[overflows] == math.inf).all()), function
        odd = ~exact.isfinite()
        torch.testing.assert_close(found[odd], exact[odd].float(), equal_nan=True, rtol=0, atol=0)
    together = compiled(x, alone)
    for place in range(3, len(x), 997):
        for (found, _), (_, one) in zip(together, compiled(x, x[place].clone()), strict=True):
            torch.testing.assert_close(one, found[place], rtol=0, atol=0, equal_nan=True)


@pytest.mark.compiled
def test_small_differences_from_one_are_kept():
    """Inductor's vector code subtracts 1 from the exponential: 0 for 1e-20."""
    for dtype in (torch.float32, torch.float64):
        x = torch.logspace(-20, -1, 64, dtype=dtype)
        found = ebm.jit(lambda x: torch.expm1(-x))(x)
        torch.testing.assert_close(found, torch.expm1(-x), rtol=4 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("tmp3.exp()", "funcebm::exp(tmp3)"),
        ("decltype(tmp3)(1) + tmp3.neg().exp()", "decltype(tmp3)(1) + funcebm::exp(tmp3.neg())"),
        ("tmp12.exp() - decltype(tmp12)(1);", "funcebm::expm1(tmp12);"),
        ("tmp12.exp() - tmp13;", "funcebm::exp(tmp12) - tmp13;"),
        ("std::exp(-tmp1)", "funcebm::exp(-tmp1)"),
        ("std::expm1(tmp1) + tmp2.tanh()", "funcebm::expm1(tmp1) + funcebm::tanh(tmp2)"),
        ("std::exp2(tmp1) + tmp2.exp2() + tmp2.exp_u20()", "std::exp2(tmp1) + tmp2.exp2() + tmp2.exp_u20()"),
    ],
)
def test_kernels_call_our_exponentials(before, after):
    assert exponentials.inlined(before) == after
