"""Integers of indices and large constants: compiled they wrap around as eager ones do."""

from __future__ import annotations

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import funcebm as ebm
from funcebm._torch.index_ranges import formulas_overflow

LARGE, NUM = 0x7E3779B97F4A7C15, 40


@pytest.mark.parametrize(
    ("function", "overflows"),
    [
        (lambda x: torch.arange(NUM) * LARGE + x, True),
        (lambda x: (torch.arange(NUM) + LARGE) * 3 + x, True),
        (lambda x: torch.arange(NUM) * (2**31) * (2**31) + x, True),
        (lambda x: torch.arange(2**62 + 5, 2**62 + 45) * 2 + x, True),
        (lambda x: torch.arange(0, 2**62, 2**57)[:8] * 2 + x[:8], True),
        (lambda x: torch.full((NUM,), LARGE) * torch.arange(NUM) + x, True),
        (lambda x: torch.arange(NUM).view(8, 5).t()[1:] * LARGE, True),
        (lambda x: torch.arange(NUM) ** 13 + x, True),
        (lambda x: x * LARGE + (x >> 3), False),  # of memory, which wraps around
        (lambda x: torch.arange(NUM) * 2**40 + x, False),
        (lambda x: (torch.arange(NUM) * 3 + 1) % 7 + x, False),
        (lambda x: torch.arange(NUM) * 0.5 * LARGE, False),
    ],
)
def test_formulas_of_indices_that_leave_63_bits_are_found(function, overflows):
    graph = make_fx(function, tracing_mode="fake")(torch.arange(NUM)).graph
    assert formulas_overflow(graph) == overflows


@pytest.mark.compiled
def test_compiled_hashes_of_indices_are_those_of_eager_ones():
    """They were wrong, read and wrote outside of their memory; without formulas they are numbers."""

    def hashes(x):
        index = torch.arange(NUM)
        return index * LARGE % 1000003, x[(index * LARGE) % NUM], (index + LARGE) * 3 + x, (index * LARGE + x).sum()

    x = torch.arange(NUM) * 7
    for compiled, eager in zip(ebm.jit(hashes)(x), hashes(x), strict=True):
        assert torch.equal(compiled, eager)
