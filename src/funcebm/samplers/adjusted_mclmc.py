"""Microcanonical dynamics with a Metropolis test: the adjusted form of MCLMC."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import checks, metrics, random
from ..integrators.microcanonical import MicrocanonicalPoint, microcanonical_step, normalise, num_stages
from ..types import Energy, Info, Key, MetricLike, Number, Params, Position, Sampler, Tree
from ._kernel import Chains, EnergyState, evaluated, lockstep, normal_and_uniform, positive, travel
from .constraints import takes_energy
from .mclmc import check_dimension
from .metropolis import metropolis_hastings

__all__ = ["AdjustedMCLMCNoise", "AdjustedMCLMCTuning", "adjusted_mclmc", "random_count"]


class AdjustedMCLMCNoise(NamedTuple):
    """Standard normals like the position, a uniform for the test, and one for the number of steps (or ``()``)."""

    velocity: Tree
    uniform: Tensor
    length: Any


class AdjustedMCLMCTuning(NamedTuple):
    """``step_size`` and ``trajectory_length``, lengths in the units of the metric, ``()``; and the metric."""

    step_size: Tensor
    trajectory_length: Tensor
    metric: Any


_Trajectory = tuple[MicrocanonicalPoint, Tensor, Tensor]
"""What the loop carries: where the trajectory is, the change of its kinetic energy so far, and the energy."""


def random_count(mean: Tensor, uniform: Tensor) -> Tensor:
    r"""A random number of steps, from 1 on, with exactly the given mean. ``()``, a whole number of the dtype of ``mean``.

    It is :math:`1 + \lfloor s U \rfloor` with :math:`k = \lfloor 2m - 1 \rfloor` and
    :math:`s = k (k + 1) / (2 (k + 1 - m))`: uniform on :math:`1, \dots, k`, with some weight on :math:`k + 1`.

    Args:
        mean: :math:`m`; below 1 it counts as 1. ``()``.
        uniform: :math:`U`, uniform on [0, 1). ``()``.

    >>> random_count(torch.tensor(2.0), torch.tensor([0.0, 0.4, 0.9]))
    tensor([1., 2., 3.])
    """
    mean = mean.clamp(min=1)
    most = torch.floor(2 * mean - 1)
    span = most * (most + 1) / (2 * (most + 1 - mean))
    return 1 + torch.floor(span * uniform)


@takes_energy
def adjusted_mclmc(
    energy: Energy,
    *,
    step_size: Number = 0.1,
    trajectory_length: Number = 1.0,
    num_steps: int | None = None,
    max_steps: int = 1000,
    inverse_mass: MetricLike = None,
    integrator: str = "mclachlan",
) -> Sampler[EnergyState, Info, AdjustedMCLMCTuning]:
    r"""Metropolis-adjusted microcanonical sampler.

    Draws a direction :math:`u` uniformly on the unit sphere, follows the dynamics of :func:`~funcebm.samplers.mclmc`
    without its noise for :math:`n` steps of size :math:`h`, and accepts the end with probability
    :math:`\min(1, e^{-(E(x') - E(x)) - \sum \Delta K})`: each kick has the Jacobian determinant :math:`e^{-\Delta K}` on
    the sphere. It leaves :math:`e^{-E}` invariant for every :math:`h`. Aim at an acceptance rate of 0.9.

    The number of steps is random with the mean :math:`L / h` (at least 1): its distribution is in :func:`random_count`. Chains
    go in lock step, so a step of many chains takes as long as the longest trajectory; ``num_steps`` makes all equally long.

    Args:
        energy: ``(params, x) -> ()``.
        step_size: :math:`h > 0`, a length in units of the position (over the scales of the metric). ``()``.
        trajectory_length: :math:`L > 0`, the mean length of a trajectory. Not used with ``num_steps``. ``()``.
        num_steps: None, or a fixed number of steps; static.
        max_steps: no trajectory is longer; static. It changes the distribution of the length, not the target.
        inverse_mass: :math:`M^{-1}`, as for :func:`~funcebm.samplers.hmc`: squared scales of the coordinates.
        integrator: ``"mclachlan"`` (two gradients a step) or ``"leapfrog"`` (one).

    Returns:
        A :class:`~funcebm.types.Sampler` with ``EnergyState``, ``Info`` and ``AdjustedMCLMCTuning``.

    Raises:
        ValueError: a number that is not positive, an unknown integrator, a metric or a position that does not fit.

    Reference: Robnik, Cohn-Gordon and Seljak (2025), arXiv:2503.01707.

    >>> sampler = adjusted_mclmc(lambda params, x: (x**2).sum() / 2, step_size=0.5, num_steps=4)
    >>> state, info = sampler(random.key(0), (), sampler.init((), torch.zeros(4)))
    >>> int(info.num_gradients)
    8
    """
    checks.positive_int("max_steps", max_steps)
    if num_steps is not None:
        checks.positive_int("num_steps", num_steps)
    tuning = AdjustedMCLMCTuning(
        positive("step_size", step_size, "Try 0.1, and smaller where few proposals are accepted."),
        positive("trajectory_length", trajectory_length, "Try the square root of the number of dimensions."),
        metrics.of(inverse_mass),
    )
    gradients_a_step = num_stages(integrator)
    evaluate, at_start = evaluated(energy, tuning.metric)

    def init(params: Params, position: Position) -> EnergyState:
        check_dimension(position)
        return at_start(params, position)

    def draw(key: Key, position: Position) -> AdjustedMCLMCNoise:
        normal, uniform, key_length = normal_and_uniform(key, position, 3)
        length = random.uniform(key_length, dtype=uniform.dtype) if num_steps is None else ()
        return AdjustedMCLMCNoise(normal, uniform, length)

    def step(
        chains: Chains, params: Params, tuning: AdjustedMCLMCTuning, state: EnergyState, noise: AdjustedMCLMCNoise
    ) -> tuple[EnergyState, Info]:
        def begin(state: EnergyState, noise: AdjustedMCLMCNoise) -> tuple[_Trajectory, Tensor]:
            point = MicrocanonicalPoint(state.position, normalise(noise.velocity), state.gradient)
            num = torch.full_like(state.energy, num_steps or 0)
            if num_steps is None:
                num = random_count(tuning.trajectory_length / tuning.step_size, noise.length).clamp(max=max_steps)
            return (point, torch.zeros_like(state.energy), state.energy), num

        def advance(at: _Trajectory) -> _Trajectory:
            point, change, value = microcanonical_step(
                lambda position: evaluate(params, position), tuning.metric, tuning.step_size, at[0], integrator
            )
            return point, at[1] + change, value

        def finish(state: EnergyState, uniform: Tensor, end: _Trajectory, num: Tensor) -> tuple[EnergyState, Info]:
            point, change, value = end
            proposal = EnergyState(point.position, value, point.gradient)
            log_ratio = state.energy - value - change
            after, info = metropolis_hastings(log_ratio, uniform, proposal, state, num_gradients=0)
            return after, info._replace(num_gradients=(gradients_a_step * num).to(torch.int32))

        at, num = chains(begin)(state, noise)
        end = travel(chains(advance), at, num_steps or num)
        return chains(finish)(state, noise.uniform, end, num)

    return lockstep(init, draw, step, tuning, target_acceptance=0.9, adaptation="adjusted_mclmc")
