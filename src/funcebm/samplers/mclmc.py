"""Microcanonical Langevin Monte Carlo, unadjusted."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import checks, metrics, random, tree
from ..integrators.microcanonical import MicrocanonicalPoint, microcanonical_step, normalise, num_stages
from ..types import Energy, Key, MetricLike, Number, Params, Position, Sampler, Tree
from ._kernel import evaluated, positive
from .constraints import takes_energy
from .metropolis import unadjusted_info

__all__ = ["MCLMCInfo", "MCLMCNoise", "MCLMCState", "MCLMCTuning", "check_dimension", "mclmc"]


class MCLMCState(NamedTuple):
    """A position, a velocity of length one (or zero: the next step draws it), the energy ``()`` and its gradient."""

    position: Position
    velocity: Tree
    energy: Tensor
    gradient: Tree


class MCLMCNoise(NamedTuple):
    """Standard normals like the position, for the refreshments before and after the dynamics."""

    before: Tree
    after: Tree


class MCLMCTuning(NamedTuple):
    """``step_size`` and ``decoherence_length``, lengths in the units of the metric, ``()``; and the metric."""

    step_size: Tensor
    decoherence_length: Tensor
    metric: Any


class MCLMCInfo(NamedTuple):
    """The fields of :class:`~funcebm.types.Info`, and what the step changed of the energy that it should keep.

    Attributes:
        energy_error: the change of kinetic and potential energy together, 0 for exact dynamics; not finite where the step
            was given up. ``()``.
    """

    acceptance_rate: Tensor
    is_accepted: Tensor
    is_divergent: Tensor
    num_gradients: Tensor
    energy: Tensor
    energy_error: Tensor


def check_dimension(position: Position) -> None:
    """Raises unless the position has two numbers: on a line a velocity of length one cannot turn."""
    size = tree.size(position)
    fix = "Take another sampler, such as hmc, for one dimension."
    checks.require(size >= 2, "a microcanonical sampler needs at least 2 dimensions", size, fix)


@takes_energy
def mclmc(
    energy: Energy,
    *,
    step_size: Number = 0.1,
    decoherence_length: Number = 1.0,
    inverse_mass: MetricLike = None,
    integrator: str = "mclachlan",
) -> Sampler[MCLMCState, MCLMCInfo, MCLMCTuning]:
    r"""Microcanonical Langevin Monte Carlo.

    The velocity :math:`u` has length one over the whole position, :math:`d \ge 2` numbers in all, and is turned by the
    force: :math:`\dot x = A u`, :math:`\dot u = -(I - u u^\top) A^\top \nabla E(x) / (d - 1)` with
    :math:`M^{-1} = A A^\top`. A step of size :math:`h` refreshes it partly, moves, and refreshes again:

    .. math:: O: u \leftarrow \frac{u + \nu \xi}{|u + \nu \xi|}, \quad \nu^2 = \frac{e^{h/L} - 1}{d}, \qquad
              O \; [\text{kicks and drifts}] \; O

    Its distribution tends to :math:`e^{-E}` as :math:`h \to 0`, with a bias of order :math:`h^2`, which
    :func:`~funcebm.samplers.adjusted_mclmc` removes. The variance of ``info.energy_error`` tells how large it is: below
    0.0005 for each dimension it is small. A step that meets a number that is not finite is given up: the position stays,
    the next step draws a new direction, and ``is_divergent`` is set. The first direction, too, is drawn by the first step.

    Args:
        energy: ``(params, x) -> ()``.
        step_size: :math:`h > 0`, a length in units of the position (over the scales of the metric). ``()``.
        decoherence_length: :math:`L > 0`, how far a chain goes until it forgets its direction; about the length of the
            standard deviations of all coordinates is good. ``()``.
        inverse_mass: :math:`M^{-1}`, as for :func:`~funcebm.samplers.hmc`: squared scales of the coordinates.
        integrator: ``"mclachlan"`` (two gradients a step) or ``"leapfrog"`` (one).

    Returns:
        A :class:`~funcebm.types.Sampler` with ``MCLMCState``, ``MCLMCInfo`` and ``MCLMCTuning``.

    Raises:
        ValueError: a number that is not positive, an unknown integrator, a metric or a position that does not fit.

    Reference: Robnik and Seljak (2024), arXiv:2303.18221; Robnik, De Luca, Silverstein and Seljak (2023), JMLR 24(311).

    >>> sampler = mclmc(lambda params, x: (x**2).sum() / 2, step_size=0.5, decoherence_length=2.0)
    >>> state, info = sampler(random.key(0), (), sampler.init((), torch.zeros(4)))
    >>> bool(torch.isclose(state.velocity.norm(), torch.ones(())))
    True
    """
    tuning = MCLMCTuning(
        positive("step_size", step_size, "Try 0.1, and smaller where info.energy_error is large."),
        positive("decoherence_length", decoherence_length, "Try the square root of the number of dimensions."),
        metrics.of(inverse_mass),
    )
    num_gradients = num_stages(integrator)
    value_and_gradient, start = evaluated(energy, tuning.metric)

    def init(params: Params, position: Position) -> MCLMCState:
        check_dimension(position)
        position, value, gradient = start(params, position)
        return MCLMCState(position, tree.zeros_like(position), value, gradient)

    def draw(key: Key, position: Position) -> MCLMCNoise:
        key_before, key_after = random.split(key)
        return MCLMCNoise(tree.normal_like(key_before, position), tree.normal_like(key_after, position))

    def refresh(tuning: MCLMCTuning, velocity: Tree, normal: Tree) -> Tree:
        size = tree.size(velocity)
        spread = (torch.expm1(tuning.step_size / tuning.decoherence_length) / size).sqrt()
        return normalise(tree.add_scaled(velocity, spread, normal))  # of a velocity of zero: a uniform direction

    def step(params: Params, tuning: MCLMCTuning, state: MCLMCState, noise: MCLMCNoise) -> tuple[MCLMCState, MCLMCInfo]:
        start = MicrocanonicalPoint(state.position, refresh(tuning, state.velocity, noise.before), state.gradient)
        end, change, value = microcanonical_step(
            lambda position: value_and_gradient(params, position), tuning.metric, tuning.step_size, start, integrator
        )
        velocity = refresh(tuning, end.velocity, noise.after)
        energy_error = change + value - state.energy
        is_finite = torch.isfinite(energy_error) & tree.all_finite((end.position, velocity))
        new_state = tree.where(
            is_finite,
            MCLMCState(end.position, velocity, value, end.gradient),
            state._replace(velocity=tree.zeros_like(velocity)),
        )
        info = unadjusted_info(new_state.position, new_state.energy, num_gradients)
        info = info._replace(acceptance_rate=is_finite.to(value.dtype), is_accepted=is_finite, is_divergent=~is_finite)
        return new_state, MCLMCInfo(*info, energy_error)

    return Sampler(init, draw, step, tuning, adaptation="mclmc")
