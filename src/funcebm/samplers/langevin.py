"""Unadjusted Langevin dynamics."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import checks, fields, tree
from ..types import Energy, Info, Key, Params, Position, Sampler, Tree
from .metropolis import nan_outside, unadjusted_info

__all__ = ["LangevinState", "LangevinTuning", "langevin", "langevin_proposal", "langevin_tuning"]


class LangevinState(NamedTuple):
    """A position, and the gradient of the energy there."""

    position: Position
    gradient: Tree


class LangevinTuning(NamedTuple):
    """``step_size`` in squared units of the position, ``temperature`` in units of energy. Both ``()``."""

    step_size: Tensor
    temperature: Tensor


def langevin_tuning(step_size: float | Tensor, temperature: float | Tensor) -> LangevinTuning:
    """Checks the numbers and makes tensors of them."""
    checks.positive("step_size", step_size, "Try 0.01, and smaller where chains diverge.")
    checks.positive("temperature", temperature, "Use 1.0 for the density exp(-E), gradient_descent for temperature 0.")
    return LangevinTuning(torch.as_tensor(step_size), torch.as_tensor(temperature))


def langevin_proposal(tuning: LangevinTuning, position: Position, gradient: Tree, noise: Tree) -> Position:
    """``x - h grad E(x) + sqrt(2 h T) xi``."""
    spread = torch.sqrt(2 * tuning.step_size * tuning.temperature)
    return tree.map(lambda x, g, z: x - tuning.step_size * g + spread * z, position, gradient, noise)


def langevin(energy: Energy, *, step_size: float | Tensor = 0.01, temperature: float | Tensor = 1.0) -> Sampler:
    r"""Unadjusted Langevin algorithm.

    .. math:: x' = x - h \nabla E(x) + \sqrt{2 h T}\,\xi, \qquad \xi \sim N(0, I)

    Its law tends to :math:`e^{-E/T}` as :math:`h \to 0`, with a bias of order :math:`h`: on :math:`E = k x^2 / 2` the
    stationary variance is :math:`T / (k (1 - h k / 2))`. :func:`mala` removes the bias. One gradient a step.

    Args:
        energy: ``(params, x) -> ()``.
        step_size: :math:`h > 0`, in squared units of ``x``. ``()``.
        temperature: :math:`T > 0`, in units of energy. ``()``.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``LangevinState``, ``Info`` and ``LangevinTuning``.

    Raises:
        ValueError: a number that is not positive.

    Reference: Roberts and Tweedie (1996), Bernoulli 2(4):341-363, eq. 2.

    >>> from funcebm import random
    >>> sampler = langevin(lambda params, x: (x**2).sum() / 2, step_size=0.1)
    >>> state = sampler.init((), torch.zeros(2))
    >>> state, info = sampler(random.key(0), (), state)
    >>> state.position.shape
    torch.Size([2])
    """
    value_and_gradient = fields.value_and_gradient(energy)

    def init(params: Params, position: Position) -> LangevinState:
        return LangevinState(position, nan_outside(*value_and_gradient(params, position)))

    def draw(key: Key, position: Position) -> Tree:
        return tree.normal_like(key, position)

    def step(params: Params, tuning: LangevinTuning, state: LangevinState, noise: Tree) -> tuple[LangevinState, Info]:
        position = langevin_proposal(tuning, state.position, state.gradient, noise)
        value, gradient = value_and_gradient(params, position)
        return LangevinState(position, gradient), unadjusted_info(position, value, num_gradients=1)

    return Sampler(init, draw, step, langevin_tuning(step_size, temperature))
