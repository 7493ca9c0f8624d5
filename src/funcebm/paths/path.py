r"""Probability paths: :math:`x_t = \alpha_t x_1 + \sigma_t x_0 + \gamma_t z` from noise at t = 0 to data at t = 1."""

from __future__ import annotations

from typing import Callable, NamedTuple

import torch
from torch import Tensor
from torch.func import jvp

from .. import checks, tree
from ..types import Params, Position, Schedule, Tree

__all__ = [
    "Coefficients",
    "Field",
    "Path",
    "PathSample",
    "TimeEnergy",
    "at",
    "at_time",
    "has_latent",
    "path",
    "sample_path",
    "static",
    "time_of",
]

Field = Callable[..., Position]
"""A vector field ``(params, t, x) -> like x`` of one particle; ``t`` is ``()``. More arguments are conditions."""

TimeEnergy = Callable[..., Tensor]
"""An energy at a time, ``(params, t, x) -> ()``. More arguments are conditions."""


class Path(NamedTuple):
    r"""How noise :math:`x_0` and data :math:`x_1` are mixed, as pure functions of the time; all act on any shape of ``t``.

    Attributes:
        alpha: :math:`\alpha_t`, the share of the data, from 0 (or little) to 1.
        sigma: :math:`\sigma_t`, the share of the noise, from 1 to 0 (or little).
        sigma_squared: :math:`\sigma_t^2`, whose derivative is finite where that of :math:`\sigma_t` is not.
        gamma_squared: :math:`\gamma_t^2`, of further noise :math:`z`; 0 in most paths.
        wronskian: :math:`\dot\alpha_t \sigma_t - \alpha_t \dot\sigma_t > 0` in a stable form; None: by differentiation.
        inverse_log_snr: the time at which :math:`\log(\alpha_t/\sigma_t)` has a value; None: by bisection.
    """

    alpha: Schedule
    sigma: Schedule
    sigma_squared: Schedule
    gamma_squared: Schedule | None = None
    wronskian: Schedule | None = None
    inverse_log_snr: Schedule | None = None


class Coefficients(NamedTuple):
    r"""A path at a time; every entry has the shape of ``t``, a dot is :math:`d/dt`.

    Attributes:
        alpha: :math:`\alpha_t`.
        sigma: :math:`\sigma_t`.
        gamma: :math:`\gamma_t`.
        d_alpha: :math:`\dot\alpha_t`.
        d_sigma: :math:`\dot\sigma_t`; infinite at the end of some paths.
        gamma_d_gamma: :math:`\gamma_t \dot\gamma_t`, finite where :math:`\dot\gamma_t` is not.
        wronskian: :math:`\dot\alpha_t \sigma_t - \alpha_t \dot\sigma_t`.
        log_snr: :math:`\lambda_t = \log(\alpha_t / \sigma_t)`, half the logarithm of the signal-to-noise ratio.
        sigma_d_sigma: :math:`\sigma_t \dot\sigma_t`, finite where :math:`\dot\sigma_t` is not.
        sigma_wronskian: :math:`\sigma_t (\dot\alpha_t \sigma_t - \alpha_t \dot\sigma_t)`, finite likewise.
    """

    alpha: Tensor
    sigma: Tensor
    gamma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor
    gamma_d_gamma: Tensor
    wronskian: Tensor
    log_snr: Tensor
    sigma_d_sigma: Tensor
    sigma_wronskian: Tensor


class PathSample(NamedTuple):
    """A point of a path and its conditional velocity, each like the data."""

    position: Position
    velocity: Position


