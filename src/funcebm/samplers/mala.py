"""The Metropolis-adjusted Langevin algorithm."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import fields, random, tree
from ..types import Energy, Info, Key, Params, Position, Sampler, Tree
from .langevin import LangevinTuning, langevin_proposal, langevin_tuning
from .metropolis import metropolis_hastings

__all__ = ["MalaNoise", "MalaState", "mala"]


class MalaState(NamedTuple):
    """A position, with the energy ``()`` and its gradient there."""

    position: Position
    energy: Tensor
    gradient: Tree


class MalaNoise(NamedTuple):
    """Standard normals like the position, and a uniform ``()`` for the test."""

    normal: Tree
    uniform: Tensor


def mala(energy: Energy, *, step_size: float | Tensor = 0.1, temperature: float | Tensor = 1.0) -> Sampler:
    r"""Metropolis-adjusted Langevin algorithm.

    Proposes :math:`y = x - h \nabla E(x) + \sqrt{2 h T}\,\xi` and accepts by Metropolis-Hastings, so :math:`e^{-E/T}`
    is invariant for every :math:`h`. One gradient a step; aim at an acceptance rate of 0.57.

    Args:
        energy: ``(params, x) -> ()``.
        step_size: :math:`h > 0`, in squared units of ``x``. ``()``.
        temperature: :math:`T > 0`, in units of energy. ``()``.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``MalaState``, ``Info`` and ``LangevinTuning``.

    Raises:
        ValueError: a number that is not positive.

    Reference: Roberts and Tweedie (1996), Bernoulli 2(4):341-363, section 1.4.

    >>> sampler = mala(lambda params, x: (x**2).sum() / 2, step_size=0.5)
    >>> state, info = sampler(random.key(0), (), sampler.init((), torch.zeros(2)))
    >>> bool(info.acceptance_rate <= 1)
    True
    """
    value_and_gradient = fields.value_and_gradient(energy)

    def init(params: Params, position: Position) -> MalaState:
        return MalaState(position, *value_and_gradient(params, position))

    def draw(key: Key, position: Position) -> MalaNoise:
        key_normal, key_accept = random.split(key)
        dtype = tree.first(position).dtype
        return MalaNoise(tree.normal_like(key_normal, position), random.uniform(key_accept, dtype=dtype))

    def step(params: Params, tuning: LangevinTuning, state: MalaState, noise: MalaNoise) -> tuple[MalaState, Info]:
        position = langevin_proposal(tuning, state.position, state.gradient, noise.normal)
        proposal = MalaState(position, *value_and_gradient(params, position))
        # the way back needs the noise -xi + sqrt(h / 2T) (grad E(x) + grad E(y))
        drift = torch.sqrt(tuning.step_size / (2 * tuning.temperature))
        back = tree.map(lambda z, a, b: drift * (a + b) - z, noise.normal, state.gradient, proposal.gradient)
        log_ratio = (state.energy - proposal.energy) / tuning.temperature
        log_ratio = log_ratio + 0.5 * (tree.squared_norm(noise.normal) - tree.squared_norm(back))
        return metropolis_hastings(log_ratio, noise.uniform, proposal, state, num_gradients=1)

    return Sampler(init, draw, step, langevin_tuning(step_size, temperature), target_acceptance=0.574)
