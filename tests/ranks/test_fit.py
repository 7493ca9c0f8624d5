"""Training over ranks: the numbers of one process, to rounding; with ``deterministic`` to the last bit."""

from __future__ import annotations

import pytest
import torch

from funcebm import distributed, tree
from tests.ranks import work

safetensors = pytest.importorskip("safetensors")


def _assert_equal(found, expected):
    for got, leaf in zip(tree.leaves(found), tree.leaves(expected), strict=True):
        assert torch.equal(got, leaf)


@pytest.mark.parametrize("which", ["score", "cd"])
def test_two_ranks_train_as_one(two, which):
    alone = work.fit(distributed.single, which, False)
    first, second = two.run(work.fit, which, False)
    _assert_equal(first, second)
    for got, leaf in zip(tree.leaves(first), tree.leaves(alone), strict=True):
        torch.testing.assert_close(got, leaf, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("which", ["score", "pcd"])
def test_two_ranks_train_as_one_to_the_last_bit(two, which):
    alone = work.fit(distributed.single, which, True)
    for found in two.run(work.fit, which, True):
        _assert_equal(found, alone)


@pytest.mark.parametrize("which", ["optimal_transport", "sinkhorn"])
@pytest.mark.parametrize("deterministic", [False, True])
def test_noise_and_data_are_coupled_over_the_whole_batch(two, which, deterministic):
    alone = work.fit_coupled(distributed.single, which, deterministic)
    first, second = two.run(work.fit_coupled, which, deterministic)
    _assert_equal(first, second)
    for got, leaf in zip(tree.leaves(first), tree.leaves(alone), strict=True):
        torch.testing.assert_close(got, leaf, rtol=0 if deterministic else 1e-4, atol=0 if deterministic else 1e-6)


def test_a_loss_that_is_no_number_on_one_rank_ends_training_on_all(two):
    first, second = two.run(work.fit_not_finite)
    assert first[:3] == second[:3] == work.fit_not_finite(distributed.single)[:3]
    assert first[0] == 0
    assert "diverged" in first[1]
    assert max(first[3], second[3]) < 10


@pytest.mark.compiled
@pytest.mark.slow
def test_two_ranks_train_as_one_to_the_last_bit_compiled(two):
    alone = two.run(work.fit, "score", True, 12, True, None, True)[0]
    for found in two.run(work.fit, "score", True, 12, True):
        _assert_equal(found, alone)
    eager = work.fit(distributed.single, "score", True)
    for got, leaf in zip(tree.leaves(alone[0]), tree.leaves(eager[0]), strict=True):
        torch.testing.assert_close(got, leaf, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["score", "cd", "pcd"])
@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.compiled)])
def test_four_ranks_train_as_one_to_the_last_bit(four, which, jit):
    alone = four.run(work.fit, which, True, 12, jit, None, True)[0]
    for found in four.run(work.fit, which, True, 12, jit):
        _assert_equal(found, alone)


def test_ranks_that_share_the_memory_of_an_optimizer_train_as_one(two, tmp_path):
    """To the last bit; and a run goes on with another number of them."""
    alone = work.fit(distributed.single, "score", True)
    path = str(tmp_path / "run.safetensors")
    for found in two.run(work.fit, "score", True, 12, False, None, False, 0, True):
        _assert_equal(found, alone)
    two.run(work.fit, "score", True, 5, False, path, False, 0, True)
    _assert_equal(work.resume_fit(distributed.single, "score", path, 7, True), alone)
    for found in two.run(work.resume_fit, "score", path, 7, True):
        _assert_equal(found, alone)


def test_an_optimizer_that_needs_all_gradients_is_not_sharded():
    assert "must be element-wise" in work.clipped_inside(distributed.single)


def test_a_run_is_resumed_on_another_number_of_ranks(two, tmp_path):
    """Also the buffer of chains, which goes by blocks."""
    path = str(tmp_path / "run.safetensors")
    whole = work.fit(distributed.single, "pcd", True)
    two.run(work.fit, "pcd", True, 5, False, path)
    _assert_equal(work.resume_fit(distributed.single, "pcd", path, 7), whole)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("params", "params must be the same on all ranks"),
        ("rows", "must be a mean over the rows of its batch"),
        ("batch_size", "that 8 divides"),
        ("one bad rank", "data must be finite"),
    ],
)
def test_bad_input_is_an_error_on_every_rank(two, what, words):
    for text, seconds in two.run(work.fit_refused, what):
        assert words in text
        assert seconds < 10


def test_an_interrupt_of_one_rank_ends_training_on_all(two):
    first, second = two.run(work.fit_interrupted, 1)
    assert first[:3] == second[:3]
    assert 0 < first[0] < 10**5
    assert first[1] is False
    assert max(first[3], second[3]) < 10
