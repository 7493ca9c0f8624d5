"""How many effective samples a second funcebm draws beside its peers: ``python -m tests.benchmarks.effective``.

Each contender is a process of its own, with the same threads (pinned to as many cores), float32 and target; each tunes
itself by its own warm-up, which is not in the time, and the contenders take turns. The samples of a run are judged
here, all by one estimator: the mean over coordinates of the bulk effective sample size.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from funcebm import diagnostics

from .compare import Contender, Worker
from .effective_rows import ROWS, Row, covariance

__all__ = ["main"]

CONTENDERS = {
    "funcebm": Contender("funcebm", ("effective_funcebm",), algorithms=("nuts", "chees")),
    "blackjax": Contender("BlackJAX", ("effective_blackjax",), "jax_python", algorithms=("nuts", "chees")),
    "pyro": Contender("Pyro", ("effective_pyro",), "pyro_python", algorithms=("nuts",)),
}
_PYRO_SAMPLES = 100


def _judge(path: Path) -> tuple[float, float]:
    """Effective samples, and the largest deviation of a coordinate's second moment, in parts of it."""
    draws = torch.from_numpy(np.load(path)).double()
    sizes = diagnostics.ess_bulk(draws)
    moments = draws.square().mean((0, 1)) / torch.from_numpy(covariance().diagonal().copy())
    return float(sizes.mean()), float((moments - 1).abs().max())


def _time_row(row: Row, workers: dict[str, Worker], num_rounds: int) -> dict[str, dict[str, float]]:
    """Effective samples a second, microseconds a step and a gradient, of each contender: medians over the rounds."""
    names = [name for name, worker in workers.items() if row.algorithm in worker.contender.algorithms]
    figures: dict[str, list[tuple[float, ...]]] = {name: [] for name in names}
    for name in names:
        workers[name].send("warm", row.name)
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(num_rounds):
            for name in names:
                path = Path(folder) / f"{name}.npy"
                num_samples = min(row.num_samples, _PYRO_SAMPLES) if name == "pyro" else row.num_samples
                reply = workers[name].send("draw", row.name, str(num_samples), str(10 + turn), str(path))
                effective, error = _judge(path)
                if name != "pyro" and error > 0.35:
                    print(f"{row.name}: a second moment of {name} is {error:.0%} off", file=sys.stderr)
                seconds = reply["seconds"]
                figures[name].append(
                    (effective / seconds, 1e6 * seconds / num_samples, 1e6 * seconds / reply["gradients"])
                )
    columns = ("effective", "step", "gradient")
    return {
        name: dict(zip(columns, map(statistics.median, zip(*rounds, strict=True)), strict=True))
        for name, rounds in figures.items()
    }


def _ratio(figures: dict[str, Any], peer: str, target: float | None) -> str:
    if peer not in figures or target is None:
        return "-"
    ratio = figures["funcebm"]["effective"] / figures[peer]["effective"]
    text = f"{ratio:.1f}x ({target:g})"
    return text if ratio >= target else f"**{text}**"


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.effective", description=__doc__)
    parser.add_argument("--rows", default=",".join(row.name for row in ROWS), help="comma-separated")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender (5)")
    parser.add_argument("--threads", type=int, default=2, help="threads, and cores, of each contender (2)")
    parser.add_argument("--jax-python", default=sys.executable, help="interpreter with jax and blackjax (this one)")
    parser.add_argument("--pyro-python", default=sys.executable, help="interpreter with pyro-ppl (this one)")
    options = parser.parse_args(arguments)
    workers = {}
    for name, contender in CONTENDERS.items():
        python = sys.executable if contender.peer is None else getattr(options, contender.peer)
        worker = Worker(contender, python, options.threads)
        if worker.absent is None:
            workers[name] = worker
        else:
            print(f"{contender.title} is left out: {worker.absent}.", file=sys.stderr)
    titles = [worker.contender.title for worker in workers.values()]
    print(f"| effective samples a second (microseconds a step) | {' | '.join(titles)} | / BlackJAX | / Pyro |")
    print("|---|" + "---:|" * (len(titles) + 2))
    for row in (row for row in ROWS if row.name in options.rows.split(",")):
        figures = _time_row(row, workers, options.rounds)
        cells = [
            f"{figures[name]['effective']:,.0f} ({figures[name]['step']:,.0f})" if name in figures else "-"
            for name in workers
        ]
        cells += [_ratio(figures, "blackjax", row.blackjax), _ratio(figures, "pyro", row.pyro)]
        print(f"| {row.title} | {' | '.join(cells)} |", flush=True)
        gradients = ", ".join(f"{name} {figure['gradient']:.2f}" for name, figure in figures.items())
        print(f"{row.name}: microseconds a gradient: {gradients}", file=sys.stderr)
    print(f"\n{options.threads} threads; {'; '.join(worker.description for worker in workers.values())}.")
    print(f"Medians of {options.rounds}. In brackets the ratio to reach, bold where it is not.")
    for worker in workers.values():
        worker.close()


if __name__ == "__main__":
    main()
