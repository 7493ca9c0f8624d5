"""What the ranks of all tests run on."""

from __future__ import annotations

import torch

from funcebm import random

KEY = random.key(0)


def energy(params, x):
    """Not Gaussian, and without a product of matrices."""
    return params * (x**2).sum() / 2 + torch.cos(3 * x).sum() / 3


def network(params, x):
    return (x**2).sum() / 2 + torch.tanh(torch.nn.functional.silu(x @ params)).sum() / 10
