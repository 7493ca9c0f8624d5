"""What one rank does otherwise is an error of all, in words and in time; none waits, and none is ended by the transport."""

from __future__ import annotations

import pytest

from tests.ranks import work

CASES = {
    "gather": "mesh.gather must be given the same kind of tree on all ranks",
    "sum": "mesh.sum must be given the same kind of tree on all ranks",
    "tree": "mesh.sum must be given the same kind of tree on all ranks",
    "adaptation": "adaptation must be the same on all ranks",
    "no adaptation": "adaptation must be an Adaptation. Got chees",
    "checkpoint of one": "checkpoint must be the same on all ranks",
    "a file": "the checkpoint of ranks must be a folder",
    "folders": "the checkpoint of ranks must be one folder that all of them see",
    "gather of draws": "gather must be the same on all ranks",
    "resume": "num_samples must be an integer of at least 1",
    "resume more": "counts must be the same on all ranks",
    "length of data": "must be the same on all ranks",
    "resumed fit": "the run to resume must be the same on all ranks",
    "ema": "ema_decay must be a number",
    "rate": "optimizer must be the same on all ranks",
    "mesh": "mesh must be a Mesh",
}


@pytest.mark.parametrize("what", CASES)
def test_what_one_rank_does_otherwise_is_an_error_on_all(two, what, tmp_path):
    pytest.importorskip("safetensors")
    for text, seconds in two.run(work.misuse, what, str(tmp_path / "run")):
        assert CASES[what] in text
        assert seconds < 10


def test_a_rank_that_waits_is_told_who_runs_without_the_mesh(two):
    """At the end of its patience: that one may come yet."""
    waited, alone = two.run(work.forgotten)
    assert "rank 1 runs chains without mesh=mesh, which all ranks must give" in waited and "no answer after" in waited
    assert alone == ""
