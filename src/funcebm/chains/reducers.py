"""Streaming statistics: what a run keeps of its draws when it does not keep the draws."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor

from .. import tree
from ..types import Tree
from ._reducer import Reducer, joined, merged, together
from .convergence import Convergence, convergence

__all__ = ["Convergence", "Reducer", "combine", "convergence", "covariance", "mean", "merged", "variance"]


class _Moments(NamedTuple):
    num: Tensor
    mean: Tree
    second: Tree


def _as_float(leaf: Tensor) -> Tensor:
    return leaf if leaf.is_floating_point() else leaf.to(torch.get_default_dtype())


def _zero_count(value: Tree) -> Tensor:
    return torch.zeros((), dtype=torch.int32, device=tree.first(value).device)


def mean(*, across_chains: bool = False) -> Reducer:
    """The mean of each number, updated as ``m + (x - m) / n``; flags count as 0 and 1.

    Args:
        across_chains: one result of all chains together, ``(*event,)``, in place of ``(C, *event)``.

    Returns:
        A :class:`Reducer`.

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

    def merge(a: _Moments, b: _Moments) -> _Moments:
        count, share = together(a.num, b.num)
        return _Moments(count, tree.map(lambda x, y: x + (y - x) * share(x), a.mean, b.mean), ())

    return Reducer(init, update, lambda moments: moments.mean, merge, across_chains)


def variance(*, across_chains: bool = False) -> Reducer:
    """Mean and variance (divisor ``n - 1``) of each number, as a dict with the keys ``mean`` and ``variance``.

    Args:
        across_chains: one result of all chains together, ``(*event,)``, in place of ``(C, *event)``.

    Returns:
        A :class:`Reducer`.

    Reference: Welford (1962), Technometrics 4(3):419-420; Chan, Golub and LeVeque (1983), The American Statistician 37(3), for
    ``merge``.

    >>> reducer = variance()
    >>> accumulator = reducer.init(torch.tensor(0.0))
    >>> for value in (1.0, 3.0):
    ...     accumulator = reducer.update(accumulator, torch.tensor(value))
    >>> reducer.final(accumulator)
    {'mean': tensor(2.), 'variance': tensor(2.)}
    """
    return _moments("variance", lambda x: x, lambda before, after: before * after, across_chains)


def covariance(*, across_chains: bool = False) -> Reducer:
    """Mean and covariance (divisor ``n - 1``), over the ravelled value: a dict with ``mean`` and ``covariance`` ``(D, D)``.

    Args:
        across_chains: one result of all chains together, in place of one for each.

    Returns:
        A :class:`Reducer`.

    Reference: Welford (1962), Technometrics 4(3):419-420, for vectors; Chan, Golub and LeVeque (1983) for ``merge``.

    >>> reducer = covariance()
    >>> accumulator = reducer.init(torch.zeros(2))
    >>> for value in ([1.0, 0.0], [3.0, 2.0]):
    ...     accumulator = reducer.update(accumulator, torch.tensor(value))
    >>> reducer.final(accumulator)["covariance"]
    tensor([[2., 2.],
            [2., 2.]])
    """
    outer = lambda before, after: torch.outer(before, after)  # noqa: E731
    return _moments("covariance", lambda x: tree.ravel(x)[0], outer, across_chains)


def _moments(
    name: str, prepare: Callable[[Tree], Tree], product: Callable[[Tensor, Tensor], Tensor], is_pooled: bool
) -> Reducer:
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

    def merge(a: _Moments, b: _Moments) -> _Moments:
        return _Moments(*joined(a, b.num, tree.sub(b.mean, a.mean), b.second, product))

    return Reducer(init, update, final, merge, is_pooled)


def combine(reducers: dict[str, Reducer]) -> Reducer:
    """Several reducers of one value, by name.

    Args:
        reducers: by the names that their results get.

    Returns:
        One :class:`Reducer`, whose results are a dict.

    >>> sorted(combine({"mean": mean(), "spread": variance()}).init(torch.zeros(2)))
    ['mean', 'spread']
    """

    def merge(a: Any, b: Any) -> Any:
        return {
            name: reducer.merge(a[name], b[name]) for name, reducer in reducers.items() if reducer.merge is not None
        }

    return Reducer(
        lambda value: {name: reducer.init(value) for name, reducer in reducers.items()},
        lambda accumulators, value: {name: r.update(accumulators[name], value) for name, r in reducers.items()},
        lambda accumulators: {name: reducer.final(accumulators[name]) for name, reducer in reducers.items()},
        merge if all(reducer.merge is not None for reducer in reducers.values()) else None,
        parts=tuple(reducers.items()),
    )
