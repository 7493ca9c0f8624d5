"""What the diagnostics share: the checks of draws, halves, ranks, quantiles, moments.

Draws are ``(C, N, *event)``, the layout of :func:`funcebm.chains.sample`, or a tree of them. Inside, everything works on
``(m, n, d)``: chains or half chains, their draws, a block of coordinates. All of it is plain tensor operations in
float64, without a loop over coordinates, and :func:`torch.func.vmap` goes through it.
"""

from __future__ import annotations

import math
from typing import Callable, NamedTuple

import torch
from torch import Tensor

from .. import tree
from ..checks import is_concrete, require
from ..types import Tree

__all__ = [
    "Sorted",
    "by_blocks",
    "check_probability",
    "check_shapes",
    "each_leaf",
    "halves",
    "means_and_deviations",
    "median",
    "ordered",
    "quantile",
    "scores",
    "variance",
]

_BLOCK = 1 << 20  # numbers worked on at once: twice as fast as 1 << 24, for the caches


def check_shapes(draws: Tree, minimum: int = 4) -> None:
    """All leaves must be tensors ``(C, N, *event)`` with one ``C`` and one ``N >= minimum``, of real numbers."""
    leaves = tree.leaves(draws)
    fix = "Pass what chains.sample gives as draws."
    require(len(leaves) > 0, "draws must hold at least one tensor", draws, fix)
    for leaf in leaves:
        real = isinstance(leaf, Tensor) and not leaf.is_complex()
        got = str(leaf.dtype) if isinstance(leaf, Tensor) else type(leaf).__name__
        require(real, "draws must be tensors of real numbers", got, fix, TypeError)
        shape = tuple(leaf.shape)
        must = "draws must have a chain axis and a draw axis, (C, N, *event)"
        require(leaf.ndim >= 2, must, f"the shape {shape}", "For one chain, pass draws[None].")
        require(shape[0] >= 1, "draws must hold at least one chain", f"the shape {shape}", fix)
        must = f"draws must hold at least {minimum} draw{'s' if minimum > 1 else ''} a chain"
        fix_count = "Draw more with chains.resume, or put the draw axis second."
        require(shape[1] >= minimum, must, f"the shape {shape}", fix_count)
    shapes = {tuple(leaf.shape[:2]) for leaf in leaves}
    require(len(shapes) == 1, "all leaves must have the same chain and draw axes", f"{sorted(shapes)}", fix)


def check_probability(prob: float) -> None:
    """``prob`` must be a number strictly between 0 and 1."""
    right = isinstance(prob, (int, float)) and 0 < prob < 1
    require(right, "prob must be a number between 0 and 1", prob, "Give 0.05 for the quantile of 5 %.")


def each_leaf(statistic: Callable[[Tensor], Tensor], draws: Tree, minimum: int = 4) -> Tree:
    """``statistic`` of ``(C, N, d)`` to ``(d,)`` on every leaf, after the checks: a tree of ``(*event,)``."""
    check_shapes(draws, minimum)
    for name, leaf in zip(tree.paths(draws), tree.leaves(draws), strict=True):
        if is_concrete(leaf) and not bool(torch.isfinite(leaf).all()):
            bad = (~torch.isfinite(leaf)).flatten(1).any(1).nonzero().flatten().tolist()
            shown = ", ".join(map(str, bad[:10])) + (f" and {len(bad) - 10} more" if len(bad) > 10 else "")
            where = f"NaN or infinity in {name or 'draws'}, chains {shown}"
            require(False, "draws must be finite", where, "Leave those chains out, or see summary(draws) for the rest.")
    return tree.map(lambda leaf: by_blocks(statistic, leaf), draws)


