"""When a run has diverged, since when, and by which metric."""

from __future__ import annotations

import math
from typing import Mapping, NamedTuple

import torch
from torch import Tensor

from .. import checks
from .._progress import in_order

__all__ = ["Streak", "check_limits", "ending", "find_streak", "is_bad", "reason"]


class Streak(NamedTuple):
    """A row of bad steps that has not ended: how many, and which step was the first, counted from 0."""

    num: int
    first: int


def check_limits(limits: Mapping[str, float] | None, max_bad_steps: int | None, metrics: Mapping[str, Tensor]) -> None:
    """Checks at the door; ``metrics`` are what the loss reports."""
    if max_bad_steps is not None:
        checks.positive_int("max_bad_steps", max_bad_steps)
    known = sorted({*metrics, "loss", "gradient_norm"})
    for name, limit in (limits or {}).items():
        checks.require(name in known, "limits must name metrics of the loss", repr(name), f"There are {known}.")
        checks.positive(f"limits[{name!r}]", limit)


def is_bad(metrics: Mapping[str, Tensor], limits: Mapping[str, float] | None) -> Tensor:
    """Which steps were skipped, or have a metric that is not finite or beyond its limit. ``(T,)`` or ``(T, M)`` bool."""
    bad = metrics["skipped"] > 0
    for name, values in metrics.items():
        bad = bad | ~(values.abs() <= (limits or {}).get(name, torch.finfo(values.dtype).max))
    return bad


def find_streak(
    metrics: Mapping[str, Tensor], limits: Mapping[str, float] | None, first: int, before: Streak, enough: int | None
) -> Streak:
    """The row of bad steps at the end of a chunk, or the first in it that is long enough.

    ``first`` is the number of the first step of the chunk, ``before`` the row at the end of the chunk before it. A step of
    an ensemble is bad where it is so for all members.
    """
    if enough is None:
        return Streak(0, 0)
    bad = is_bad(metrics, limits)
    flags = (bad.all(1) if bad.ndim > 1 else bad).tolist()
    streak = before
    for index, flag in enumerate(flags):
        streak = Streak(streak.num + 1, streak.first if streak.num else first + index) if flag else Streak(0, 0)
        if streak.num >= enough:
            break
    return streak


def reason(metrics: Mapping[str, Tensor], limits: Mapping[str, float] | None, index: int) -> str:
    """Why the step at ``index`` is bad, in words."""
    found = []
    for name in in_order(metrics):
        values = metrics[name][index]
        number, limit = float(values.flatten()[0]), (limits or {}).get(name)
        if not math.isfinite(number):
            found.append(f"{name} was {number}")
        elif limit is not None and abs(number) > limit:
            found.append(f"{name} was {number:.4g}, beyond {limit:g}")
    return " and ".join(found) or "the new params were not finite"


def ending(metrics: Mapping[str, Tensor], max_bad_steps: int | None) -> str:
    """What is to be said of a run whose last steps were all skipped, for all or some members; or the empty string."""
    if bool(((metrics["gradient_norm"] == 0) & (metrics["skipped"] == 0)).all()):
        return (
            "the gradient of the loss was zero in every step, so nothing was trained: does the energy use its params, and its "
            "position by torch alone, without detach(), .data, no_grad or numpy?"
        )
    if max_bad_steps is None:
        return ""
    skipped = metrics["skipped"] > 0
    num = skipped.flip(0).long().cumprod(0).sum(0)
    has_diverged = num >= min(max_bad_steps, len(skipped))
    if not bool(has_diverged.any()):
        return ""
    whose = f"members {has_diverged.nonzero().flatten().tolist()} of the ensemble" if skipped.ndim > 1 else "the run"
    return (
        f"training diverged: {whose} ended with {int(num.max())} skipped steps; their params are those from before them"
    )
