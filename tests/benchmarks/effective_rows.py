"""The rows of the comparison by effective samples, and the protocol of its workers. Standard library and NumPy only.

A worker reads one command a line, ``warm ROW`` or ``draw ROW SAMPLES SEED FILE``, and answers one JSON object a line.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any, Callable, NamedTuple

import numpy as np

__all__ = ["ROWS", "Build", "Row", "covariance", "serve"]

DIM = 50


class Row(NamedTuple):
    """One row of the table: a dense 50-D Gaussian, each library tuned by its own warm-up.

    Attributes:
        name: how the command line calls it.
        title: how the table calls it.
        algorithm: ``nuts`` (diagonal window adaptation, target 0.8) or ``chees`` (ChEES-HMC).
        num_chains: chains; Pyro, whose chains do not run together, runs one.
        num_warm_up: steps of the warm-up.
        num_samples: draws of each chain.
        blackjax: the ratio to reach, funcebm / BlackJAX.
        pyro: the ratio to reach, funcebm / Pyro.
    """

    name: str
    title: str
    algorithm: str
    num_chains: int
    num_warm_up: int
    num_samples: int
    blackjax: float
    pyro: float | None


ROWS = (
    Row("nuts-4", "NUTS, dense 50-D Gaussian, 4 chains", "nuts", 4, 1_000, 1_000, 1.0, 20.0),
    Row("nuts-100", "NUTS, dense 50-D Gaussian, 100 chains", "nuts", 100, 500, 200, 1.0, 20.0),
    Row("chees-256", "ChEES-HMC, dense 50-D Gaussian, 256 chains", "chees", 256, 500, 200, 1.0, None),
)


def covariance() -> np.ndarray:
    """Correlations 0.9^|i - j|, standard deviations from 0.5 to 2."""
    scale = np.linspace(0.5, 2.0, DIM)
    return scale[:, None] * scale * 0.9 ** np.abs(np.subtract.outer(np.arange(DIM), np.arange(DIM)))


Build = Callable[[Row], Callable[[int, int], tuple[Any, float]]]
"""Row to ``run(num_samples, seed) -> (draws (C, N, D), gradients)``, warmed up; a run waits for its numbers."""


def serve(load: Callable[[], tuple[str, Build]]) -> None:
    """Runs a worker: imports its library, says which, and answers commands until the input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr
    num_threads = int(os.environ.get("OMP_NUM_THREADS", "2"))
    if hasattr(os, "sched_setaffinity"):  # the one way to bound the threads of every library alike
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num_threads])

    def answer(**content: object) -> None:
        print(json.dumps(content), file=answers, flush=True)

    try:
        description, build = load()
    except ImportError as error:
        answer(absent=str(error))
        return
    answer(ready=description)
    runs: dict[str, Callable[[int, int], tuple[Any, float]]] = {}
    for line in sys.stdin:
        command, name, *rest = line.split()
        row = next(row for row in ROWS if row.name == name)
        if command == "warm":
            begin = time.perf_counter()
            runs[name] = build(row)
            answer(seconds=time.perf_counter() - begin)
            continue
        num_samples, seed, path = int(rest[0]), int(rest[1]), rest[2]
        begin = time.perf_counter()
        draws, gradients = runs[name](num_samples, seed)
        seconds = time.perf_counter() - begin
        np.save(path, np.asarray(draws))
        answer(seconds=seconds, gradients=gradients)
