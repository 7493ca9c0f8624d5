"""Bijections of vectors: simplex, ordered, zero-sum, unit vector."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import checks
from .bijection import Bijection, floating, within

__all__ = ["ordered", "simplex", "unit_vector", "zero_sum"]

_FIX = "Give one vector for one particle; funcebm adds the axis of chains."


def check_vector(name: str, sizes: str, value: Tensor, least: int) -> None:
    """``value`` must be a vector of at least ``least`` numbers."""
    right = isinstance(value, Tensor) and value.ndim == 1 and len(value) >= least
    got = f"the shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    must = f"{name} maps {sizes}: a vector of {least} or more"
    checks.require(right, must, got, _FIX)
    floating(value)


def _tolerance(value: Tensor) -> float:
    return torch.finfo(value.dtype).eps ** 0.5


# -- ordered ------------------------------------------------------------------------------------------------------


def _to_ordered(y: Tensor) -> tuple[Tensor, Tensor]:
    check_vector("ordered", "K numbers to K", y, 1)
    return torch.cat([y[:1], torch.exp(y[1:])]).cumsum(0), y[1:].sum()


def _from_ordered(x: Tensor) -> Tensor:
    check_vector("ordered", "K numbers to K", x, 1)
    gaps = x[1:] - x[:-1]
    return within(
        (gaps > 0).all(), torch.cat([x[:1], gaps.log()]), "x must be increasing", x, "Sort it: x.sort().values."
    )


ordered = Bijection(_to_ordered, _from_ordered)
r"""Increasing vectors, K numbers to K: :math:`x_1 = y_1`, :math:`x_k = x_{k-1} + e^{y_k}`."""


# -- zero sum -----------------------------------------------------------------------------------------------------


def _norms(num: int, like: Tensor) -> tuple[Tensor, Tensor]:
    index = torch.arange(1, num + 1, device=like.device).to(like)
    return index, torch.sqrt(index * (index + 1))


def _to_zero_sum(y: Tensor) -> tuple[Tensor, Tensor]:
    check_vector("zero_sum", "K - 1 numbers to K", y, 1)
    index, norm = _norms(len(y), y)
    scaled = y / norm
    above = scaled.flip(0).cumsum(0).flip(0)
    zero = y.new_zeros(1)
    return torch.cat([above, zero]) - torch.cat([zero, index * scaled]), y.new_zeros(())


def _from_zero_sum(x: Tensor) -> Tensor:
    check_vector("zero_sum", "K - 1 numbers to K", x, 2)
    index, norm = _norms(len(x) - 1, x)
    y = (x[:-1].cumsum(0) - index * x[1:]) / norm
    is_inside = x.sum().abs() <= _tolerance(x) * (1 + x.abs().sum())
    return within(is_inside, y, "x must sum to zero", x, "Subtract the mean: x - x.mean().")


zero_sum = Bijection(_to_zero_sum, _from_zero_sum)
r"""Vectors that sum to zero, K - 1 numbers to K: an isometry, :math:`x = V y` with orthonormal columns of Helmert's basis
:math:`(1, \dots, 1, -k, 0, \dots, 0) / \sqrt{k (k + 1)}`. Independent normal ``y`` give exchangeable ``x``."""


# -- simplex ------------------------------------------------------------------------------------------------------


def _to_simplex(y: Tensor) -> tuple[Tensor, Tensor]:
    check_vector("simplex", "K - 1 numbers to K", y, 1)
    log_x = torch.log_softmax(_to_zero_sum(y)[0], 0)
    return log_x.exp().clamp(min=torch.finfo(y.dtype).tiny), log_x.sum() + 0.5 * math.log(len(y) + 1)


def _from_simplex(x: Tensor) -> Tensor:
    check_vector("simplex", "K - 1 numbers to K", x, 2)
    logits = x.log()
    is_inside = ((x.sum() - 1).abs() <= _tolerance(x)) & (x > 0).all()
    y = _from_zero_sum(torch.where(is_inside, logits - logits.mean(), 0))
    return within(is_inside, y, "x must be positive and sum to one", x, "Divide by the sum: x / x.sum().")


simplex = Bijection(_to_simplex, _from_simplex)
r"""Probabilities, K - 1 numbers to K: the isometric log-ratio, :math:`x = \operatorname{softmax}(V y)` with :math:`V` of
:data:`zero_sum`. The log determinant is over the first K - 1 of them: :math:`\sum_k \log x_k + \frac12 \log K`.

Reference: Egozcue et al. (2003), Mathematical Geology 35(3):279-300."""


# -- unit vector --------------------------------------------------------------------------------------------------


def _to_unit_vector(y: Tensor) -> tuple[Tensor, Tensor]:
    check_vector("unit_vector", "K numbers to K", y, 2)
    half = len(y) / 2
    log_area = math.log(2) + half * math.log(math.pi) - math.lgamma(half)
    squared = (y**2).sum()
    return y / squared.sqrt(), -squared / 2 + log_area - half * math.log(2 * math.pi)


def _from_unit_vector(x: Tensor) -> Tensor:
    check_vector("unit_vector", "K numbers to K", x, 2)
    is_inside = ((x**2).sum() - 1).abs() <= 2 * _tolerance(x)
    return within(is_inside, x * math.sqrt(len(x) - 0.5), "x must have the length one", x, "Divide by x.norm().")


unit_vector = Bijection(_to_unit_vector, _from_unit_vector)
r"""Vectors of length one, K numbers to K: :math:`x = y / |y|`, where the length of ``y`` is an extra coordinate, that of a
standard normal vector and independent of ``x``. So it is no bijection in the strict sense: ``forward(inverse(x))`` is ``x``,
``inverse(forward(y))`` has a length of its own. The log determinant is the log density of that length, for which the
distribution of ``x`` is that of the energy over the surface of the sphere, with its normalizer."""
