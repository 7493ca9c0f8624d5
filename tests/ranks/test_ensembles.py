"""Ladders of temperatures and Stein particles over ranks: the draws of one process."""

from __future__ import annotations

import pytest
import torch

from funcebm import distributed
from tests.ranks import work


@pytest.mark.parametrize(("kind", "has_reference"), [("hmc", False), ("random_walk", True)])
def test_two_ranks_swap_as_one(two, kind, has_reference):
    """Temperatures move and positions stay: a scan sends seven numbers of each replica, whatever the dimension."""
    alone = work.tempering(distributed.single, kind, 30, has_reference)
    assert len(alone[1].unique(dim=1)[0]) > 1
    for found in two.run(work.tempering, kind, 30, has_reference):
        for got, expected in zip(found[:5], alone[:5], strict=True):
            assert torch.equal(got, expected.to(got.dtype))
        assert found[5] < 4 * 6 * 7 * 4 + 700  # and what is told at the start


@pytest.mark.slow
@pytest.mark.compiled
def test_two_ranks_swap_as_one_compiled(two):
    alone = work.tempering(distributed.single, jit=True)
    for found in two.run(work.tempering, "hmc", 30, False, True):
        for got, expected in zip(found[:4], alone[:4], strict=True):
            torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ("what", "words"),
    [("rungs", "hold as many of its 3 replicas each"), ("momentum", "without persistent parts")],
)
def test_ladders_that_cannot_be_shared(two, what, words):
    assert all(words in text for text in two.run(work.ladder_refused, what))


def test_a_ladder_of_other_keys_is_divergent(two):
    assert two.run(work.ladder_of_other_keys) == [(True, True)] * 2


@pytest.mark.parametrize(("num_particles", "bandwidth"), [(6, None), (7, 0.5)])
def test_two_ranks_move_particles_as_one(two, num_particles, bandwidth):
    alone = work.stein(distributed.single, num_particles, bandwidth)
    first, second = two.run(work.stein, num_particles, bandwidth)
    assert torch.equal(first[0], second[0])
    for got, expected in zip(first, alone, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("which", "num_particles"), [("forwards", 25), ("reverse", 24), ("smc", 24)])
def test_two_ranks_weigh_particles_as_one(two, which, num_particles):
    """Log weights, particles and the normalizer are those of one process; rates are sums in another order."""
    alone = work.normalizer(distributed.single, which, num_particles)
    for found in two.run(work.normalizer, which, num_particles):
        for got, expected in zip(found[:5], alone[:5], strict=True):
            assert torch.equal(got, expected)
        torch.testing.assert_close(found[5], alone[5])


SAME = "params must be the same on all ranks"
POSITIONS = "positions must be the same on all ranks"


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("ladder", SAME),
        ("particles", SAME),
        ("ladder positions", POSITIONS),
        ("particles positions", POSITIONS),
        ("smc", SAME),
        ("number", "share the particles evenly"),
        ("annealing", SAME),
        ("scalar count", "num_particles must be"),
        ("scalar steps", "num_temperatures must be"),
        ("scalar key", "key must be the same on all ranks"),
        ("rung count", "inverse_temperatures must increase"),
        pytest.param("compiled ladder", SAME, marks=[pytest.mark.compiled, pytest.mark.slow]),
        pytest.param("compiled particles", SAME, marks=pytest.mark.compiled),
        pytest.param("compiled particles positions", POSITIONS, marks=[pytest.mark.compiled, pytest.mark.slow]),
    ],
)
def test_what_differs_on_one_rank_is_an_error_on_all(two, what, words):
    for text, seconds in two.run(work.others_refused, what):
        assert words in text
        assert seconds < (60 if what.startswith("compiled") else 10)
