"""Kaufman's normalizer of the Ising model on a torus without a field."""

from __future__ import annotations

import math
from typing import Sequence

import torch
from torch import Tensor

from ... import checks

__all__ = ["kaufman"]


def kaufman(shape: Sequence[int], coupling: float | Tensor) -> Tensor:
    r"""The log normalizer of the Ising model on an :math:`n \times m` torus without a field, in closed form.

    .. math:: \log Z = -\log 2 + \tfrac{nm}{2} \log(2 \sinh 2K) + \log(P_1 + P_2 + P_3 + P_4)

    with products over r of :math:`2 \cosh` or :math:`2 \sinh` of :math:`m \gamma_{2r+1} / 2` or :math:`m \gamma_{2r} / 2`, where
    :math:`\cosh \gamma_l = \cosh(2K)^2 / \sinh(2K) - \cos(\pi l / n)` and :math:`\gamma_0 = 2K + \log \tanh K`, which is negative
    in the disordered phase. Computed in float64, in logarithms, so that sides of thousands are no harder.

    Args:
        shape: ``(n, m)``, both at least 3 (a side of 2 would have its bonds twice).
        coupling: :math:`K > 0`, over temperature; where both sides are even, negative ones have the same normalizer. ``()``.

    Returns:
        ``()``, in the dtype of the coupling; minus its derivative is the mean of the energy per unit of coupling.

    Raises:
        ValueError: a side below 3, or a coupling of zero or below.

    Reference: Kaufman (1949), Physical Review 76(8):1232-1243.

    >>> kaufman((4, 4), torch.tensor(0.2, dtype=torch.float64))
    tensor(11.7715, dtype=torch.float64)
    """
    shape = tuple(shape)
    checks.require(len(shape) == 2, "shape must be (n, m)", shape, "Give two sides.")
    n, m = shape
    for side in shape:
        checks.positive_int("each side", side, 3)
    value = torch.as_tensor(coupling)
    value = value if value.is_floating_point() else value.to(torch.get_default_dtype())
    strength = value.double()
    if n % 2 == 0 and m % 2 == 0:
        strength = strength.abs()
    checks.positive(
        "coupling", strength, "Without coupling, log Z is n * m * log(2); odd sides frustrate negative ones."
    )
    modes = torch.arange(1, 2 * n, device=value.device, dtype=torch.float64)
    double = 2 * strength
    # the log of cosh^2 / sinh, which is too large for itself long before its log is
    log_ratio = double - math.log(2) + 2 * torch.log1p(torch.exp(-2 * double)) - torch.log(-torch.expm1(-2 * double))
    ratio = torch.exp(log_ratio.clamp(max=_LARGE)) - torch.cos(math.pi * modes / n)
    rates = torch.where(log_ratio > _LARGE, log_ratio + math.log(2), torch.arccosh(ratio)) * (m / 2)
    odd, even = rates[::2], rates[1::2]
    first = (double + torch.log(torch.tanh(strength))) * (m / 2)
    logs = [
        _log_cosh(odd).sum(),
        _log_sinh(odd).sum(),
        _log_cosh(first) + _log_cosh(even).sum(),
    ]
    rest = _log_sinh(even).sum()  # the last product is this times 2 sinh(first), which may be negative or zero
    largest = torch.stack([*logs, first.abs() + rest]).max().detach()
    total = sum(torch.exp(part - largest) for part in logs)
    total = total + torch.exp(first + rest - largest) - torch.exp(rest - first - largest)
    volume = n * m / 2 * (double + torch.log(-torch.expm1(-2 * double)))
    return (volume - math.log(2) + torch.log(total) + largest).to(value.dtype)


_LARGE = 100.0  # beyond it, arccosh is the log of twice its argument, and a cosine next to it is nothing


def _log_cosh(a: Tensor) -> Tensor:
    """``log(2 cosh(a))``."""
    return torch.logaddexp(a, -a)


def _log_sinh(a: Tensor) -> Tensor:
    """``log(2 sinh(a))`` for positive a."""
    return a + torch.log(-torch.expm1(-2 * a))
