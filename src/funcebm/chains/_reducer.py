"""What a streaming statistic is: pure functions, and how those of many chains become one."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import tree
from ..types import Tree

__all__ = ["Reducer", "joined", "merged", "together"]


class Reducer(NamedTuple):
    """A statistic of one chain's draws, as pure functions; memory does not grow with the number of draws.

    Attributes:
        init: ``value -> accumulator``, from an example of what will be reduced (its numbers do not matter).
        update: ``(accumulator, value) -> accumulator``.
        final: ``accumulator -> result``.
        merge: optionally, ``(accumulator, accumulator) -> accumulator``, of the draws of both; associative to rounding.
        is_pooled: whether the result is one of all chains (of all ranks) together, by ``merge``, in place of one of each.
        parts: of a combined reducer, its ``(name, reducer)``.
        close: optionally, ``accumulator -> summary``, what ``merge`` and ``final`` take in place of accumulators, where it is
            smaller than they are.
    """

    init: Callable[[Tree], Any]
    update: Callable[[Any, Tree], Any]
    final: Callable[[Any], Any]
    merge: Callable[[Any, Any], Any] | None = None
    is_pooled: bool = False
    parts: tuple[tuple[str, Reducer], ...] = ()
    close: Callable[[Any], Any] | None = None


def merged(merge: Callable[[Any, Any], Any], accumulators: Any, keeps_axis: bool = False) -> Any:
    """One accumulator of many ``(C, ...)``: neighbours are merged, then neighbouring results, and so on.

    Args:
        merge: ``(accumulator, accumulator) -> accumulator``, of one chain each.
        accumulators: of many chains, every leaf ``(C, ...)``.
        keeps_axis: whether the result leads with an axis of length 1, or 0 where there are none.

    Returns:
        The accumulator of all draws.

    >>> float(merged(torch.add, torch.arange(5.0)))
    10.0
    """
    while (num := tree.batch_size(accumulators)) > 1:
        pairs = tree.map(lambda leaf: leaf[: num // 2 * 2].unflatten(0, (num // 2, 2)), accumulators)
        first, second = (tree.map(lambda leaf: leaf[:, side], pairs) for side in (0, 1))  # noqa: B023
        both = vmap(merge)(first, second)
        if num % 2:
            both = tree.map(lambda leaf, rest: torch.cat([leaf, rest[-1:]]), both, accumulators)
        accumulators = both
    return accumulators if keeps_axis else tree.map(lambda leaf: leaf[0], accumulators)


def together(num: Tensor, more: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """How many draws there are, and the share of the later ones in the dtype of a leaf; 0 where there are none."""
    count = num + more
    return count, lambda leaf: more.to(leaf.dtype) / count.clamp(min=1).to(leaf.dtype)


def joined(
    moments: Any, num: Tensor, shift: Tree, second: Tree, product: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tree, Tree]:
    """Number, mean and sum of products of all draws, of some and ``num`` more, whose mean lies ``shift`` from the mean of those.

    >>> from .reducers import _Moments
    >>> some = _Moments(torch.tensor(1.0), torch.tensor(1.0), torch.tensor(0.0))
    >>> joined(some, torch.tensor(1.0), torch.tensor(2.0), torch.tensor(0.0), torch.mul)
    (tensor(2.), tensor(2.), tensor(2.))
    """
    count, share = together(moments.num, num)
    average = tree.map(lambda m, d: m + d * share(m), moments.mean, shift)
    between = tree.map(lambda d: product(d, d) * (moments.num * share(d)), shift)
    return count, average, tree.map(lambda s, t, b: s + t + b, moments.second, second, between)
