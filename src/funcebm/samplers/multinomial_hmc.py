"""Hamiltonian Monte Carlo with the multinomial endpoint: any state of the trajectory, with weights ``exp(-H)``.

The choice is streamed along the trajectory. ``hmc(..., endpoint="multinomial")`` is the door to it.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import loops, metrics, random, tree
from ..integrators import Integrator, PhasePoint
from ..types import Info, Key, Params, Position, Sampler, Tree
from ._hamiltonian import arrived, set_off, tempered_field
from ._kernel import Chains, EnergyState, Evaluate, Init, lockstep, normal_and_uniform
from .metropolis import DIVERGENCE_THRESHOLD

__all__ = ["MultinomialNoise", "multinomial_hmc"]


class MultinomialNoise(NamedTuple):
    """Standard normals like the position, uniforms ``(num_leapfrog,)`` for the choices, one for the step size (or ``()``), and
    how many steps go backwards, an integer ``()``."""

    momentum: Tree
    uniform: Tensor
    jitter: Any
    num_backward: Tensor


class _Start(NamedTuple):
    """Where a trajectory starts.

    Attributes:
        point: the first point.
        step_size: of this trajectory. ``()``.
        num_forward: how many steps go forwards, before the walk returns to the start and goes backwards. ``()`` int64.
        energy: of the start, 0 outside of the support. ``()``.
        kinetic: the kinetic energy of the start. ``()``.
        log_weight: 0, and minus infinity outside of the support: from there any state inside is chosen. ``()``.
    """

    point: PhasePoint
    step_size: Tensor
    num_forward: Tensor
    energy: Tensor
    kinetic: Tensor
    log_weight: Tensor


class _Walk(NamedTuple):
    """What a walk along a trajectory remembers.

    Attributes:
        point: the last point.
        chosen: what was chosen so far.
        is_moved: whether that is another state than the start. ``()`` bool.
        log_weight: the log of the sum of ``exp(H_0 - H)`` over the states so far. ``()``.
        acceptance: the sum of ``min(1, exp(H_0 - H))`` over the new states. ``()``.
        error: the largest ``H - H_0``, infinite where a state is not finite. ``()``.
    """

    point: PhasePoint
    chosen: EnergyState
    is_moved: Tensor
    log_weight: Tensor
    acceptance: Tensor
    error: Tensor


def multinomial_hmc(
    evaluate: Evaluate, init: Init, tuning: Any, num_leapfrog: int, is_jittered: bool, integrator: Integrator
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
        normal, uniform, key_jitter, key_backward = normal_and_uniform(key, position, 4, (num_leapfrog,))
        jitter = random.uniform(key_jitter, low=-1, dtype=uniform.dtype) if is_jittered else ()
        return MultinomialNoise(normal, uniform, jitter, random.randint(key_backward, (), 0, num_leapfrog + 1))

    def step(
        chains: Chains, params: Params, tuning: Any, state: EnergyState, noise: MultinomialNoise
    ) -> tuple[EnergyState, Info]:
        field = tempered_field(evaluate, params, tuning.temperature)

        def begin(state: EnergyState, noise: MultinomialNoise) -> tuple[_Start, _Walk]:
            h = tuning.step_size * (1 + tuning.jitter * noise.jitter) if is_jittered else tuning.step_size
            point = set_off(tuning, state, noise.momentum)
            zero, is_outside = torch.zeros_like(state.energy), state.energy == torch.inf
            log_weight, energy = torch.where(is_outside, -torch.inf, zero), torch.where(is_outside, zero, state.energy)
            kinetic = metrics.kinetic_energy(tuning.metric, point.momentum)
            start = _Start(point, h, num_leapfrog - noise.num_backward, energy, kinetic, log_weight)
            return start, _Walk(point, state, torch.zeros_like(is_outside), log_weight, zero, zero)

        def visit(index: Tensor, start: _Start, walk: _Walk, uniform: Tensor) -> _Walk:
            time = torch.where(index < start.num_forward, start.step_size, -start.step_size)
            origin = tree.where(index == start.num_forward, start.point, walk.point)
            point, value = integrator.step(field, tuning.metric, time, origin)
            if not integrator.ends_on_kick:
                value, gradient = field(point.position)
                point = point._replace(gradient=gradient)
            kinetic = metrics.kinetic_energy(tuning.metric, point.momentum)
            log_weight = (start.energy - value) / tuning.temperature + start.kinetic - kinetic
            is_finite = torch.isfinite(value) & tree.all_finite(point.position) & ~torch.isnan(log_weight)
            log_weight = torch.where(is_finite, log_weight, -torch.inf)  # which is never chosen
            total = torch.logaddexp(walk.log_weight, log_weight)
            is_chosen = uniform < torch.exp(log_weight - total)
            rate = torch.where(is_finite, (log_weight - start.log_weight).clamp(max=0).exp(), 0.0)
            error = torch.where(is_finite, start.log_weight - log_weight, torch.inf)
            return _Walk(
                point,
                tree.where(is_chosen, arrived(tuning, point, value), walk.chosen),
                walk.is_moved | is_chosen,
                total,
                walk.acceptance + rate,
                torch.maximum(walk.error, error),
            )

        def finish(walk: _Walk) -> tuple[EnergyState, Info]:
            return walk.chosen, Info(
                acceptance_rate=walk.acceptance / num_leapfrog,
                is_accepted=walk.is_moved,
                is_divergent=walk.error > DIVERGENCE_THRESHOLD,
                num_gradients=torch.full_like(walk.is_moved, num_gradients, dtype=torch.int32),
                energy=walk.chosen.energy,
            )

        def visit_all(walk: _Walk, x: tuple[Tensor, Tensor]) -> _Walk:
            return chains(partial(visit, x[0]))(start, walk, x[1])

        start, walk = chains(begin)(state, noise)
        indices = torch.arange(num_leapfrog, device=noise.uniform.device)
        return chains(finish)(loops.fold(visit_all, walk, (indices, noise.uniform.movedim(-1, 0))))

    return lockstep(init, draw, step, tuning, target_acceptance=0.8)
