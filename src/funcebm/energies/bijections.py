"""Bijections for :func:`funcebm.energies.pullback`: functions ``y -> (x, log_det)`` of one particle."""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor

from .. import checks, tree
from ..types import Position

__all__ = ["affine", "to_interval", "to_positive", "with_log_det"]


def to_positive(y: Tensor) -> tuple[Tensor, Tensor]:
    r"""From all numbers to positive ones, :math:`x = e^y`.

    >>> to_positive(torch.tensor([0.0, 1.0]))
    (tensor([1.0000, 2.7183]), tensor(1.))
    """
    return torch.exp(y), y.sum()


def to_interval(low: float | Tensor = 0.0, high: float | Tensor = 1.0) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    r"""From all numbers to ``(low, high)``, by the logistic function: :math:`x = l + (u - l) / (1 + e^{-y})`.

    Args:
        low: ``()`` or ``(*event,)``.
        high: the same, above ``low``.

    >>> to_interval(0.0, 4.0)(torch.tensor([0.0]))
    (tensor([2.]), tensor(0.))
    """
    width = high - low
    checks.positive("high - low", width, "Give a high above the low.")

    def bijection(y: Tensor) -> tuple[Tensor, Tensor]:
        span = torch.as_tensor(width, dtype=y.dtype, device=y.device)
        log_slope = torch.nn.functional.logsigmoid(y) + torch.nn.functional.logsigmoid(-y) + torch.log(span)
        return low + span * torch.sigmoid(y), log_slope.sum()

    return bijection


def affine(shift: Tensor, factor: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    r"""A linear map, :math:`x = m + A y`; with the Cholesky factor of a covariance it whitens.

    Args:
        shift: :math:`m`. ``(*event,)``.
        factor: :math:`A`, invertible. ``(D, D)``, over the D numbers of the event.

    >>> affine(torch.zeros(2), 2 * torch.eye(2))(torch.tensor([1.0, 2.0]))
    (tensor([2., 4.]), tensor(1.3863))
    """
    size = shift.numel()
    got = f"the shapes {tuple(shift.shape)} and {tuple(factor.shape)}"
    checks.require(factor.shape == (size, size), f"factor must be ({size}, {size})", got, "One row for each number.")
    log_det = torch.linalg.slogdet(factor).logabsdet
    if checks.is_concrete(log_det):
        checks.require(
            bool(torch.isfinite(log_det)), "factor must be invertible", "a singular matrix", "Check its rank."
        )
    return lambda y: (shift + torch.nn.functional.linear(y.reshape(-1), factor).reshape(y.shape), log_det)


def with_log_det(function: Callable[[Position], Position]) -> Callable[[Position], tuple[Position, Tensor]]:
    r"""Adds the log determinant to any invertible differentiable function, from its Jacobian.

    Args:
        function: ``y -> x``, with as many numbers in ``x`` as in ``y``; D backward passes and a D x D determinant.

    >>> position, log_det = with_log_det(torch.exp)(torch.tensor([0.0, 1.0]))
    >>> position, round(float(log_det), 5)
    (tensor([1.0000, 2.7183]), 1.0)
    """

    def bijection(y: Position) -> tuple[Position, Tensor]:
        vector, back = tree.ravel(y)
        jacobian = torch.func.jacrev(lambda flat: tree.ravel(function(back(flat)))[0])(vector)
        return function(y), torch.linalg.slogdet(jacobian).logabsdet

    return bijection
