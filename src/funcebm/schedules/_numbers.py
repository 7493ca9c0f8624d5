"""The numbers of schedules: checked at the door, in the dtype of what they meet."""

from __future__ import annotations

import itertools
import math
from typing import Callable, Sequence

import torch
from torch import Tensor

from .. import checks, tree
from ..types import Number

__all__ = [
    "between",
    "check_increasing",
    "checked_number",
    "in_dtype_of",
    "in_range",
    "step_index",
    "progress",
    "real_step",
]


def step_index(step: Tensor) -> Tensor:
    return step if isinstance(step, Tensor) else torch.tensor(step)


def real_step(step: Tensor) -> Tensor:
    """The step as a floating-point tensor."""
    index = step_index(step)
    return index if index.is_floating_point() else index * 1.0


def progress(step: Tensor, num_steps: int) -> Tensor:
    """From 0 at the first step to 1 at ``num_steps`` and after."""
    return (real_step(step) / num_steps).clamp(0, 1)


def between(start: Tensor, end: Tensor, weight: Tensor) -> Tensor:
    """``start`` at weight 0 and ``end`` at weight 1, both exactly."""
    return start * (1 - weight) + end * weight


def in_dtype_of(value: Number) -> Callable[[Tensor], Tensor]:
    """A number in the dtype of what it meets, and an argument where a schedule is compiled; tensors keep their dtype."""
    if isinstance(value, Tensor):
        return lambda like: value
    number = tree.number(value)
    return lambda like: tree.cast_like(number, like)


def checked_number(name: str, value: Number) -> Callable[[Tensor], Tensor]:
    if isinstance(value, Tensor):
        checks.require(
            value.dim() == 0,
            f"{name} must be a number or a 0-d tensor",
            str(tuple(value.shape)),
            "Take one entry: value[0].",
        )
    else:
        right = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        checks.require(right, f"{name} must be a finite number or a 0-d tensor", value, "Give a number, such as 0.1.")
    return in_dtype_of(value)


def in_range(
    name: str, value: Number, right: str, low: float, high: float, *, open_low: bool, open_high: bool
) -> Callable[[Tensor], Tensor]:
    number = checked_number(name, value)
    if isinstance(value, Tensor):
        if not checks.is_concrete(value):
            return number
        value = float(value)
    inside = (low < value if open_low else low <= value) and (value < high if open_high else value <= high)
    checks.require(inside, f"{name} must be in {right}", value, f"Give a number in {right}.")
    return number


def check_increasing(name: str, boundaries: Sequence[int]) -> None:
    for boundary in boundaries:
        checks.positive_int(f"each of {name}", boundary)
    ordered = all(before < after for before, after in itertools.pairwise(boundaries))
    checks.require(ordered, f"{name} must increase strictly", tuple(boundaries), "Sort them and drop repeats.")
