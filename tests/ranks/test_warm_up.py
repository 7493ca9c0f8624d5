"""Adaptation over ranks: what is tuned is the same, bit for bit, for any number of them."""

from __future__ import annotations

import pytest
import torch

from funcebm import distributed, tree
from tests.ranks import work


def _assert_equal(found, alone):
    for got, expected in zip(tree.leaves(found[:3]), tree.leaves(alone[:3]), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("which", ["chees", "meads", "window", "mclmc", "langevin"])
def test_two_ranks_tune_as_one(two, which):
    alone = work.warm_up(distributed.single, which)
    for found in two.run(work.warm_up, which):
        _assert_equal(found, alone)
        assert 0 < found[3] < 64_000


def test_numbers_of_chains_that_do_not_divide(two):
    alone = work.warm_up(distributed.single, "window", 7)
    for found in two.run(work.warm_up, "window", 7, 40, False, True):
        _assert_equal(found, alone)


@pytest.mark.compiled
@pytest.mark.parametrize("which", ["mala", pytest.param("chees", marks=pytest.mark.slow)])
def test_two_ranks_tune_as_one_compiled(two, which):
    alone = work.warm_up(distributed.single, which, 32, 40, True)
    for found in two.run(work.warm_up, which, 32, 40, True):
        _assert_equal(found, alone)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["chees", "meads", "window", "mclmc"])
@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.compiled)])
def test_four_ranks_tune_as_one(four, which, jit):
    alone = work.warm_up(distributed.single, which, 32, 100, jit)
    for found in four.run(work.warm_up, which, 32, 100, jit):
        _assert_equal(found, alone)


def test_an_error_of_one_rank_ends_the_waiting_of_all(two):
    for rank, (text, seconds, total) in enumerate(two.run(work.warm_up_fails, 1)):
        assert "no such file" in text
        assert text.startswith("LookupError" if rank == 1 else "RankError")
        assert seconds < 10
        assert total == 2
