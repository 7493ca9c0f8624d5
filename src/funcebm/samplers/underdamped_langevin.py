"""Underdamped (kinetic) Langevin dynamics, by splitting."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import checks, metrics, random, tree
from ..types import Energy, Info, Key, MetricLike, Number, Params, Position, Sampler, Tree
from ._kernel import evaluated, positive
from .constraints import takes_energy
from .metropolis import nan_outside, unadjusted_info

__all__ = ["UnderdampedState", "UnderdampedTuning", "underdamped_langevin", "underdamped_tuning"]


class UnderdampedState(NamedTuple):
    """A position, the momentum, the gradient of the energy, and whether the momentum is still to be drawn, ``()`` bool."""

    position: Position
    momentum: Tree
    gradient: Tree
    is_fresh: Tensor


class UnderdampedTuning(NamedTuple):
    """``step_size`` in units of time, the metric, ``friction`` in units of one over time, ``temperature`` of energy."""

    step_size: Tensor
    metric: Any
    friction: Tensor
    temperature: Tensor


def underdamped_tuning(
    step_size: Number, friction: Number, inverse_mass: MetricLike, temperature: Number, step_hint: str | None = None
) -> UnderdampedTuning:
    """Checks the numbers and makes tensors of them; ``step_hint`` is what others than this sampler should try."""
    return UnderdampedTuning(
        positive("step_size", step_size, step_hint),
        metrics.of(inverse_mass),
        positive("friction", friction),
        positive("temperature", temperature),
    )


@takes_energy
def underdamped_langevin(
    energy: Energy,
    *,
    step_size: Number = 0.1,
    friction: Number = 1.0,
    splitting: str = "baoab",
    inverse_mass: MetricLike = None,
    temperature: Number = 1.0,
) -> Sampler[UnderdampedState, Info, UnderdampedTuning]:
    r"""Underdamped Langevin dynamics, unadjusted.

    .. math:: dx = M^{-1} p \, dt, \qquad dp = -\nabla E(x) / T \, dt - \gamma p \, dt + \sqrt{2 \gamma}\, dW,
              \quad W \sim N(0, M t)

    leaves :math:`e^{-E/T}` and :math:`p \sim N(0, M)` invariant. A step is made of parts that are solved exactly,

    .. math:: A: x \mathrel{+}= t M^{-1} p, \quad B: p \mathrel{-}= t \nabla E(x) / T, \quad
              O: p = e^{-\gamma t} p + \sqrt{1 - e^{-2 \gamma t}}\, M^{1/2} \xi

    ``"baoab"`` is :math:`B_{h/2} A_{h/2} O_h A_{h/2} B_{h/2}`: on a Gaussian the positions have exactly the right variance,
    elsewhere the bias is of order :math:`h^2`. ``"obabo"`` is :math:`O_{h/2} B_{h/2} A_h B_{h/2} O_{h/2}`, a leapfrog step
    between two partial refreshments; on :math:`E = k x^2 / 2` with unit mass its positions have the variance
    :math:`T / (k (1 - h^2 k / 4T))`. Stable for :math:`h^2 k < 4 T`. One gradient a step.

    ``init`` has no key: the first step draws the momentum in full from :math:`N(0, M)`, in place of its (first) part O.

    Args:
        energy: ``(params, x) -> ()``.
        step_size: :math:`h > 0`, in units of time, as that of :func:`~funcebm.samplers.hmc`. ``()``.
        friction: :math:`\gamma > 0`, in units of one over time: the momentum is forgotten after :math:`1 / \gamma`. Large
            :math:`\gamma` gives :func:`~funcebm.samplers.langevin`. ``()``.
        splitting: ``"baoab"`` or ``"obabo"``.
        inverse_mass: :math:`M^{-1}`, as in :func:`~funcebm.samplers.hmc`.
        temperature: :math:`T > 0`, in units of energy. As in :func:`~funcebm.samplers.hmc` it divides the energy and
            leaves the distribution of the momentum alone. ``()``.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``UnderdampedState``, ``Info`` and ``UnderdampedTuning``.

    Raises:
        ValueError: a number that is not positive, an unknown splitting, an inverse mass that is not a metric.

    Reference: Leimkuhler and Matthews (2013), Applied Mathematics Research eXpress 2013(1):34-56 (BAOAB); Bussi and
    Parrinello (2007), Physical Review E 75:056707 (OBABO). They write :math:`p \sim N(0, T M)`: their step times
    :math:`\sqrt T` is ours.

    >>> sampler = underdamped_langevin(lambda params, x: (x**2).sum() / 2, step_size=0.3)
    >>> state, info = sampler(random.key(0), (), sampler.init((), torch.zeros(2)))
    >>> state.momentum.shape
    torch.Size([2])
    """
    tuning = underdamped_tuning(step_size, friction, inverse_mass, temperature)
    right = splitting in ("baoab", "obabo")
    checks.require(right, "splitting must be 'baoab' or 'obabo'", splitting, "Use 'baoab'.")
    evaluate, start = evaluated(energy, tuning.metric)

    def init(params: Params, position: Position) -> UnderdampedState:
        position, value, gradient = start(params, position)
        is_fresh = torch.ones_like(value, dtype=torch.bool)
        return UnderdampedState(position, tree.zeros_like(position), nan_outside(value, gradient), is_fresh)

    def draw(key: Key, position: Position) -> tuple[Tree, ...]:
        keys = random.split(key, splitting.count("o"))
        return tuple(tree.normal_like(key_normal, position) for key_normal in keys)

    def step(
        params: Params, tuning: UnderdampedTuning, state: UnderdampedState, noise: tuple[Tree, ...]
    ) -> tuple[UnderdampedState, Info]:
        def refresh(momentum: Tree, normal: Tree, time: Tensor, is_fresh: Tensor) -> Tree:
            decay, spread = torch.exp(-tuning.friction * time), torch.sqrt(-torch.expm1(-2 * tuning.friction * time))
            decay, spread = torch.where(is_fresh, 1, decay), torch.where(is_fresh, 0, spread)  # just drawn, it stays
            return tree.map(lambda p, z: decay * p + spread * z, momentum, normal)

        position, momentum, gradient, is_fresh = state
        normals = [metrics.momentum(tuning.metric, normal) for normal in noise]
        momentum = tree.where(is_fresh, normals[0], momentum)
        for part in splitting:
            time = tuning.step_size / splitting.count(part)
            if part == "a":
                position = tree.add_scaled(position, time, metrics.velocity(tuning.metric, momentum))
            elif part == "b":
                if position is not state.position:
                    value, gradient = evaluate(params, position)
                momentum = tree.add_scaled(momentum, -time / tuning.temperature, gradient)
            else:
                momentum = refresh(momentum, normals.pop(0), time, is_fresh)
                is_fresh = torch.zeros_like(is_fresh)
        after = UnderdampedState(position, momentum, gradient, is_fresh)
        return after, unadjusted_info(position, value, num_gradients=1)

    return Sampler(init, draw, step, tuning)
