"""A warm-up for torchrun, which prints the digest of what was tuned: ``--adaptation chees``, ``meads``, ``window``, ``mclmc``."""

from __future__ import annotations

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))  # torchrun starts it as a file

from funcebm import distributed
from funcebm.distributed.agreement import digest
from tests.ranks import work


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--adaptation", default="chees")
    parser.add_argument("--chains", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--jit", action="store_true")
    parser.add_argument("--digest", action="store_true", help="print it, which is done in any case")
    options = parser.parse_args()
    mesh = distributed.mesh()
    found = work.warm_up(mesh, options.adaptation, options.chains, options.steps, options.jit)
    if mesh.rank == 0:
        print(digest(found[:2]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
