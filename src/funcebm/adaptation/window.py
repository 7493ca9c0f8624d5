"""Stan's warm-up: the step size all the time, the metric in windows of growing length."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import checks, metrics, tree
from ..distributed.pool import Pool, whole
from ..types import Adaptation, Key, Params, Position, Sampler, Tree
from .dual_averaging import dual_averaging
from .step_size import find_step_size, pooled_acceptance_rate, stable_step_size
from .welford import all_moments, more_moments, start_moments, welford

__all__ = ["WindowMemory", "metric_of", "stan_windows", "start_metric", "window_adaptation"]

_FEWEST_STEPS = 20


class WindowMemory(NamedTuple):
    """What window adaptation remembers.

    Attributes:
        tuning: the tuning of the next step.
        target: the acceptance rate to reach, ``()``; an empty tuple for samplers without an acceptance test.
        dual_averaging: of the step size; an empty tuple for those.
        welford: the moments of this window's draws; of each block of the pool where the metric is diagonal. An empty tuple
            where there is no metric to adapt.
        is_slow: whether the draws of this window count for the metric. ``()`` bool.
    """

    tuning: Tree
    target: Any
    dual_averaging: Any
    welford: Any
    is_slow: Tensor


def stan_windows(
    num_steps: int, *, initial_buffer: int = 75, base_window: int = 25, final_buffer: int = 50
) -> tuple[int, ...]:
    """The lengths of the windows of a warm-up; the first and the last one leave the metric alone.

    Those in between double, and the last of them takes what is left. Where the three arguments do not fit they become 15 %,
    75 % and 10 % of the steps; below 20 steps there is one window, and no metric.

    Args:
        num_steps: of the warm-up.
        initial_buffer: the length of the first window.
        base_window: the length of the second.
        final_buffer: the length of the last.

    Returns:
        The lengths, which add up to ``num_steps``.

    Raises:
        ValueError: a count below 1.

    Reference: Stan Development Team, Stan Reference Manual, "HMC algorithm parameters: automatic parameter tuning".

    >>> stan_windows(1000)
    (75, 25, 50, 100, 200, 500, 50)
    >>> stan_windows(100)
    (15, 75, 10)
    >>> stan_windows(19)
    (19,)
    """
    checks.positive_int("num_steps", num_steps)
    for name, value in (
        ("initial_buffer", initial_buffer),
        ("base_window", base_window),
        ("final_buffer", final_buffer),
    ):
        checks.positive_int(name, value)
    if num_steps < _FEWEST_STEPS:
        return (num_steps,)
    if initial_buffer + base_window + final_buffer > num_steps:
        initial_buffer, final_buffer = int(0.15 * num_steps), int(0.1 * num_steps)
        base_window = num_steps - initial_buffer - final_buffer
    lengths, length, left = [base_window], base_window, num_steps - initial_buffer - base_window - final_buffer
    while left > 0:
        length *= 2
        if 3 * length > left:  # the window after this one would not fit: this one takes all that is left
            length = left
        lengths.append(length)
        left -= length
    return (initial_buffer, *lengths, final_buffer)


def start_metric(tuning: Tree, position: Position, shape: str) -> metrics.Diagonal | metrics.Dense:
    """The metric of a tuning, in the shape that a warm-up adapts; ``position`` is one position."""
    inverse_mass = tuning.metric.inverse_mass
    if isinstance(tuning.metric, metrics.Dense):
        if shape == "dense":
            return tuning.metric
        inverse_mass = tree.ravel(position)[1](inverse_mass.diagonal())
    if metrics.is_scalar(tuning.metric):
        inverse_mass = tree.map(lambda leaf: inverse_mass.expand(leaf.shape).clone(), position)
    if shape == "diagonal":
        return metrics.Diagonal(inverse_mass)
    return metrics.dense(torch.diag(tree.ravel(inverse_mass)[0]))


def metric_of(shape: str, variance: Tree) -> metrics.Diagonal | metrics.Dense:
    """The metric whose inverse mass is a shrunk variance, or covariance."""
    if shape == "diagonal":
        return metrics.Diagonal(variance)
    # rounding, not the draws, decides whether a matrix near the edge is positive definite: this mends it
    rounding = torch.finfo(variance.dtype).eps * len(variance)
    variance = variance + rounding * torch.diag(variance.diagonal())
    return tree.cast_like(metrics.dense(variance.double()), variance)


def window_adaptation(
    *,
    target: float | None = None,
    metric: str | None = "diagonal",
    average: str = "mean",
    initial_buffer: int = 75,
    base_window: int = 25,
    final_buffer: int = 50,
) -> Adaptation:
    r"""Step size and metric in windows, as Stan does, from all chains together.

    In every step :func:`dual_averaging` moves the step size towards the target acceptance rate, given the average rate of all
    chains. In the windows between the first and the last the draws of all chains are pooled; at the end of each of them
    their (co)variance, shrunk as in :func:`welford`, becomes the inverse mass, a new step size is looked for
    (:func:`find_step_size`), and dual averaging starts again. The lengths are those of :func:`stan_windows`.

    It serves samplers that have ``step_size`` and ``metric`` in their tuning (HMC, NUTS, MALA, Barker, random walk, Langevin)
    and leaves alone what a tuning does not have. Without an acceptance test the step size comes from the curvature, by
    :func:`stable_step_size`, at the start and after each window. With C chains a window counts C times as many draws, and
    so 200 steps may do where one chain needs 1,000; they should start from different points.

    Args:
        target: the acceptance rate to reach, in (0, 1); by default ``sampler.target_acceptance``.
        metric: ``"diagonal"``, ``"dense"`` (its root costs :math:`D^3` a window), or None, which keeps the one there is.
        average: of the acceptance rates of the chains: their ``"mean"``, as the theory of optimal rates has it, or their
            ``"harmonic"`` mean, which is never larger and heeds the chain whose rate is lowest: smaller steps where the
            curvature differs from place to place, nearly the same elsewhere, and with one chain no difference.
        initial_buffer: the length of the first window, in which chains move to the bulk of the density.
        base_window: the length of the first window for the metric.
        final_buffer: the length of the last window, for the step size alone.

    Returns:
        An :class:`~funcebm.types.Adaptation`.

    Raises:
        ValueError: a target, a metric or an average that is none of these, or a window of length 0.

    Reference: Stan Development Team, Stan Reference Manual, "HMC algorithm parameters"; Hoffman and Gelman (2014), JMLR
    15:1593-1623. Pooling over chains is ours; the harmonic mean over chains is that of ChEES, Hoffman, Radul and Sountsov
    (2021), AISTATS, PMLR 130.

    >>> window_adaptation().windows(1000)
    (75, 25, 50, 100, 200, 500, 50)
    """
    if target is not None:
        checks.require(0 < target < 1, "target must be between 0 and 1", target, "Try 0.8.")
    fix = 'Write "diagonal", "dense", or None to keep the metric as it is.'
    checks.require(metric in ("diagonal", "dense", None), "metric must be one of three", metric, fix)
    checks.require(
        average in ("mean", "harmonic"), "average must be one of two", average, 'Write "mean" or "harmonic".'
    )
    stan_windows(1000, initial_buffer=initial_buffer, base_window=base_window, final_buffer=final_buffer)

    def first_step_size(
        key: Key, sampler: Sampler, params: Params, memory: WindowMemory, state: Any, pool: Pool
    ) -> WindowMemory:
        """Looks for a step size, and starts dual averaging there."""
        if isinstance(memory.target, tuple):
            step_size = stable_step_size(key, sampler, params, state, memory.tuning, pool=pool)
            return memory._replace(tuning=memory.tuning._replace(step_size=step_size))
        options = {"target": memory.target, "is_wanted": memory.is_slow, "pool": pool}
        step_size = find_step_size(key, sampler, params, state, memory.tuning, **options)
        restarted = dual_averaging(target=memory.target).init(step_size)
        return memory._replace(tuning=memory.tuning._replace(step_size=restarted.step_size), dual_averaging=restarted)

    def init(key: Key, sampler: Sampler, params: Params, state: Any, pool: Pool | None = None) -> WindowMemory:
        checks.require(
            hasattr(sampler.tuning, "step_size"),
            "window_adaptation is for samplers with a step_size in their tuning",
            type(sampler.tuning).__name__,
            "funcebm.adaptation.default chooses what suits a sampler.",
        )
        like = tree.first(state.position)
        one = tree.map(lambda leaf: leaf[0], state.position)
        tuning = tree.cast_like(sampler.tuning, like)
        moments: Any = ()
        if metric is not None and hasattr(tuning, "metric"):
            tuning = tuning._replace(metric=start_metric(tuning, one, metric))
            moments = start_moments(metric, state.position, pool)
        rate = sampler.target_acceptance if target is None else target
        if sampler.target_acceptance is None:
            rate = None
        wanted: Any = () if rate is None else torch.as_tensor(rate).to(tuning.step_size)
        always = torch.ones((), dtype=torch.bool, device=like.device)
        pool = whole(pool, state)
        memory = first_step_size(key, sampler, params, WindowMemory(tuning, wanted, (), moments, always), state, pool)
        return memory._replace(is_slow=~always)

    def update(memory: WindowMemory, state: Any, info: Any, pool: Pool | None = None) -> WindowMemory:
        pool = whole(pool, state)
        if memory.dual_averaging:
            rate = pooled_acceptance_rate(info, average, pool)
            searched = dual_averaging(target=memory.target).update(memory.dual_averaging, rate)
            tuning = memory.tuning._replace(step_size=searched.step_size)
            memory = memory._replace(tuning=tuning, dual_averaging=searched)
        if memory.welford:
            moments = more_moments(metric or "", memory.welford, state.position, pool)
            memory = memory._replace(welford=tree.where(memory.is_slow, moments, memory.welford))
        return memory

    def refresh(
        key: Key, sampler: Sampler, params: Params, memory: WindowMemory, state: Any, pool: Pool | None = None
    ) -> WindowMemory:
        if not memory.welford:
            return memory
        pool = whole(pool, state)
        moments = all_moments(metric or "", memory.welford, pool)
        adapted = metric_of(metric or "", welford(metric or "").shrunk(moments))
        emptied = tree.zeros_like(memory.welford)
        after = memory._replace(tuning=memory.tuning._replace(metric=adapted), welford=emptied)
        after = first_step_size(key, sampler, params, after, state, pool)
        memory = tree.where(memory.is_slow, after, memory)
        return memory._replace(is_slow=torch.ones_like(memory.is_slow))

    def final(memory: WindowMemory, pool: Pool | None = None) -> Tree:
        if not memory.dual_averaging:
            return memory.tuning
        return memory.tuning._replace(step_size=dual_averaging(target=memory.target).final(memory.dual_averaging))

    def windows(num_steps: int) -> tuple[int, ...]:
        first, base, last = initial_buffer, base_window, final_buffer
        if _FEWEST_STEPS <= num_steps < first + base + last:
            # the step size for the last metric is found in the last part: Stan's tenth of a short warm-up is too little
            first, last = int(0.15 * num_steps), max(int(0.1 * num_steps), min(int(0.4 * num_steps), 20))
            base = num_steps - first - last
        return stan_windows(num_steps, initial_buffer=first, base_window=base, final_buffer=last)

    return Adaptation(init, update, final, windows, refresh)
