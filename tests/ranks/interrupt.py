"""SIGINT to ``--rank`` in the middle of a run: all ranks return the same number of draws, and go on bit for bit."""

from __future__ import annotations

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))  # torchrun starts it as a file

from funcebm import distributed
from tests.ranks import work


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rank", type=int, default=0)
    options = parser.parse_args()
    mesh = distributed.mesh()
    num, seconds, is_complete, is_equal = work.interrupted(mesh, options.rank, 4.0)
    print(f"rank {mesh.rank}: {num} draws after {seconds:.1f} s, the rest is the same: {is_equal}", flush=True)
    return 0 if is_equal and not is_complete and seconds < 14 else 1


if __name__ == "__main__":
    sys.exit(main())
