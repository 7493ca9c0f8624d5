"""The second call of everything compiles nothing, on any rank; a mesh of one rank gives the bits of none."""

from __future__ import annotations

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))  # torchrun starts it as a file

import torch

from funcebm import distributed, tree
from tests.ranks import work


def main():
    mesh = distributed.mesh()
    first = work.compiled_twice(mesh)
    print(f"rank {mesh.rank}: compiled {first} in the second calls", flush=True)
    alone = work.warm_up(distributed.single, "chees", 64, 100, True)
    group = work.warm_up(mesh, "chees", 64, 100, True)
    pairs = zip(tree.leaves(alone[:3]), tree.leaves(group[:3]), strict=True)
    is_equal = all(torch.equal(a, b) for a, b in pairs)
    print(f"rank {mesh.rank}: compiled ChEES has the bits of one process: {is_equal}", flush=True)
    return 0 if first == 0 and is_equal else 1


if __name__ == "__main__":
    sys.exit(main())
