"""Slice sampling along a random direction."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor

from .. import checks, fields, loops, metrics, random, tree
from ..types import Energy, Key, Params, Position, Sampler, Tree
from ._kernel import TEMPERATURE, Chains, lockstep, positive
from ._slices import found_or_stayed
from .constraints import takes_energy

__all__ = [
    "HitAndRunSliceInfo",
    "HitAndRunSliceNoise",
    "HitAndRunSliceState",
    "HitAndRunSliceTuning",
    "hit_and_run_slice",
]


class HitAndRunSliceState(NamedTuple):
    """A position, with the energy ``()`` there."""

    position: Position
    energy: Tensor


class HitAndRunSliceNoise(NamedTuple):
    """Standard normals like the position, uniforms ``(3,)`` for the level and the first interval, and one for each try."""

    normal: Tree
    uniform: Tensor
    tries: Tensor


class HitAndRunSliceTuning(NamedTuple):
    """``step_size`` ``()``, the width of the first interval; the metric of the directions; ``temperature`` ``()``."""

    step_size: Tensor
    metric: Any
    temperature: Tensor


class HitAndRunSliceInfo(NamedTuple):
    """The fields of :class:`~funcebm.types.Info`, and the price of the step.

    ``acceptance_rate`` is 1, or 0 where no point of the slice was found.

    Attributes:
        num_evaluations: how many energies the step computed. ``()`` int32.
    """

    acceptance_rate: Tensor
    is_accepted: Tensor
    is_divergent: Tensor
    num_gradients: Tensor
    energy: Tensor
    num_evaluations: Tensor


class _Line(NamedTuple):
    """What a step moves on: the start, the direction, the highest energy of the slice, the uniforms of the tries."""

    start: Position
    direction: Tree
    bound: Tensor
    tries: Tensor


class _Search(NamedTuple):
    """What the loops carry: the interval, how often each end may still move out, the tries, the last one, what it cost."""

    low: Tensor
    high: Tensor
    left: Tensor
    right: Tensor
    num_tried: Tensor
    is_found: Tensor
    position: Position
    energy: Tensor
    num_evaluations: Tensor


@takes_energy
def hit_and_run_slice(
    energy: Energy,
    *,
    step_size: float | Tensor = 1.0,
    max_widenings: int = 8,
    max_shrinks: int = 50,
    preconditioner: Tree | None = None,
    temperature: float | Tensor = 1.0,
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
    tuning = HitAndRunSliceTuning(
        positive("step_size", step_size, "Try 1.0, about the width of the target."),
        metrics.of(preconditioner, name="preconditioner"),
        positive("temperature", temperature, TEMPERATURE),
    )
    check_shape = metrics.shape_check(tuning.metric, name="preconditioner")

    def value(params: Params, position: Position) -> Tensor:
        return fields.require_scalar(energy(params, position), position)

    def init(params: Params, position: Position) -> HitAndRunSliceState:
        check_shape(position)
        return HitAndRunSliceState(position, value(params, position))

    def draw(key: Key, position: Position) -> HitAndRunSliceNoise:
        key_normal, key_uniform, key_tries = random.split(key, 3)
        dtype = tree.first(position).dtype
        uniform = random.uniform(key_uniform, (3,), dtype=dtype)
        tries = random.uniform(key_tries, (max_shrinks + 1,), dtype=dtype)
        return HitAndRunSliceNoise(tree.normal_like(key_normal, position), uniform, tries)

    def begin(
        params: Params, tuning: HitAndRunSliceTuning, state: HitAndRunSliceState, noise: HitAndRunSliceNoise
    ) -> tuple[_Line, _Search]:
        level, place, share = noise.uniform.unbind(0)
        normal = tree.scale(torch.rsqrt(tree.squared_norm(noise.normal)), noise.normal)
        direction = metrics.displacement(tuning.metric, normal)
        line = _Line(
            state.position, direction, state.energy - tuning.temperature * torch.log(level), noise.tries.clone()
        )
        low, left = -tuning.step_size * place, torch.floor((max_widenings + 1) * share)
        none = torch.zeros_like(state.energy, dtype=torch.int32)
        rest = (none, none > 0, state.position, state.energy, none)
        return line, _Search(low, low + tuning.step_size, left, max_widenings - left, *rest)

    def at(params: Params, line: _Line, t: Tensor) -> tuple[Position, Tensor, Tensor]:
        """A point of the line, its energy, and whether it is on the slice."""
        position = tree.add_scaled(line.start, t, line.direction)
        energy = value(params, position)
        return position, energy, torch.isfinite(energy) & (energy <= line.bound)

    def widen(params: Params, tuning: HitAndRunSliceTuning, line: _Line, search: _Search) -> _Search:
        moves_low = (search.left > 0) & at(params, line, search.low)[2]
        moves_high = (search.right > 0) & at(params, line, search.high)[2]
        return search._replace(
            low=torch.where(moves_low, search.low - tuning.step_size, search.low),
            high=torch.where(moves_high, search.high + tuning.step_size, search.high),
            left=torch.where(moves_low, search.left - 1, 0),
            right=torch.where(moves_high, search.right - 1, 0),
            num_evaluations=search.num_evaluations + 2,
        )

    def attempt(params: Params, tuning: HitAndRunSliceTuning, line: _Line, search: _Search) -> _Search:
        uniform = line.tries.gather(0, search.num_tried.long().reshape(1)).reshape(())
        t = search.low + (search.high - search.low) * uniform
        position, energy, is_found = at(params, line, t)
        return search._replace(
            low=torch.where(t < 0, t, search.low),
            high=torch.where(t < 0, search.high, t),
            num_tried=search.num_tried + 1,
            is_found=is_found,
            position=position,
            energy=energy,
            num_evaluations=search.num_evaluations + 1,
        )

    def finish(
        params: Params, tuning: HitAndRunSliceTuning, state: HitAndRunSliceState, search: _Search
    ) -> tuple[HitAndRunSliceState, HitAndRunSliceInfo]:
        found = HitAndRunSliceState(search.position, search.energy)
        return found_or_stayed(HitAndRunSliceInfo, state, found, search.is_found, search.num_evaluations)

    def make_step(chains: Chains) -> Callable[..., tuple[HitAndRunSliceState, HitAndRunSliceInfo]]:
        def step(
            params: Params, tuning: HitAndRunSliceTuning, state: HitAndRunSliceState, noise: HitAndRunSliceNoise
        ) -> tuple[HitAndRunSliceState, HitAndRunSliceInfo]:
            line, search = chains(begin)(params, tuning, state, noise)
            search = loops.while_loop(
                lambda search: (search.left > 0) | (search.right > 0),
                lambda search: chains(widen)(params, tuning, line, search),
                search,
            )
            search = loops.while_loop(
                lambda search: ~search.is_found & (search.num_tried <= max_shrinks),
                lambda search: chains(attempt)(params, tuning, line, search),
                search,
            )
            return chains(finish)(params, tuning, state, search)

        return step

    return lockstep(init, draw, make_step, tuning, adaptation="unchanged")
