"""The sliced Wasserstein distance: optimal transport on lines."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import checks, random
from ..types import Key, Tree
from .discrepancy import two_sets

__all__ = ["sliced_wasserstein"]


def sliced_wasserstein(key: Key, x: Tree, y: Tree, *, num_projections: int = 200, order: float = 2.0) -> Tensor:
    r"""The sliced Wasserstein distance of two sets of samples.

    .. math:: \left( \frac1P \sum_{i=1}^P \int_0^1 |F_i^{-1}(q) - G_i^{-1}(q)|^p\,dq \right)^{1/p}

    with the quantile functions of :math:`u_i \cdot x` and :math:`u_i \cdot y` on random unit vectors :math:`u_i`: exact on
    each line, for sets of different sizes too. It is the distance of the two *empirical* distributions: between two sets of
    one distribution it is not zero but of the order :math:`n^{-1/2}`, so compare it to that between two sets of data. The cost is
    :math:`P\,n \log n`.

    Args:
        key: for the directions; the same key, the same directions. ``(2,)``.
        x: a tree of ``(n, *event)``.
        y: a tree of the same structure of ``(m, *event)``.
        num_projections: :math:`P`.
        order: :math:`p \ge 1`.

    Returns:
        ``()`` in float64, in units of ``x``.

    Raises:
        ValueError: sets of different structure or event, or empty; an order below one.

    Reference: Bonneel et al. (2015), "Sliced and Radon Wasserstein barycenters of measures", Journal of Mathematical
    Imaging and Vision 51:22-45; Rabin et al. (2011).

    >>> x = random.normal(random.key(0), (100, 1))
    >>> round(float(sliced_wasserstein(random.key(1), x, x + 3, num_projections=5)), 5)
    3.0
    """
    checks.positive_int("num_projections", num_projections)
    checks.require(1 <= order < float("inf"), "order must be at least 1 and finite", order, "The usual one is 2.")
    a, b = two_sets(x, y, 1)
    directions = random.normal(key.to(a.device), (a.shape[1], num_projections), dtype=a.dtype)
    directions = directions / directions.norm(dim=0)
    left, right = (a @ directions).sort(0).values, (b @ directions).sort(0).values
    lower, upper, width = _quantile_levels(a.shape[0], b.shape[0], a)
    distances = (left[lower] - right[upper]).abs().pow(order)
    return (width @ distances).mean().pow(1 / order)


def _quantile_levels(n: int, m: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The pieces on which both quantile functions are constant: the index into each sorted set, and the width."""
    # in units of 1 / (n m), whole numbers, so that no rounding makes a sliver
    edges = torch.cat([torch.arange(1, n + 1, device=like.device) * m, torch.arange(1, m + 1, device=like.device) * n])
    edges = edges.sort().values
    start = torch.cat([edges.new_zeros(1), edges[:-1]])
    width = (edges - start).to(like.dtype) / (n * m)
    # a piece of width zero may start at the end
    return (start // m).clamp(max=n - 1), (start // n).clamp(max=m - 1), width
