r"""Shapes that are hard for samplers and known exactly: mixture, funnel, banana, ring.

Each carries ``params(...)``, ``log_normalizer(params)`` and ``sample(key, params, num)``, as in
:mod:`funcebm.energies.analytic`.
"""

from __future__ import annotations

import math
from typing import Sequence

import torch
from torch import Tensor

from .. import checks, random
from ..types import Key, Params, Position
from .closed_forms import (
    Number,
    at_least_two,
    cast_params,
    exact,
    fixed_shape,
    inverse_cdf,
    positive_scalar,
    safe_root,
    scalar,
    to_tensor,
)
from .quadratic import symmetric_factor

__all__ = ["banana", "funnel", "gaussian_mixture", "ring"]


def _mixture_params(
    means: Number = ((-2.0, 0.0), (2.0, 0.0)),
    scale: Number = 1.0,
    *,
    covariances: Number | None = None,
    weights: Number | None = None,
) -> Params:
    """The parameters of K Gaussians from means ``(K, *event)`` and one scale, or ``(K,)`` scales, or covariances.

    ``{"logits": (K,), "means": (K, *event), "factors": (K, D, D)}``; the precision of part k is ``factor @ factor.T``.
    """
    means = to_tensor(means)
    got = f"the shape {tuple(means.shape)}"
    checks.require(means.dim() >= 2, "means must be (K, *event)", got, "Give one row for each component.")
    num, size = means.shape[0], means[0].numel()
    if covariances is None:
        scale = to_tensor(scale, means)
        checks.positive("scale", scale)
        one_each = scale.shape in ((), (num,))
        checks.require(one_each, f"scale must be () or ({num},)", f"the shape {tuple(scale.shape)}", "Use covariances.")
        identity = torch.eye(size, dtype=means.dtype, device=means.device)
        factors = identity / scale.to(means).expand(num)[:, None, None]
    else:
        covariances = to_tensor(covariances, means)
        right = covariances.shape == (num, size, size)
        got = f"the shape {tuple(covariances.shape)}"
        checks.require(right, f"covariances must be ({num}, {size}, {size})", got, "One matrix for each component.")
        factors = torch.linalg.cholesky(torch.cholesky_inverse(symmetric_factor("covariances", covariances)))
    weights = torch.ones(num, dtype=means.dtype, device=means.device) if weights is None else to_tensor(weights, means)
    checks.require(
        weights.shape == (num,),
        f"weights must be ({num},)",
        f"{tuple(weights.shape)}",
        "Give one for each component.",
    )
    checks.positive("weights", weights)
    return {"logits": torch.log(weights / weights.sum()), "means": means, "factors": factors}


def _mixture_log_normalizer(params: Params, shape: Sequence[int] | None = None) -> Tensor:
    fixed_shape(params["means"].shape[1:], shape)
    return torch.logsumexp(params["logits"], 0)


def _mixture_sample(key: Key, params: Params, num: int, shape: Sequence[int] | None = None) -> Tensor:
    checks.positive_int("num", num)
    means, factors = params["means"], params["factors"]
    shape = fixed_shape(means.shape[1:], shape)
    key_component, key_noise = random.split(key)
    component = random.categorical(key_component, params["logits"], num)
    noise = random.normal(key_noise, (num, factors.shape[-1], 1), dtype=means.dtype).to(means.device)
    offset = torch.linalg.solve_triangular(factors.mT[component], noise, upper=True)
    return means[component] + offset.reshape(num, *shape)


