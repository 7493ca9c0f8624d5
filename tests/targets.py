"""Targets that several tests have, with exact draws where there are some."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import grad_and_value

from funcebm import random

__all__ = ["DENSE", "draw_skewed", "skewed", "field_of"]


def skewed(params: Tensor, x: Tensor) -> Tensor:
    """``T`` times minus the log density of ``u = log Gamma(2)`` and ``v ~ N(u^2 / 2, 1)``; no symmetry of any kind."""
    return params * (torch.exp(x[0]) - 2 * x[0] + (x[1] - x[0] ** 2 / 2) ** 2 / 2)


def draw_skewed(key: Tensor, num: int) -> Tensor:
    """Exact draws of :func:`skewed` at ``T = 1``. ``(num, 2)``."""
    key_u, key_v = random.split(key)
    u = torch.log(random.exponential(key_u, (num, 2)).sum(1))
    return torch.stack([u, u**2 / 2 + random.normal(key_v, (num,))], 1)


DENSE = torch.tensor([[0.6, 0.4], [0.4, 1.1]])
"""A metric that does not fit it."""


def field_of(energy):
    """The field of an energy without params, ``x -> (E, grad E)``."""

    def field(x):
        gradient, value = grad_and_value(energy)(x)
        return value, gradient

    return field
