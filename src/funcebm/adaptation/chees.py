"""ChEES: the trajectory length of dynamic HMC, from many chains."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import checks, metrics, tree
from ..distributed.pool import Pool, whole
from ..types import Adaptation, Key, Params, Position, Sampler, Tree
from .dual_averaging import DualAveragingState, dual_averaging
from .step_size import find_step_size
from .welford import all_moments, more_moments, start_moments, welford
from .window import metric_of, start_metric

__all__ = ["CheesMemory", "chees", "chees_gradient"]

_RATE, _DECAY, _LARGEST_CHANGE = 0.025, 0.95, 0.35
_FEWEST_STEPS = 20


class CheesMemory(NamedTuple):
    """What ChEES remembers.

    Attributes:
        tuning: the tuning of the next step.
        position: where the chains are, and so where the next trajectories start; leaves ``(C, ...)``, of those of this rank.
        dual_averaging: of the step size.
        log_length: log of the trajectory length. ``()``.
        log_average: its weighted mean, for the end. ``()``.
        second: the running mean of squared gradients. ``()``.
        num: updates since the last start. ``()``, floating point.
        welford: the moments of this window's draws, of each block of the pool where the metric is diagonal; an empty tuple where
            the metric stays.
        is_slow: whether the draws of this window count for the metric. ``()`` bool.
    """

    tuning: Tree
    position: Position
    dual_averaging: DualAveragingState
    log_length: Tensor
    log_average: Tensor
    second: Tensor
    num: Tensor
    welford: Any
    is_slow: Tensor


def chees_gradient(
    start: Tensor,
    end: Tensor,
    velocity: Tensor,
    time: Tensor,
    acceptance_rate: Tensor,
    pool: Pool | None = None,
) -> tuple[Tensor, Tensor]:
    r"""The derivative of the criterion in the log of the trajectory length, and the chains that it comes from.

    For chain :math:`i` with the start :math:`x`, the end :math:`x'` and the velocity :math:`v'` there, after the time :math:`t`,

    .. math:: g_i = t \, \big( |x' - m'|^2 - |x - m|^2 \big) \, (x' - m') \cdot v' ,

    and :math:`g = \sum a_i g_i / \sum a_i`. :math:`m` is the mean of the starts, :math:`m'` that of the ends with the
    acceptance rates :math:`a_i` as weights; both are held fixed. Chains with :math:`a_i \le 10^{-4}`, or with a number that
    is not finite, are left out.

    Args:
        start: ``(C, D)``.
        end: ``(C, D)``.
        velocity: ``(C, D)``.
        time: ``(C,)``.
        acceptance_rate: ``(C,)``.
        pool: of all chains, where the arguments are of those of one rank.

    Returns:
        :math:`g`, 0 where no chain is left, and :math:`\sum a_i`. Both ``()``.

    >>> start, end = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [3.0]])
    >>> chees_gradient(start, end, torch.ones(2, 1), torch.ones(2), torch.ones(2))
    (tensor(0.), tensor(2.))
    """
    is_finite = torch.isfinite(end).all(1) & torch.isfinite(velocity).all(1) & torch.isfinite(acceptance_rate)
    weight = torch.where(is_finite & (acceptance_rate > 1e-4), acceptance_rate, 0)
    counts, pool = (weight > 0)[:, None], whole(pool, weight)
    end, velocity = torch.where(counts, end, 0), torch.where(counts, velocity, 0)
    total, starts, ends = pool.sum((weight, start, weight[:, None] * end))
    divisor = torch.where(total > 0, total, 1)
    before, after = start - starts / pool.count, end - ends / divisor
    gain = (after**2).sum(1) - (before**2).sum(1)
    each = time * gain * (after * velocity).sum(1)
    return pool.sum(torch.where(torch.isfinite(each), weight * each, 0)) / divisor, total


def _in_unit_scale(metric: metrics.Diagonal | metrics.Dense, matrix: Tensor) -> Tensor:
    """``A^-1 x`` of each row ``x``, with ``M^-1 = A A^T``."""
    if isinstance(metric, metrics.Dense):
        return matrix @ metric.mass_root
    return matrix * tree.ravel(metric.inverse_mass)[0].rsqrt()


def chees(*, target: float = 0.651, metric: str | None = "diagonal", max_leapfrog: int = 1000) -> Adaptation:
    r"""Step size, trajectory length and metric of dynamic HMC, from at least 2 and better 64 chains or more.

    The length of trajectories climbs the gradient of the *change in the estimator of the expected square*,

    .. math:: \tfrac14 \, E\big[ ( |x' - m'|^2 - |x - m|^2 )^2 \big] ,

    which is large where the ends of trajectories tell most about the second moments: see :func:`chees_gradient`, here in
    coordinates of unit scale, :math:`A^{-1} x` with the inverse mass :math:`A A^\top`. With its running mean of squares
    :math:`V` (decay 0.95, bias taken out) an update is

    .. math:: \log T \leftarrow \log T + \mathrm{clip}(0.025\, g / \sqrt V, \pm 0.35), \qquad
              \log \bar T \leftarrow t^{-1/2} \log T + (1 - t^{-1/2}) \log \bar T ,

    The length is kept between 1 and ``max_leapfrog`` steps, starting at 1. :math:`\bar T` is for the end.
    The step size is found by :func:`dual_averaging` on the harmonic mean of the acceptance rates of all chains that do not
    diverge, times the share of those. The metric comes from two windows in the first half of the warm-up, as the pooled
    variance, shrunk as Stan does; after each the step size is looked for again, and the length starts again from 1, the new
    unit of scale.

    For :func:`funcebm.samplers.dynamic_hmc`, whose ``trajectory_length`` is the longest time: its mean is half of that.

    Args:
        target: the acceptance rate to reach, in (0, 1).
        metric: ``"diagonal"``, ``"dense"``, or None, which keeps the metric as it is.
        max_leapfrog: the largest number of leapfrog steps; a sampler's own limit may be lower.

    Returns:
        An :class:`~funcebm.types.Adaptation`.

    Raises:
        ValueError: a number out of its range; at the start, another sampler or a single chain.

    Reference: Hoffman, Radul and Sountsov (2021), AISTATS, PMLR 130:3907-3915. The metric, the unit scale of the criterion and
    what is done with divergent chains are ours.

    >>> chees().windows(100)
    (10, 15, 25, 50)
    """
    checks.require(0 < target < 1, "target must be between 0 and 1", target, "The usual value is 0.651.")
    fix = 'Write "diagonal", "dense", or None to keep the metric as it is.'
    checks.require(metric in ("diagonal", "dense", None), "metric must be one of three", metric, fix)
    checks.positive_int("max_leapfrog", max_leapfrog)
    steps = dual_averaging(target=target)

    def search(
        key: Key, sampler: Sampler, params: Params, memory: CheesMemory, state: Any, is_wanted: Tensor, pool: Pool
    ) -> Any:
        """Looks for a step size with one leapfrog step, and starts dual averaging there."""
        short = memory.tuning._replace(trajectory_length=torch.zeros_like(memory.tuning.trajectory_length))
        options: Any = {"target": target, "is_wanted": is_wanted, "pool": pool}
        return steps.init(find_step_size(key, sampler, params, state, short, **options))

    def used(memory: CheesMemory) -> CheesMemory:
        """The step size and the length where the next step reads them."""
        step_size = memory.dual_averaging.step_size
        largest = step_size * max_leapfrog
        length = torch.minimum(torch.maximum(memory.log_length.exp(), step_size), largest)
        return memory._replace(tuning=memory.tuning._replace(step_size=step_size, trajectory_length=length))

    def init(key: Key, sampler: Sampler, params: Params, state: Any, pool: Pool | None = None) -> CheesMemory:
        checks.require(
            all(hasattr(state, name) for name in ("proposal", "velocity", "fraction"))
            and hasattr(sampler.tuning, "trajectory_length"),
            "chees is for samplers.dynamic_hmc",
            f"a sampler with {type(sampler.tuning).__name__}",
            "Take window_adaptation for other samplers, or leave the choice to funcebm.adaptation.default.",
        )
        pool = whole(pool, state)
        num_chains = pool.count
        fix = "Start 64 chains or more, or take samplers.nuts with window_adaptation."
        checks.require(num_chains >= 2, "chees needs at least 2 chains", num_chains, fix)
        like = tree.first(state.position)
        one = tree.map(lambda leaf: leaf[0], state.position)
        tuning = tree.cast_like(sampler.tuning, like)
        moments: Any = ()
        if metric is not None:
            tuning = tuning._replace(metric=start_metric(tuning, one, metric))
            moments = start_moments(metric, state.position, pool)
        zero = torch.zeros_like(tuning.step_size)
        never = torch.zeros((), dtype=torch.bool, device=like.device)
        searching = steps.init(tuning.step_size)
        memory = CheesMemory(tuning, state.position, searching, zero, zero, zero, zero, moments, never)
        found = search(key, sampler, params, memory, state, ~never, pool)
        log_length = found.step_size.log()
        return used(memory._replace(dual_averaging=found, log_length=log_length, log_average=log_length))

    def update(memory: CheesMemory, state: Any, info: Any, pool: Pool | None = None) -> CheesMemory:
        pool = whole(pool, state)
        rate = torch.where(info.is_divergent, 0, info.acceptance_rate)
        keeps = ~info.is_divergent & torch.isfinite(rate)
        # infinite where a rate is 0: then the harmonic mean is 0
        num_kept, inverse = pool.sum((keeps.to(rate.dtype), torch.where(keeps, 1 / rate, 0)))
        harmonic = torch.where(num_kept > 0, num_kept / inverse, 0)
        searched = steps.update(memory.dual_averaging, num_kept / pool.count * harmonic)

        length = memory.tuning.trajectory_length
        start, end, velocity = (
            _in_unit_scale(memory.tuning.metric, tree.rows(value))
            for value in (memory.position, state.proposal, state.velocity)
        )
        gradient, total = chees_gradient(start, end, velocity, state.fraction * length, rate, pool)
        num = memory.num + 1
        second = torch.where(total > 0, _DECAY * memory.second + (1 - _DECAY) * gradient**2, memory.second)
        normalised = gradient * torch.rsqrt(second / (1 - _DECAY**num) + 1e-20)
        change = (_RATE * normalised).clamp(-_LARGEST_CHANGE, _LARGEST_CHANGE)
        after = used(memory._replace(dual_averaging=searched, log_length=memory.log_length + change))
        weight = num**-0.5
        after = after._replace(
            log_average=weight * after.log_length + (1 - weight) * memory.log_average,
            second=second,
            num=num,
            position=state.position,
        )
        if memory.welford:
            moments = more_moments(metric or "", memory.welford, state.position, pool)
            after = after._replace(welford=tree.where(memory.is_slow, moments, memory.welford))
        return after

    def refresh(
        key: Key, sampler: Sampler, params: Params, memory: CheesMemory, state: Any, pool: Pool | None = None
    ) -> CheesMemory:
        if not memory.welford:
            return memory
        pool = whole(pool, state)
        moments = all_moments(metric or "", memory.welford, pool)
        emptied = tree.zeros_like(memory.welford)
        adapted = metric_of(metric or "", welford(metric or "").shrunk(moments))
        after = memory._replace(tuning=memory.tuning._replace(metric=adapted), welford=emptied)
        found = search(key, sampler, params, after, state, memory.is_slow, pool)
        zero = torch.zeros_like(memory.num)
        # from a length of 1: longer than the optimum on the new scale, the criterion has maxima to be caught in
        after = after._replace(dual_averaging=found, log_length=zero, log_average=zero, second=zero, num=zero)
        memory = tree.where(memory.is_slow, used(after), memory)
        return memory._replace(is_slow=torch.ones_like(memory.is_slow))

    def final(memory: CheesMemory, pool: Pool | None = None) -> Tree:
        step_size = steps.final(memory.dual_averaging)
        length = torch.maximum(memory.log_average.exp(), step_size)
        return memory.tuning._replace(step_size=step_size, trajectory_length=length)

    def windows(num_steps: int) -> tuple[int, ...]:
        checks.positive_int("num_steps", num_steps)
        if metric is None or num_steps < _FEWEST_STEPS:
            return (num_steps,)
        first, second, third = num_steps // 10, 3 * num_steps // 20, num_steps // 4
        return (first, second, third, num_steps - first - second - third)

    return Adaptation(init, update, final, windows, refresh)