def path(
    alpha: Schedule,
    sigma: Schedule,
    *,
    sigma_squared: Schedule | None = None,
    gamma_squared: Schedule | None = None,
    wronskian: Schedule | None = None,
    inverse_log_snr: Schedule | None = None,
) -> Path:
    r"""A path of your own, from functions of the time; derivatives are taken by ``torch.func.jvp``.

    Args:
        alpha: :math:`\alpha_t`, elementwise on any shape of ``t``, differentiable in [0, 1].
        sigma: :math:`\sigma_t`, likewise.
        sigma_squared: by default :math:`\sigma_t^2`; give it where :math:`\sigma_t` is a square root that reaches 0.
        gamma_squared: :math:`\gamma_t^2`; None for no further noise.
        wronskian: :math:`\dot\alpha\sigma - \alpha\dot\sigma`; by default from the derivatives.
        inverse_log_snr: by default by bisection.

    Returns:
        A :class:`Path`.

    Raises:
        TypeError: alpha or sigma that are no functions.

    >>> cubic = path(lambda t: t**3, lambda t: 1 - t)
    >>> at(cubic, torch.tensor(0.5)).d_alpha
    tensor(0.7500)
    """
    for name, function in (("alpha", alpha), ("sigma", sigma)):
        checks.require(
            callable(function), f"{name} must be a function of t", function, "Write lambda t: 1 - t, say.", TypeError
        )
    squared = (lambda t: sigma(t) ** 2) if sigma_squared is None else sigma_squared
    return Path(alpha, sigma, squared, gamma_squared, wronskian, inverse_log_snr)


def has_latent(path: Path) -> bool:
    """Whether a path has further noise :math:`\\gamma_t z`.

    Raises:
        TypeError: what is not a :class:`Path`.

    >>> from funcebm import paths
    >>> has_latent(paths.linear()), has_latent(paths.brownian_bridge(1.0))
    (False, True)
    """
    checks.require(isinstance(path, Path), "path must be a path", path, "Write paths.linear(), say.", TypeError)
    return path.gamma_squared is not None


def at(path: Path, t: Tensor) -> Coefficients:
    r"""The coefficients of a path at a time, with their derivatives.

    Args:
        path: any.
        t: in [0, 1]. Any shape; a number will do.

    Returns:
        :class:`Coefficients` of that shape. Finite at both ends, but for what is infinite there: ``log_snr`` where a share
        is zero, and ``d_sigma`` and ``wronskian`` at the end of the variance preserving paths.

    >>> from funcebm import paths
    >>> coefficients = at(paths.linear(), torch.tensor(0.25))
    >>> coefficients.alpha, coefficients.d_sigma, coefficients.wronskian
    (tensor(0.2500), tensor(-1.), tensor(1.))
    """

    has_latent(path)
    t = _as_time(t)

    def shares(t: Tensor) -> tuple[Tensor, ...]:
        zero = torch.zeros_like(t)
        gamma_squared = zero if path.gamma_squared is None else path.gamma_squared(t)
        values = (path.alpha(t), path.sigma(t), path.sigma_squared(t), gamma_squared)
        return tuple(zero + value for value in values)

    values, slopes = jvp(shares, (t,), (torch.ones_like(t),))[:2]
    alpha, sigma, sigma_squared, gamma_squared = values
    # torch's derivative of a float32 scalar times a Python number has float64
    d_alpha, d_sigma, d_sigma_squared, d_gamma_squared = (slope.to(t.dtype) for slope in slopes)
    wronskian = d_alpha * sigma - alpha * d_sigma if path.wronskian is None else path.wronskian(t)
    sigma_d_sigma = d_sigma_squared / 2
    return Coefficients(
        alpha,
        sigma,
        gamma_squared.clamp(min=0).sqrt(),
        d_alpha,
        d_sigma,
        d_gamma_squared / 2,
        torch.zeros_like(t) + wronskian,
        torch.log(alpha) - torch.log(sigma),
        sigma_d_sigma,
        d_alpha * sigma_squared - alpha * sigma_d_sigma,
    )


def _as_time(t: float | Tensor) -> Tensor:
    """A time as a floating-point tensor."""
    fix = "Write torch.tensor(0.5), say."
    is_number = isinstance(t, Tensor) or (hasattr(t, "__float__") and not hasattr(t, "__len__"))
    checks.require(is_number, "a time must be a number or a tensor", t, fix, TypeError)
    time = torch.as_tensor(t)
    return time if time.is_floating_point() else time.to(torch.get_default_dtype())


