"""The Barker proposal, robust to a step size that does not fit."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .. import metrics, random, tree
from ..types import Energy, Info, Key, MetricLike, Number, Params, Position, Sampler, Tree
from ._kernel import EnergyState, evaluated
from .constraints import takes_energy
from .langevin import LangevinTuning as BarkerTuning
from .langevin import langevin_tuning
from .metropolis import metropolis_hastings

__all__ = ["BarkerNoise", "BarkerTuning", "barker"]


class BarkerNoise(NamedTuple):
    """Standard normals and uniforms like the position, for sizes and for signs, and a uniform ``()`` for the test."""

    normal: Tree
    sign: Tree
    uniform: Tensor


@takes_energy
def barker(
    energy: Energy, *, step_size: Number = 0.3, preconditioner: MetricLike = None, temperature: Number = 1.0
) -> Sampler[EnergyState, Info, BarkerTuning]:
    r"""Metropolis-Hastings with the Barker proposal.

    Each coordinate moves by :math:`\delta_i = \pm z_i` with :math:`z_i \sim N(0, h^2)`, and the sign + has the probability
    :math:`\sigma(z_i s_i)`, where :math:`\sigma` is the logistic function and :math:`s = -\nabla E / T` the score: steep
    slopes flip signs and never lengthen steps, which is what makes MALA reject. :math:`y = x + \delta` is accepted with

    .. math:: \log r = (E(x) - E(y)) / T + \sum_i \log\sigma(-\delta_i s_i(y)) - \log\sigma(\delta_i s_i(x))

    so :math:`e^{-E/T}` is invariant. With a preconditioner :math:`P = A A^\top` the same happens to :math:`A^{-1} x`: scores
    are :math:`A^\top s`, the move is :math:`A \delta`. One gradient a step; aim at an acceptance rate of 0.4.

    Args:
        energy: ``(params, x) -> ()``.
        step_size: :math:`h > 0`, in units of ``x`` over the root of those of :math:`P`; not squared, as it is in
            :func:`~funcebm.samplers.mala`. ``()``.
        preconditioner: :math:`P`, as in :func:`~funcebm.samplers.mala`.
        temperature: :math:`T > 0`, in units of energy. ``()``.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``EnergyState``, ``Info`` and ``BarkerTuning``.

    Raises:
        ValueError: a number that is not positive, or a preconditioner that is not symmetric and positive definite.

    Reference: Livingstone and Zanella (2022), Journal of the Royal Statistical Society B 84(2):496-523.

    >>> sampler = barker(lambda params, x: (x**2).sum() / 2, step_size=1.0)
    >>> state, info = sampler(random.key(0), (), sampler.init((), torch.zeros(2)))
    >>> bool(info.acceptance_rate <= 1)
    True
    """
    tuning = langevin_tuning(step_size, preconditioner, temperature, "Try 0.5, and the acceptance rate 0.4.")
    evaluate, init = evaluated(energy, tuning.metric, "preconditioner")

    def draw(key: Key, position: Position) -> BarkerNoise:
        key_normal, key_sign, key_accept = random.split(key, 3)
        leaves, structure = tree.flatten(position)
        keys = random.split(key_sign, len(leaves))
        signs = [random.uniform(k, tuple(leaf.shape), dtype=leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
        uniform = random.uniform(key_accept, dtype=leaves[0].dtype)
        return BarkerNoise(tree.normal_like(key_normal, position), tree.unflatten(structure, signs), uniform)

    def step(params: Params, tuning: BarkerTuning, state: EnergyState, noise: BarkerNoise) -> tuple[EnergyState, Info]:
        def white_score(gradient: Tree) -> Tree:
            return tree.scale(-1 / tuning.temperature, metrics.whiten(tuning.metric, gradient))

        def move(normal: Tensor, sign: Tensor, score: Tensor) -> Tensor:
            size = tuning.step_size * normal
            return torch.where(sign < torch.sigmoid(size * score), size, -size)

        def log_chance(moves: Tree, scores: Tree) -> Tensor:
            """The log of the chance of these signs, given the sizes."""
            chances = tree.map(lambda delta, score: logsigmoid(delta * score).sum(), moves, scores)
            return torch.stack(tree.leaves(chances)).sum()

        scores = white_score(state.gradient)
        moves = tree.map(move, noise.normal, noise.sign, scores)
        position = tree.add(state.position, metrics.displacement(tuning.metric, moves))
        proposal = EnergyState(position, *evaluate(params, position))
        back = log_chance(tree.map(torch.neg, moves), white_score(proposal.gradient))
        log_ratio = (state.energy - proposal.energy) / tuning.temperature + back - log_chance(moves, scores)
        return metropolis_hastings(log_ratio, noise.uniform, proposal, state, num_gradients=1)

    return Sampler(init, draw, step, tuning, target_acceptance=0.4)