@exact(_mixture_params, _mixture_log_normalizer, _mixture_sample)
def gaussian_mixture(params: Params, x: Position) -> Tensor:
    r"""A mixture of Gaussians, :math:`E(x) = -\log \sum_k w_k\, N(x; \mu_k, (L_k L_k^\top)^{-1})`, normalized parts.

    Args:
        params: ``{"logits": (K,), "means": (K, *event), "factors": (K, D, D)}``: :math:`\log w_k`, :math:`\mu_k` and
            lower triangular :math:`L_k`; ``gaussian_mixture.params(means, scale=1.0)`` makes it, also from
            ``covariances`` and ``weights``.
        x: ``(*event,)``.

    The weights are made to sum to one there, so the log normalizer is 0; free logits have their log-sum-exp.

    Returns:
        The energy. ``()``.

    >>> params = gaussian_mixture.params([[-2.0, 0.0], [2.0, 0.0]], scale=0.5)
    >>> gaussian_mixture.sample(random.key(0), params, 4).shape
    torch.Size([4, 2])
    """
    params = cast_params(params, x)
    factors = params["factors"]
    offset = (x - params["means"]).flatten(1)
    distance = (offset.unsqueeze(1) @ factors).square().sum((1, 2))
    log_det = torch.log(factors.diagonal(dim1=-2, dim2=-1).abs()).sum(-1)
    constant = 0.5 * offset.shape[-1] * math.log(2 * math.pi)
    return -torch.logsumexp(params["logits"] + log_det - 0.5 * distance - constant, 0)


def _funnel_params(scale: Number = 3.0) -> Params:
    """``{"scale": ()}``, the standard deviation of the neck."""
    return {"scale": positive_scalar("scale", scale)}


def _vector(name: str, shape: Sequence[int] | None) -> tuple[int, ...]:
    shape = (2,) if shape is None else tuple(shape)
    right = len(shape) == 1 and shape[0] >= 2
    checks.require(right, f"the shape of a {name} must be (D,) with D >= 2", shape, "Try (2,).")
    return shape


def _funnel_log_normalizer(params: Params, shape: Sequence[int] | None = None) -> Tensor:
    (size,) = _vector("funnel", shape)
    return 0.5 * size * math.log(2 * math.pi) + torch.log(params["scale"])


def _funnel_sample(key: Key, params: Params, num: int, shape: Sequence[int] | None = None) -> Tensor:
    checks.positive_int("num", num)
    scale = params["scale"]
    noise = random.normal(key, (num, *_vector("funnel", shape)), dtype=scale.dtype).to(scale.device)
    neck = scale * noise[:, :1]
    return torch.cat([neck, torch.exp(neck / 2) * noise[:, 1:]], 1)


@exact(_funnel_params, _funnel_log_normalizer, _funnel_sample)
def funnel(params: Params, x: Position) -> Tensor:
    r"""Neal's funnel: :math:`x_0 \sim N(0, s^2)`, and given it the others are :math:`N(0, e^{x_0})`.

    .. math:: E(x) = \frac{x_0^2}{2 s^2} + \frac{D - 1}{2} x_0 + \frac{e^{-x_0}}{2} \sum_{i \ge 1} x_i^2

    Args:
        params: ``{"scale": ()}``, :math:`s`; ``funnel.params(scale=3.0)`` makes it.
        x: ``(D,)``, with :math:`D \ge 2`.

    Returns:
        The energy. ``()``.

    Reference: Neal (2003), Annals of Statistics 31(3):705-767, section 8.

    >>> funnel(funnel.params(), torch.tensor([0.0, 1.0, 1.0]))
    tensor(1.)
    """
    at_least_two("funnel", x)
    neck, body = x[0], x[1:]
    spread = body.numel() * neck + torch.exp(-neck) * (body**2).sum()
    return 0.5 * ((neck / params["scale"].to(x.dtype)) ** 2 + spread)


def _banana_params(curvature: Number = 0.1, scale: Number = 10.0) -> Params:
    """``{"curvature": (), "scale": ()}``."""
    return {"curvature": scalar("curvature", curvature), "scale": positive_scalar("scale", scale)}


def _banana_log_normalizer(params: Params, shape: Sequence[int] | None = None) -> Tensor:
    (size,) = _vector("banana", shape)
    return 0.5 * size * math.log(2 * math.pi) + torch.log(params["scale"])


