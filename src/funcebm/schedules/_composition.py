"""Schedules made of others, and those of samplers."""

from __future__ import annotations

import math
from typing import Sequence

import torch
from torch import Tensor

from .. import checks
from ..types import Number, Schedule
from ._numbers import between, check_increasing, checked_number, in_range, progress, real_step, step_index

__all__ = ["join", "piecewise", "temperature", "warm_up"]


def piecewise(boundaries: Sequence[int], values: Sequence[Number]) -> Schedule:
    """Steps down (or up): ``values[i]``, with ``i`` the number of boundaries that are at most ``n``.

    Args:
        boundaries: K step indices of at least 1, strictly increasing.
        values: K + 1 numbers, each ``()``.

    Returns:
        A schedule: step index ``()`` to value ``()``.

    Raises:
        ValueError: boundaries that do not increase, or another number of values than one more than these.

    >>> piecewise([2, 3], [1.0, 0.1, 0.01])(torch.arange(5))
    tensor([1.0000, 1.0000, 0.1000, 0.0100, 0.0100])
    """
    boundaries, values = tuple(boundaries), tuple(values)
    check_increasing("boundaries", boundaries)
    right = len(values) == len(boundaries) + 1
    must = "values must be one more than boundaries"
    checks.require(right, must, f"{len(values)} and {len(boundaries)}", "Give the value before the first boundary too.")
    numbers = [checked_number("each of values", value) for value in values]

    def schedule(step: Tensor) -> Tensor:
        zero = torch.zeros_like(real_step(step))
        result = zero + numbers[0](zero)
        for boundary, number in zip(boundaries, numbers[1:], strict=True):
            result = torch.where(step_index(step) >= boundary, zero + number(zero), result)
        return result

    return schedule


def warm_up(schedule: Schedule, num_steps: int, *, initial_factor: Number = 0.01) -> Schedule:
    r"""Grows linearly from ``initial_factor`` times the first value to the first value, then runs the schedule.

    :math:`v(n) = (f + (1 - f)\,n/W)\,u(0)` up to step :math:`W`, and :math:`u(n - W)` after it.

    Args:
        schedule: :math:`u`, what comes after the warm-up, from its own step 0.
        num_steps: :math:`W \ge 0`.
        initial_factor: :math:`f \ge 0`. ``()``.

    Returns:
        A schedule: step index ``()`` to value ``()``.

    Raises:
        ValueError: a schedule that is no function, a negative count or factor.

    >>> from funcebm.schedules import linear
    >>> warm_up(linear(1.0, 0.0, 2), 2, initial_factor=0.0)(torch.arange(5))
    tensor([0.0000, 0.5000, 1.0000, 0.5000, 0.0000])
    """
    checks.require(callable(schedule), "schedule must be a function of the step", schedule, "Write constant(0.1), say.")
    checks.positive_int("num_steps", num_steps, minimum=0)
    factor = in_range("initial_factor", initial_factor, "[0, inf)", 0, math.inf, open_low=False, open_high=True)
    if num_steps == 0:
        return schedule

    def warmed(step: Tensor) -> Tensor:
        after = (step_index(step) - num_steps).clamp(min=0)
        weight = progress(step, num_steps)
        return between(factor(weight), torch.ones_like(weight), weight) * schedule(after)

    return warmed


def join(schedules: Sequence[Schedule], boundaries: Sequence[int]) -> Schedule:
    """One schedule after the other; each begins at its own step 0 at its boundary.

    Args:
        schedules: K + 1 functions of the step.
        boundaries: K step indices of at least 1, strictly increasing: where the next schedule takes over.

    Returns:
        A schedule: step index ``()`` to value ``()``.

    Raises:
        ValueError: boundaries that do not increase, or another number of schedules than one more than these.

    >>> from funcebm.schedules import constant, linear
    >>> join([constant(1.0), linear(0.5, 0.0, 2)], [2])(torch.arange(5))
    tensor([1.0000, 1.0000, 0.5000, 0.2500, 0.0000])
    """
    schedules, boundaries = tuple(schedules), tuple(boundaries)
    check_increasing("boundaries", boundaries)
    right = len(schedules) == len(boundaries) + 1
    must = "schedules must be one more than boundaries"
    checks.require(right, must, f"{len(schedules)} and {len(boundaries)}", "Give the first schedule no boundary.")

    def joined(step: Tensor) -> Tensor:
        index = step_index(step)
        result = schedules[0](index)
        for boundary, schedule in zip(boundaries, schedules[1:], strict=True):
            result = torch.where(index >= boundary, schedule((index - boundary).clamp(min=0)), result)
        return result

    return joined


def temperature(
    maximum: Number,
    num_steps: int = 200,
    *,
    threshold: float = 0.8,
    start: float = 0.0,
    end: float = 1.0,
    square_root: bool = False,
) -> Schedule:
    r"""Zero first, then a linear ramp: the temperature that energy matching sweeps along a transport.

    With the time :math:`t(n) = t_0 + (t_1 - t_0)\min(n, N)/N`,

    .. math:: \varepsilon(t) = 0 \;(t < \tau), \qquad
        \varepsilon_{\max}\frac{t - \tau}{1 - \tau} \;(\tau \le t < 1), \qquad \varepsilon_{\max} \;(t \ge 1).

    Args:
        maximum: :math:`\varepsilon_{\max} \ge 0`, in units of energy. ``()``.
        num_steps: :math:`N \ge 1`.
        threshold: :math:`\tau \in [0, 1)`, when noise begins.
        start: :math:`t_0`.
        end: :math:`t_1 \ge t_0`.
        square_root: gives the noise scale :math:`\sqrt{\varepsilon}` instead of the temperature.

    Returns:
        A schedule: step index ``()`` to value ``()``.

    Raises:
        ValueError: numbers out of their range, a count below 1, or an end before the start.

    Reference: Balcerak et al. (2025), "Energy matching", arXiv:2504.10612; the profile and defaults of TorchEBM, but
    for ``square_root``, which is true there.

    >>> temperature(1.0, 10, threshold=0.5)(torch.tensor([0, 5, 6, 10, 20]))
    tensor([0.0000, 0.0000, 0.2000, 1.0000, 1.0000])
    """
    most = in_range("maximum", maximum, "[0, inf)", 0, math.inf, open_low=False, open_high=True)
    in_range("threshold", threshold, "[0, 1)", 0, 1, open_low=False, open_high=True)
    checks.positive_int("num_steps", num_steps)
    first, last = checked_number("start", start), checked_number("end", end)
    checks.require(end >= start, "end must be at least start", f"start={start}, end={end}", "Swap them.")

    def schedule(step: Tensor) -> Tensor:
        weight = progress(step, num_steps)
        time = between(first(weight), last(weight), weight)
        ramp = ((time - threshold) / (1 - threshold)).clamp(0, 1)
        return (most(ramp) * ramp) ** 0.5 if square_root else most(ramp) * ramp

    return schedule
