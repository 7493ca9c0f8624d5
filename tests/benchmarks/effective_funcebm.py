"""funcebm: ``warm_up`` with the target of the others, then ``sample``, both compiled."""

from __future__ import annotations

from typing import Any, Callable

from . import effective_rows


def load() -> tuple[str, effective_rows.Build]:
    import numpy as np
    import torch

    import funcebm as ebm

    precision = torch.tensor(np.linalg.inv(effective_rows.covariance()), dtype=torch.float32)

    def energy(params: Any, x: Any) -> Any:
        return 0.5 * x @ (params @ x)

    def build(row: effective_rows.Row) -> Callable[[int, int], tuple[Any, float]]:
        if row.algorithm == "nuts":
            sampler, adaptation = ebm.samplers.nuts(energy), ebm.adaptation.window_adaptation(target=0.8)
        else:
            sampler = ebm.samplers.dynamic_hmc(energy, step_size=0.1, trajectory_length=0.1)
            adaptation = ebm.adaptation.chees()
        starts = ebm.random.normal(ebm.random.key(1), (row.num_chains, effective_rows.DIM))
        options = {"num_steps": row.num_warm_up, "adaptation": adaptation}
        positions, tuning, _ = ebm.warm_up(ebm.random.key(2), sampler, precision, starts, **options)

        def run(num_samples: int, seed: int) -> tuple[Any, float]:
            key = ebm.random.key(seed)
            samples = ebm.sample(key, sampler, precision, positions, num_samples=num_samples, tuning=tuning)
            return samples.draws, float(samples.info.num_gradients.sum())

        run(row.num_samples, 3)
        return run

    return f"funcebm, torch {torch.__version__}", build


if __name__ == "__main__":
    effective_rows.serve(load)
