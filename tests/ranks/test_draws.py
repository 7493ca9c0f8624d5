"""Chains over ranks: the draws of one process, whatever the number of ranks, and nothing sent while they are made."""

from __future__ import annotations

import pytest
import torch

from funcebm import distributed, tree
from tests.ranks import work


@pytest.mark.parametrize("num_chains", [16, 33])
def test_two_ranks_draw_what_one_draws(two, num_chains):
    alone = work.draws(distributed.single, num_chains)
    for rank, found in enumerate(two.run(work.draws, num_chains)):
        assert torch.equal(found["draws"], alone["draws"])
        assert torch.equal(found["each"], alone["each"])
        assert torch.equal(found["info"], alone["info"])
        torch.testing.assert_close(found["all"], alone["all"])
        half = -(-num_chains // 2)
        assert found["chains"] == ((0, half, num_chains) if rank == 0 else (half, num_chains, num_chains))


def test_long_positions_are_those_of_one_process(two):
    """Their chain axis is the first, so sums over coordinates go by the strides of the noise."""
    alone = work.draws(distributed.single, 12, size=20)
    for found in two.run(work.draws, 12, False, "summary", 6, 20):
        assert torch.equal(found["draws"], alone["draws"])
        assert torch.equal(found["info"], alone["info"])


@pytest.mark.compiled
def test_two_ranks_draw_what_one_draws_compiled(two):
    alone = work.draws(distributed.single, 100, True)
    for found in two.run(work.draws, 100, True):
        assert torch.equal(found["draws"], alone["draws"])


@pytest.mark.slow
@pytest.mark.parametrize("num_chains", [100, 1001, 5, 3])
def test_four_ranks_draw_what_one_draws(four, num_chains):
    """Also where the last rank has no chain (5 on 4 ranks), or there are more ranks than chains."""
    alone = work.draws(distributed.single, num_chains)
    for found in four.run(work.draws, num_chains):
        assert torch.equal(found["draws"], alone["draws"])
        assert torch.equal(found["each"], alone["each"])


def test_more_ranks_than_chains(two):
    alone = work.draws(distributed.single, 1)
    for found in two.run(work.draws, 1):
        assert torch.equal(found["draws"], alone["draws"])
        assert torch.equal(found["each"], alone["each"])


def test_nothing_is_sent_while_chains_run(two):
    few, many = (two.run(work.draws, 16, False, "none", num)[0]["sent"] for num in (2, 12))
    assert few == many


def test_draws_go_to_the_first_rank(two):
    alone = work.draws(distributed.single, 9)
    found = two.run(work.draws, 9, False, "draws")
    assert torch.equal(found[0]["draws"], alone["draws"])
    assert torch.equal(found[1]["draws"], alone["draws"][5:])
    assert [each["chains"] for each in found] == [(0, 9, 9), (5, 9, 9)]


@pytest.mark.parametrize("num_chains", [8, 5])
def test_statistics_of_all_chains_are_merged(two, num_chains):
    """R-hat, effective sample size, mean and covariance: those of one process, to rounding."""
    alone = work.reduced_of_all(distributed.single, num_chains)
    for found in two.run(work.reduced_of_all, num_chains):
        for got, expected in zip(tree.leaves(found), tree.leaves(alone), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("gather", ["files", "summary"])
def test_draws_go_to_files(two, gather, tmp_path):
    pytest.importorskip("safetensors")
    alone = work.in_files(distributed.single, tmp_path / "one", 5, "files")
    assert alone[0] == ()
    whole, info = distributed.draws_of(tmp_path / "one")
    assert whole["x"].shape == (5, 7, 4)
    for rank, (draws, _, state, _) in enumerate(two.run(work.in_files, str(tmp_path / "two"), 5, gather)):
        rows = slice(3) if rank == 0 else slice(3, 5)
        assert torch.equal(state.position["x"], whole["x"][rows, -1])
        if gather == "files":
            assert draws == ()
        else:
            assert torch.equal(draws["x"], whole["x"][rows])
    both, others = distributed.draws_of(tmp_path / "two")
    assert torch.equal(both["x"], whole["x"])
    assert torch.equal(others["energy"], info["energy"])


def test_files_need_a_folder(two):
    assert all("must have a folder" in text for text in two.run(work.no_folder))


def test_rows_of_one_rank_are_marked(two):
    found = two.run(work.shard, 7)
    assert found == [((0, 5, 7), True), ((5, 7, 7), True)]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("params", "params must be the same on all ranks"),
        ("positions", "positions must be the same on all ranks"),
        ("shard on one rank", "whole or a shard, must be the same on all ranks"),
        ("counts", "counts must be the same on all ranks"),
        ("start", "chains 3"),
        ("one bad rank", "gather must be one of four"),
        ("memory", "reduce=reducers.variance()"),
    ],
)
def test_bad_input_is_an_error_on_every_rank(two, what, words):
    for text, seconds in two.run(work.refused, what):
        assert words in text
        assert seconds < 10


@pytest.mark.parametrize("rank", [None, 0, 1])
def test_a_mesh_of_another_size_than_its_group(two, rank):
    for text, seconds in two.run(work.another_size, rank):
        assert "must be of the size of its group" in text
        assert seconds < 10


@pytest.mark.parametrize("rank", [0, 1])
def test_an_interrupt_of_one_rank_gives_all_what_is_finished(two, rank):
    found = two.run(work.interrupted, rank)
    assert len({num for num, *_ in found}) == 1
    for num, seconds, is_complete, is_equal in found:
        assert 0 < num < 10**6
        assert seconds < 10
        assert is_complete is False
        assert is_equal


def test_an_error_of_one_rank_is_one_of_all(two):
    for text, seconds in two.run(work.fails_later, 1):
        assert "the disk is full" in text
        assert seconds < 10
