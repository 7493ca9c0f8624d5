"""Pyro: NUTS on one chain, by its own warm-up; its chains are processes, so more of them are no faster here."""

from __future__ import annotations

from typing import Any, Callable

from . import effective_rows


def load() -> tuple[str, effective_rows.Build]:
    import numpy as np
    import pyro
    import torch
    from pyro.infer import MCMC, NUTS

    precision = torch.tensor(np.linalg.inv(effective_rows.covariance()), dtype=torch.float32)

    def potential(position: dict[str, Any]) -> Any:
        return 0.5 * position["x"] @ (precision @ position["x"])

    def build(row: effective_rows.Row) -> Callable[[int, int], tuple[Any, float]]:
        pyro.set_rng_seed(1)
        kernel = NUTS(potential_fn=potential, target_accept_prob=0.8)
        start = {"x": torch.randn(effective_rows.DIM)}
        warm = MCMC(kernel, num_samples=1, warmup_steps=200, initial_params=start, disable_progbar=True)
        warm.run()
        position = {"x": warm.get_samples()["x"][-1]}

        def run(num_samples: int, seed: int) -> tuple[Any, float]:
            pyro.set_rng_seed(seed)
            tuned = NUTS(
                potential_fn=potential,
                step_size=kernel.step_size,
                adapt_step_size=False,
                adapt_mass_matrix=False,
            )
            tuned.mass_matrix_adapter.inverse_mass_matrix = kernel.mass_matrix_adapter.inverse_mass_matrix
            chain = MCMC(tuned, num_samples=num_samples, warmup_steps=0, initial_params=position, disable_progbar=True)
            chain.run()
            return chain.get_samples()["x"][None].numpy(), float("nan")

        return run

    return f"Pyro {pyro.__version__}", build


if __name__ == "__main__":
    effective_rows.serve(load)
