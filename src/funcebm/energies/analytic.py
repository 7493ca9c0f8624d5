r"""Test functions of sampling and optimisation in closed form.

Each is a plain function ``(params, x) -> ()``, and carries ``params(...)`` (its parameters, checked, with defaults)
and, where they exist, ``log_normalizer(params)`` and the exact sampler ``sample(key, params, num)``. Sums run over all
axes of the event, so images work. The energy has the dtype of the position.
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
    analytic,
    at_least_two,
    cast_params,
    event_shape,
    exact,
    fixed_shape,
    inverse_cdf,
    log_integral,
    positive_scalar,
    safe_root,
    scalar,
)

__all__ = ["ackley", "double_well", "rastrigin", "rosenbrock"]


def _double_well_params(barrier_height: Number = 2.0, separation: Number = 1.0) -> Params:
    """``{"barrier_height": (), "separation": ()}``; the wells are at plus and minus ``separation``."""
    return {
        "barrier_height": positive_scalar("barrier_height", barrier_height),
        "separation": positive_scalar("separation", separation),
    }


def _double_well_log_density(params: Params, x: Tensor) -> Tensor:
    height, separation = params["barrier_height"].double(), params["separation"].double()
    return -height * (x**2 - separation**2) ** 2


def _double_well_edge(params: Params) -> Tensor:
    """Where the energy is 60: beyond it lies less than 1e-25 of the mass."""
    return torch.sqrt(params["separation"].double() ** 2 + torch.sqrt(60 / params["barrier_height"].double()))


def _double_well_log_normalizer(params: Params, shape: Sequence[int] | None = None) -> Tensor:
    count, edge = math.prod(event_shape(params, shape)), _double_well_edge(params)
    one = log_integral(lambda x: _double_well_log_density(params, x), -edge, edge)
    return (count * one).to(params["separation"].dtype)


def _double_well_sample(key: Key, params: Params, num: int, shape: Sequence[int] | None = None) -> Tensor:
    checks.positive_int("num", num)
    shape, edge = (num, *event_shape(params, shape)), _double_well_edge(params)
    drawn = inverse_cdf(key, lambda x: _double_well_log_density(params, x), -edge, edge, shape)
    return drawn.to(params["separation"].dtype)


@exact(_double_well_params, _double_well_log_normalizer, _double_well_sample)
def double_well(params: Params, x: Position) -> Tensor:
    r"""Two wells on every axis, :math:`E(x) = h \sum_i (x_i^2 - b^2)^2`: :math:`2^D` modes at :math:`\pm b`.

    Args:
        params: ``{"barrier_height": (), "separation": ()}``, :math:`h` and :math:`b`;
            ``double_well.params(barrier_height=2.0, separation=1.0)`` makes it. The barrier is :math:`h b^4` high.
        x: ``(*event,)``.

    The coordinates are independent: the normalizer is a power of a one-dimensional integral, which the trapezoid rule
    gives to rounding, and exact draws are by inversion.

    Returns:
        The energy. ``()``.

    >>> double_well(double_well.params(), torch.tensor([1.0, 0.0]))
    tensor(2.)
    """
    params = cast_params(params, x)
    return (params["barrier_height"] * (x**2 - params["separation"] ** 2) ** 2).sum()


def _rosenbrock_params(a: Number = 1.0, b: Number = 100.0) -> Params:
    """``{"a": (), "b": ()}``, with ``b`` positive."""
    return {"a": scalar("a", a), "b": positive_scalar("b", b)}


def _rosenbrock_log_normalizer(params: Params, shape: Sequence[int] | None = None) -> Tensor:
    fixed_shape((2,), shape)
    return math.log(math.pi) - torch.log(params["b"]) / 2


def _rosenbrock_sample(key: Key, params: Params, num: int, shape: Sequence[int] | None = None) -> Tensor:
    checks.positive_int("num", num)
    fixed_shape((2,), shape)
    a, b = params["a"], params["b"]
    noise = random.normal(key, (2, num), dtype=a.dtype).to(a.device)
    first = a + noise[0] * math.sqrt(0.5)
    return torch.stack([first, first**2 + noise[1] * torch.rsqrt(2 * b)], -1)


@exact(_rosenbrock_params, _rosenbrock_log_normalizer, _rosenbrock_sample)
def rosenbrock(params: Params, x: Position) -> Tensor:
    r"""The curved valley, :math:`E(x) = \sum_{i<n} b\,(x_{i+1} - x_i^2)^2 + (a - x_i)^2`, over the last axis.

    Args:
        params: ``{"a": (), "b": ()}``; ``rosenbrock.params(a=1.0, b=100.0)`` makes it.
        x: ``(..., n)`` with ``n >= 2``. The normalizer and the exact sampler are for ``n = 2``.

    Returns:
        The energy. ``()``.

    Raises:
        ValueError: for an event of fewer than two coordinates.

    >>> rosenbrock(rosenbrock.params(), torch.ones(5))
    tensor(0.)
    """
    at_least_two("rosenbrock", x)
    params = cast_params(params, x)
    here, there = x[..., :-1], x[..., 1:]
    return (params["b"] * (there - here**2) ** 2 + (params["a"] - here) ** 2).sum()


def _ackley_params(a: Number = 20.0, b: Number = 0.2, c: Number = 2 * math.pi) -> Params:
    """``{"a": (), "b": (), "c": ()}``."""
    return {"a": scalar("a", a), "b": scalar("b", b), "c": scalar("c", c)}


@analytic(_ackley_params)
def ackley(params: Params, x: Position) -> Tensor:
    r"""A funnel with ripples, :math:`E = -a e^{-b \sqrt{\overline{x^2}}} - e^{\overline{\cos(c x)}} + a + e`.

    Args:
        params: ``{"a": (), "b": (), "c": ()}``; ``ackley.params(a=20.0, b=0.2, c=2 * math.pi)`` makes it.
        x: ``(*event,)``; the bars are means over all of it.

    The minimum is 0, at the origin, where the energy has a cone: its gradient there is taken as zero. The energy is
    bounded, so the density has no normalizer on all of space.

    Returns:
        The energy. ``()``.

    >>> abs(float(ackley(ackley.params(), torch.zeros(3)))) < 1e-5
    True
    """
    params = cast_params(params, x)
    a, b, c = params["a"], params["b"], params["c"]
    return -a * torch.exp(-b * safe_root((x**2).mean())) - torch.exp(torch.cos(c * x).mean()) + a + math.e


def _rastrigin_params(a: Number = 10.0) -> Params:
    """``{"a": ()}``, not negative."""
    a = scalar("a", a)
    right = not checks.is_concrete(a) or bool(a >= 0)
    checks.require(right, "a must not be negative", str(a.tolist()) if checks.is_concrete(a) else "", "Try 10.0.")
    return {"a": a}


def _rastrigin_log_normalizer(params: Params, shape: Sequence[int] | None = None) -> Tensor:
    a, decay = params["a"], math.exp(-(math.pi**2))
    ripples = torch.special.i0e(a) + 2 * decay * torch.special.i1e(a)
    return math.prod(event_shape(params, shape)) * (math.log(math.pi) / 2 + torch.log(ripples))


def _rastrigin_sample(key: Key, params: Params, num: int, shape: Sequence[int] | None = None) -> Tensor:
    checks.positive_int("num", num)
    a = params["a"].double()
    edge, full = a.new_full((), 8.0), (num, *event_shape(params, shape))
    drawn = inverse_cdf(key, lambda x: a * (torch.cos(2 * math.pi * x) - 1) - x**2, -edge, edge, full)
    return drawn.to(params["a"].dtype)


@exact(_rastrigin_params, _rastrigin_log_normalizer, _rastrigin_sample)
def rastrigin(params: Params, x: Position) -> Tensor:
    r"""A bowl with ripples, :math:`E(x) = \sum_i x_i^2 + a\,(1 - \cos 2 \pi x_i)`.

    Args:
        params: ``{"a": ()}``; ``rastrigin.params(a=10.0)`` makes it.
        x: ``(*event,)``.

    Each axis has :math:`Z_1 = \sqrt\pi\, e^{-a} \sum_k I_k(a)\, e^{-\pi^2 k^2}`; terms from :math:`|k| = 2` on are
    below rounding.

    Returns:
        The energy. ``()``.

    >>> rastrigin(rastrigin.params(), torch.zeros(4))
    tensor(0.)
    """
    a = params["a"].to(x.dtype)
    return (x**2 + a * (1 - torch.cos(2 * math.pi * x))).sum()
