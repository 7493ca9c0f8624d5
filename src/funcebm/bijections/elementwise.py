"""Bijections that act on each number by itself, of any tree; and affine ones."""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor

from .. import checks, tree
from ..types import Position
from .bijection import Bijection, floating, within

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


def _bound(name: str, value: float | Tensor) -> Callable[[Tensor], Tensor]:
    """A finite number, or one for each coordinate, in the dtype of a position and on its device."""
    fix = "Give a number or a tensor; identity is for what has no bound."
    is_number = isinstance(value, Tensor) or (hasattr(value, "__float__") and not hasattr(value, "__len__"))
    checks.require(is_number, f"{name} must be a number or a tensor", value, fix, TypeError)
    number = tree.number(value)
    if checks.is_concrete(number):
        is_finite = bool(torch.isfinite(number).all())
        checks.require(is_finite, f"{name} must be finite", str(number.tolist()), fix)

    def like(x: Tensor) -> Tensor:
        floating(x)
        fits_all(name, number, x)
        return number.to(x)

    return like


def fits_all(name: str, number: Tensor, x: Tensor) -> None:
    """A number for each coordinate of ``x``, or one for all: what else broadcasts would give more numbers than there are."""
    given, wanted = tuple(number.shape), tuple(x.shape)
    is_right = len(given) <= len(wanted) and all(
        a in (1, b) for a, b in zip(reversed(given), reversed(wanted), strict=False)
    )
    fix = "Give one number, or one for each coordinate of a particle; funcebm adds the axis of chains."
    checks.require(is_right, f"{name} must be () or like x", f"{name} of shape {given}, x of shape {wanted}", fix)


def _spacing(bound: Tensor) -> Tensor:
    """What rounding hides beside the bound: a number that close is as good as this far."""
    return bound.abs() * torch.finfo(bound.dtype).eps


def lower(bound: float | Tensor = 0.0) -> Bijection:
    r"""Numbers above a bound, :math:`x = b + e^y`.

    Args:
        bound: :math:`b`. ``()`` or like ``x``.

    Returns:
        A :class:`Bijection` of any tree.

    Raises:
        TypeError, ValueError: a bound that is no finite number; (on calls) one of another shape, and numbers outside.

    >>> lower(1.0)(torch.tensor([0.0, 1.0]))
    (tensor([2.0000, 3.7183]), tensor(1.))
    """
    at = _bound("bound", bound)

    def inverse(x: Tensor) -> Tensor:
        b = at(x)
        distance = torch.maximum(x - b, _spacing(b))
        return within(((x >= b) & (distance > 0)).all(), distance.log(), f"x must be above {bound}", x, _INSIDE)

    return _elementwise(lambda y: (at(y) + torch.exp(y), y), inverse, "lower")


positive = lower()
r"""Positive numbers, :math:`x = e^y`."""


def upper(bound: float | Tensor = 0.0) -> Bijection:
    r"""Numbers below a bound, :math:`x = b - e^{-y}`, so that ``x`` rises with ``y``.

    Args:
        bound: :math:`b`. ``()`` or like ``x``.

    Returns:
        A :class:`Bijection` of any tree.

    Raises:
        TypeError, ValueError: a bound that is no finite number; (on calls) one of another shape, and numbers outside.

    >>> upper(1.0)(torch.tensor([0.0, 1.0]))
    (tensor([0.0000, 0.6321]), tensor(-1.))
    """
    at = _bound("bound", bound)

    def inverse(x: Tensor) -> Tensor:
        b = at(x)
        distance = torch.maximum(b - x, _spacing(b))
        return within(((x <= b) & (distance > 0)).all(), -distance.log(), f"x must be below {bound}", x, _INSIDE)

    return _elementwise(lambda y: (at(y) - torch.exp(-y), -y), inverse, "upper")


def interval(low: float | Tensor = 0.0, high: float | Tensor = 1.0) -> Bijection:
    r"""Numbers between two bounds, by the logistic function: :math:`x = l + (u - l) / (1 + e^{-y})`.

    Args:
        low: :math:`l`. ``()`` or like ``x``.
        high: :math:`u > l`. ``()`` or like ``x``.

    Returns:
        A :class:`Bijection` of any tree.

    Raises:
        TypeError, ValueError: bounds that are no finite numbers, a ``high`` that is not above ``low``; (on calls) bounds of
            another shape, and numbers outside.

    >>> interval(0.0, 4.0)(torch.tensor([0.0]))
    (tensor([2.]), tensor(0.))
    """
    at_low, at_high = _bound("low", low), _bound("high", high)
    width = tree.number(high) - tree.number(low)
    checks.positive("high - low", width, "Give a high above the low.")

    def apply(y: Tensor) -> tuple[Tensor, Tensor]:
        least, most, span = at_low(y), at_high(y), width.to(y)
        log_slope = torch.nn.functional.logsigmoid(y) + torch.nn.functional.logsigmoid(-y) + torch.log(span)
        eps = torch.finfo(y.dtype).eps / 2
        share = torch.sigmoid(y).clamp(eps, 1 - eps)
        return torch.clamp(least + span * share, least, most), log_slope  # rounding could leave the bounds

    def inverse(x: Tensor) -> Tensor:
        least, most, eps = at_low(x), at_high(x), torch.finfo(x.dtype).eps / 2
        share = ((x - least) / width.to(x)).clamp(eps, 1 - eps)
        is_inside = ((x >= least) & (x <= most)).all()
        return within(is_inside, torch.logit(share), f"x must be in ({low}, {high})", x, _INSIDE)

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
        ValueError: a factor that does not fit or is singular; (on calls) numbers of another shape.

    >>> affine(torch.zeros(2), 2 * torch.eye(2))(torch.tensor([1.0, 2.0]))
    (tensor([2., 4.]), tensor(1.3863))
    >>> affine(1.0, 2.0)(torch.tensor([1.0, 2.0]))
    (tensor([3., 5.]), tensor(1.3863))
    """
    shift, factor = _tensor(shift), _tensor(factor)
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

    def numbers(x: Tensor) -> tuple[Tensor, Tensor]:
        floating(x)
        for name, value in () if is_matrix else (("shift", shift), ("factor", factor)):
            fits_all(name, value, x)
        same = f"the {size} numbers of the shift"
        got = f"the shape {tuple(x.shape)}"
        checks.require(not is_matrix or x.numel() == size, f"x must have {same}", got, "Give one particle.")
        return shift.to(x), factor.to(x)

    if not is_matrix:

        def scaled(y: Tensor) -> tuple[Tensor, Tensor]:
            m, a = numbers(y)
            return m + a * y, log_slope.to(y).expand_as(y)

        def unscaled(x: Tensor) -> Tensor:
            m, a = numbers(x)
            return (x - m) / a

        return _elementwise(scaled, unscaled, "affine")

    def apply(y: Tensor) -> tuple[Tensor, Tensor]:
        m, a = numbers(y)
        return m + torch.nn.functional.linear(y.reshape(-1), a).reshape(y.shape), log_slope.to(y)

    def inverse(x: Tensor) -> Tensor:
        m, a = numbers(x)
        return torch.linalg.solve(a, (x - m).reshape(-1)).reshape(x.shape)

    return Bijection(apply, inverse)


def _tensor(value: float | Tensor) -> Tensor:
    """In double precision, where it is no tensor yet."""
    return value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)
