"""MEADS: the numbers of generalised HMC, from the folds of many chains."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, metrics, random, tree
from ..distributed.pool import Pool, whole
from ..types import Adaptation, Key, Params, Sampler, Tree

__all__ = ["MeadsMemory", "largest_eigenvalue", "meads"]

_NUM_SHUFFLES = 16


class MeadsMemory(NamedTuple):
    """What MEADS remembers; ``K`` folds, ``P`` shuffles.

    Attributes:
        tuning: the tuning of the next step; every leaf leads with the axis of the chains of this rank.
        shuffles: the chains in the order of their folds, ``(P, C)`` int64.
        num: the next step, counted from 1. ``()`` int64.
        step_size: of each fold. ``(K,)``.
        damping: of each fold. ``(K,)``.
        scale: standard deviations in each fold, leaves ``(K, *event)``.
    """

    tuning: Tree
    shuffles: Tensor
    num: Tensor
    step_size: Tensor
    damping: Tensor
    scale: Tree


def largest_eigenvalue(matrix: Tensor) -> Tensor:
    r"""An estimate of the largest eigenvalue of a second moment :math:`E[x x^\top]`, from the rows of ``matrix`` ``(n, D)``.

    It is :math:`\sum \lambda^2 / \sum \lambda`, a mean of the eigenvalues with themselves as weights and so at most the
    largest one. With :math:`S = X X^\top` both sums have unbiased estimates,

    .. math:: \frac{\sum_{i \ne j} S_{ij}^2}{n (n - 1)}, \qquad \frac{\mathrm{tr}\, S}{n} .

    0 where all rows are 0.

    Args:
        matrix: ``(n, D)``, two rows or more.

    Returns:
        ``()``.

    >>> largest_eigenvalue(torch.tensor([[2.0, 0.0], [2.0, 0.0]]))
    tensor(4.)
    """
    size = matrix.shape[0]
    products = matrix @ matrix.mT
    squares = (products**2).sum() - (products.diagonal() ** 2).sum()
    trace = products.diagonal().sum() / size
    return squares / (size * (size - 1)) / torch.where(trace > 0, trace, 1)


def _apart(matrix: Tensor, like: Tree) -> Tree:
    """Rows ``(K, D)`` as a tree of leaves ``(K, *event)``; the inverse of :func:`~funcebm.tree.rows`."""
    leaves, structure = tree.flatten(like)
    parts = matrix.split([leaf[0].numel() for leaf in leaves], 1)
    shaped = [part.reshape(-1, *leaf.shape[1:]) for part, leaf in zip(parts, leaves, strict=True)]
    return tree.unflatten(structure, shaped)


def meads(*, num_folds: int = 4) -> Adaptation:
    r"""Step size, refreshment and diagonal metric of generalised HMC, from many chains, and no acceptance rate.

    The chains are dealt into folds, again after every ``num_folds`` steps. Fold :math:`k` has the means :math:`m_k` and the
    standard deviations :math:`\sigma_k` of its positions, and with :func:`largest_eigenvalue`, written :math:`\lambda`,

    .. math::
        \varepsilon_k = \min\Big(1, \frac{1}{2 \sqrt{\lambda(\sigma_k \nabla E / T)}}\Big), \qquad
        \gamma_k = \max\Big(\frac{1}{\sqrt{\lambda((x - m_k) / \sigma_{k-1})}}, \frac{1}{t\, \varepsilon_{k-1}}\Big) .

    In step :math:`t` the chains of fold :math:`k` move with the step size :math:`\varepsilon_{k-1}` and the inverse mass
    :math:`\sigma_{k-1}^2` of the fold before it, which do not depend on where they are, and with
    :math:`\alpha = 1 - e^{-2 \varepsilon_{k-1} \gamma_k}` and :math:`\delta = \alpha / 2`; but fold :math:`t \bmod K` stays
    where it is. So the target stays invariant while the numbers adapt. At the end :math:`\varepsilon`, :math:`\gamma` and
    :math:`\sigma` are averaged over the folds, for all chains.

    For :func:`funcebm.samplers.ghmc`, with 32 chains or more; each chain has a tuning of its own in the warm-up. One in
    ``num_folds`` steps of a chain is lost. There are 16 shuffles, drawn at the start and used again and again.
    Over ranks the positions and gradients of all chains are gathered in each step.

    Args:
        num_folds: :math:`K`, at least 2; the chains are a multiple of it, with two in a fold or more.

    Returns:
        An :class:`~funcebm.types.Adaptation`.

    Raises:
        ValueError: fewer than two folds; at the start, another sampler or a number of chains that does not fit.

    Reference: Hoffman and Sountsov (2022), AISTATS, PMLR 151:7799-7813, algorithm 3.

    >>> meads().is_per_chain
    True
    """
    checks.positive_int("num_folds", num_folds, minimum=2)

    def tuned(memory: MeadsMemory, state: Any, pool: Pool) -> MeadsMemory:
        """The numbers of step ``num`` of all folds, from where the chains are."""
        shuffle = (memory.num // num_folds) % _NUM_SHUFFLES
        order = memory.shuffles.index_select(0, shuffle.reshape(1))[0]
        size = len(order) // num_folds
        own = (tree.rows(state.position), tree.rows(state.gradient) / memory.tuning.temperature[:, None])
        positions, gradients = (value[order].reshape(num_folds, size, -1) for value in pool.gather(own))
        mean = positions.mean(1, keepdim=True)
        scale = (positions - mean).square().mean(1, keepdim=True).sqrt()
        scale = torch.where(scale > 0, scale, 1)  # chains that all start in one place
        step_size = (0.5 * vmap(largest_eigenvalue)(gradients * scale).rsqrt()).clamp(max=1)

        used_scale, used_step = scale.roll(1, 0), step_size.roll(1, 0)
        slowest = vmap(largest_eigenvalue)((positions - mean) / used_scale).rsqrt()
        # where a fold is one point there is no slowest direction: the second bound holds
        slowest = torch.where(torch.isfinite(slowest), slowest, 0)
        damping = torch.maximum(slowest, 1 / (memory.num * used_step))

        moves = torch.arange(num_folds, device=order.device) != memory.num % num_folds
        used_step = torch.where(moves, used_step, 0)
        alpha = -torch.expm1(-2 * used_step * damping)
        fold = pool.take(order.argsort() // size)  # of each chain
        inverse_mass = _apart(used_scale[:, 0].square()[fold], state.position)
        tuning = memory.tuning._replace(
            step_size=used_step[fold],
            alpha=alpha[fold],
            delta=alpha[fold] / 2,
            metric=metrics.Diagonal(inverse_mass),
        )
        return memory._replace(
            tuning=tuning, step_size=step_size, damping=damping, scale=_apart(scale[:, 0], state.position)
        )

    def init(key: Key, sampler: Sampler, params: Params, state: Any, pool: Pool | None = None) -> MeadsMemory:
        checks.require(
            hasattr(state, "gradient") and all(hasattr(sampler.tuning, name) for name in ("alpha", "delta")),
            "meads is for samplers.ghmc",
            f"a sampler with {type(sampler.tuning).__name__}",
            "Take window_adaptation for other samplers, or leave the choice to funcebm.adaptation.default.",
        )
        pool = whole(pool, state)
        num_chains, num_own = pool.count, tree.batch_size(state.position)
        checks.require(
            num_chains >= 2 * num_folds and num_chains % num_folds == 0,
            f"meads needs a multiple of num_folds={num_folds} chains, and at least {2 * num_folds}",
            num_chains,
            f"Start {max(2, -(-num_chains // num_folds)) * num_folds} chains, for example.",
        )
        like = tree.first(state.position)
        tuning = tree.cast_like(sampler.tuning, like)
        each = tree.map(lambda leaf: leaf.expand(num_own, *leaf.shape).clone(), tuning._replace(metric=()))
        tuning = each._replace(metric=metrics.Diagonal(tree.map(torch.ones_like, state.position)))
        keys = random.split(key, _NUM_SHUFFLES)
        shuffles = torch.stack([random.permutation(keys[i], num_chains) for i in range(_NUM_SHUFFLES)])
        ones = torch.ones(num_folds, dtype=like.dtype, device=like.device)
        first = torch.ones((), dtype=torch.int64, device=like.device)
        return tuned(MeadsMemory(tuning, shuffles, first, ones, ones, ()), state, pool)

    def update(memory: MeadsMemory, state: Any, info: Any, pool: Pool | None = None) -> MeadsMemory:
        return tuned(memory._replace(num=memory.num + 1), state, whole(pool, state))

    def final(memory: MeadsMemory, pool: Pool | None = None) -> Tree:
        step_size, damping = memory.step_size.mean(), memory.damping.mean()
        alpha = -torch.expm1(-2 * step_size * damping)
        inverse_mass = tree.map(lambda leaf: leaf.mean(0).square(), memory.scale)
        shared = tree.map(lambda leaf: leaf[0], memory.tuning._replace(metric=()))
        return shared._replace(step_size=step_size, alpha=alpha, delta=alpha / 2, metric=metrics.Diagonal(inverse_mass))

    return Adaptation(init, update, final, is_per_chain=True)
