"""Weak scaling: as many chains on every rank, compiled; how long one rank takes, and all of them at once.

Cores may share what they compute with (two threads of one core, memory, clock): as a measure of that every rank also runs its
chains for itself, at the same time as the others, without a mesh. What ranks cost is what comes on top.
"""

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
    parser.add_argument("--chains", type=int, default=2000, help="on each rank")
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    mesh = distributed.mesh()
    sampler = samplers.hmc(work.energy, step_size=0.2, num_leapfrog=10)

    def seconds(mesh, num_chains):
        positions = random.normal(random.key(1), (num_chains, 16))
        arguments = (work.KEY, sampler, torch.tensor(0.5), positions)
        given = {
            "num_samples": options.draws,
            "reduce": ebm.reducers.mean(across_chains=True),
            "jit": True,
            "mesh": mesh,
        }
        ebm.sample(*arguments, **given)
        best = float("inf")
        for _ in range(options.repeats):
            start = time.perf_counter()
            ebm.sample(*arguments, **given)
            best = min(best, time.perf_counter() - start)
        return best

    one = seconds(distributed.single, options.chains) if mesh.rank == 0 else 0.0
    mesh.agree(False)  # the others wait
    apart, together = [], []
    for _ in range(options.rounds):  # one after the other, so that both see the same machine
        mesh.agree(False)
        apart.append(seconds(distributed.single, options.chains))
        together.append(seconds(mesh, options.chains * mesh.size))
    lone, all_of_them = (float(mesh.gather(torch.tensor([min(times)])).max()) for times in (apart, together))
    if mesh.rank == 0:
        print(
            f"one rank alone {one:.3f} s; {mesh.size} at once, each for itself {lone:.3f} s, as one mesh {all_of_them:.3f} s"
        )
        print(
            f"weak scaling {one / all_of_them:.1%}, of the machine itself {one / lone:.1%}, of ranks {lone / all_of_them:.1%}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
