"""``while_loop`` gives each of many loops what it would have got alone: eager, mapped, compiled, and compiled over a map."""

from __future__ import annotations

import pytest
import torch
from torch.func import vmap

from funcebm import jit, loops

NUM_STEPS = torch.tensor([[1, 4, 0, 7], [2, 2, 9, 0], [0, 0, 0, 0]])
FACTORS = torch.tensor([0.9, 0.7])


def _loop_by_loop(factor: float) -> list[float]:
    values = [1.0] * NUM_STEPS.shape[1]
    for row in NUM_STEPS.tolist():
        for c, num in enumerate(row):
            for _ in range(num):
                values[c] = 0.5 + factor * values[c]
    return values


def _in_lock_step(factor: torch.Tensor) -> torch.Tensor:
    """A scan over rows, whose body closes over the row and over what it made of the factor."""

    def row(values, num):
        shrink = factor + 0 * values.sum()
        carry = (torch.zeros_like(num), values)
        carry = loops.while_loop(lambda c: c[0] < num, lambda c: (c[0] + 1, 0.5 + shrink * c[1]), carry)
        return carry[1], carry[0]

    values, counts = loops.scan(row, torch.ones(4), NUM_STEPS)
    return values + 0 * counts.sum()


EXPECTED = torch.tensor([_loop_by_loop(float(factor)) for factor in FACTORS])


def test_eager_loops_stop_one_by_one():
    torch.testing.assert_close(torch.stack([_in_lock_step(factor) for factor in FACTORS]), EXPECTED)


def test_mapped_loops_stop_one_by_one():
    torch.testing.assert_close(vmap(_in_lock_step)(FACTORS), EXPECTED)


def test_one_loop_under_vmap_with_leaves_that_are_not_mapped():
    def doublings(limit):
        carry = (torch.tensor(1.0), torch.zeros((), dtype=torch.int32))
        return loops.while_loop(lambda c: c[0] < limit, lambda c: (2 * c[0], c[1] + 1), carry)

    values, counts = vmap(doublings)(torch.tensor([0.5, 7.0, 100.0]))
    assert values.tolist() == [1, 8, 128]
    assert counts.tolist() == [0, 3, 7]


@pytest.mark.compiled
@pytest.mark.parametrize("is_mapped", [False, True])
def test_compiled_loops_stop_one_by_one(is_mapped):
    function = jit(vmap(_in_lock_step) if is_mapped else _in_lock_step)
    got = function(FACTORS) if is_mapped else torch.stack([function(factor) for factor in FACTORS])
    torch.testing.assert_close(got, EXPECTED)


@pytest.mark.compiled
def test_compiled_loops_of_no_turn_keep_their_carry_for_what_comes_after():
    """Bit for bit, also where the memory of the carry could be used again."""

    def add_up(x):
        a, b = loops.while_loop(lambda c: c[0].sum() > 1e6, lambda c: (c[0] / 2, c[1] + c[0]), (x + 1, x + 2))
        c = torch.sin(x).cumsum(0) + a.flip(0)
        return a, b, c, c.cumsum(0) + b

    start = torch.arange(8.0)
    for got, expected in zip(jit(add_up)(start), add_up(start), strict=True):
        torch.testing.assert_close(got, expected)
    nan = jit(lambda x: loops.while_loop(lambda c: c > 3, lambda c: c / 2, x))(torch.tensor([float("nan"), 8.0]))
    assert nan[0].isnan()
    assert float(nan[1]) == 2


@pytest.mark.compiled
def test_compiled_loops_carry_one_number_in_two_places():
    def doublings(x):
        def body(carry, _):
            twice = 2 * carry[0]
            return (twice, twice, carry[2] + carry[1]), twice

        return loops.scan(body, (x, x + 1, x), torch.zeros(3))

    start = torch.tensor(1.0)
    (a, b, c), twice = jit(doublings)(start)
    (d, e, f), expected = doublings(start)
    assert (float(a), float(b), float(c)) == (float(d), float(e), float(f))
    assert torch.equal(twice, expected)
