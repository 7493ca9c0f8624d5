"""What many energies cost beside one, in one compiled call: ``python -m tests.benchmarks.many`` prints the table, in Markdown.

64 double wells of different barrier with 64 chains each, against one with 4,096 chains; and the training of 32 small energies
by ``fit_ensemble``, against that of one by ``fit``. Many and one take turns, and the table gives medians over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any, Callable

import torch

import funcebm as ebm

__all__ = ["ensemble_pair", "main", "median_seconds", "wells_pair"]


def wells_pair(num_energies: int = 64, num_chains: int = 64, num_samples: int = 1_000) -> tuple[Callable[[], Any], ...]:
    """Langevin steps on many double wells with a few chains each, with keys of their own; and on one with as many in all."""
    well = ebm.energies.double_well
    sampler = ebm.samplers.langevin(well, step_size=0.01)
    params = well.params()
    many = {**ebm.tree.broadcast(params, num_energies), "barrier_height": torch.linspace(0.5, 4.0, num_energies)}
    keys = ebm.random.split(ebm.random.key(0), num_energies)
    starts = torch.zeros(num_energies * num_chains, 2)

    def run(key: torch.Tensor, params: Any, starts: torch.Tensor) -> Any:
        return ebm.sample(key, sampler, params, starts, num_samples=num_samples, jit=False).draws

    mapped = ebm.jit(torch.func.vmap(run, (0, 0, None)))
    few = starts[:num_chains].clone()
    return (
        lambda: mapped(keys, many, few),
        lambda: ebm.sample(keys[0], sampler, params, starts, num_samples=num_samples).draws,
    )


def ensemble_pair(
    width: int, batch_size: int, num_members: int = 32, num_steps: int = 2_000
) -> tuple[Callable[[], Any], ...]:
    """Denoising score matching of a small network on two moons: many at once, and one."""
    data = ebm.datasets.two_moons(ebm.random.key(0), 4_000)
    energy, params = ebm.energies.mlp(ebm.random.key(1), 2, (width, width))
    many = ebm.tree.broadcast(params, num_members)
    loss = ebm.losses.denoising_score_matching(energy, noise_scale=0.2)
    options: dict[str, Any] = {"optimizer": ebm.optimizers.adam(1e-3), "num_steps": num_steps, "batch_size": batch_size}
    return (
        lambda: ebm.training.fit_ensemble(ebm.random.key(2), loss, many, data, **options),
        lambda: ebm.fit(ebm.random.key(2), loss, params, data, **options),
    )


def median_seconds(calls: tuple[Callable[[], Any], ...], num_rounds: int) -> list[float]:
    """Seconds of each call, the calls taking turns; a first round, which compiles, does not count."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(num_rounds + 1):
        for call, seconds in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            if turn > 0:
                seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in times]


def main(arguments: list[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="turns of each (7)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (2)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows: dict[str, Callable[[], tuple[Callable[[], Any], ...]]] = {
        "Langevin, 64 double wells x 64 chains, against 1 x 4,096": wells_pair,
        "Training, 32 energies of 2 x 8 units, batch 32, against 1": lambda: ensemble_pair(8, 32),
        "Training, 32 energies of 2 x 16 units, batch 64, against 1": lambda: ensemble_pair(16, 64),
    }
    print("| | many, ms | one, ms | many / one |\n|---|---:|---:|---:|")
    for name, pair in rows.items():
        many, one = median_seconds(pair(), options.rounds)
        print(f"| {name} | {1e3 * many:,.0f} | {1e3 * one:,.0f} | {many / one:.2f}x |", flush=True)
    print(f"\n{options.threads} threads; torch {torch.__version__}; medians of {options.rounds}.")


if __name__ == "__main__":
    main()
