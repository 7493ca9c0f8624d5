"""Counts what a rank sends: nothing while chains are run (as many bytes for 50 as for 500 draws), and a step of a warm-up."""

from __future__ import annotations

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))  # torchrun starts it as a file

from funcebm import distributed
from tests.ranks import work


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--max-bytes", type=int, default=0, help="while chains are run")
    parser.add_argument("--max-bytes-a-step", type=int, default=64_000, help="of ChEES")
    options = parser.parse_args()
    mesh = distributed.mesh()
    few, many = (work.draws(mesh, 64, False, "none", num)["sent"] for num in (50, 500))
    a_step = work.warm_up(mesh, "chees", 1024, 50)[3]
    if mesh.rank == 0:
        print(f"sampling: {many - few} bytes for 450 draws more, {few} at the door; ChEES: {a_step:.0f} bytes a step")
    return 0 if many - few <= options.max_bytes and a_step <= options.max_bytes_a_step else 1


if __name__ == "__main__":
    sys.exit(main())
