"""The tables that contract tests sweep: samplers here, energies and losses beside."""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor

from funcebm import integrators, samplers, tree
from funcebm.types import Energy, Params, Position, Sampler

from .cases_energies import ENERGIES
from .cases_losses import LOSSES

__all__ = ["ENERGIES", "LOSSES", "SAMPLERS", "quartic", "quartic_params"]


def quartic(params: Params, x: Position) -> Tensor:
    """A smooth, confining, asymmetric energy of any tree of positions."""
    total = sum(leaf.sum() for leaf in tree.leaves(x))
    fourth = sum((leaf**4).sum() for leaf in tree.leaves(x))
    return params["k"] * tree.squared_norm(x) / 2 + fourth / 8 + params["tilt"] * torch.sin(total)


def quartic_params(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {"k": torch.tensor(1.5, dtype=dtype), "tilt": torch.tensor(0.4, dtype=dtype)}


def _diagonal(position: Position) -> Any:
    return tree.map(lambda leaf: torch.linspace(0.5, 1.5, leaf.numel()).reshape(leaf.shape), position)


def _dense(position: Position) -> Tensor:
    size = sum(leaf.numel() for leaf in tree.leaves(position))
    return 0.2 * torch.ones(size, size) + torch.diag(torch.linspace(0.4, 0.9, size))


def _curved(params: Params, position: Position) -> Tensor:
    vector, _ = tree.ravel(position)
    return params["k"] * torch.diag(1 + 0.5 * torch.sin(vector)) + 0.2 * torch.outer(vector, vector)


SAMPLERS: dict[str, Callable[[Energy, Position], Sampler]] = {
    "langevin": lambda energy, position: samplers.langevin(energy, step_size=0.1),
    "mala": lambda energy, position: samplers.mala(energy, step_size=0.2, temperature=0.8),
    "hmc": lambda energy, position: samplers.hmc(energy, step_size=0.3, num_leapfrog=3),
    "hmc_one_step": lambda energy, position: samplers.hmc(energy, step_size=0.3, num_leapfrog=1),
    "hmc_diagonal": lambda energy, position: samplers.hmc(
        energy, step_size=0.3, num_leapfrog=3, inverse_mass=_diagonal(position), temperature=1.3
    ),
    "hmc_dense": lambda energy, position: samplers.hmc(
        energy, step_size=0.3, num_leapfrog=2, inverse_mass=_dense(position)
    ),
    "hmc_jittered": lambda energy, position: samplers.hmc(energy, step_size=0.3, num_leapfrog=3, jitter=0.3),
    "hmc_multinomial": lambda energy, position: samplers.hmc(
        energy, step_size=0.3, num_leapfrog=4, jitter=0.3, inverse_mass=_dense(position), endpoint="multinomial"
    ),
    "hmc_yoshida": lambda energy, position: samplers.hmc(
        energy, step_size=0.4, num_leapfrog=2, integrator=integrators.yoshida
    ),
    "hmc_position_leapfrog": lambda energy, position: samplers.hmc(
        energy, step_size=0.3, num_leapfrog=3, temperature=0.8, integrator=integrators.position_leapfrog
    ),
    "dynamic_hmc": lambda energy, position: samplers.dynamic_hmc(
        energy, step_size=0.3, trajectory_length=2.0, inverse_mass=_dense(position), temperature=1.2
    ),
    "dynamic_hmc_uniform": lambda energy, position: samplers.dynamic_hmc(
        energy, step_size=0.3, trajectory_length=2.0, lengths="uniform"
    ),
    "ghmc": lambda energy, position: samplers.ghmc(energy, step_size=0.3, inverse_mass=_dense(position)),
    "ghmc_three_steps": lambda energy, position: samplers.ghmc(
        energy, step_size=0.3, num_leapfrog=3, alpha=0.5, inverse_mass=_diagonal(position), temperature=1.3
    ),
    "langevin_dense": lambda energy, position: samplers.langevin(
        energy, step_size=0.1, preconditioner=_dense(position), temperature=0.7
    ),
    "mala_diagonal": lambda energy, position: samplers.mala(
        energy, step_size=0.2, preconditioner=_diagonal(position), temperature=1.2
    ),
    "mala_dense": lambda energy, position: samplers.mala(energy, step_size=0.2, preconditioner=_dense(position)),
    "underdamped_baoab": lambda energy, position: samplers.underdamped_langevin(
        energy, step_size=0.3, friction=0.8, inverse_mass=_dense(position), temperature=1.2
    ),
    "underdamped_obabo": lambda energy, position: samplers.underdamped_langevin(
        energy, step_size=0.3, splitting="obabo"
    ),
    "barker": lambda energy, position: samplers.barker(energy, step_size=0.5),
    "barker_dense": lambda energy, position: samplers.barker(
        energy, step_size=0.6, preconditioner=_dense(position), temperature=0.8
    ),
    "random_walk": lambda energy, position: samplers.random_walk(
        energy, step_size=0.4, preconditioner=_diagonal(position)
    ),
    "sgld": lambda energy, position: samplers.sgld(energy, step_size=0.05, gradient_noise=0.5),
    "sghmc": lambda energy, position: samplers.sghmc(
        energy, step_size=0.1, inverse_mass=_diagonal(position), gradient_noise=0.5
    ),
    "sgnht": lambda energy, position: samplers.sgnht(energy, step_size=0.1, inverse_mass=_dense(position)),
    "gradient_descent": lambda energy, position: samplers.gradient_descent(energy, step_size=0.1),
    "nesterov": lambda energy, position: samplers.nesterov(energy, step_size=0.05, momentum=0.8),
    "mclmc": lambda energy, position: samplers.mclmc(
        energy, step_size=0.4, decoherence_length=1.5, inverse_mass=_diagonal(position)
    ),
    "mclmc_leapfrog": lambda energy, position: samplers.mclmc(
        energy, step_size=0.3, inverse_mass=_dense(position), integrator="leapfrog"
    ),
    "adjusted_mclmc": lambda energy, position: samplers.adjusted_mclmc(
        energy, step_size=0.6, trajectory_length=1.5, inverse_mass=_dense(position)
    ),
    "adjusted_mclmc_fixed": lambda energy, position: samplers.adjusted_mclmc(
        energy, step_size=0.6, num_steps=3, integrator="leapfrog"
    ),
    "riemannian_hmc": lambda energy, position: samplers.riemannian_hmc(energy, _curved, step_size=0.2, num_leapfrog=2),
    "hit_and_run_slice": lambda energy, position: samplers.hit_and_run_slice(energy, step_size=0.8),
    "elliptical_slice": lambda energy, position: samplers.elliptical_slice(
        energy, mean=0.2, covariance=_dense(position)
    ),
    "nuts": lambda energy, position: samplers.nuts(energy, step_size=0.3, max_depth=4, temperature=1.2),
    # at twice this step, twenty stiff coordinates are chaotic: rounding grows a million times in a few draws
    "nuts_dense": lambda energy, position: samplers.nuts(
        energy, step_size=0.2, max_depth=3, inverse_mass=_dense(position)
    ),
    "cycle": lambda energy, position: samplers.cycle(
        samplers.mala(energy, step_size=0.2),
        samplers.ghmc(energy, step_size=0.3, num_leapfrog=2, inverse_mass=_dense(position)),
    ),
    "cycle_one_energy": lambda energy, position: samplers.cycle(
        samplers.hmc(energy, step_size=0.3, num_leapfrog=2),
        samplers.barker(energy, step_size=0.5, preconditioner=_diagonal(position)),
        same_energy=True,
    ),
    "mix": lambda energy, position: samplers.mix(
        [samplers.hmc(energy, step_size=0.3, num_leapfrog=2), samplers.random_walk(energy, step_size=0.4)],
        weights=[2, 1],
    ),
    "thin": lambda energy, position: samplers.thin(
        samplers.underdamped_langevin(energy, step_size=0.3, inverse_mass=_diagonal(position)), 3
    ),
    "parallel_tempering": lambda energy, position: samplers.parallel_tempering(
        energy, lambda energy, beta: samplers.mala(energy, step_size=0.2 / beta), [0.3, 0.6, 1.0]
    ),
    "parallel_tempering_reference": lambda energy, position: samplers.parallel_tempering(
        energy,
        lambda energy, beta: samplers.hmc(energy, step_size=0.3, num_leapfrog=2, inverse_mass=_dense(position)),
        [0.0, 1.0],
        reference=lambda params, x: tree.squared_norm(x) / 2,
    ),
}
"""Name to ``(energy, an example of one position) -> sampler``."""
