"""Flows of Gaussians, whose everything is known."""

from __future__ import annotations

import math
from typing import Any, Callable

import torch
from torch import Tensor

from funcebm import paths


def velocity(path: Any) -> Callable[[Any, Tensor, Tensor], Tensor]:
    """The marginal velocity of N(mean, scale^2 I) data with normal noise; params are ``(mean, scale)``."""

    def field(params: tuple[Tensor, Tensor], t: Tensor, x: Tensor) -> Tensor:
        mean, scale = params
        c = paths.at(path, t)
        variance = (c.alpha * scale) ** 2 + c.sigma**2
        slope = (c.alpha * c.d_alpha * scale**2 + c.sigma_d_sigma) / variance
        return c.d_alpha * mean + slope * (x - c.alpha * mean)

    return field


def linear_velocity(params: tuple[Tensor, Tensor], t: Tensor, x: Tensor) -> Tensor:
    """That of the linear path, written out."""
    mean, scale = params
    variance = (t * scale) ** 2 + (1 - t) ** 2
    return mean + (t * scale**2 - (1 - t)) / variance * (x - t * mean)


def log_density(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Of N(mean, scale^2 I) at rows ``(N, D)``."""
    z = (x - mean) / scale
    return -(z**2).sum(-1) / 2 - x.shape[-1] * (math.log(2 * math.pi) / 2 + torch.as_tensor(scale).log())


MEAN = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
SCALE = torch.tensor(0.5, dtype=torch.float64)
PARAMS = (MEAN, SCALE)
