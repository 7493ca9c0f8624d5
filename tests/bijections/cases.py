"""The table of bijections: name -> (bijection, an example of free numbers, the coordinates of x that densities are over)."""

from __future__ import annotations

import torch
from torch import Tensor

from funcebm import bijections, random

__all__ = ["BIJECTIONS", "free_numbers"]

DOUBLE = torch.float64


def free_numbers(num: int, seed: int = 0) -> Tensor:
    return random.normal(random.key(seed), (num,), dtype=DOUBLE)


def below(x: Tensor) -> Tensor:
    rows, columns = torch.tril_indices(len(x), len(x), -1)
    return x[rows, columns]


def triangle(x: Tensor) -> Tensor:
    rows, columns = torch.tril_indices(len(x), len(x))
    return x[rows, columns]


_FACTOR = torch.tensor([[2.0, 0.0, 0.3], [-1.0, 0.5, 0.0], [0.0, 0.2, -1.0]], dtype=DOUBLE)

BIJECTIONS = {
    "identity": (bijections.identity, 3, torch.flatten),
    "positive": (bijections.positive, 3, torch.flatten),
    "lower": (bijections.lower(-2.0), 3, torch.flatten),
    "upper": (bijections.upper(5.0), 3, torch.flatten),
    "interval": (bijections.interval(-1.0, 3.0), 3, torch.flatten),
    "intervals": (bijections.interval(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 5.0])), 2, torch.flatten),
    "affine_number": (bijections.affine(1.0, -2.0), 3, torch.flatten),
    "affine_diagonal": (bijections.affine(free_numbers(3), free_numbers(3, 1)), 3, torch.flatten),
    "affine_matrix": (bijections.affine(free_numbers(3), _FACTOR), 3, torch.flatten),
    "ordered": (bijections.ordered, 4, torch.flatten),
    "simplex": (bijections.simplex, 3, lambda x: x[:-1]),
    "correlation_cholesky": (bijections.correlation_cholesky, 6, below),
    "correlation": (bijections.correlation, 6, below),
    "covariance_cholesky": (bijections.covariance_cholesky, 6, triangle),
    "covariance": (bijections.covariance, 6, triangle),
    "composed": (
        bijections.compose(bijections.affine(0.3, 0.5), bijections.ordered, bijections.positive),
        3,
        torch.flatten,
    ),
    "inverted": (
        bijections.inverted(bijections.compose(bijections.positive, bijections.affine(-20.0, 1.0))),
        3,
        torch.flatten,
    ),
    "jacobian": (bijections.with_log_det(torch.sinh, torch.asinh), 3, torch.flatten),
}
