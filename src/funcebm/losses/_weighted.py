"""Maximum likelihood with weighted particles in the place of the model: what annealed importance and Jarzynski's losses share."""

from __future__ import annotations

from typing import Callable, Generic

from torch import Tensor

from ..types import Batch, LossAux, MemoryT, NamedTuple, Params, Tree

__all__ = ["Weighted", "weighted_objective"]


class Weighted(NamedTuple, Generic[MemoryT]):
    """Data, particles with weights that sum to one, what makes the value an estimate of the likelihood, and the memory after."""

    positives: Tree
    particles: Tree
    weights: Tensor
    constant: Tensor
    memory: MemoryT
    metrics: dict[str, Tensor]


def weighted_objective(
    energies: Callable[[Params, Batch], Tensor], params: Params, prepared: Weighted[MemoryT]
) -> tuple[Tensor, LossAux[MemoryT]]:
    """The mean energy of the data less that of the particles, plus the constant.

    Args:
        energies: ``(params, batch) -> (B,)``.
        params: of the energy.
        prepared: what the loss made without gradient.
    """
    positive = energies(params, prepared.positives).mean()
    negative = (prepared.weights * energies(params, prepared.particles)).sum()
    metrics = {
        "positive_energy": positive.detach(),
        "negative_energy": negative.detach(),
        "energy_gap": (negative - positive).detach(),
        **prepared.metrics,
    }
    return positive - negative + prepared.constant, LossAux(prepared.memory, metrics)
