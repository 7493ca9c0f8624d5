"""The harness runs, its table has the promised shape, and chains that keep nothing stay within their memory."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from tests.benchmarks import compare, many, memory


def test_quick_table(capsys):
    """A peer that is not installed is left out, and said so."""
    contenders = "eager" if importlib.util.find_spec("torchebm") else "eager,torchebm"
    compare.main(["--quick", "--contenders", contenders, "--rows", "langevin-100,langevin-mlp", "--threads", "1"])
    output = capsys.readouterr()
    if "torchebm" in contenders:
        assert "TorchEBM is left out: No module named 'torchebm' (see --torchebm-python)." in output.err
    lines = output.out.splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    header, _, *rows = cells
    assert header == ["microseconds a step", "funcebm eager", "TorchEBM / funcebm", "BlackJAX / funcebm"]
    assert [row[0] for row in rows] == [compare.ROWS[1].title, compare.ROWS[3].title]
    for row in rows:
        assert float(row[1].replace(",", "")) > 0
        assert row[2:] == ["-", "-"]
    assert "1 threads" in lines[-3]


def test_bad_options_say_what_is_allowed(capsys):
    with pytest.raises(SystemExit) as error:
        compare.main(["--rows", "langevin-7"])
    assert error.value.code == 2
    assert "unknown row 'langevin-7', choose from langevin-10000" in capsys.readouterr().err


def test_peak_bytes_counts_what_is_held_at_one_time():
    def call():
        for _ in range(3):
            torch.zeros(1000, dtype=torch.float64) + 1  # two of 8,000 bytes at a time

    assert 16_000 <= memory.peak_bytes(call) < 20_000


@pytest.mark.compiled
@pytest.mark.filterwarnings("ignore:Warning. Profiler clears events")  # torch 2.11
def test_chains_that_keep_nothing_hold_no_noise_of_a_chunk():
    found = memory.langevin_without_draws()
    assert found.peak < found.noise / 4


def test_many_and_one_take_turns_and_the_first_round_does_not_count():
    seen = []
    seconds = many.median_seconds((lambda: seen.append("many"), lambda: seen.append("one")), num_rounds=3)
    assert seen == ["many", "one"] * 4
    assert len(seconds) == 2 and min(seconds) > 0
