"""A ladder of temperatures whose replicas ranks share: prints the digest of the target's draws and of what was swapped.

Temperatures move and positions stay: whatever the dimension, a scan sends a few numbers of each replica.
"""

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
    parser.add_argument("--digest", action="store_true", help="print it, which is done in any case")
    parser.add_argument("--scans", type=int, default=50)
    options = parser.parse_args()
    mesh = distributed.mesh()
    found = work.tempering(mesh, "hmc", options.scans)
    if mesh.rank == 0:
        print(digest([leaf.double() for leaf in found[:4]]))
    return 0 if found[5] < 4 * 6 * 6 * 4 + 400 else 1


if __name__ == "__main__":
    sys.exit(main())