def time_of(path: Path, log_snr: Tensor, num_bisections: int = 60) -> Tensor:
    r"""The time at which :math:`\log(\alpha_t/\sigma_t)` has a given value, in [0, 1].

    Args:
        path: with :math:`\alpha_t/\sigma_t` increasing.
        log_snr: :math:`\lambda`. Any shape.
        num_bisections: where the path has no closed form.

    Returns:
        Like ``log_snr``; 0 or 1 where the path does not reach it.

    >>> from funcebm import paths
    >>> time_of(paths.linear(), torch.tensor([-torch.inf, 0.0, torch.inf]))
    tensor([0.0000, 0.5000, 1.0000])
    """
    has_latent(path)
    if path.inverse_log_snr is not None:
        return path.inverse_log_snr(log_snr).clamp(0, 1)
    low, high = torch.zeros_like(log_snr), torch.ones_like(log_snr)
    for _ in range(num_bisections):
        middle = (low + high) / 2
        is_below = torch.log(path.alpha(middle)) - torch.log(path.sigma(middle)) < log_snr
        low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
    return (low + high) / 2


def sample_path(path: Path, t: Tensor, x0: Position, x1: Position, z: Tree = ()) -> PathSample:
    r"""A point between noise and data, and how it moves: what a flow is trained on, without a model.

    .. math:: x_t = \alpha_t x_1 + \sigma_t x_0 + \gamma_t z, \qquad
        u = \dot\alpha_t x_1 + \dot\sigma_t x_0 + \dot\gamma_t z.

    Args:
        path: any.
        t: ``()``.
        x0: noise, or whatever a coupling gives. A tensor or a tree.
        x1: data, like ``x0``.
        z: standard normals like ``x0``, where the path has a :math:`\gamma_t`; else ``()``.

    Returns:
        :class:`PathSample`. Where :math:`\gamma_t = 0` but its derivative is not, as at the ends of a Brownian bridge, the
        velocity is infinite: keep t inside.

    Raises:
        ValueError: ends, or ``z``, that are not alike; a path with :math:`\gamma_t` without ``z``.

    >>> from funcebm import paths
    >>> sample_path(paths.linear(), torch.tensor(0.25), torch.tensor([0.0]), torch.tensor([4.0]))
    PathSample(position=tensor([1.]), velocity=tensor([4.]))
    """
    fix = "Draw noise with funcebm.tree.normal_like(key, data), say."
    checks.one_structure("x0", x0, "x1", x1)
    checks.same_shapes("x0", x0, x1, fix)
    c = at(path, torch.as_tensor(t).to(tree.first(x1)))
    position = tree.map(lambda a, b: c.alpha * b + c.sigma * a, x0, x1)
    velocity = tree.map(lambda a, b: c.d_alpha * b + c.d_sigma * a, x0, x1)
    if has_latent(path):
        checks.require(bool(tree.leaves(z)), "a path with further noise needs z, normals like x0", "()", fix)
        checks.one_structure("z", z, "x1", x1)
        checks.same_shapes("z", z, x1, fix)
        position = tree.add_scaled(position, c.gamma, z)
        velocity = tree.add_scaled(velocity, c.gamma_d_gamma / c.gamma, z)
    return PathSample(position, velocity)


def at_time(function: Callable[..., Tree], t: float | Tensor) -> Callable[..., Tree]:
    """A field or an energy at one time: ``(params, t, x)`` to ``(params, x)``.

    Args:
        function: ``(params, t, x, ...)``.
        t: ``()``; may be traced.

    Returns:
        ``(params, x, ...)`` to what the function gives.

    >>> at_time(lambda params, t, x: t * x, 0.5)((), torch.ones(2))
    tensor([0.5000, 0.5000])
    """

    def fixed(params: Params, x: Position, *condition: Tree) -> Tree:
        like = tree.first(x)
        return function(params, torch.as_tensor(t, dtype=like.dtype, device=like.device), x, *condition)

    return fixed


def static(function: Callable[..., Tree]) -> Callable[..., Tree]:
    """A field or an energy that does not know the time, as one that does: ``(params, x)`` to ``(params, t, x)``.

    Args:
        function: ``(params, x, ...)``.

    Returns:
        ``(params, t, x, ...)`` to what the function gives.

    >>> static(lambda params, x: -x)((), torch.tensor(0.5), torch.ones(2))
    tensor([-1., -1.])
    """
    return lambda params, t, x, *condition: function(params, x, *condition)
