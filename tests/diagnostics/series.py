"""Series with known distributions, for the tests of the diagnostics."""

import math

import torch

from funcebm import random


def autoregressive(key, shape, rho):
    """Stationary chains ``x_t = rho x_{t-1} + sqrt(1 - rho^2) xi_t`` of standard normals, along axis 1."""
    noise = random.normal(key, shape, dtype=torch.float64)
    draws = noise.clone()
    for t in range(1, shape[1]):
        draws[:, t] = rho * draws[:, t - 1] + math.sqrt(1 - rho**2) * noise[:, t]
    return draws
