"""A training for torchrun, which prints the digest of the params; without ``--deterministic`` it prints how far one rank is."""

from __future__ import annotations

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))  # torchrun starts it as a file

from funcebm import distributed, tree
from funcebm.distributed.agreement import digest
from tests.ranks import work


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--deterministic", action="store_true")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--jit", action="store_true")
    parser.add_argument("--digest", action="store_true", help="print it, which is done in any case")
    options = parser.parse_args()
    mesh = distributed.mesh()
    params = work.fit(mesh, "score", options.deterministic, options.steps, options.jit)[0]
    if mesh.rank > 0:
        return 0
    if options.deterministic:
        print(digest(params))
        return 0
    alone = work.fit(distributed.single, "score", False, options.steps, options.jit)[0]
    pairs = zip(tree.leaves(params), tree.leaves(alone), strict=True)
    apart = max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
    print(f"relative difference {apart:.1e}")
    return 0 if apart < 1e-6 * max(1, options.steps / 10) else 1


if __name__ == "__main__":
    sys.exit(main())
