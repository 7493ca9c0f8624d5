"""The rows of the comparison, and the line protocol of its workers. Standard library only: every peer imports this.

A worker reads one command a line, ``first ROW STEPS`` or ``time ROW STEPS``, and answers one JSON object a line.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from typing import Callable, NamedTuple

__all__ = ["ROWS", "TRAINING", "Build", "Row", "device", "serve"]


def device() -> str:
    """Where a worker computes: ``cuda`` if its command line says so."""
    return "cuda" if "cuda" in sys.argv[1:] else "cpu"


class Row(NamedTuple):
    """One row of the table.

    Attributes:
        name: how the command line calls it.
        title: how the table calls it.
        algorithm: ``langevin``, ``hmc`` (10 leapfrog steps, identity mass, with Metropolis test); or the loss of a training
            step: ``dsm``, ``sliced`` (one projection) or ``cd`` (10 Langevin steps from the data).
        energy: ``double_well``, ``gaussian`` (diagonal precision) or ``mlp`` (two hidden SiLU layers).
        num_chains: chains; in training the size of a batch.
        dim: the size of one position.
        width: hidden width of the network.
        step_size: of the sampler; in training the learning rate of Adam.
        num_steps: steps of one call; eager funcebm makes a tenth of them.
        torchebm: the ratio to reach, TorchEBM / funcebm.
        blackjax: the ratio to reach, BlackJAX or JAX / funcebm.
        same_law: whether the mean square of the final positions must agree between the contenders.
    """

    name: str
    title: str
    algorithm: str
    energy: str
    num_chains: int
    dim: int
    width: int
    step_size: float
    num_steps: int
    torchebm: float
    blackjax: float
    same_law: bool


ROWS = (
    Row(
        "langevin-10000",
        "Langevin, double well, 10,000 chains x 2-D",
        "langevin", "double_well", 10_000, 2, 0, 0.01, 1_000, 4.0, 2.5, True,
    ),
    Row(
        "langevin-100",
        "Langevin, double well, 100 chains x 2-D",
        "langevin", "double_well", 100, 2, 0, 0.01, 10_000, 40.0, 1.3, True,
    ),
    Row(
        "hmc-gaussian",
        "HMC L=10, diagonal Gaussian, 1,000 chains x 100-D",
        "hmc", "gaussian", 1_000, 100, 0, 0.1, 200, 7.0, 2.0, True,
    ),
    Row(
        "langevin-mlp",
        "Langevin, MLP energy (2 x 128 SiLU), 256 x 32-D",
        "langevin", "mlp", 256, 32, 128, 0.01, 1_000, 2.5, 1.8, False,
    ),
    Row(
        "hmc-mlp",
        "HMC L=10, the same MLP energy, 256 x 32-D",
        "hmc", "mlp", 256, 32, 128, 0.1, 100, 4.0, 1.4, False,
    ),
    Row(
        "dsm-mlp",
        "Denoising score matching step, MLP 2 x 64, batch 256 x 2-D, Adam",
        "dsm", "mlp", 256, 2, 64, 1e-3, 1_000, 4.0, 1.0, False,
    ),
    Row(
        "sliced-mlp",
        "Sliced score matching step, the same network, batch and optimizer",
        "sliced", "mlp", 256, 2, 64, 1e-3, 1_000, 4.0, 1.0, False,
    ),
    Row(
        "cd10-mlp",
        "Contrastive divergence step (10 Langevin steps), the same",
        "cd", "mlp", 256, 2, 64, 1e-3, 1_000, 4.0, 1.0, False,
    ),
)  # fmt: skip

NUM_LEAPFROG = 10
TRAINING = ("dsm", "sliced", "cd")
NOISE_SCALE = 0.5  # of denoising score matching
CD_STEPS = 10
CD_STEP_SIZE = 0.01  # of the chains of contrastive divergence
NUM_DATA = 4_096
PRECISION = (0.5, 2.0)  # the ends of the diagonal of the Gaussian, evenly spaced
MIN_SECONDS = 0.3  # a timing repeats its call for so long, and reports the median call

Build = Callable[[Row], Callable[[int], float]]
"""Row to ``run(num_steps) -> check``: ``run`` makes one call and waits for its numbers; ``check`` is the mean square of
the final positions, or the last loss."""


def _reply(build: Build, runs: dict[str, Callable[[int], float]], import_seconds: float, line: str) -> dict[str, float]:
    command, name, num_steps = line.split()
    row, steps = next(row for row in ROWS if row.name == name), int(num_steps)
    if name not in runs:
        runs[name] = build(row)
    run, seconds, check = runs[name], [], 0.0
    while not seconds or (command == "time" and sum(seconds) < MIN_SECONDS):
        begin = time.perf_counter()
        check = run(steps)
        seconds.append(time.perf_counter() - begin)
    if command == "first":
        return {"import": import_seconds, "call": seconds[0], "check": check}
    return {"microseconds": 1e6 * statistics.median(seconds) / steps, "check": check}


def serve(load: Callable[[], tuple[str, Build]]) -> None:
    """Runs a worker: imports its library, says which, and answers commands until the input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr
    num_threads = int(os.environ.get("OMP_NUM_THREADS", "2"))
    if hasattr(os, "sched_setaffinity"):  # the one way to bound the threads of every library alike
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num_threads])

    def answer(**content: object) -> None:
        print(json.dumps(content), file=answers, flush=True)

    begin = time.perf_counter()
    try:
        description, build = load()
    except ImportError as error:
        answer(absent=str(error))
        return
    import_seconds = time.perf_counter() - begin
    answer(ready=description)
    runs: dict[str, Callable[[int], float]] = {}
    for line in sys.stdin:
        answer(**_reply(build, runs, import_seconds, line))
