"""funcebm, compiled or (with the argument ``eager``) not."""

from __future__ import annotations

import sys
from typing import Any, Callable

from . import rows


def load() -> tuple[str, rows.Build]:
    import torch

    import funcebm as ebm

    jit, device = "eager" not in sys.argv[1:], rows.device()

    def nothing(state: Any, info: Any) -> tuple[()]:
        return ()

    def energy_of(row: rows.Row) -> tuple[Any, Any]:
        energy, params = on_cpu(row)
        return energy, ebm.tree.map(lambda leaf: leaf.to(device), params)

    def on_cpu(row: rows.Row) -> tuple[Any, Any]:
        if row.energy == "double_well":
            return ebm.energies.double_well, ebm.energies.double_well.params(barrier_height=2.0)
        if row.energy == "gaussian":
            return lambda params, x: 0.5 * (params * x * x).sum(), torch.linspace(*rows.PRECISION, row.dim)
        return ebm.energies.mlp(ebm.random.key(1), row.dim, hidden=(row.width, row.width))

    def sampling(row: rows.Row) -> Callable[[int], float]:
        energy, params = energy_of(row)
        if row.algorithm == "langevin":
            sampler = ebm.samplers.langevin(energy, step_size=row.step_size)
        else:
            sampler = ebm.samplers.hmc(energy, step_size=row.step_size, num_leapfrog=rows.NUM_LEAPFROG)
        positions = ebm.random.normal(ebm.random.key(2), (row.num_chains, row.dim)).to(device)
        key = ebm.random.key(0, device=device)

        def call(num_steps: int) -> float:
            samples = ebm.sample(key, sampler, params, positions, num_samples=num_steps, collect=nothing, jit=jit)
            return float(samples.state.position.square().mean())

        return call

    def training(row: rows.Row) -> Callable[[int], float]:
        energy, params = energy_of(row)
        if row.algorithm == "dsm":
            loss = ebm.losses.denoising_score_matching(energy, rows.NOISE_SCALE)
        elif row.algorithm == "sliced":
            loss = ebm.losses.sliced_score_matching(energy, num_probes=1)
        else:
            sampler = ebm.samplers.langevin(energy, step_size=rows.CD_STEP_SIZE)
            loss = ebm.losses.contrastive_divergence(energy, sampler, rows.CD_STEPS)
        optimizer = ebm.optimizers.adam(row.step_size)
        data = ebm.random.normal(ebm.random.key(2), (rows.NUM_DATA, row.dim)).to(device)
        key = ebm.random.key(0, device=device)
        options = {"optimizer": optimizer, "batch_size": row.num_chains, "jit": jit}

        def call(num_steps: int) -> float:
            fit = ebm.fit(key, loss, params, data, num_steps=num_steps, **options)
            return float(fit.metrics["loss"][-1])

        return call

    description = f"funcebm, torch {torch.__version__}"
    return description, lambda row: training(row) if row.algorithm in rows.TRAINING else sampling(row)


if __name__ == "__main__":
    rows.serve(load)
