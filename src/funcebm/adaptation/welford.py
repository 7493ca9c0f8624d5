"""Running means and covariances of many chains at once."""

from __future__ import annotations

from typing import Callable, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, tree
from ..chains._reducer import joined, merged
from ..distributed.mesh import tree_sum
from ..distributed.pool import Pool, whole
from ..types import Position, Tree

__all__ = ["Welford", "WelfordState", "all_moments", "more_moments", "outer_sum", "start_moments", "welford"]

_BLOCKS, _LEAST_ROWS = 64, 32  # of draws, whose products are added up; in each
_MOST_NUMBERS = 2**24  # in all products


class WelfordState(NamedTuple):
    """How many draws there were ``()``, their mean, and the sum of squares (or of outer products) around it.

    ``mean`` and ``second`` are trees like one position (diagonal), or ``(D,)`` and ``(D, D)`` (dense).
    """

    num: Tensor
    mean: Tree
    second: Tree


class Welford(NamedTuple):
    """The algorithm, as pure functions.

    Attributes:
        init: ``position -> state``, from an example of one position (its numbers do not matter).
        update: ``(state, positions) -> state``, with positions that lead with a chain axis.
        merge: ``(state, state) -> state``, of all draws together.
        final: ``state -> variance``, a tree like one position, or the covariance ``(D, D)``; divisor ``n - 1``.
        shrunk: the same, ``v``, shrunk as Stan does: ``(n v + 5 * 0.001) / (n + 5)``, of a matrix 0.001 times the identity.
            It is positive from the first draw on.
    """

    init: Callable[[Position], WelfordState]
    update: Callable[[WelfordState, Position], WelfordState]
    merge: Callable[[WelfordState, WelfordState], WelfordState]
    final: Callable[[WelfordState], Tree]
    shrunk: Callable[[WelfordState], Tree]


def outer_sum(rows: Tensor) -> Tensor:
    """``rows.mT @ rows`` of ``(n, D)`` by fixed blocks and a fixed tree; one product goes by the threads of a rank.

    >>> outer_sum(torch.ones(3, 2))
    tensor([[3., 3.],
            [3., 3.]])
    """
    num, size = rows.shape
    blocks = max(1, min(_BLOCKS, num // _LEAST_ROWS, _MOST_NUMBERS // size**2))
    missing = -num % blocks
    rows = torch.cat([rows, rows.new_zeros(missing, size)]) if missing else rows
    parts = rows.reshape(blocks, -1, size)
    return tree_sum(parts.mT @ parts)


def welford(shape: str = "diagonal") -> Welford:
    r"""Variances or a covariance, draw by draw, from many chains pooled.

    A batch of :math:`b` draws with mean :math:`m_b` and sum of squares :math:`S_b` joins :math:`n` earlier ones by

    .. math::
        m \leftarrow m + \frac{b}{n + b} (m_b - m), \qquad
        S \leftarrow S + S_b + \frac{n b}{n + b} (m_b - m)(m_b - m)^\top .

    Draws are centred on the running mean before squaring, so float32 stays accurate far from zero. A chain with a
    position that is not finite is left out.

    Args:
        shape: ``"diagonal"`` for variances, ``"dense"`` for the covariance matrix of the ravelled position.

    Returns:
        A :class:`Welford`.

    Raises:
        ValueError: another shape.

    Reference: Welford (1962), Technometrics 4(3):419-420; Chan, Golub and LeVeque (1983), The American Statistician 37(3).

    >>> algorithm = welford()
    >>> state = algorithm.update(algorithm.init(torch.zeros(1)), torch.tensor([[1.0], [2.0], [6.0]]))
    >>> state.mean, algorithm.final(state)
    (tensor([3.]), tensor([7.]))
    """
    fix = 'Write "diagonal" for variances, or "dense" for a covariance matrix.'
    checks.require(shape in ("diagonal", "dense"), 'shape must be "diagonal" or "dense"', shape, fix)
    is_dense = shape == "dense"

    product = torch.outer if is_dense else torch.mul

    def init(position: Position) -> WelfordState:
        mean = tree.ravel(position)[0] if is_dense else position
        mean = tree.zeros_like(mean)
        num = torch.zeros((), dtype=tree.first(mean).dtype, device=tree.first(mean).device)
        return WelfordState(num, mean, tree.map(lambda leaf: product(leaf, leaf), mean))

    def join(state: WelfordState, num: Tensor, shift: Tree, second: Tree) -> WelfordState:
        return WelfordState(*joined(state, num, shift, second, product))

    def update(state: WelfordState, positions: Position) -> WelfordState:
        is_finite = torch.isfinite(tree.rows(positions)).all(1)
        num = is_finite.sum().to(state.num.dtype)

        def used(leaf: Tensor) -> Tensor:
            return torch.where(is_finite.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, 0)

        away = tree.map(
            lambda leaf, mean: used(leaf - mean), tree.rows(positions) if is_dense else positions, state.mean
        )
        shift = tree.map(lambda leaf: tree_sum(leaf) / num.clamp(min=1), away)
        centred = tree.map(lambda leaf, mean: used(leaf - mean), away, shift)
        second = tree.map(lambda leaf: outer_sum(leaf) if is_dense else tree_sum(leaf**2), centred)
        return join(state, num, shift, second)

    def merge(a: WelfordState, b: WelfordState) -> WelfordState:
        return join(a, b.num, tree.sub(b.mean, a.mean), b.second)

    def final(state: WelfordState) -> Tree:
        return tree.map(lambda leaf: leaf / (state.num - 1), state.second)

    def shrunk(state: WelfordState) -> Tree:
        weight = state.num / (state.num + 5)
        floor = 1e-3 * 5 / (state.num + 5)

        def blend(second: Tensor) -> Tensor:
            variance = weight * second / (state.num - 1).clamp(min=1)
            return variance + floor * (torch.eye(len(second)).to(second) if is_dense else 1)

        return tree.map(blend, state.second)

    return Welford(init, update, merge, final, shrunk)


# -- over all chains of a pool ------------------------------------------------------------------------------------


def start_moments(shape: str, positions: Position, pool: Pool | None = None) -> WelfordState:
    """No draws yet: of each block of the chains of this rank; of all chains for a covariance.

    A block sends nothing until :func:`all_moments` asks. A matrix for each of them would be much larger than the chains, which
    are therefore gathered in each step.
    """
    moments = welford(shape).init(tree.map(lambda leaf: leaf[0], positions))
    if shape == "dense":
        return moments
    num = tree.first(whole(pool, positions).blocks(positions)).shape[0]
    return tree.map(lambda leaf: leaf.expand(num, *leaf.shape).clone(), moments)


def more_moments(shape: str, moments: WelfordState, positions: Position, pool: Pool) -> WelfordState:
    """With another draw of each chain."""
    if shape == "dense":
        return welford(shape).update(moments, pool.gather(positions))
    return vmap(welford(shape).update)(moments, pool.blocks(positions))


def all_moments(shape: str, moments: WelfordState, pool: Pool) -> WelfordState:
    """Of all chains of all ranks."""
    return moments if shape == "dense" else merged(welford(shape).merge, pool.join(moments))
