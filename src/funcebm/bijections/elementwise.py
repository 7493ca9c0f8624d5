"""Bijections that act on each number by itself, of any tree; and affine ones."""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor

from .. import checks, tree
from ..types import Position
from .bijection import Bijection, within

__all__ = ["affine", "identity", "interval", "lower", "positive", "upper"]


def _elementwise(
    apply: Callable[[Tensor], tuple[Tensor, Tensor]], inverse: Callable[[Tensor], Tensor], name: str
) -> Bijection:
    """Maps over the leaves; ``apply`` gives the log slope of each number."""

    def apply_all(y: Position) -> tuple[Position, Tensor]:
        leaves, structure = tree.flatten(y)
        pairs = [apply(leaf) for leaf in leaves]
        sums = [slope.sum() for _, slope in pairs]
        return tree.unflatten(structure, [x for x, _ in pairs]), sum(sums[1:], sums[0])

    apply_all.__qualname__ = name
    return Bijection(apply_all, lambda x: tree.map(inverse, x))


identity = _elementwise(lambda y: (y, torch.zeros_like(y)), lambda x: x, "identity")
"""No constraint: any numbers, of any tree."""


def _spacing(bound: Any, like: Tensor) -> Tensor:
    """What rounding hides beside the bound: a number that close is as good as this far."""
    return torch.as_tensor(bound).to(like).abs() * torch.finfo(like.dtype).eps


def lower(bound: float | Tensor = 0.0) -> Bijection:
    r"""Numbers above a bound, :math:`x = b + e^y`.

    Args:
        bound: :math:`b`. ``()`` or like ``x``.

    Returns:
        A :class:`Bijection` of any tree.

    >>> lower(1.0)(torch.tensor([0.0, 1.0]))
    (tensor([2.0000, 3.7183]), tensor(1.))
    """

    def inverse(x: Tensor) -> Tensor:
        distance = torch.maximum(x - bound, _spacing(bound, x))
        return within(((x >= bound) & (distance > 0)).all(), distance.log(), f"x must be above {bound}", x, _INSIDE)

    return _elementwise(lambda y: (bound + torch.exp(y), y), inverse, "lower")


positive = lower()
r"""Positive numbers, :math:`x = e^y`."""


def upper(bound: float | Tensor = 0.0) -> Bijection:
    r"""Numbers below a bound, :math:`x = b - e^{-y}`, so that ``x`` rises with ``y``.

    Args:
        bound: :math:`b`. ``()`` or like ``x``.

    Returns:
        A :class:`Bijection` of any tree.

    >>> upper(1.0)(torch.tensor([0.0, 1.0]))
    (tensor([0.0000, 0.6321]), tensor(-1.))
    """

    def inverse(x: Tensor) -> Tensor:
        distance = torch.maximum(bound - x, _spacing(bound, x))
        return within(((x <= bound) & (distance > 0)).all(), -distance.log(), f"x must be below {bound}", x, _INSIDE)

    return _elementwise(lambda y: (bound - torch.exp(-y), -y), inverse, "upper")


def interval(low: float | Tensor = 0.0, high: float | Tensor = 1.0) -> Bijection:
    r"""Numbers between two bounds, by the logistic function: :math:`x = l + (u - l) / (1 + e^{-y})`.

    Args:
        low: :math:`l`. ``()`` or like ``x``.
        high: :math:`u > l`. ``()`` or like ``x``.

    Returns:
        A :class:`Bijection` of any tree.

    Raises:
        ValueError: a ``high`` that is not above ``low``; (on calls of ``inverse``) numbers outside.

    >>> interval(0.0, 4.0)(torch.tensor([0.0]))
    (tensor([2.]), tensor(0.))
    """
    width = high - low
    checks.positive("high - low", width, "Give a high above the low.")

    def apply(y: Tensor) -> tuple[Tensor, Tensor]:
        span = torch.as_tensor(width).to(y)
        log_slope = torch.nn.functional.logsigmoid(y) + torch.nn.functional.logsigmoid(-y) + torch.log(span)
        eps = torch.finfo(y.dtype).eps / 2
        return low + span * torch.sigmoid(y).clamp(eps, 1 - eps), log_slope

    def inverse(x: Tensor) -> Tensor:
        eps = torch.finfo(x.dtype).eps / 2
        share = ((x - low) / torch.as_tensor(width).to(x)).clamp(eps, 1 - eps)
        return within(((x >= low) & (x <= high)).all(), torch.logit(share), f"x must be in ({low}, {high})", x, _INSIDE)

    return _elementwise(apply, inverse, "interval")


_INSIDE = "Start inside of the range of the bijection."


def affine(shift: float | Tensor, factor: float | Tensor) -> Bijection:
    r"""A linear map, :math:`x = m + A y`; with the Cholesky factor of a covariance it whitens.

    Args:
        shift: :math:`m`. ``()`` or ``(*event,)``.
        factor: :math:`A`, invertible: a number or ``(*event,)`` for a diagonal one; or ``(D, D)``, over the D numbers
            of ``shift``.

    Returns:
        A :class:`Bijection`; of any tree where the factor is no matrix.

    Raises:
        ValueError: a factor that does not fit or is singular.

    >>> affine(torch.zeros(2), 2 * torch.eye(2))(torch.tensor([1.0, 2.0]))
    (tensor([2., 4.]), tensor(1.3863))
    >>> affine(1.0, 2.0)(torch.tensor([1.0, 2.0]))
    (tensor([3., 5.]), tensor(1.3863))
    """
    shift, factor = torch.as_tensor(shift), torch.as_tensor(factor)
    size = shift.numel()
    is_matrix = factor.ndim == 2 and factor.shape != shift.shape
    got = f"the shapes {tuple(shift.shape)} and {tuple(factor.shape)}"
    right = factor.shape == (size, size) if is_matrix else factor.ndim == 0 or factor.shape == shift.shape
    fix = "One row for each number; or one number for each."
    checks.require(right, f"factor must be ({size}, {size}) or like the shift", got, fix)
    log_slope = torch.linalg.slogdet(factor).logabsdet if is_matrix else factor.abs().log()
    if checks.is_concrete(log_slope):
        is_regular = bool(torch.isfinite(log_slope).all())
        checks.require(is_regular, "factor must be invertible", "a singular matrix", "Check its rank.")
    if not is_matrix:
        return _elementwise(
            lambda y: (shift.to(y) + factor.to(y) * y, log_slope.to(y).expand_as(y)),
            lambda x: (x - shift.to(x)) / factor.to(x),
            "affine",
        )

    def apply(y: Tensor) -> tuple[Tensor, Tensor]:
        return shift.to(y) + torch.nn.functional.linear(y.reshape(-1), factor.to(y)).reshape(y.shape), log_slope.to(y)

    def inverse(x: Tensor) -> Tensor:
        return torch.linalg.solve(factor.to(x), (x - shift.to(x)).reshape(-1)).reshape(x.shape)

    return Bijection(apply, inverse)
