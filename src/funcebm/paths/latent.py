r"""Paths with noise of their own, :math:`x_t = \alpha_t x_1 + \sigma_t x_0 + \gamma_t z`, that bridge any two distributions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import checks
from .path import Path, path

__all__ = ["brownian_bridge", "encoder_decoder"]


def brownian_bridge(scale: float | Tensor = 1.0) -> Path:
    r"""A Brownian bridge: the linear path with noise :math:`\gamma_t = c\sqrt{t(1 - t)}`.

    What remains of :math:`c\,dW` once both ends are known. :math:`\dot\gamma_t` is infinite at both ends, and
    :math:`\gamma_t \dot\gamma_t = c^2 (1 - 2t)/2` is not.

    Args:
        scale: :math:`c > 0`, in units of ``x`` over a unit of time to the power 1/2. ``()``.

    Returns:
        A :class:`~funcebm.paths.Path`.

    Raises:
        ValueError: a scale that is not positive.

    Reference: Albergo, Boffi and Vanden-Eijnden (2023), "Stochastic interpolants", arXiv:2303.08797.

    >>> brownian_bridge(2.0).gamma_squared(torch.tensor(0.5))
    tensor(1.)
    """
    checks.positive("scale", scale)
    return path(
        lambda t: t,
        lambda t: 1 - t,
        gamma_squared=lambda t: scale**2 * t * (1 - t),
        wronskian=torch.ones_like,
        inverse_log_snr=torch.sigmoid,
    )


def encoder_decoder() -> Path:
    r"""Through pure noise at t = 1/2: :math:`x_0` fades before it, :math:`x_1` comes after it.

    :math:`\alpha_t = \cos^2(\pi t)` after 1/2, :math:`\sigma_t = \cos^2(\pi t)` before it (0 elsewhere), and
    :math:`\gamma_t = \sin^2(\pi t)`. Both ends are exact, and what they share is only the coupling.

    Returns:
        A :class:`~funcebm.paths.Path`.

    Reference: Albergo, Boffi and Vanden-Eijnden (2023), "Stochastic interpolants", arXiv:2303.08797.

    >>> encoder_decoder().gamma_squared(torch.tensor(0.5))
    tensor(1.)
    """

    def part(t: Tensor, is_on: Tensor) -> Tensor:
        return torch.where(is_on, torch.cos(math.pi * t) ** 2, torch.zeros_like(t))

    return path(
        lambda t: part(t, t > 0.5),
        lambda t: part(t, t <= 0.5),
        gamma_squared=lambda t: torch.sin(math.pi * t) ** 4,
        wronskian=torch.zeros_like,
    )
