"""Pareto k-hat: whether importance weights can be trusted."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import checks

__all__ = ["khat_or_nan", "pareto_khat"]

_LEAST = 25  # weights


def pareto_khat(log_weights: Tensor) -> Tensor:
    r"""The shape of the generalised Pareto distribution of the largest weights, an estimate of how heavy their tail is.

    Weights have finite moments up to :math:`1/k`. Below 0.5 the variance is finite and the usual error bars hold; up to 0.7
    estimates are still usable; above 0.7 no number of draws that one can afford makes them right.

    Args:
        log_weights: of independent draws, ``(N,)``, 25 or more.

    Returns:
        :math:`\hat k` ``()``, from the :math:`\min(N/5, 3 \sqrt N)` largest weights; minus infinity where they are all the same.

    Raises:
        ValueError: too few weights, or more than one axis.

    It cannot see modes that no draw has met.

    Reference: Vehtari et al. (2024), "Pareto smoothed importance sampling", Journal of Machine Learning Research 25(72):1-58;
    the fit, Zhang and Stephens (2009), Technometrics 51(3):316-325.

    >>> heavy = -1.0 * torch.log(torch.linspace(0.0005, 0.9995, 1000))  # Pareto with k = 1
    >>> bool((pareto_khat(heavy) - 1).abs() < 0.2)
    True
    """
    num = log_weights.numel()
    right = log_weights.ndim == 1 and num >= _LEAST
    checks.require(right, "log_weights must be (N,), 25 or more", f"{tuple(log_weights.shape)}", "Take more draws.")
    tail = math.ceil(min(0.2 * num, 3 * math.sqrt(num)))
    ordered = (log_weights - log_weights.max()).double().sort().values
    excess = torch.exp(ordered[-tail:]) - torch.exp(ordered[-tail - 1])
    is_even = excess[-1] <= 1e-12
    excess = torch.where(is_even, torch.ones_like(excess), excess).clamp(min=1e-300)
    grid = 30 + int(math.sqrt(tail))
    places = torch.arange(1, grid + 1, dtype=torch.float64, device=excess.device)
    quartile = excess[int(tail / 4 + 0.5) - 1]
    slopes = 1 / excess[-1] + (1 - torch.sqrt(grid / (places - 0.5))) / (3 * quartile)
    shapes = torch.log1p(-slopes[:, None] * excess).mean(1)
    heights = tail * (torch.log(-slopes / shapes) - shapes - 1)
    slope = (torch.softmax(heights, 0) * slopes).sum()
    shape = torch.log1p(-slope * excess).mean()
    # a weak prior at 0.5, as of ten weights
    shape = (tail * shape + 5) / (tail + 10)
    return torch.where(is_even, -torch.inf, shape).to(log_weights.dtype)


def khat_or_nan(log_weights: Tensor) -> Tensor:
    """The same; NaN for too few weights. ``()``."""
    if log_weights.shape[0] < _LEAST:
        return torch.full_like(log_weights[0], torch.nan)
    return pareto_khat(log_weights)
