"""The memory of a rank that runs its share of ``--chains``, with statistics over all chains in place of draws."""

from __future__ import annotations

import argparse
import pathlib
import resource
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))  # torchrun starts it as a file

import torch

import funcebm as ebm
from funcebm import distributed, random, samplers
from funcebm.distributed.mesh import bounds
from tests.ranks import work


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--chains", type=int, default=1_000_000)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--max-rss", default="2G", help="in GB")
    options = parser.parse_args()
    mesh = distributed.mesh()
    first, last = bounds(options.chains, mesh.rank, mesh.size)
    # the starts of one rank alone: the whole of them is on none
    rows = random.normal(random.fold_in(random.key(1), mesh.rank), (last - first, 2))
    reduce = ebm.reducers.variance(across_chains=True)
    samples = ebm.sample(
        work.KEY,
        samplers.langevin(work.energy, step_size=0.1),
        torch.tensor(0.5),
        mesh.shard(rows),
        num_samples=options.draws,
        reduce=reduce,
        mesh=mesh,
        jit=True,
    )
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(
        f"rank {mesh.rank}: {samples.chains} {used:.2f} GB, variance {samples.reduced['variance'].tolist()}", flush=True
    )
    return 0 if used <= float(options.max_rss.upper().rstrip("GB")) else 1


if __name__ == "__main__":
    sys.exit(main())
