"""An energy that is not finite at the start of one chain of ``--rank``: all ranks must raise within ten seconds, and name it."""

from __future__ import annotations

import argparse
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))  # torchrun starts it as a file

import torch

import funcebm as ebm
from funcebm import distributed, random, samplers
from tests.ranks import work


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rank", type=int, default=1)
    options = parser.parse_args()
    mesh = distributed.mesh()
    positions = random.normal(random.key(1), (10 * mesh.size, 2))
    bad = 10 * options.rank + 3
    positions[bad] = torch.inf
    start = time.monotonic()
    try:
        ebm.sample(
            work.KEY, samplers.mala(work.energy), torch.tensor(0.5), positions, num_samples=5, jit=False, mesh=mesh
        )
    except ValueError as error:
        seconds = time.monotonic() - start
        print(f"rank {mesh.rank} after {seconds:.2f} s: {str(error)[:120]}", flush=True)
        return 0 if seconds < 10 and f"chains {bad}" in str(error) else 1
    return 1


if __name__ == "__main__":
    sys.exit(main())
