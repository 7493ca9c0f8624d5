r"""Schedules: pure functions of the step index, ``step () -> value ()``.

A schedule has no state, so there is nothing to reset: the value at step ``n`` is the same however often, in whatever
order and in how many places it is asked for. All of them are elementwise tensor arithmetic: they run under ``vmap`` and
``torch.compile``, and ``schedule(torch.arange(100))`` is a curve to plot. The value has the default dtype, or that of
the step or of the numbers where those are floating-point tensors.

Numbers given as 0-d tensors may be traced (``vmap`` over them, differentiate through them); counts are static.
"""

from __future__ import annotations

import itertools
import math
from typing import Callable, Sequence, Union

import torch
from torch import Tensor

from . import checks, tree
from .types import Schedule

__all__ = [
    "constant",
    "cosine",
    "exponential",
    "geometric",
    "join",
    "linear",
    "logarithmic",
    "piecewise",
    "polynomial",
    "temperature",
    "warm_up",
]

Number = Union[float, Tensor]


def _index(step: Tensor) -> Tensor:
    return step if isinstance(step, Tensor) else torch.tensor(step)


def _real(step: Tensor) -> Tensor:
    """The step as a floating-point tensor."""
    index = _index(step)
    return index if index.is_floating_point() else index * 1.0


def _progress(step: Tensor, num_steps: int) -> Tensor:
    """From 0 at the first step to 1 at ``num_steps`` and after."""
    return (_real(step) / num_steps).clamp(0, 1)


def _between(start: Tensor, end: Tensor, weight: Tensor) -> Tensor:
    """``start`` at weight 0 and ``end`` at weight 1, both exactly."""
    return start * (1 - weight) + end * weight


def _like(value: Number) -> Callable[[Tensor], Tensor]:
    """A number in the dtype of what it meets, and an argument where a schedule is compiled; tensors keep their dtype."""
    if isinstance(value, Tensor):
        return lambda like: value
    number = tree.number(value)
    return lambda like: tree.cast_like(number, like)


def _number(name: str, value: Number) -> Callable[[Tensor], Tensor]:
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
    return _like(value)


def _in_range(
    name: str, value: Number, right: str, low: float, high: float, *, open_low: bool, open_high: bool
) -> Callable[[Tensor], Tensor]:
    number = _number(name, value)
    if isinstance(value, Tensor):
        if not checks.is_concrete(value):
            return number
        value = float(value)
    inside = (low < value if open_low else low <= value) and (value < high if open_high else value <= high)
    checks.require(inside, f"{name} must be in {right}", value, f"Give a number in {right}.")
    return number


def _increasing(name: str, boundaries: Sequence[int]) -> None:
    for boundary in boundaries:
        checks.positive_int(f"each of {name}", boundary)
    ordered = all(before < after for before, after in itertools.pairwise(boundaries))
    checks.require(ordered, f"{name} must increase strictly", tuple(boundaries), "Sort them and drop repeats.")


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
    number = _number("value", value)

    def schedule(step: Tensor) -> Tensor:
        zero = torch.zeros_like(_real(step))
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
    first, last = _number("start", start), _number("end", end)
    checks.positive_int("num_steps", num_steps)

    def schedule(step: Tensor) -> Tensor:
        weight = _progress(step, num_steps)
        return _between(first(weight), last(weight), weight)

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
    first, last = _number("start", start), _number("end", end)
    checks.positive_int("num_steps", num_steps)

    def schedule(step: Tensor) -> Tensor:
        weight = (1 - torch.cos(math.pi * _progress(step, num_steps))) / 2
        return _between(first(weight), last(weight), weight)

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
    first = _number("start", start)
    rate = _in_range("decay_rate", decay_rate, "(0, 1]", 0, 1, open_low=True, open_high=False)
    least = _in_range("minimum", minimum, "[0, inf)", 0, math.inf, open_low=False, open_high=True)
    checks.positive_int("num_steps", num_steps)

    def schedule(step: Tensor) -> Tensor:
        periods = _real(step) / num_steps
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
    first = _in_range("start", start, "(0, inf)", 0, math.inf, open_low=True, open_high=True)
    last = _in_range("end", end, "(0, inf)", 0, math.inf, open_low=True, open_high=True)
    checks.positive_int("num_steps", num_steps)

    def schedule(step: Tensor) -> Tensor:
        weight = _progress(step, num_steps)
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
    first = _in_range("start", start, "(0, inf)", 0, math.inf, open_low=True, open_high=True)

    def schedule(step: Tensor) -> Tensor:
        logarithm = torch.log2(_real(step) + 2)
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
    first, last = _number("start", start), _number("end", end)
    _in_range("power", power, "(0, inf)", 0, math.inf, open_low=True, open_high=True)
    checks.positive_int("num_steps", num_steps)

    def schedule(step: Tensor) -> Tensor:
        weight = (1 - _progress(step, num_steps)) ** power
        return _between(last(weight), first(weight), weight)

    return schedule


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
    _increasing("boundaries", boundaries)
    right = len(values) == len(boundaries) + 1
    must = "values must be one more than boundaries"
    checks.require(right, must, f"{len(values)} and {len(boundaries)}", "Give the value before the first boundary too.")
    numbers = [_number("each of values", value) for value in values]

    def schedule(step: Tensor) -> Tensor:
        zero = torch.zeros_like(_real(step))
        result = zero + numbers[0](zero)
        for boundary, number in zip(boundaries, numbers[1:], strict=True):
            result = torch.where(_index(step) >= boundary, zero + number(zero), result)
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

    >>> warm_up(linear(1.0, 0.0, 2), 2, initial_factor=0.0)(torch.arange(5))
    tensor([0.0000, 0.5000, 1.0000, 0.5000, 0.0000])
    """
    checks.require(callable(schedule), "schedule must be a function of the step", schedule, "Write constant(0.1), say.")
    checks.positive_int("num_steps", num_steps, minimum=0)
    factor = _in_range("initial_factor", initial_factor, "[0, inf)", 0, math.inf, open_low=False, open_high=True)
    if num_steps == 0:
        return schedule

    def warmed(step: Tensor) -> Tensor:
        after = (_index(step) - num_steps).clamp(min=0)
        weight = _progress(step, num_steps)
        return _between(factor(weight), torch.ones_like(weight), weight) * schedule(after)

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

    >>> join([constant(1.0), linear(0.5, 0.0, 2)], [2])(torch.arange(5))
    tensor([1.0000, 1.0000, 0.5000, 0.2500, 0.0000])
    """
    schedules, boundaries = tuple(schedules), tuple(boundaries)
    _increasing("boundaries", boundaries)
    right = len(schedules) == len(boundaries) + 1
    must = "schedules must be one more than boundaries"
    checks.require(right, must, f"{len(schedules)} and {len(boundaries)}", "Give the first schedule no boundary.")

    def joined(step: Tensor) -> Tensor:
        index = _index(step)
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
    most = _in_range("maximum", maximum, "[0, inf)", 0, math.inf, open_low=False, open_high=True)
    _in_range("threshold", threshold, "[0, 1)", 0, 1, open_low=False, open_high=True)
    checks.positive_int("num_steps", num_steps)
    first, last = _number("start", start), _number("end", end)
    checks.require(end >= start, "end must be at least start", f"start={start}, end={end}", "Swap them.")

    def schedule(step: Tensor) -> Tensor:
        weight = _progress(step, num_steps)
        time = _between(first(weight), last(weight), weight)
        ramp = ((time - threshold) / (1 - threshold)).clamp(0, 1)
        return (most(ramp) * ramp) ** 0.5 if square_root else most(ramp) * ramp

    return schedule
