"""Slice sampling along a random direction."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import checks, loops, metrics, random, tree
from ..types import Energy, Key, MetricLike, Number, Params, Position, Sampler, Tree
from ._kernel import Chains, StepTuning, ValueState, lockstep, normal_and_uniform, step_tuning, valued
from ._slices import Search, SliceInfo, begin_search, found_or_stayed, shrink
from .constraints import takes_energy

__all__ = [
    "HitAndRunSliceInfo",
    "HitAndRunSliceNoise",
    "HitAndRunSliceState",
    "HitAndRunSliceTuning",
    "hit_and_run_slice",
]

HitAndRunSliceState = ValueState
HitAndRunSliceInfo = SliceInfo
HitAndRunSliceTuning = StepTuning
"""The step size is the width of the first interval, the metric that of the directions."""


class HitAndRunSliceNoise(NamedTuple):
    """Standard normals like the position, uniforms ``(3,)`` for the level and the first interval, and one for each try."""

    normal: Tree
    uniform: Tensor
    tries: Tensor


class _Line(NamedTuple):
    """What a step moves on: the start, the direction, and the highest energy of the slice."""

    start: Position
    direction: Tree
    bound: Tensor


class _Interval(NamedTuple):
    """What the first loop carries: the ends, how often each may still move out, and the evaluations so far."""

    low: Tensor
    high: Tensor
    left: Tensor
    right: Tensor
    num_evaluations: Tensor


@takes_energy
def hit_and_run_slice(
    energy: Energy,
    *,
    step_size: Number = 1.0,
    max_widenings: int = 8,
    max_shrinks: int = 50,
    preconditioner: MetricLike = None,
    temperature: Number = 1.0,
) -> Sampler[HitAndRunSliceState, HitAndRunSliceInfo, HitAndRunSliceTuning]:
    r"""Slice sampling along a random direction, with stepping out and shrinkage.

    Draws a direction :math:`d = A z / |z|`, :math:`z \sim N(0, I)`, :math:`P = A A^\top`, and a level
    :math:`E(x') \le E(x) - T \log U`. An interval of the width :math:`w` around 0, placed at random, moves out by :math:`w` at
    each end while that is on the slice, ``max_widenings`` times in all, shared out between the ends at random. Points
    :math:`x + t d` with :math:`t` uniform in it are tried; one off the slice becomes an end of the interval. So
    :math:`e^{-E/T}` is invariant for every :math:`w`, which costs energies where it does not fit, and no acceptance rate. No
    gradient; the energy may jump, and may be infinite or NaN, which is off the slice. Where all ``max_shrinks + 1`` tries
    fail, the chain stays and ``is_divergent`` is set; the target is invariant all the same.

    Args:
        energy: ``(params, x) -> ()``.
        step_size: :math:`w > 0`, in units of ``x`` over the root of those of :math:`P`: about the width of the target along a
            line. ``()``.
        max_widenings: how often the ends move out, together; static.
        max_shrinks: how often the interval may shrink; static.
        preconditioner: :math:`P`, as in :func:`~funcebm.samplers.mala`.
        temperature: :math:`T > 0`, in units of energy. ``()``.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``HitAndRunSliceState``, ``HitAndRunSliceInfo`` and ``HitAndRunSliceTuning``.
        Many chains go in lock step: a step takes as long as the longest search.

    Raises:
        ValueError: a number out of its range, or a preconditioner that is not symmetric and positive definite.

    Reference: Neal (2003), Annals of Statistics 31(3):705-767, figures 3 and 5; along random directions, Chen and Schmeiser
    (1998), Operations Research 46(1):84-95.

    >>> sampler = hit_and_run_slice(lambda params, x: x.abs().sum(), step_size=2.0)
    >>> state, info = sampler(random.key(0), (), sampler.init((), torch.zeros(2)))
    >>> bool(info.is_accepted), int(info.num_gradients)
    (True, 0)
    """
    checks.positive_int("max_widenings", max_widenings, minimum=0)
    checks.positive_int("max_shrinks", max_shrinks, minimum=0)
    hint = "Try 1.0, about the width of the target."
    tuning = step_tuning(step_size, preconditioner, temperature, "preconditioner", hint)
    value, init = valued(energy, tuning.metric, "preconditioner")

    def draw(key: Key, position: Position) -> HitAndRunSliceNoise:
        normal, uniform, key_tries = normal_and_uniform(key, position, 3, (3,))
        return HitAndRunSliceNoise(normal, uniform, random.uniform(key_tries, (max_shrinks + 1,), dtype=uniform.dtype))

    def step(
        chains: Chains, params: Params, tuning: HitAndRunSliceTuning, state: ValueState, noise: HitAndRunSliceNoise
    ) -> tuple[ValueState, SliceInfo]:
        def begin(state: ValueState, noise: HitAndRunSliceNoise) -> tuple[_Line, _Interval]:
            level, place, share = noise.uniform.unbind(0)
            normal = tree.scale(torch.rsqrt(tree.squared_norm(noise.normal)), noise.normal)
            direction = metrics.displacement(tuning.metric, normal)
            line = _Line(state.position, direction, state.energy - tuning.temperature * torch.log(level))
            low, left = -tuning.step_size * place, torch.floor((max_widenings + 1) * share)
            none = torch.zeros_like(state.energy, dtype=torch.int32)
            return line, _Interval(low, low + tuning.step_size, left, max_widenings - left, none)

        def at(line: _Line, t: Tensor) -> tuple[Tensor, Position, Tensor, Tensor]:
            """A point of the line, its energy, and whether it is on the slice."""
            position = tree.add_scaled(line.start, t, line.direction)
            energy = value(params, position)
            return t, position, energy, torch.isfinite(energy) & (energy <= line.bound)

        def widen(line: _Line, interval: _Interval) -> _Interval:
            low, high, left, right, num_evaluations = interval
            moves_low, moves_high = (left > 0) & at(line, low)[-1], (right > 0) & at(line, high)[-1]
            return _Interval(
                low=torch.where(moves_low, low - tuning.step_size, low),
                high=torch.where(moves_high, high + tuning.step_size, high),
                left=torch.where(moves_low, left - 1, 0),
                right=torch.where(moves_high, right - 1, 0),
                num_evaluations=num_evaluations + 2,
            )

        def attempt(line: _Line, search: Search, uniform: Tensor) -> tuple[Tensor, Position, Tensor, Tensor]:
            return at(line, search.low + (search.high - search.low) * uniform)

        def finish(state: ValueState, interval: _Interval, search: Search) -> tuple[ValueState, SliceInfo]:
            return found_or_stayed(state, search, interval.num_evaluations + search.num_tried)

        line, interval = chains(begin)(state, noise)
        interval = loops.while_loop(
            lambda interval: (interval.left > 0) | (interval.right > 0),
            lambda interval: chains(widen)(line, interval),
            interval,
        )
        search = chains(begin_search)(state, interval.low, interval.high)
        search = shrink(chains, attempt, search, line, noise.tries, max_shrinks)
        return chains(finish)(state, interval, search)

    return lockstep(init, draw, step, tuning, adaptation="unchanged")
