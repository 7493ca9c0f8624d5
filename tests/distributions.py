"""Statistical assertions whose tolerance is a standard error, from independent draws (rows).

Five standard errors: a right program fails once in about two million statements, a wrong one is caught as soon as its
error is five times what chance explains. Keys are fixed, so a test that passes goes on passing.
"""

from __future__ import annotations

import math
from typing import Any, Callable, Sequence

import torch
from torch import Tensor
from torch.func import vmap

from funcebm import random

__all__ = [
    "SIGMAS",
    "assert_covariance",
    "assert_mean",
    "assert_rate",
    "assert_same_distribution",
    "assert_uniform",
    "log_variance_deviation",
    "order_of",
    "repeated",
    "slopes_of",
]

SIGMAS = 5.0


def _rows(draws: Tensor) -> Tensor:
    return draws.detach().double().reshape(draws.shape[0], -1)


def assert_mean(draws: Tensor, expected: Tensor | float, bias: float = 0.0) -> None:
    """The mean of independent rows ``(N, ...)`` is ``expected``, but for ``bias`` that is known and allowed."""
    rows = _rows(draws)
    expected = torch.as_tensor(expected, dtype=torch.float64).expand(draws.shape[1:]).reshape(-1)
    assert torch.isfinite(rows).all()
    error = rows.std(0) / math.sqrt(len(rows))
    distance = (rows.mean(0) - expected).abs() - bias
    message = f"mean {rows.mean(0).tolist()}, expected {expected.tolist()}, standard error {error.tolist()}"
    assert (distance <= SIGMAS * error).all(), message


def assert_covariance(draws: Tensor, expected: Tensor, bias: float = 0.0) -> None:
    """The covariance of independent rows ``(N, D)`` is ``expected`` ``(D, D)``; fourth moments give the standard error."""
    rows = _rows(draws)
    centred = rows - rows.mean(0)
    products = centred[:, :, None] * centred[:, None, :] * (len(rows) / (len(rows) - 1))
    assert_mean(products, torch.as_tensor(expected, dtype=torch.float64), bias)


def assert_same_distribution(a: Tensor, b: Tensor) -> None:
    """Independent rows ``a`` ``(N, D)`` and ``b`` ``(M, D)`` have one distribution, as far as these statistics see.

    Means, all second moments, third moments of each coordinate, and Kolmogorov and Smirnov's distance of each
    coordinate, whose tail ``2 exp(-2 x^2)`` at five sigma asks for ``x < 2.74``.
    """
    a, b = _rows(a), _rows(b)
    centre, scale = b.mean(0), b.std(0)
    for power in (lambda x: x, lambda x: (x[:, :, None] * x[:, None, :]).flatten(1), lambda x: x**3):
        left, right = power((a - centre) / scale), power((b - centre) / scale)
        error = torch.sqrt(left.var(0) / len(left) + right.var(0) / len(right))
        distance = (left.mean(0) - right.mean(0)).abs()
        assert (distance <= SIGMAS * error).all(), f"moments differ by {(distance / error).max():.1f} standard errors"
    for left, right in zip(a.T, b.T, strict=True):
        points = torch.cat([left, right]).sort().values
        below = [torch.searchsorted(x.sort().values, points, right=True) / len(x) for x in (left, right)]
        distance = float((below[0] - below[1]).abs().max()) * math.sqrt(len(a) * len(b) / (len(a) + len(b)))
        assert distance < 2.74, f"Kolmogorov-Smirnov {distance:.2f}"


def assert_uniform(counts: Tensor, probabilities: Tensor | None = None) -> None:
    """Counts of independent draws in cells follow the probabilities (all equal by default): Pearson's chi-squared."""
    counts = counts.double()
    total, cells = counts.sum(), counts.numel()
    expected = total * (torch.full_like(counts, 1 / cells) if probabilities is None else probabilities.double())
    statistic = float(((counts - expected) ** 2 / expected).sum())
    degrees = cells - 1
    # Wilson and Hilferty: the cube root of a chi-squared is close to normal
    deviate = ((statistic / degrees) ** (1 / 3) - (1 - 2 / (9 * degrees))) / math.sqrt(2 / (9 * degrees))
    assert abs(deviate) < SIGMAS, f"chi-squared {statistic:.1f} on {degrees} degrees of freedom"


def assert_rate(rates: Tensor, target: float, num_searched: int) -> None:
    """Acceptance rates ``(N,)``, at the step size that dual averaging found in so many steps, have the mean ``target``.

    What it finds is an average of step sizes with the weights ``t**-0.75``, put on from step to step. By Polyak and Juditsky its
    rate is then off as an average with these weights of the rates that were seen, which scatter as those do that are given.
    """
    weights = torch.ones(0)
    for step in range(1, num_searched + 1):
        weights = torch.cat([weights * (1 - step**-0.75), torch.full((1,), step**-0.75)])
    error = float(rates.std() * torch.sqrt(1 / len(rates) + weights.square().sum()))
    distance = abs(float(rates.mean()) - target)
    assert distance < SIGMAS * error, f"{distance / error:.1f} standard errors of {error:.4f}"


def log_variance_deviation(num_effective: float) -> float:
    """Five standard errors of the log of a variance that was found from so many independent draws."""
    return SIGMAS * math.sqrt(2 / num_effective)


def order_of(sizes: Sequence[float], errors: Sequence[float]) -> float:
    """The slope of a line through the logarithms: the order of errors that fall as a power of the size."""
    x, y = torch.log(torch.tensor(sizes)), torch.log(torch.tensor(errors))
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


def repeated(loss: Any, params: Any, draw_data: Callable, num: int = 50, function: Callable | None = None) -> Any:
    """Values of a loss (or another function of key and batch) on independent batches ``draw_data(key)``."""

    def one(key: Tensor) -> Any:
        key_data, key_loss = random.split(key)
        batch = draw_data(key_data)
        return loss(key_loss, params, batch)[0] if function is None else function(key_loss, batch)

    return vmap(one)(random.split(random.key(7), num))


def slopes_of(loss: Any, params: Any, draw_data: Callable, num: int = 50) -> Any:
    """The gradients of a loss on independent batches."""

    def slope(key: Tensor, batch: Any) -> Any:
        noise = loss.draw(key, batch)
        return torch.func.grad(loss.value, has_aux=True)(params, (), batch, noise)[0]

    return repeated(loss, params, draw_data, num, slope)
