"""The scripts beside this file under torchrun: one digest for any number of ranks, whatever happens on the way."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest
import torch

ROOT = pathlib.Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no ranks"),
]


def ranks(num, script, *arguments, check=True, restarts=0):
    """What a script prints under torchrun; with None ranks, as a plain program."""
    call = [sys.executable, f"tests/ranks/{script}.py", *map(str, arguments)]
    if num is not None:
        options = ["--standalone", "--nproc-per-node", str(num), "--max-restarts", str(restarts)]
        call = [sys.executable, "-m", "torch.distributed.run", *options, *call[1:]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    result = subprocess.run(call, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=500, check=False)
    print(num, script, *arguments, "->", result.stdout.strip())
    assert not check or result.returncode == 0, result.stdout + result.stderr[-3000:]
    return result.stdout.strip()


@pytest.mark.parametrize("chains", [64, 1001])
def test_draws_are_those_of_one_process(chains):
    assert len({ranks(num, "draws", "--chains", chains) for num in (None, 1, 2, 3, 4)}) == 1


@pytest.mark.parametrize("adaptation", ["chees", "meads", "window", "mclmc"])
def test_tuning_is_that_of_one_process(adaptation):
    """Also on three ranks, which hold other numbers of blocks."""
    assert len({ranks(num, "warm_up", "--adaptation", adaptation) for num in (None, 1, 2, 3, 4)}) == 1


def test_a_killed_run_goes_on_with_more_ranks(tmp_path):
    pytest.importorskip("safetensors")
    whole = ranks(None, "draws")
    ranks(2, "draws", "--folder", tmp_path, "--kill-rank", 1, check=False)
    assert list(tmp_path.glob("run-*20/done"))
    assert ranks(4, "draws", "--folder", tmp_path, "--resume") == whole


def test_a_killed_run_is_restarted_by_torchrun(tmp_path):
    pytest.importorskip("safetensors")
    assert ranks(2, "draws", "--folder", tmp_path, "--kill-rank", 1, restarts=1) == ranks(None, "draws")


@pytest.mark.parametrize("num", [2, 3])
def test_restarts_at_random_moments_end(num):
    text = ranks(num, "restarts", "--seed", num, restarts=10)
    assert text.count("attempt 10, rank") == text.count(f"a mesh of {num}") == num


def test_training_is_that_of_one_process():
    assert len({ranks(num, "fit", "--deterministic") for num in (None, 1, 2, 4)}) == 1
    assert "relative difference" in ranks(2, "fit")


def test_a_ladder_is_that_of_one_process():
    assert len({ranks(num, "tempering", "--digest") for num in (None, 1, 2, 3)}) == 1


@pytest.mark.parametrize(
    ("script", "arguments"),
    [("bad_start", ("--rank", 1)), ("interrupt", ("--rank", 0)), ("bytes", ())],
)
def test_what_happens_on_one_rank(script, arguments):
    ranks(2, script, *arguments)


@pytest.mark.compiled
def test_a_second_call_compiles_nothing():
    ranks(2, "compiles")


@pytest.mark.compiled
def test_a_million_chains_need_two_gigabytes():
    ranks(2, "memory", "--chains", 1_000_000, "--max-rss", "2G")


def test_two_hosts_draw_what_one_draws():
    call = ["bash", str(ROOT / "tests/ranks/two_hosts.sh")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    result = subprocess.run(call, capture_output=True, text=True, env=environment, timeout=300, check=False)
    if "skipped" in result.stdout:
        pytest.skip(result.stdout.strip())
    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr[-3000:]