def by_blocks(statistic: Callable[[Tensor], Tensor], leaf: Tensor) -> Tensor:
    """``statistic`` of ``(C, N, d)`` to ``(..., d)``, on all coordinates of a leaf: ``(..., *event)``.

    Coordinates go in blocks, so that images need no more memory than the draws; one that holds NaN or infinity gives NaN.
    """
    num_chains, num, *event = leaf.shape
    if 0 in event:
        value = statistic(torch.zeros(num_chains, num, 1, dtype=torch.float64, device=leaf.device))[..., 0]
        return value.new_zeros(*value.shape, *event)
    flat = leaf.reshape(num_chains, num, math.prod(event))
    width = max(1, _BLOCK // (num_chains * num))
    results = []
    for block in flat.split(width, 2):
        block = block.double()
        value = statistic(block)
        results.append(value + (0 * block).sum((0, 1)))  # 0, or NaN
    return torch.cat(results, -1).unflatten(-1, event or [1])[(...,) if event else (..., 0)]


def halves(draws: Tensor) -> Tensor:
    """``(C, N, *event)`` to ``(2C, N // 2, *event)``; the middle draw of an odd number is left out."""
    half = draws.shape[1] // 2
    return torch.cat([draws[:, :half], draws[:, draws.shape[1] - half :]])


def variance(values: Tensor, dim: int = 0) -> Tensor:
    """The unbiased variance over an axis; exactly zero where all values are equal."""
    return (values - values.narrow(dim, 0, 1)).var(dim)


def means_and_deviations(chains: Tensor) -> tuple[Tensor, Tensor]:
    """Chain means ``(m, *event)``, and the chains minus their means; exact for chains that stand still."""
    start = chains[:, :1]
    shifted = chains - start
    mean = shifted.mean(1, keepdim=True)
    return (start + mean).squeeze(1), shifted - mean


class Sorted(NamedTuple):
    """All values of each coordinate from small to large, ``(d, S)``, and where each one came from."""

    values: Tensor
    order: Tensor


def ordered(chains: Tensor) -> Sorted:
    """Sorts all values of each coordinate of ``(m, n, d)``."""
    return Sorted(*chains.flatten(0, 1).movedim(0, -1).contiguous().sort(-1))


def scores(chains: Tensor, found: Sorted | None = None) -> Tensor:
    r"""Rank normalisation of ``(m, n, d)``: :math:`\Phi^{-1}((r - 3/8) / (S + 1/4))` of the ranks among all ``S = m n``.

    Equal values share their mean rank. Reference: Blom (1958); Vehtari et al. (2021), section 4.
    """
    values, order = ordered(chains) if found is None else found
    size = values.shape[-1]
    place = torch.arange(size, device=values.device)
    step = values[..., 1:] != values[..., :-1]
    end = torch.ones_like(step[..., :1])
    first = torch.where(torch.cat([end, step], -1), place, 0).cummax(-1).values
    last = torch.where(torch.cat([step, end], -1), place, size - 1).flip(-1).cummin(-1).values.flip(-1)
    rank = (first + last).double() / 2 + 1
    score = torch.special.ndtri((rank - 3 / 8) / (size + 1 / 4))
    return torch.zeros_like(values).scatter(-1, order, score).movedim(-1, 0).unflatten(0, chains.shape[:2])


def quantile(values: Tensor, prob: float) -> Tensor:
    """The quantile of sorted ``(d, S)``, linear between the order statistics (type 7 of Hyndman and Fan): ``(d,)``."""
    size = values.shape[-1]
    place = size * prob + (1 - prob)  # from 1; the rounding decides whether a draw equals its quantile
    below = int(min(max(place, 1), size - 1)) if size > 1 else 1
    weight = min(max(place - below, 0.0), 1.0)
    return (1 - weight) * values[..., below - 1] + weight * values[..., min(below, size - 1)]


def median(values: Tensor) -> Tensor:
    """The median of sorted ``(d, S)``: ``(d,)``."""
    size = values.shape[-1]
    return (values[..., (size - 1) // 2] + values[..., size // 2]) / 2
