"""Mode seeking: gradient descent and Nesterov's method, as samplers without noise."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import checks, fields, tree
from ..types import Energy, Info, Number, Params, Position, Sampler, Tree
from ._kernel import GradientState, no_noise, positive
from .constraints import takes_energy
from .metropolis import nan_outside, unadjusted_info

__all__ = ["DescentState", "DescentTuning", "NesterovState", "NesterovTuning", "gradient_descent", "nesterov"]


DescentState = GradientState


class DescentTuning(NamedTuple):
    """``step_size`` ``()``, in squared units of the position over energy."""

    step_size: Tensor


class NesterovState(NamedTuple):
    """A position, and the velocity that brought it there."""

    position: Position
    velocity: Tree


class NesterovTuning(NamedTuple):
    """``step_size`` and ``momentum``, both ``()``."""

    step_size: Tensor
    momentum: Tensor


@takes_energy
def gradient_descent(energy: Energy, *, step_size: Number = 0.01) -> Sampler[GradientState, Info, DescentTuning]:
    r"""Gradient descent to a mode: :math:`x' = x - h \nabla E(x)`.

    Args:
        energy: ``(params, x) -> ()``.
        step_size: :math:`h > 0`. ``()``.

    Returns:
        A :class:`~funcebm.types.Sampler` that draws no noise.

    Raises:
        ValueError: a step size that is not positive.

    >>> sampler = gradient_descent(lambda params, x: (x**2).sum() / 2, step_size=0.1)
    >>> state, info = sampler.step((), sampler.tuning, sampler.init((), torch.ones(1)), ())
    >>> state.position
    tensor([0.9000])
    """
    tuning = DescentTuning(positive("step_size", step_size, "Try 0.01."))
    value_and_gradient = fields.value_and_gradient(energy)

    def init(params: Params, position: Position) -> GradientState:
        return GradientState(position, nan_outside(*value_and_gradient(params, position)))

    def step(params: Params, tuning: DescentTuning, state: GradientState, noise: Tree) -> tuple[GradientState, Info]:
        position = tree.add_scaled(state.position, -tuning.step_size, state.gradient)
        value, gradient = value_and_gradient(params, position)
        return GradientState(position, gradient), unadjusted_info(position, value, num_gradients=1)

    return Sampler(init, no_noise, step, tuning)


@takes_energy
def nesterov(
    energy: Energy, *, step_size: Number = 0.01, momentum: Number = 0.9
) -> Sampler[NesterovState, Info, NesterovTuning]:
    r"""Nesterov's accelerated gradient: :math:`v' = \mu v - h \nabla E(x + \mu v)`, :math:`x' = x + v'`.

    Args:
        energy: ``(params, x) -> ()``.
        step_size: :math:`h > 0`. ``()``.
        momentum: :math:`\mu` in [0, 1). ``()``.

    Returns:
        A :class:`~funcebm.types.Sampler` that draws no noise. Its gradient is taken at the look-ahead point, the
        energy of the info at the new position.

    Raises:
        ValueError: a step size that is not positive, or a momentum out of [0, 1).

    Reference: Sutskever, Martens, Dahl and Hinton (2013), ICML, eqs. 3-4.

    >>> sampler = nesterov(lambda params, x: (x**2).sum() / 2, step_size=0.1)
    >>> state = sampler.init((), torch.ones(1))
    >>> for _ in range(2):
    ...     state, info = sampler.step((), sampler.tuning, state, ())
    >>> state.position
    tensor([0.7290])
    """
    tuning = NesterovTuning(positive("step_size", step_size, "Try 0.01."), torch.as_tensor(momentum))
    if not isinstance(momentum, Tensor):
        checks.require(0 <= momentum < 1, "momentum must be in [0, 1)", momentum, "0.9 is usual.")
    value_and_gradient = fields.value_and_gradient(energy)

    def init(params: Params, position: Position) -> NesterovState:
        return NesterovState(position, nan_outside(value_and_gradient(params, position)[0], tree.zeros_like(position)))

    def step(params: Params, tuning: NesterovTuning, state: NesterovState, noise: Tree) -> tuple[NesterovState, Info]:
        ahead = tree.add_scaled(state.position, tuning.momentum, state.velocity)
        gradient = value_and_gradient(params, ahead)[1]
        velocity = tree.map(lambda v, g: tuning.momentum * v - tuning.step_size * g, state.velocity, gradient)
        position = tree.add(state.position, velocity)
        return NesterovState(position, velocity), unadjusted_info(position, energy(params, position), num_gradients=1)

    return Sampler(init, no_noise, step, tuning)
