"""Quadratic energies: a Gaussian with any precision matrix, and one with a diagonal."""

from __future__ import annotations

import math
from typing import Sequence

import torch
from torch import Tensor

from .. import checks, random
from ..types import Key, Params, Position
from .closed_forms import Number, cast_params, event_shape, exact, fixed_shape, to_tensor

__all__ = ["gaussian", "harmonic", "symmetric_factor"]


def symmetric_factor(name: str, matrix: Tensor) -> Tensor:
    """The lower Cholesky factor of a symmetric positive definite matrix, or an error."""
    if checks.is_concrete(matrix):
        finite = bool(torch.isfinite(matrix).all())
        checks.require(finite, f"{name} must be finite", str(matrix.tolist()), "Look for NaN and infinity in it.")
        symmetric = torch.allclose(matrix, matrix.mT, rtol=1e-4, atol=1e-6 * float(matrix.abs().max()))
        checks.require(symmetric, f"{name} must be symmetric", str(matrix.tolist()), "Use (A + A.T) / 2.")
    factor, info = torch.linalg.cholesky_ex(matrix)
    if checks.is_concrete(info):
        definite = bool((info == 0).all())
        checks.require(definite, f"{name} must be positive definite", str(matrix.tolist()), "Add a positive diagonal.")
    return factor


def _square(name: str, matrix: Number, mean: Tensor) -> Tensor:
    matrix = to_tensor(matrix, mean)
    size = mean.numel()
    got = f"the shape {tuple(matrix.shape)} for a mean of shape {tuple(mean.shape)}"
    checks.require(matrix.shape == (size, size), f"{name} must be ({size}, {size})", got, "One row for each number.")
    return matrix


def _gaussian_params(
    mean: Number = (0.0, 0.0), covariance: Number | None = None, *, precision: Number | None = None
) -> Params:
    """``{"mean": (*event,), "precision": (D, D)}`` from a mean and a covariance or a precision."""
    mean = to_tensor(mean)
    one = covariance is None or precision is None
    checks.require(one, "covariance and precision exclude each other", "both", "Give one of them.")
    if precision is not None:
        precision = _square("precision", precision, mean)
        symmetric_factor("precision", precision)
    elif covariance is not None:
        precision = torch.cholesky_inverse(symmetric_factor("covariance", _square("covariance", covariance, mean)))
    else:
        precision = torch.eye(mean.numel(), dtype=mean.dtype, device=mean.device)
    return {"mean": mean, "precision": precision}


def _gaussian_log_normalizer(params: Params, shape: Sequence[int] | None = None) -> Tensor:
    fixed_shape(params["mean"].shape, shape)
    log_det = torch.linalg.slogdet(params["precision"]).logabsdet
    return (params["mean"].numel() * math.log(2 * math.pi) - log_det) / 2


def _gaussian_sample(key: Key, params: Params, num: int, shape: Sequence[int] | None = None) -> Tensor:
    checks.positive_int("num", num)
    mean, precision = params["mean"], params["precision"]
    shape = fixed_shape(mean.shape, shape)
    noise = random.normal(key, (num, mean.numel()), dtype=mean.dtype).to(mean.device)
    factor = torch.linalg.cholesky(precision)
    return mean + torch.linalg.solve_triangular(factor, noise, upper=False, left=False).reshape(num, *shape)


@exact(_gaussian_params, _gaussian_log_normalizer, _gaussian_sample)
def gaussian(params: Params, x: Position) -> Tensor:
    r"""A Gaussian, :math:`E(x) = \tfrac12 (x - \mu)^\top P\,(x - \mu)`, without its normalizer.

    Args:
        params: ``{"mean": (*event,), "precision": (D, D)}`` with D numbers in the event;
            ``gaussian.params(mean, covariance)`` or ``gaussian.params(mean, precision=precision)`` makes it.
        x: ``(*event,)``.

    Returns:
        ``()``.

    >>> params = gaussian.params([0.0, 1.0], [[1.0, 0.8], [0.8, 1.0]])
    >>> gaussian(params, torch.tensor([0.0, 1.0]))
    tensor(0.)
    >>> gaussian.sample(random.key(0), params, 3).shape
    torch.Size([3, 2])
    """
    params = cast_params(params, x)
    offset = (x - params["mean"]).reshape(-1)
    return 0.5 * (offset * torch.nn.functional.linear(offset, params["precision"])).sum()


def _harmonic_params(stiffness: Number = 1.0) -> Params:
    """``{"stiffness": () or (*event,)}``, positive."""
    stiffness = to_tensor(stiffness)
    checks.positive("stiffness", stiffness)
    return {"stiffness": stiffness}


def _harmonic_log_normalizer(params: Params, shape: Sequence[int] | None = None) -> Tensor:
    stiffness = params["stiffness"].expand(event_shape(params, shape))
    return 0.5 * (math.log(2 * math.pi) - torch.log(stiffness)).sum()


def _harmonic_sample(key: Key, params: Params, num: int, shape: Sequence[int] | None = None) -> Tensor:
    checks.positive_int("num", num)
    stiffness = params["stiffness"]
    noise = random.normal(key, (num, *event_shape(params, shape)), dtype=stiffness.dtype)
    return noise.to(stiffness.device) * torch.rsqrt(stiffness)


@exact(_harmonic_params, _harmonic_log_normalizer, _harmonic_sample)
def harmonic(params: Params, x: Position) -> Tensor:
    r"""Springs to the origin, :math:`E(x) = \tfrac12 \sum_i k_i x_i^2`: a Gaussian with a diagonal precision.

    Args:
        params: ``{"stiffness": () or (*event,)}``; ``harmonic.params(stiffness=1.0)`` makes it.
        x: ``(*event,)``.

    Returns:
        The energy. ``()``.

    >>> harmonic(harmonic.params(2.0), torch.tensor([1.0, 2.0]))
    tensor(5.)
    """
    return 0.5 * (params["stiffness"].to(x.dtype) * x**2).sum()
