"""Whether two checkouts give the same bits: draws of every sampler, the first losses of every loss, eager and compiled.

In each checkout, ``python tests/benchmarks/bits.py record FILE [--compiled]`` with its own ``src`` on the path; then
``python tests/benchmarks/bits.py compare FILE FILE`` prints what differs, and by how much.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from typing import Any

import torch

sys.path.insert(0, str(pathlib.Path.cwd()))

COMPILED_SAMPLERS = (
    "langevin",
    "mala_dense",
    "hmc_jittered",
    "hmc_multinomial",
    "dynamic_hmc",
    "ghmc_three_steps",
    "nuts",
)
COMPILED_SAMPLERS += ("adjusted_mclmc", "riemannian_hmc", "elliptical_slice", "barker", "random_walk", "mix", "thin")
COMPILED_LOSSES = (
    "cd_options",
    "pcd",
    "improved_cd",
    "denoising",
    "energy_discrepancy",
    "finite_difference",
    "joint_energy",
)


def record(path: str, compiled: bool) -> None:
    """Runs all cases of the checkout in the working directory, and writes their numbers."""
    from funcebm import optimizers, random, sample, tree
    from funcebm.training import fit
    from tests import cases, cases_losses

    results: dict[str, Any] = {}
    for name, make in cases.SAMPLERS.items():
        for dtype in (torch.float32, torch.float64):
            if compiled and (name not in COMPILED_SAMPLERS or dtype == torch.float64):
                continue
            positions = 0.5 * random.normal(random.key(1), (4, 3), dtype=dtype)
            params = cases.quartic_params(dtype)
            samples = sample(
                random.key(2), make(cases.quartic, positions[0]), params, positions, num_samples=20, jit=compiled
            )
            results[f"{name} {dtype}"] = tree.leaves((samples.draws, samples.info))
    for name, make_loss in cases_losses.LOSSES.items():
        if compiled and name not in COMPILED_LOSSES:
            continue
        data = cases_losses.with_labels(name, cases_losses.batch(num=30))
        optimizer = optimizers.chain(optimizers.clip_by_global_norm(5.0), optimizers.adamw(0.01))
        arguments = (random.key(3), make_loss(), cases_losses.params(), data)
        run = fit(*arguments, optimizer=optimizer, num_steps=50, batch_size=6, ema_decay=0.9, jit=compiled)
        results[f"loss {name}"] = [*(run.metrics[key] for key in sorted(run.metrics)), *tree.leaves(run.params)]
    torch.save(results, path)


def compare(before: str, after: str) -> None:
    """Prints the cases that differ, and how many are equal in every bit."""
    old, new = torch.load(before), torch.load(after)
    num_equal = 0
    for name in sorted(old.keys() | new.keys()):
        if name not in old or name not in new or len(old[name]) != len(new[name]):
            print(f"{name:40} only in one, or of another structure")
            continue
        pairs = list(zip(old[name], new[name], strict=True))
        if all(a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs):
            num_equal += 1
            continue
        difference = max(
            float((a.double() - b.double()).abs().nan_to_num().max()) for a, b in pairs if a.shape == b.shape
        )
        print(f"{name:40} differs by up to {difference:.1e}")
    print(f"{num_equal} of {len(old.keys() | new.keys())} cases are equal in every bit")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["record", "compare"])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--compiled", action="store_true")
    options = parser.parse_args()
    record(options.files[0], options.compiled) if options.what == "record" else compare(*options.files)