def _banana_sample(key: Key, params: Params, num: int, shape: Sequence[int] | None = None) -> Tensor:
    checks.positive_int("num", num)
    curvature, scale = params["curvature"], params["scale"]
    noise = random.normal(key, (num, *_vector("banana", shape)), dtype=scale.dtype).to(scale.device)
    first = scale * noise[:, :1]
    return torch.cat([first, noise[:, 1:2] + curvature * (first**2 - scale**2), noise[:, 2:]], 1)


@exact(_banana_params, _banana_log_normalizer, _banana_sample)
def banana(params: Params, x: Position) -> Tensor:
    r"""A Gaussian bent along a parabola, with mean zero and the volume kept.

    .. math:: E(x) = \frac{x_0^2}{2 s^2} + \tfrac12 \big(x_1 - c\,(x_0^2 - s^2)\big)^2 + \tfrac12 \sum_{i \ge 2} x_i^2

    Args:
        params: ``{"curvature": (), "scale": ()}``, :math:`c` and :math:`s`;
            ``banana.params(curvature=0.1, scale=10.0)`` makes it.
        x: ``(D,)``, with :math:`D \ge 2`.

    Returns:
        The energy. ``()``.

    Reference: Haario, Saksman and Tamminen (1999), Computational Statistics 14:375-395; their banana is ours with
    :math:`x_1` mirrored.

    >>> banana(banana.params(curvature=1.0, scale=1.0), torch.tensor([2.0, 3.0]))
    tensor(2.)
    """
    at_least_two("banana", x)
    params = cast_params(params, x)
    variance = params["scale"] ** 2
    bent = x[1] - params["curvature"] * (x[0] ** 2 - variance)
    return 0.5 * (x[0] ** 2 / variance + bent**2 + (x[2:] ** 2).sum())


def _ring_params(radius: Number = 2.0, width: Number = 0.2) -> Params:
    """``{"radius": (), "width": ()}``, both positive."""
    return {"radius": positive_scalar("radius", radius), "width": positive_scalar("width", width)}


def _ring_log_normalizer(params: Params, shape: Sequence[int] | None = None) -> Tensor:
    fixed_shape((2,), shape)
    radius, width = params["radius"], params["width"]
    ratio = radius / width
    inside = torch.exp(-(ratio**2) / 2) + ratio * math.sqrt(2 * math.pi) * torch.special.ndtr(ratio)
    return math.log(2 * math.pi) + 2 * torch.log(width) + torch.log(inside)


def _ring_sample(key: Key, params: Params, num: int, shape: Sequence[int] | None = None) -> Tensor:
    checks.positive_int("num", num)
    fixed_shape((2,), shape)
    key_radius, key_angle = random.split(key)
    center, width = params["radius"].double(), params["width"].double()
    low, high = (center - 11 * width).clamp(min=0), center + 11 * width
    distance = inverse_cdf(key_radius, lambda r: torch.log(r) - ((r - center) / width) ** 2 / 2, low, high, (num,))
    angle = random.uniform(key_angle, num, 0.0, 2 * math.pi, dtype=torch.float64).to(center.device)
    return (distance[:, None] * torch.stack([torch.cos(angle), torch.sin(angle)], 1)).to(params["radius"].dtype)


@exact(_ring_params, _ring_log_normalizer, _ring_sample)
def ring(params: Params, x: Position) -> Tensor:
    r"""A ring, or a shell, :math:`E(x) = (|x| - r)^2 / (2 w^2)`.

    Args:
        params: ``{"radius": (), "width": ()}``; ``ring.params(radius=2.0, width=0.2)`` makes it.
        x: ``(*event,)``; the norm is over all of it. The normalizer and the exact sampler are for ``(2,)``:
            :math:`Z = 2 \pi w^2 [e^{-q^2/2} + q \sqrt{2 \pi}\,\Phi(q)]` with :math:`q = r/w`.

    The gradient at the centre, where the energy has a cone, is taken as zero.

    Returns:
        The energy. ``()``.

    >>> ring(ring.params(radius=5.0, width=1.0), torch.tensor([3.0, 0.0]))
    tensor(2.)
    """
    params = cast_params(params, x)
    return 0.5 * ((safe_root((x**2).sum()) - params["radius"]) / params["width"]) ** 2
