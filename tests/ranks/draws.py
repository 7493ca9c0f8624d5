"""A run for torchrun, which prints the digest of all draws: ``torchrun --standalone --nproc-per-node 2 tests/ranks/draws.py``.

It writes where it is every few draws. ``--kill-rank 1 --at-step 25`` ends a rank by SIGKILL after so many draws, the first time;
started again by torchrun, or with ``--resume`` on another number of ranks, it goes on and ends with the same digest.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
import signal
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))  # torchrun starts it as a file

import torch

import funcebm as ebm
from funcebm import distributed, random, samplers
from funcebm.distributed.agreement import digest


def energy(params, x):
    return params * (x**2).sum() / 2 + torch.cos(3 * x).sum() / 3


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--chains", type=int, default=64)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--folder", type=pathlib.Path)
    parser.add_argument("--resume", action="store_true", help="go on in the folder, where a run is new otherwise")
    parser.add_argument("--kill-rank", type=int)
    parser.add_argument("--at-step", type=int, default=25)
    parser.add_argument("--jit", action="store_true")
    parser.add_argument("--digest", action="store_true", help="print it, which is done in any case")
    options = parser.parse_args()
    mesh = distributed.mesh()
    sampler = samplers.hmc(energy, step_size=0.2, num_leapfrog=4)
    positions = random.normal(random.key(1), (options.chains, 4))
    arguments = (random.key(0), sampler, torch.tensor(0.5), positions)
    samples = ebm.sample(*arguments, num_samples=1, jit=options.jit, mesh=mesh)
    if options.folder is None and (options.resume or options.kill_rank is not None):
        options.folder = pathlib.Path(tempfile.gettempdir()) / "funcebm-draws"
    goes_on = options.resume or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    if options.folder is not None and not goes_on:
        if mesh.rank == 0:
            shutil.rmtree(options.folder, ignore_errors=True)
        mesh.agree(False)  # none writes before
    is_resumed = goes_on and any(options.folder.glob("run-*/done"))
    if is_resumed:
        samples = distributed.load(options.folder, samples.run, mesh=mesh)
    while samples.run.num_steps < options.steps:
        num = min(options.every - samples.run.num_steps % options.every, options.steps - samples.run.num_steps)
        is_killed = mesh.rank == options.kill_rank and not is_resumed
        if is_killed and samples.run.num_steps + num > options.at_step:
            os.kill(os.getpid(), signal.SIGKILL)
        samples = ebm.resume(samples, num_samples=num)
        if options.folder is not None:
            distributed.save(options.folder, samples, mesh=mesh)
    found = digest(mesh.gather(samples.state.position))
    if mesh.rank == 0:
        print(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
