"""The Metropolis-adjusted Langevin algorithm."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import metrics, tree
from ..types import Energy, Info, Key, MetricLike, Number, Params, Position, Sampler, Tree
from ._kernel import EnergyState, evaluated, normal_and_uniform
from .constraints import takes_energy
from .langevin import LangevinTuning, langevin_proposal, langevin_tuning
from .metropolis import metropolis_hastings

__all__ = ["MalaNoise", "MalaState", "mala"]


MalaState = EnergyState
"""The former name."""


class MalaNoise(NamedTuple):
    """Standard normals like the position, and a uniform ``()`` for the test."""

    normal: Tree
    uniform: Tensor


@takes_energy
def mala(
    energy: Energy, *, step_size: Number = 0.1, preconditioner: MetricLike = None, temperature: Number = 1.0
) -> Sampler[EnergyState, Info, LangevinTuning]:
    r"""Metropolis-adjusted Langevin algorithm.

    Proposes :math:`y = x - h P \nabla E(x) + \sqrt{2 h T}\, A \xi`, with :math:`P = A A^\top`, and accepts by
    Metropolis-Hastings, so :math:`e^{-E/T}` is invariant for every :math:`h` and :math:`P`. One gradient a step; aim at an
    acceptance rate of 0.57.

    Args:
        energy: ``(params, x) -> ()``.
        step_size: :math:`h > 0`, in squared units of ``x`` over those of :math:`P`. ``()``.
        preconditioner: :math:`P`, the scales and correlations of ``x``; the covariance of the target is a good one. None
            is the identity, a matrix ``(D, D)`` is dense over the ravelled position, anything else (a number, a vector, a
            tree like one position) is diagonal. :mod:`funcebm.metrics` makes the choice explicit.
        temperature: :math:`T > 0`, in units of energy. ``()``.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``EnergyState``, ``Info`` and ``LangevinTuning``.

    Raises:
        ValueError: a number that is not positive, or a preconditioner that is not symmetric and positive definite.

    Reference: Roberts and Tweedie (1996), Bernoulli 2(4):341-363; with a preconditioner, Roberts and Stramer
    (2002), Methodology and Computing in Applied Probability 4:337-357.

    >>> from funcebm import random
    >>> sampler = mala(lambda params, x: (x**2).sum() / 2, step_size=0.5)
    >>> state, info = sampler(random.key(0), (), sampler.init((), torch.zeros(2)))
    >>> bool(info.acceptance_rate <= 1)
    True
    """
    tuning = langevin_tuning(step_size, preconditioner, temperature)
    evaluate, init = evaluated(energy, tuning.metric, "preconditioner")

    def draw(key: Key, position: Position) -> MalaNoise:
        return MalaNoise(*normal_and_uniform(key, position))

    def step(params: Params, tuning: LangevinTuning, state: EnergyState, noise: MalaNoise) -> tuple[EnergyState, Info]:
        position = langevin_proposal(tuning, state.position, state.gradient, noise.normal)
        proposal = EnergyState(position, *evaluate(params, position))
        # the way back needs the noise -xi + sqrt(h / 2T) A^T (grad E(x) + grad E(y))
        drift = torch.sqrt(tuning.step_size / (2 * tuning.temperature))
        slopes = tree.add(state.gradient, proposal.gradient)
        if metrics.is_scalar(tuning.metric):
            drift = drift * torch.sqrt(tuning.metric.inverse_mass)
        else:
            slopes = metrics.whiten(tuning.metric, slopes)
        back = tree.map(lambda z, slope: drift * slope - z, noise.normal, slopes)
        log_ratio = (state.energy - proposal.energy) / tuning.temperature
        log_ratio = log_ratio + 0.5 * (tree.squared_norm(noise.normal) - tree.squared_norm(back))
        return metropolis_hastings(log_ratio, noise.uniform, proposal, state, num_gradients=1)

    return Sampler(init, draw, step, tuning, target_acceptance=0.574)
