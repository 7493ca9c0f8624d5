"""The harness runs, its table has the promised shape, and chains that keep nothing stay within their memory."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import pytest
import torch

from tests.benchmarks import compare, discrete, many, memory

PEERS = {
    "torchebm",
    "blackjax",
    "jax",
    "jaxlib",
    "optax",
    "pyro",
    "thrml",
    "equinox",
    "diffrax",
    "torchdiffeq",
    "torchcfm",
}


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


MODULES = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != Path(__file__).stem)


@pytest.mark.parametrize("name", MODULES)
def test_every_benchmark_can_be_imported(name):
    """But for what is not installed here: the libraries that it compares with."""
    try:
        importlib.import_module(f"tests.benchmarks.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in PEERS:
            raise


def test_every_row_of_discrete_samplers_runs(capsys, monkeypatch):
    """One step of each, and a few on the RBM, eager: the tables have all rows, and numbers in them."""
    machine = {name: target for name, target in discrete._targets().items() if name.startswith("RBM")}
    monkeypatch.setattr(discrete, "_targets", lambda: machine)
    found = discrete._ess(chains=2, draws=4, thin=1, num_burn_in=0, jit=False)
    eager = discrete._compiled(chains=2, num_most=1, kinds=(False,), num_calls=1)
    discrete._tables({"ess": found, "compiled": {row: times * 2 for row, times in eager.items()}})
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith("| ") and not line.startswith(("| ESS", "| milliseconds"))]
    assert len(rows) == len(found) + len(eager) == 5 + 15
    assert all(times[0] > 0 for times in eager.values())
