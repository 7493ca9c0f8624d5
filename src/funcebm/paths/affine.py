r"""The paths of the literature, :math:`x_t = \alpha_t x_1 + \sigma_t x_0`, from noise at t = 0 to data at t = 1."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import checks
from .path import Path, path

__all__ = [
    "linear",
    "linear_variance_preserving",
    "lipman",
    "polynomial",
    "sub_variance_preserving",
    "trigonometric",
    "variance_exploding",
    "variance_preserving",
]


def linear() -> Path:
    r"""Straight lines at constant speed: :math:`\alpha_t = t`, :math:`\sigma_t = 1 - t`.

    The path of rectified flow and of conditional optimal transport. Exact at both ends; the velocity
    :math:`x_1 - x_0` is bounded.

    Returns:
        A :class:`~funcebm.paths.Path`.

    Reference: Liu, Gong and Liu (2023), ICLR, arXiv:2209.03003; Lipman et al. (2023), ICLR, arXiv:2210.02747.

    >>> linear().sigma(torch.tensor(0.25))
    tensor(0.7500)
    """
    return path(lambda t: t, lambda t: 1 - t, wronskian=torch.ones_like, inverse_log_snr=torch.sigmoid)


def trigonometric() -> Path:
    r"""A quarter of a circle: :math:`\alpha_t = \sin(\pi t/2)`, :math:`\sigma_t = \cos(\pi t/2)`.

    Keeps the variance of data of unit variance, at constant speed, exact at both ends; also called cosine or GVP.

    Returns:
        A :class:`~funcebm.paths.Path`.

    Reference: Albergo and Vanden-Eijnden (2023), ICLR, arXiv:2209.15571.

    >>> trigonometric().alpha(torch.tensor(1.0))
    tensor(1.)
    """
    quarter = math.pi / 2
    return path(
        lambda t: torch.sin(quarter * t),
        lambda t: torch.sin(quarter * (1 - t)),  # exactly 0 at t = 1
        wronskian=lambda t: torch.full_like(t, quarter),
        inverse_log_snr=lambda log_snr: torch.atan(torch.exp(log_snr)) / quarter,
    )


def _beta_integral(beta_min: float | Tensor, beta_max: float | Tensor, t: Tensor) -> Tensor:
    """The noise that is yet to be taken away, the integral of beta from t to 1."""
    left = 1 - t
    return left * (beta_min + (beta_max - beta_min) * left / 2)


def _one_minus_exp(integral: Tensor) -> Tensor:
    """``1 - exp(-integral)``, with full precision near 0, where it is +0 and never -0."""
    return 2 * torch.exp(-integral / 2) * torch.sinh(integral / 2)


def _time_of_integral(beta_min: float | Tensor, beta_max: float | Tensor, integral: Tensor) -> Tensor:
    """The inverse of :func:`_beta_integral`."""
    root = torch.sqrt(beta_min**2 + 2 * (beta_max - beta_min) * integral)
    return torch.where(torch.isinf(integral), torch.zeros_like(integral), 1 - 2 * integral / (root + beta_min))


def _check_betas(beta_min: float | Tensor, beta_max: float | Tensor) -> None:
    checks.positive("beta_min", beta_min, "Try 0.1.")
    checks.positive("beta_max", beta_max, "Try 20.")


def variance_preserving(beta_min: float | Tensor = 0.1, beta_max: float | Tensor = 20.0) -> Path:
    r"""The path of DDPM in continuous time, with noise at the rate :math:`\beta(t) = b + (B - b)(1 - t)`.

    .. math:: \alpha_t = e^{-I/2}, \quad \sigma_t = \sqrt{1 - e^{-I}}, \quad I = b(1 - t) + (B - b)(1 - t)^2/2.

    At t = 0 some data are left (:math:`\alpha_0 = 0.0066` with the defaults), and at t = 1 the slope of :math:`\sigma_t`
    is infinite, as is the conditional velocity there.

    Args:
        beta_min: :math:`b > 0`, the rate at the data. ``()``.
        beta_max: :math:`B > 0`, the rate at the noise. ``()``.

    Returns:
        A :class:`~funcebm.paths.Path`.

    Raises:
        ValueError: rates that are not positive.

    Reference: Song et al. (2021), ICLR, arXiv:2011.13456, equation 33, with their time run backwards.

    >>> variance_preserving().alpha(torch.tensor([0.0, 1.0]))
    tensor([0.0066, 1.0000])
    """
    _check_betas(beta_min, beta_max)

    def wronskian(t: Tensor) -> Tensor:
        integral = _beta_integral(beta_min, beta_max, t)
        beta = beta_min + (beta_max - beta_min) * (1 - t)
        return beta * torch.exp(-integral / 2) / (2 * torch.sqrt(_one_minus_exp(integral)))

    return path(
        lambda t: torch.exp(-_beta_integral(beta_min, beta_max, t) / 2),
        lambda t: torch.sqrt(_one_minus_exp(_beta_integral(beta_min, beta_max, t))),
        sigma_squared=lambda t: _one_minus_exp(_beta_integral(beta_min, beta_max, t)),
        wronskian=wronskian,
        inverse_log_snr=lambda log_snr: _time_of_integral(
            beta_min, beta_max, torch.logaddexp(torch.zeros_like(log_snr), -2 * log_snr)
        ),
    )


def linear_variance_preserving() -> Path:
    r""":math:`\alpha_t = t`, :math:`\sigma_t = \sqrt{1 - t^2}`: keeps unit variance, and the share of the data grows evenly.

    The slope of :math:`\sigma_t` is infinite at t = 1.

    Returns:
        A :class:`~funcebm.paths.Path`.

    >>> linear_variance_preserving().sigma(torch.tensor(0.6))
    tensor(0.8000)
    """
    return path(
        lambda t: t,
        lambda t: torch.sqrt((1 - t) * (1 + t)),
        sigma_squared=lambda t: (1 - t) * (1 + t),
        wronskian=lambda t: torch.rsqrt((1 - t) * (1 + t)),
        inverse_log_snr=lambda log_snr: torch.sqrt(torch.sigmoid(2 * log_snr)),
    )


def sub_variance_preserving(beta_min: float | Tensor = 0.1, beta_max: float | Tensor = 20.0) -> Path:
    r"""As :func:`variance_preserving` with less noise: :math:`\sigma_t = 1 - e^{-I}`, so all slopes are finite.

    Args:
        beta_min: :math:`b > 0`, the rate at the data. ``()``.
        beta_max: :math:`B > 0`, the rate at the noise. ``()``.

    Returns:
        A :class:`~funcebm.paths.Path`.

    Raises:
        ValueError: rates that are not positive.

    Reference: Song et al. (2021), ICLR, arXiv:2011.13456, equation 29.

    >>> sub_variance_preserving().sigma(torch.tensor([0.0, 1.0]))
    tensor([1.0000, 0.0000])
    """
    _check_betas(beta_min, beta_max)

    def inverse(log_snr: Tensor) -> Tensor:
        ratio = torch.exp(log_snr)
        # alpha solves ratio (1 - alpha^2) = alpha
        log_alpha = math.log(2) + log_snr - torch.log1p(torch.sqrt(1 + 4 * ratio**2))
        log_alpha = torch.where(torch.isinf(ratio), torch.zeros_like(ratio), log_alpha)
        return _time_of_integral(beta_min, beta_max, -2 * log_alpha)

    def wronskian(t: Tensor) -> Tensor:
        integral = _beta_integral(beta_min, beta_max, t)
        beta = beta_min + (beta_max - beta_min) * (1 - t)
        return beta * torch.exp(-integral / 2) * (1 + torch.exp(-integral)) / 2

    return path(
        lambda t: torch.exp(-_beta_integral(beta_min, beta_max, t) / 2),
        lambda t: _one_minus_exp(_beta_integral(beta_min, beta_max, t)),
        wronskian=wronskian,
        inverse_log_snr=inverse,
    )


def variance_exploding(sigma_min: float | Tensor = 0.01, sigma_max: float | Tensor = 50.0) -> Path:
    r"""Data with noise that falls geometrically: :math:`\alpha_t = 1`, :math:`\sigma_t = m (M/m)^{1 - t}`.

    The path of noise-conditional score networks. It begins at the data with noise of scale M, not at pure noise, and ends
    with noise of scale m.

    Args:
        sigma_min: :math:`m > 0`, in units of the data. ``()``.
        sigma_max: :math:`M > m`, about the largest distance between two data points. ``()``.

    Returns:
        A :class:`~funcebm.paths.Path`.

    Raises:
        ValueError: scales that are not positive, or not in order.

    Reference: Song et al. (2021), ICLR, arXiv:2011.13456, equation 30.

    >>> variance_exploding(0.1, 10.0).sigma(torch.tensor([0.0, 0.5, 1.0]))
    tensor([10.0000,  1.0000,  0.1000])
    """
    checks.positive("sigma_min", sigma_min, "Try 0.01.")
    checks.positive("sigma_max", sigma_max, "Try the largest distance between two data points.")
    if not isinstance(sigma_min, Tensor) and not isinstance(sigma_max, Tensor):
        got = f"{sigma_min} and {sigma_max}"
        checks.require(sigma_min < sigma_max, "sigma_min must be below sigma_max", got, "Write (0.01, 50.0), say.")

    def logs(like: Tensor) -> tuple[Tensor, Tensor]:
        low, high = (torch.as_tensor(s, dtype=like.dtype, device=like.device) for s in (sigma_min, sigma_max))
        return torch.log(low), torch.log(high)

    def sigma(t: Tensor) -> Tensor:
        low, high = logs(t)
        return torch.exp(low * t + high * (1 - t))

    def wronskian(t: Tensor) -> Tensor:
        low, high = logs(t)
        return sigma(t) * (high - low)

    def inverse(log_snr: Tensor) -> Tensor:
        low, high = logs(log_snr)
        return (log_snr + high) / (high - low)

    return path(torch.ones_like, sigma, wronskian=wronskian, inverse_log_snr=inverse)


def polynomial(power: float | Tensor = 2.0) -> Path:
    r""":math:`\alpha_t = t^n`, :math:`\sigma_t = 1 - t^n`: straight lines that begin slowly where n > 1.

    Args:
        power: :math:`n \ge 1`. ``()``. At n > 1 the velocity is zero at t = 0, and says nothing of the data there.

    Returns:
        A :class:`~funcebm.paths.Path`.

    Raises:
        ValueError: a power below 1.

    >>> polynomial(2.0).alpha(torch.tensor(0.5))
    tensor(0.2500)
    """
    checks.positive("power", power, "Try 2.")
    if not isinstance(power, Tensor):
        checks.require(
            power >= 1, "power must be at least 1", power, "Below 1 the velocity is infinite at t = 0. Try 2."
        )
    return path(
        lambda t: t**power,
        lambda t: 1 - t**power,
        wronskian=lambda t: power * t ** (power - 1),
        inverse_log_snr=lambda log_snr: torch.sigmoid(log_snr) ** (1 / power),
    )


def lipman(sigma_min: float | Tensor = 1e-4) -> Path:
    r"""The linear path that ends with a little noise: :math:`\alpha_t = t`, :math:`\sigma_t = 1 - (1 - m)t`.

    Args:
        sigma_min: :math:`m > 0`, the scale of the noise at t = 1. ``()``.

    Returns:
        A :class:`~funcebm.paths.Path`.

    Raises:
        ValueError: a scale that is not positive.

    Reference: Lipman et al. (2023), ICLR, arXiv:2210.02747, equation 20.

    >>> lipman(0.1).sigma(torch.tensor(1.0))
    tensor(0.1000)
    """
    checks.positive("sigma_min", sigma_min, "Try 1e-4, or linear() for none.")
    return path(
        lambda t: t,
        lambda t: 1 - (1 - sigma_min) * t,
        wronskian=torch.ones_like,
        inverse_log_snr=lambda log_snr: 1 / (torch.exp(-log_snr) + (1 - sigma_min)),
    )
