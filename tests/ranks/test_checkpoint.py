"""Runs in files by the numbers of chains: written by some ranks, read by another number of them."""

from __future__ import annotations

import pytest
import torch

import funcebm as ebm
from funcebm import distributed, random, samplers, tree
from tests.ranks import work

pytest.importorskip("safetensors")


def _whole(num_chains, reduce):
    samples = work._part(distributed.single, num_chains, 7, reduce)
    return samples.draws, samples.reduced


@pytest.mark.parametrize("reduce", [False, True])
def test_two_ranks_write_what_one_reads(two, tmp_path, reduce):
    two.run(work.saved, str(tmp_path), 7, reduce)
    before, after, reduced, _ = work.loaded(distributed.single, str(tmp_path), 7, reduce)
    draws, expected = _whole(7, reduce)
    if reduce:
        for got, leaf in zip(tree.leaves(reduced), tree.leaves(expected), strict=True):
            assert torch.equal(got, leaf)
        return
    for name in draws:
        assert torch.equal(before[name], draws[name][:, :4])
        assert torch.equal(after[name], draws[name][:, 4:])


def test_one_writes_what_two_ranks_read(two, tmp_path):
    work.saved(distributed.single, str(tmp_path), 7)
    draws, _ = _whole(7, False)
    for _, after, _, chains in two.run(work.loaded, str(tmp_path), 7):
        assert torch.equal(after["a"], draws["a"][:, 4:])
        assert chains in ((0, 4, 7), (4, 7, 7))


@pytest.mark.parametrize("writes", [1, 2])
def test_a_folder_of_ranks_is_read_as_a_file_is(two, tmp_path, writes):
    """From the sampler alone: params, tuning and the structure of trees are in the folder."""
    if writes == 1:
        work.saved(distributed.single, str(tmp_path), 7)
    else:
        two.run(work.saved, str(tmp_path), 7)
    draws, _ = _whole(7, False)
    found = [work.loaded_plainly(distributed.single, str(tmp_path), 7), *two.run(work.loaded_plainly, str(tmp_path), 7)]
    for before, after, _ in found:
        for name in draws:
            assert torch.equal(before[name], draws[name][:, :4])
            assert torch.equal(after[name], draws[name][:, 4:])
    assert [chains for *_, chains in found] == [(0, 7, 7), (0, 4, 7), (4, 7, 7)]


@pytest.mark.parametrize(("num_ranks", "gather"), [(1, "files"), (2, "files"), (2, "summary")])
def test_a_run_goes_on_in_its_folder(two, tmp_path, num_ranks, gather):
    """With what it had; from an earlier moment without what came later; not in the folder of another run."""
    path = str(tmp_path / "run")
    work_of = [work.resumed_in_folder(distributed.single, path, gather)] if num_ranks == 1 else None
    arguments = (random.key(0), samplers.mala(work.energy, step_size=0.1), torch.tensor(0.5))
    positions = random.normal(random.key(1), (5, 2))
    whole = ebm.sample(*arguments, positions, num_samples=12, num_burn_in=4, jit=False).draws
    other = ebm.sample(random.key(7), *arguments[1:], positions, num_samples=10, jit=False).draws
    for (all_draws, rest, from_before, new), texts in work_of or two.run(work.resumed_in_folder, path, gather):
        assert torch.equal(all_draws, whole)
        assert rest == () if gather == "files" else torch.equal(rest, whole[:, 7:])
        assert torch.equal(from_before, whole[:, :10])
        assert torch.equal(new, other)
        assert "of 6 steps, or none. Got one of [3, 7, 10, 11, 14] steps" in texts[0], texts
        assert "Got one of another key" in texts[1]


def test_a_run_goes_on_in_its_folder_with_fewer_ranks(two, tmp_path):
    path = str(tmp_path / "run")
    two.run(work.resumed_in_folder, path, "files")
    found, rest = work.resumed_in_folder(distributed.single, path, "files", True)
    arguments = (random.key(0), samplers.mala(work.energy, step_size=0.1), torch.tensor(0.5))
    whole = ebm.sample(*arguments, random.normal(random.key(1), (5, 2)), num_samples=15, num_burn_in=4, jit=False)
    assert rest == ()
    assert torch.equal(found, whole.draws)


@pytest.mark.slow
def test_two_ranks_write_what_four_read(two, four, tmp_path):
    two.run(work.saved, str(tmp_path), 5)
    draws, _ = _whole(5, False)
    for _, after, _, _ in four.run(work.loaded, str(tmp_path), 5):
        assert torch.equal(after["a"], draws["a"][:, 4:])


def test_what_is_missing_or_damaged_is_an_error_on_every_rank(two, tmp_path):
    two.run(work.saved, str(tmp_path), 7)
    last = next(tmp_path.glob("run-*/chains-4-7.safetensors"))
    content = last.read_bytes()
    last.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert all("damaged" in text for text in two.run(work.refuses_to_load, str(tmp_path), 7))
    last.unlink()
    assert all("must hold chains 4 to 6" in text for text in two.run(work.refuses_to_load, str(tmp_path), 7))
    (last.parent / "done").unlink()
    assert all("saved whole" in text for text in two.run(work.refuses_to_load, str(tmp_path), 7))
