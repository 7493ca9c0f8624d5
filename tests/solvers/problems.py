"""Equations whose solutions are known."""

from __future__ import annotations

import torch
from torch import Tensor


def slopes(errors: list[float]) -> float:
    """The slope of log error over log step, where each step is half the one before: least squares."""
    y = torch.tensor(errors, dtype=torch.float64).log2()
    x = -torch.arange(len(errors), dtype=torch.float64)
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


def cubic(params: Tensor, t: Tensor, x: Tensor) -> Tensor:
    return -(x**3)


def cubic_solution(t: Tensor, start: float = 0.5) -> Tensor:
    return 1 / torch.sqrt(1 / start**2 + 2 * t)


def turning(params: Tensor, t: Tensor, x: Tensor) -> Tensor:
    """A rotation whose speed is 1 + 3 t^2: by the angle t + t^3."""
    return (1 + 3 * t**2) * torch.stack([-x[1], x[0]])


def turned(t: Tensor) -> Tensor:
    angle = torch.as_tensor(t + t**3)
    return torch.stack([torch.cos(angle), torch.sin(angle)])


def pendulum(params: Tensor, t: Tensor, x: Tensor) -> Tensor:
    """Nothing special: nonlinear, and driven."""
    return torch.stack([x[1] * (1 + t), -x[0] * torch.cos(t) - x[0] ** 3])


def network(params: dict[str, Tensor], t: Tensor, x: Tensor) -> Tensor:
    return torch.tanh(params["w"] @ x + t * params["b"])
