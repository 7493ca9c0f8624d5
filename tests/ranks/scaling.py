"""Weak scaling: as many chains on every rank, compiled; how long one rank takes, and all of them at once.

Cores may share what they compute with (two threads of one core, memory, clock): as a measure of that every rank also runs its
chains for itself, at the same time as the others, without a mesh. What ranks cost is what comes on top. Seconds of CPU say so too
on a machine that has other things to do, but for what a rank waits.
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
        best = torch.full((2,), torch.inf)  # of the clock, of CPU
        for _ in range(options.repeats):
            start = torch.tensor([time.perf_counter(), time.process_time()], dtype=torch.float64)
            ebm.sample(*arguments, **given)
            end = torch.tensor([time.perf_counter(), time.process_time()], dtype=torch.float64)
            best = torch.minimum(best, (end - start).float())
        return best

    one = seconds(distributed.single, options.chains) if mesh.rank == 0 else torch.zeros(2)
    mesh.agree(False)  # the others wait
    apart, together = [], []
    for _ in range(options.rounds):  # one after the other, so that both see the same machine
        mesh.agree(False)
        apart.append(seconds(distributed.single, options.chains))
        together.append(seconds(mesh, options.chains * mesh.size))
    lone, whole = (mesh.gather(torch.stack(times).amin(0)[None]).amax(0) for times in (apart, together))
    for index, name in enumerate(("clock", "CPU") if mesh.rank == 0 else ()):
        times = [float(value[index]) for value in (one, lone, whole)]
        words = f"one rank alone {times[0]:.3f} s; {mesh.size} at once, each for itself {times[1]:.3f} s"
        print(f"{name}: {words}, as one mesh {times[2]:.3f} s")
        shares = (times[0] / times[2], times[0] / times[1], times[1] / times[2])
        print("{}: weak scaling {:.1%}, of the machine itself {:.1%}, of ranks {:.1%}".format(name, *shares))
    return 0


if __name__ == "__main__":
    sys.exit(main())
