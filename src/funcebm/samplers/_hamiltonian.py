"""The words of samplers that follow ``H(x, p) = E(x) / T + p . M^-1 p / 2``; a tuning has the metric and the temperature."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

from torch import Tensor

from .. import metrics, tree
from ..integrators import PhasePoint
from ..types import Key, Params, Position, Tree
from ._kernel import EnergyState, Evaluate, normal_and_uniform

__all__ = ["MomentumNoise", "arrived", "energy_drop", "momentum_noise", "set_off", "tempered_field"]


class MomentumNoise(NamedTuple):
    """Standard normals like the position, and a uniform ``()`` for the test."""

    momentum: Tree
    uniform: Tensor


def momentum_noise(key: Key, position: Position) -> MomentumNoise:
    """The ``draw`` of a sampler that needs no more."""
    return MomentumNoise(*normal_and_uniform(key, position))


def tempered_field(
    evaluate: Evaluate, params: Params, temperature: Tensor
) -> Callable[[Position], tuple[Tensor, Tree]]:
    """The field that trajectories follow, ``x -> (E(x), grad E(x) / T)``."""

    def field(position: Position) -> tuple[Tensor, Tree]:
        value, gradient = evaluate(params, position)
        return value, tree.scale(1 / temperature, gradient)

    return field


def set_off(tuning: Any, state: Any, normal: Tree) -> PhasePoint:
    """The start of a trajectory: a momentum from standard normals, and the gradient of ``E / T``."""
    momentum = metrics.momentum(tuning.metric, normal)
    return PhasePoint(state.position, momentum, tree.scale(1 / tuning.temperature, state.gradient))


def arrived(tuning: Any, point: PhasePoint, value: Tensor) -> EnergyState:
    """The state at the end of a trajectory, with the gradient of ``E``."""
    return EnergyState(point.position, value, tree.scale(tuning.temperature, point.gradient))


def energy_drop(tuning: Any, state: Any, momentum: Tree, after: Any, momentum_after: Tree) -> Tensor:
    """``H(x, p) - H(x', p')``, the log ratio of the Metropolis test. ``()``."""
    kinetic, kinetic_after = (metrics.kinetic_energy(tuning.metric, p) for p in (momentum, momentum_after))
    return (state.energy - after.energy) / tuning.temperature + kinetic - kinetic_after
