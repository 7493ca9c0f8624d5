"""Streaming statistics: what a run keeps of its draws when it does not keep the draws."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor

from .. import tree
from ..types import Tree

__all__ = ["Reducer", "combine", "covariance", "mean", "variance"]


class Reducer(NamedTuple):
    """A statistic of one chain's draws, as pure functions; memory does not grow with the number of draws.

    Attributes:
        init: ``value -> accumulator``, from an example of what will be reduced (its numbers do not matter).
        update: ``(accumulator, value) -> accumulator``.
        final: ``accumulator -> result``.
    """

    init: Callable[[Tree], Any]
    update: Callable[[Any, Tree], Any]
    final: Callable[[Any], Any]


class _Moments(NamedTuple):
    num: Tensor
    mean: Tree
    second: Tree


def _as_float(leaf: Tensor) -> Tensor:
    return leaf if leaf.is_floating_point() else leaf.to(torch.get_default_dtype())


def _zero_count(value: Tree) -> Tensor:
    return torch.zeros((), dtype=torch.int32, device=tree.first(value).device)


def mean() -> Reducer:
    """The mean of each number, updated as ``m + (x - m) / n``; flags count as 0 and 1.

    >>> reducer = mean()
    >>> accumulator = reducer.init(torch.tensor(0.0))
    >>> for value in (1.0, 2.0, 6.0):
    ...     accumulator = reducer.update(accumulator, torch.tensor(value))
    >>> reducer.final(accumulator)
    tensor(3.)
    """

    def init(value: Tree) -> _Moments:
        return _Moments(_zero_count(value), tree.map(lambda leaf: torch.zeros_like(_as_float(leaf)), value), ())

    def update(moments: _Moments, value: Tree) -> _Moments:
        count = moments.num + 1
        return _Moments(count, tree.map(lambda m, x: m + (_as_float(x) - m) / count, moments.mean, value), ())

    return Reducer(init, update, lambda moments: moments.mean)


def variance() -> Reducer:
    """Mean and variance (divisor ``n - 1``) of each number, as a dict with the keys ``mean`` and ``variance``.

    Reference: Welford (1962), Technometrics 4(3):419-420.

    >>> reducer = variance()
    >>> accumulator = reducer.init(torch.tensor(0.0))
    >>> for value in (1.0, 3.0):
    ...     accumulator = reducer.update(accumulator, torch.tensor(value))
    >>> reducer.final(accumulator)
    {'mean': tensor(2.), 'variance': tensor(2.)}
    """
    return _moments("variance", lambda x: x, lambda before, after: before * after)


def covariance() -> Reducer:
    """Mean and covariance (divisor ``n - 1``), over the ravelled value: a dict with ``mean`` and ``covariance`` ``(D, D)``.

    Reference: Welford (1962), Technometrics 4(3):419-420, for vectors.

    >>> reducer = covariance()
    >>> accumulator = reducer.init(torch.zeros(2))
    >>> for value in ([1.0, 0.0], [3.0, 2.0]):
    ...     accumulator = reducer.update(accumulator, torch.tensor(value))
    >>> reducer.final(accumulator)["covariance"]
    tensor([[2., 2.],
            [2., 2.]])
    """
    return _moments("covariance", lambda x: tree.ravel(x)[0], lambda before, after: torch.outer(before, after))


def _moments(name: str, prepare: Callable[[Tree], Tree], product: Callable[[Tensor, Tensor], Tensor]) -> Reducer:
    def init(value: Tree) -> _Moments:
        zeros = tree.map(lambda leaf: torch.zeros_like(_as_float(leaf)), prepare(value))
        return _Moments(_zero_count(value), zeros, tree.map(product, zeros, zeros))

    def update(moments: _Moments, value: Tree) -> _Moments:
        count = moments.num + 1
        before = tree.map(lambda x, m: _as_float(x) - m, prepare(value), moments.mean)
        average = tree.map(lambda m, d: m + d / count, moments.mean, before)
        after = tree.map(lambda x, m: _as_float(x) - m, prepare(value), average)
        second = tree.map(lambda s, a, b: s + product(a, b), moments.second, before, after)
        return _Moments(count, average, second)

    def final(moments: _Moments) -> dict[str, Tree]:
        return {"mean": moments.mean, name: tree.map(lambda s: s / (moments.num - 1), moments.second)}

    return Reducer(init, update, final)


def combine(reducers: dict[str, Reducer]) -> Reducer:
    """Several reducers of one value, by name.

    Args:
        reducers: by the names that their results get.

    Returns:
        One :class:`Reducer`, whose results are a dict.

    >>> sorted(combine({"mean": mean(), "spread": variance()}).init(torch.zeros(2)))
    ['mean', 'spread']
    """
    return Reducer(
        lambda value: {name: reducer.init(value) for name, reducer in reducers.items()},
        lambda accumulators, value: {name: r.update(accumulators[name], value) for name, r in reducers.items()},
        lambda accumulators: {name: reducer.final(accumulators[name]) for name, reducer in reducers.items()},
    )
