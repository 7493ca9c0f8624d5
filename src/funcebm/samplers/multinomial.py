"""The choice of one state of a trajectory, with probabilities in proportion to ``exp(-H)``, while walking along it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import metrics, tree
from ..integrators import PhasePoint
from ..types import Info
from .mala import MalaState as HMCState
from .metropolis import _DIVERGENCE_THRESHOLD

__all__ = ["Trajectory", "begin", "choose", "finish"]


class Trajectory(NamedTuple):
    """What a walk along a trajectory remembers.

    Attributes:
        start: the first point.
        num_forward: how many steps go forwards, before the walk returns to the start and goes backwards. ``()`` int64.
        energy: of the start. ``()``.
        kinetic: the kinetic energy of the start. ``()``.
        point: the last point.
        chosen: what was chosen so far.
        is_moved: whether that is another state than the start, 0 or 1. ``()`` int32.
        log_weight: the log of the sum of ``exp(H_0 - H)`` over the states so far. ``()``.
        acceptance: the sum of ``min(1, exp(H_0 - H))`` over the new states. ``()``.
        error: the largest ``H - H_0``, infinite where a state is not finite. ``()``.
    """

    start: PhasePoint
    num_forward: Tensor
    energy: Tensor
    kinetic: Tensor
    point: PhasePoint
    chosen: HMCState
    is_moved: Tensor
    log_weight: Tensor
    acceptance: Tensor
    error: Tensor


def _first_log_weight(energy: Tensor) -> Tensor:
    """0, and minus infinity outside of the support: from there any state inside is chosen."""
    return torch.where(energy == torch.inf, -torch.inf, torch.zeros_like(energy))


def begin(tuning: Any, state: HMCState, point: PhasePoint, num_forward: Tensor) -> Trajectory:
    """The trajectory that is its start alone."""
    return Trajectory(
        start=point,
        num_forward=num_forward,
        energy=state.energy,
        kinetic=metrics.kinetic_energy(tuning.metric, point.momentum),
        point=point,
        chosen=state,
        is_moved=torch.zeros_like(num_forward, dtype=torch.int32),
        log_weight=_first_log_weight(state.energy),
        acceptance=torch.zeros_like(state.energy),
        error=torch.zeros_like(state.energy),
    )


def choose(tuning: Any, trajectory: Trajectory, point: PhasePoint, value: Tensor, uniform: Tensor) -> Trajectory:
    """Adds a state, and chooses it with its weight over the sum so far: in the end each has its weight over the whole.

    Args:
        tuning: has ``metric`` and ``temperature``.
        trajectory: so far.
        point: the new one, with the gradient of ``E / T``.
        value: its energy. One that is not finite, or a position that is not, has the weight 0. ``()``.
        uniform: uniform on [0, 1). ``()``.
    """
    first = _first_log_weight(trajectory.energy)
    reference = torch.where(trajectory.energy == torch.inf, torch.zeros_like(value), trajectory.energy)
    kinetic = metrics.kinetic_energy(tuning.metric, point.momentum)
    log_weight = (reference - value) / tuning.temperature + trajectory.kinetic - kinetic
    is_finite = torch.isfinite(value) & tree.all_finite(point.position) & ~torch.isnan(log_weight)
    log_weight = torch.where(is_finite, log_weight, -torch.inf)
    total = torch.logaddexp(trajectory.log_weight, log_weight)
    is_chosen = uniform < torch.exp(log_weight - total)  # never where the weight is 0
    rate = torch.where(is_finite, (log_weight - first).clamp(max=0).exp(), 0.0)
    state = HMCState(point.position, value, tree.scale(tuning.temperature, point.gradient))
    return trajectory._replace(
        point=point,
        chosen=tree.where(is_chosen, state, trajectory.chosen),
        is_moved=torch.where(is_chosen, 1, trajectory.is_moved).to(torch.int32),
        log_weight=total,
        acceptance=trajectory.acceptance + rate,
        error=torch.maximum(trajectory.error, torch.where(is_finite, first - log_weight, torch.inf)),
    )


def finish(trajectory: Trajectory, num_states: int, num_gradients: int) -> tuple[HMCState, Info]:
    """The chosen state; it is divergent where a state of the trajectory was not finite, or had ``H - H_0 > 1000``."""
    info = Info(
        acceptance_rate=trajectory.acceptance / num_states,
        is_accepted=trajectory.is_moved > 0,
        is_divergent=trajectory.error > _DIVERGENCE_THRESHOLD,
        num_gradients=torch.full((), num_gradients, dtype=torch.int32, device=trajectory.energy.device),
        energy=trajectory.chosen.energy,
    )
    return trajectory.chosen, info
