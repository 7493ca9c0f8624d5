"""A rank is killed at a random moment of each attempt but the last, while groups are made too: ``torchrun --max-restarts 20``.

The store of torchrun keeps the addresses of ranks that are no more.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import random
import signal
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))  # torchrun starts it as a file

import torch

from funcebm import distributed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1.0, help="in which a rank is killed")
    options = parser.parse_args()
    attempt, last = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), int(os.environ["TORCHELASTIC_MAX_RESTARTS"])
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    shared = random.Random(f"{options.seed} {attempt}")
    victim, moment = shared.randrange(size), shared.uniform(0, options.seconds)
    time.sleep(random.Random(f"{options.seed} {attempt} {rank}").uniform(0, 0.3))  # ranks come one after the other
    if rank == victim and attempt < last:
        threading.Timer(moment, os.kill, (os.getpid(), signal.SIGKILL)).start()
    start = time.monotonic()
    mesh = distributed.mesh(timeout=20, lines=1, all=size)
    seconds, end, total = time.monotonic() - start, time.monotonic() + options.seconds + 0.5, 0
    while not mesh.agree(time.monotonic() > end and attempt == last):
        total = int(mesh.axes["all"].sum(torch.tensor(1)))
    print(f"attempt {attempt}, rank {rank}: a mesh of {total} after {seconds:.1f} s", flush=True)
    return 0 if total == size else 1


if __name__ == "__main__":
    sys.exit(main())
