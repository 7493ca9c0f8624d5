"""Adaptation over ranks: what is tuned is the same, bit for bit, for any number of them."""

from __future__ import annotations

import pytest
import torch

from funcebm import distributed, random, tree
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


@pytest.mark.parametrize(("num_chains", "size"), [(20, 3), (6, 20), (2, 20)])
def test_two_ranks_find_a_dense_metric_as_one(two, num_chains, size):
    """Products of matrices and sums go neither by how many rows a rank has, one alone either, nor by their strides."""
    arguments = ("dense hmc", num_chains, 40, False, False, False, size)
    alone = work.warm_up(distributed.single, *arguments)
    for found in two.run(work.warm_up, *arguments):
        _assert_equal(found, alone)


def test_moments_do_not_depend_on_the_number_of_threads():
    from funcebm.adaptation.welford import outer_sum

    rows = random.normal(random.key(1), (20_011, 10))
    torch.testing.assert_close(outer_sum(rows), rows.mT @ rows, rtol=1e-4, atol=0.05)
    before, found = torch.get_num_threads(), []
    try:
        for num in (1, 2, 4):
            torch.set_num_threads(num)
            found.append(outer_sum(rows))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


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
@pytest.mark.parametrize(("num_chains", "size"), [(32, 3), (4, 3), (4, 20), (512, 30)])
@pytest.mark.parametrize("which", ["dense", "dense hmc"])
def test_four_ranks_find_a_dense_metric_as_one(two, four, which, num_chains, size):
    arguments = (which, num_chains, 40, False, False, False, size)
    alone = work.warm_up(distributed.single, *arguments)
    for found in [*two.run(work.warm_up, *arguments), *four.run(work.warm_up, *arguments)]:
        _assert_equal(found, alone)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["chees", "meads", "window", "mclmc"])
@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.compiled)])
def test_four_ranks_tune_as_one(four, which, jit):
    alone = work.warm_up(distributed.single, which, 32, 100, jit)
    for found in four.run(work.warm_up, which, 32, 100, jit):
        _assert_equal(found, alone)


@pytest.mark.parametrize("which", [pytest.param("meads", marks=pytest.mark.slow), "mclmc"])
def test_a_warm_up_that_is_cut_goes_on(two, which, tmp_path):
    """Each rank keeps what it alone has: chains, and sums over its own."""
    pytest.importorskip("safetensors")
    alone = work.warm_up(distributed.single, which)
    for found, text in two.run(work.warm_up_cut, which, str(tmp_path / which)):
        _assert_equal(found, alone)
        assert "must be of 2 ranks. Got 0-of-2.safetensors" in text


def test_an_error_of_one_rank_ends_the_waiting_of_all(two):
    for rank, (text, seconds, total) in enumerate(two.run(work.warm_up_fails, 1)):
        assert "no such file" in text
        assert text.startswith("LookupError" if rank == 1 else "RankError")
        assert seconds < 10
        assert total == 2
