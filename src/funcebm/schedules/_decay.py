"""Schedules that go from one number to another."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import checks
from ..types import Number, Schedule
from ._numbers import between, checked_number, in_range, progress, real_step

__all__ = ["constant", "cosine", "exponential", "geometric", "linear", "logarithmic", "polynomial"]


def constant(value: Number) -> Schedule:
    """The same value at every step.

    Args:
        value: ``()``.

    Returns:
        A schedule: step index ``()`` to value ``()``.

    Raises:
        ValueError: a value that is not one finite number.

    >>> constant(0.1)(torch.tensor(7))
    tensor(0.1000)
    """
    number = checked_number("value", value)

    def schedule(step: Tensor) -> Tensor:
        zero = torch.zeros_like(real_step(step))
        return zero + number(zero)

    return schedule


def linear(start: Number, end: Number, num_steps: int) -> Schedule:
    r"""A straight line, :math:`v(n) = v_0 + (v_T - v_0)\,n/T`, then :math:`v_T`.

    Args:
        start: :math:`v_0`, the value at step 0. ``()``.
        end: :math:`v_T`, the value from step ``num_steps`` on. ``()``.
        num_steps: :math:`T \ge 1`.

    Returns:
        A schedule: step index ``()`` to value ``()``.

    Raises:
        ValueError: values that are not finite numbers, or a count below 1.

    >>> linear(1.0, 0.0, 4)(torch.arange(6))
    tensor([1.0000, 0.7500, 0.5000, 0.2500, 0.0000, 0.0000])
    """
    first, last = checked_number("start", start), checked_number("end", end)
    checks.positive_int("num_steps", num_steps)

    def schedule(step: Tensor) -> Tensor:
        weight = progress(step, num_steps)
        return between(first(weight), last(weight), weight)

    return schedule


def cosine(start: Number, end: Number, num_steps: int) -> Schedule:
    r"""Half a cosine, :math:`v(n) = v_T + (v_0 - v_T)\,(1 + \cos(\pi n / T))/2`, then :math:`v_T`.

    Args:
        start: :math:`v_0`, the value at step 0. ``()``.
        end: :math:`v_T`, the value from step ``num_steps`` on. ``()``.
        num_steps: :math:`T \ge 1`.

    Returns:
        A schedule: step index ``()`` to value ``()``.

    Raises:
        ValueError: values that are not finite numbers, or a count below 1.

    Reference: Loshchilov and Hutter (2017), "SGDR", equation 5, without restarts.

    >>> cosine(1.0, 0.0, 3)(torch.arange(5))
    tensor([1.0000, 0.7500, 0.2500, 0.0000, 0.0000])
    """
    first, last = checked_number("start", start), checked_number("end", end)
    checks.positive_int("num_steps", num_steps)

    def schedule(step: Tensor) -> Tensor:
        weight = (1 - torch.cos(math.pi * progress(step, num_steps))) / 2
        return between(first(weight), last(weight), weight)

    return schedule


def exponential(start: Number, decay_rate: Number, *, num_steps: int = 1, minimum: Number = 0.0) -> Schedule:
    r"""Geometric decay with a floor, :math:`v(n) = \max(v_{\min}, v_0\,g^{n/T})`.

    Args:
        start: :math:`v_0`, the value at step 0. ``()``.
        decay_rate: :math:`g \in (0, 1]`, the factor gained every ``num_steps`` steps. ``()``.
        num_steps: :math:`T \ge 1`.
        minimum: :math:`v_{\min} \ge 0`. ``()``.

    Returns:
        A schedule: step index ``()`` to value ``()``.

    Raises:
        ValueError: numbers out of their range, or a count below 1.

    >>> exponential(1.0, 0.5, minimum=0.2)(torch.arange(4))
    tensor([1.0000, 0.5000, 0.2500, 0.2000])
    """
    first = checked_number("start", start)
    rate = in_range("decay_rate", decay_rate, "(0, 1]", 0, 1, open_low=True, open_high=False)
    least = in_range("minimum", minimum, "[0, inf)", 0, math.inf, open_low=False, open_high=True)
    checks.positive_int("num_steps", num_steps)

    def schedule(step: Tensor) -> Tensor:
        periods = real_step(step) / num_steps
        value = first(periods) * rate(periods) ** periods
        return torch.maximum(value, torch.zeros_like(value) + least(value))

    return schedule


def geometric(start: Number, end: Number, num_steps: int) -> Schedule:
    r"""A straight line of logarithms, :math:`v(n) = v_0 (v_T / v_0)^{n/T}`, then :math:`v_T`.

    The usual way to cool; at the integers 0 .. T it is a ladder of inverse temperatures for
    :func:`~funcebm.samplers.parallel_tempering`.

    Args:
        start: :math:`v_0 > 0`, the value at step 0. ``()``.
        end: :math:`v_T > 0`, the value from step ``num_steps`` on. ``()``.
        num_steps: :math:`T \ge 1`.

    Returns:
        A schedule: step index ``()`` to value ``()``.

    Raises:
        ValueError: values that are not above zero, or a count below 1.

    Reference: Kirkpatrick, Gelatt and Vecchi (1983), Science 220(4598):671-680.

    >>> geometric(4.0, 1.0, 2)(torch.arange(4))
    tensor([4., 2., 1., 1.])
    """
    first = in_range("start", start, "(0, inf)", 0, math.inf, open_low=True, open_high=True)
    last = in_range("end", end, "(0, inf)", 0, math.inf, open_low=True, open_high=True)
    checks.positive_int("num_steps", num_steps)

    def schedule(step: Tensor) -> Tensor:
        weight = progress(step, num_steps)
        return first(weight) ** (1 - weight) * last(weight) ** weight

    return schedule


def logarithmic(start: Number) -> Schedule:
    r"""Cooling by the logarithm, :math:`v(n) = v_0 / \log_2(n + 2)`, which halves when the number of steps is squared.

    On a finite space slow enough to end in a global minimum, in probability, where :math:`v_0 \log 2` is at least the depth
    of the deepest local one; much slower than :func:`geometric`.

    Args:
        start: :math:`v_0 > 0`, the value at step 0. ``()``.

    Returns:
        A schedule: step index ``()`` to value ``()``.

    Raises:
        ValueError: a value that is not above zero.

    Reference: Hajek (1988), "Cooling schedules for optimal annealing", Mathematics of Operations Research 13(2):311-329,
    :math:`c / \log(n + 1)` for steps from 1.

    >>> logarithmic(6.0)(torch.tensor([0, 2, 6, 62]))
    tensor([6., 3., 2., 1.])
    """
    first = in_range("start", start, "(0, inf)", 0, math.inf, open_low=True, open_high=True)

    def schedule(step: Tensor) -> Tensor:
        logarithm = torch.log2(real_step(step) + 2)
        return first(logarithm) / logarithm

    return schedule


def polynomial(start: Number, end: Number, num_steps: int, *, power: Number = 2.0) -> Schedule:
    r"""A power of what is left, :math:`v(n) = v_T + (v_0 - v_T)(1 - n/T)^p`, then :math:`v_T`.

    Args:
        start: :math:`v_0`, the value at step 0. ``()``.
        end: :math:`v_T`, the value from step ``num_steps`` on. ``()``.
        num_steps: :math:`T \ge 1`.
        power: :math:`p > 0`; a number is static. ``()``.

    Returns:
        A schedule: step index ``()`` to value ``()``.

    Raises:
        ValueError: numbers out of their range, or a count below 1.

    >>> polynomial(1.0, 0.0, 2, power=2.0)(torch.arange(4))
    tensor([1.0000, 0.2500, 0.0000, 0.0000])
    """
    first, last = checked_number("start", start), checked_number("end", end)
    in_range("power", power, "(0, inf)", 0, math.inf, open_low=True, open_high=True)
    checks.positive_int("num_steps", num_steps)

    def schedule(step: Tensor) -> Tensor:
        weight = (1 - progress(step, num_steps)) ** power
        return between(last(weight), first(weight), weight)

    return schedule
