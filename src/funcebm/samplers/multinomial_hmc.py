"""Hamiltonian Monte Carlo with the multinomial endpoint: any state of the trajectory, with weights ``exp(-H)``.

The choice is streamed along the trajectory. ``hmc(..., endpoint="multinomial")`` is the door to it.
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor

from .. import loops, metrics, random, tree
from ..integrators import Integrator, PhasePoint
from ..types import Info, Key, Params, Position, Sampler, Tree
from ._kernel import Chains, EnergyState, Evaluate, lockstep, tempered_field
from .metropolis import DIVERGENCE_THRESHOLD

__all__ = ["MultinomialNoise", "Trajectory", "begin", "choose", "finish", "multinomial_hmc"]


class MultinomialNoise(NamedTuple):
    """Standard normals like the position, uniforms ``(num_leapfrog,)`` for the choices, one for the step size (or ``()``), and
    how many steps go backwards, an integer ``()``."""

    momentum: Tree
    uniform: Tensor
    jitter: Any
    num_backward: Tensor


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
    chosen: EnergyState
    is_moved: Tensor
    log_weight: Tensor
    acceptance: Tensor
    error: Tensor


def _first_log_weight(energy: Tensor) -> Tensor:
    """0, and minus infinity outside of the support: from there any state inside is chosen."""
    return torch.where(energy == torch.inf, -torch.inf, torch.zeros_like(energy))


def begin(tuning: Any, state: EnergyState, point: PhasePoint, num_forward: Tensor) -> Trajectory:
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
    state = EnergyState(point.position, value, tree.scale(tuning.temperature, point.gradient))
    return trajectory._replace(
        point=point,
        chosen=tree.where(is_chosen, state, trajectory.chosen),
        is_moved=torch.where(is_chosen, 1, trajectory.is_moved).to(torch.int32),
        log_weight=total,
        acceptance=trajectory.acceptance + rate,
        error=torch.maximum(trajectory.error, torch.where(is_finite, first - log_weight, torch.inf)),
    )


def finish(trajectory: Trajectory, num_states: int, num_gradients: int) -> tuple[EnergyState, Info]:
    """The chosen state; it is divergent where a state of the trajectory was not finite, or had ``H - H_0 > 1000``."""
    info = Info(
        acceptance_rate=trajectory.acceptance / num_states,
        is_accepted=trajectory.is_moved > 0,
        is_divergent=trajectory.error > DIVERGENCE_THRESHOLD,
        num_gradients=torch.full((), num_gradients, dtype=torch.int32, device=trajectory.energy.device),
        energy=trajectory.chosen.energy,
    )
    return trajectory.chosen, info


def multinomial_hmc(
    evaluate: Evaluate,
    init: Callable[..., EnergyState],
    tuning: Any,
    num_leapfrog: int,
    is_jittered: bool,
    integrator: Integrator,
) -> Sampler[EnergyState, Info, Any]:
    """The sampler, of what :func:`funcebm.samplers.hmc` has checked and made.

    Args:
        evaluate: ``(params, x) -> (E, grad E)``.
        init: of the sampler.
        tuning: an ``HMCTuning``.
        num_leapfrog: steps of the integrator.
        is_jittered: whether each trajectory has a step size of its own.
        integrator: one of :mod:`funcebm.integrators`.
    """
    num_gradients = num_leapfrog * (integrator.num_gradients + (not integrator.ends_on_kick))

    def draw(key: Key, position: Position) -> MultinomialNoise:
        key_momentum, key_accept, key_jitter, key_backward = random.split(key, 4)
        dtype = tree.first(position).dtype
        uniform = random.uniform(key_accept, (num_leapfrog,), dtype=dtype)
        jittered = random.uniform(key_jitter, low=-1, dtype=dtype) if is_jittered else ()
        num_backward = random.randint(key_backward, (), 0, num_leapfrog + 1)
        return MultinomialNoise(tree.normal_like(key_momentum, position), uniform, jittered, num_backward)

    def start(params: Params, tuning: Any, state: EnergyState, noise: MultinomialNoise) -> tuple[Trajectory, Tensor]:
        h = tuning.step_size * (1 + tuning.jitter * noise.jitter) if is_jittered else tuning.step_size
        momentum = metrics.momentum(tuning.metric, noise.momentum)
        point = PhasePoint(state.position, momentum, tree.scale(1 / tuning.temperature, state.gradient))
        return begin(tuning, state, point, num_leapfrog - noise.num_backward), h

    def visit(
        params: Params, tuning: Any, h: Tensor, trajectory: Trajectory, index: Tensor, uniform: Tensor
    ) -> Trajectory:
        field = tempered_field(evaluate, params, tuning.temperature)
        is_forward = index < trajectory.num_forward
        origin = tree.where(index == trajectory.num_forward, trajectory.start, trajectory.point)
        point, value = integrator.step(field, tuning.metric, torch.where(is_forward, h, -h), origin)
        if not integrator.ends_on_kick:
            value, gradient = field(point.position)
            point = point._replace(gradient=gradient)
        return choose(tuning, trajectory, point, value, uniform)

    def end(params: Params, tuning: Any, trajectory: Trajectory) -> tuple[EnergyState, Info]:
        return finish(trajectory, num_leapfrog, num_gradients)

    def make_step(chains: Chains) -> Callable[..., tuple[EnergyState, Info]]:
        def step(params: Params, tuning: Any, state: EnergyState, noise: MultinomialNoise) -> tuple[EnergyState, Info]:
            trajectory, h = chains(start)(params, tuning, state, noise)

            def visit_all(trajectory: Trajectory, x: tuple[Tensor, Tensor]) -> Trajectory:
                index = x[0].expand(trajectory.energy.shape)  # the same for all chains
                return chains(visit)(params, tuning, h, trajectory, index, x[1])

            indices = torch.arange(num_leapfrog, device=noise.uniform.device)
            trajectory = loops.fold(visit_all, trajectory, (indices, noise.uniform.movedim(-1, 0)))
            return chains(end)(params, tuning, trajectory)

        return step

    return lockstep(init, draw, make_step, tuning, target_acceptance=0.8)
