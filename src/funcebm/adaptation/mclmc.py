"""The tuners of microcanonical samplers: step size, decoherence length and metric."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import checks, tree
from ..distributed.pool import Pool, whole
from ..types import Adaptation, Key, Params, Sampler, Tree
from .welford import all_moments, more_moments, start_moments, welford
from .window import metric_of, start_metric, window_adaptation

__all__ = ["MclmcMemory", "adjusted_mclmc_adaptation", "mclmc_adaptation"]

_TRUST, _FORGET = 1.5, 149 / 151
_SMALLEST, _LARGEST = 1e-8, 1e12  # of the energy error, squared and normalised
_SHRINK, _RECOVER = 0.8, 1.02
_LENGTH_FACTOR = 0.4
_NUM_BATCHES = 4
_FEWEST_STEPS = 40
_LAST = 4  # the stage of the length


class MclmcMemory(NamedTuple):
    """What the tuner of MCLMC remembers; everything but the tuning and the moments is ``()``.

    Attributes:
        tuning: the tuning of the next step.
        unit: the first step size of a stage; in its units the next two are.
        weighted: the weighted sum of the normalised squared energy error over the sixth power of the step size.
        weights: the sum of the weights.
        ceiling: above which no step size goes, infinite until a step is given up.
        stage: 0 the step size; 1 and 2 also the moments; 3 the step size with the new metric; 4 the length.
        moments: of the draws since a stage began, of each block of the pool where the metric is not dense.
        batch_sum: the sum of each chain's positions since a batch began, ``(C, D)``, of the chains of this rank.
        batch_num: the number of steps in it.
        batch_moments: of the means of the batches, of each block of the pool.
    """

    tuning: Tree
    unit: Tensor
    weighted: Tensor
    weights: Tensor
    ceiling: Tensor
    stage: Tensor
    moments: Any
    batch_sum: Tensor
    batch_num: Tensor
    batch_moments: Any


def mclmc_adaptation(*, metric: str | None = "diagonal", energy_variance: float = 5e-4) -> Adaptation:
    r"""Step size, decoherence length and metric of unadjusted MCLMC, from all chains together.

    1. The step size: of an energy error :math:`\Delta` in :math:`d` dimensions, with
       :math:`\xi = \Delta^2 / (d V)` and the weight :math:`w = \exp(-\tfrac12 (\log \xi / 9)^2)`,
       the means over the chains join sums that forget slowly (:math:`r = 149/151`), and as :math:`\xi` grows with the sixth
       power of the step size,

       .. math:: X \leftarrow r X + \overline{w \xi} / \varepsilon^6, \qquad W \leftarrow r W + \overline w, \qquad
                 \varepsilon \leftarrow (X / W)^{-1/6} .

    2. The variances of the positions are collected too, twice: once more with the metric that the first made. They become the
       metric, :math:`L = \sqrt d`, and the step size is found again; without a metric to adapt :math:`L` is the root of the
       sum of the variances.
    3. With the step size held, :math:`L = 0.4\, \varepsilon\, \overline{\tau_j}`, where :math:`\tau_j` is how many steps one
       independent draw of coordinate :math:`j` costs: a batch of :math:`b` steps has
       :math:`\tau_j = b\, \mathrm{Var}(\text{batch mean}) / \mathrm{Var}`, over 4 batches of each chain.

    A chain that gives up a step counts for nothing in it, and sets a ceiling of 0.8 times the step size. Each step without
    that lifts the ceiling by 2 %, so that an accident does not hold the step size down for ever.

    It takes 15 % of the steps for the first part, 15, 25 and 15 % for the second, 30 % for the third; below 40 steps all are
    for the first. For :func:`funcebm.samplers.mclmc`.

    Args:
        metric: ``"diagonal"``, ``"dense"``, or None, which keeps the metric as it is.
        energy_variance: :math:`V`, the variance of the energy error that is wanted for each dimension. Smaller has less bias.

    Returns:
        An :class:`~funcebm.types.Adaptation`.

    Raises:
        ValueError: a number out of its range; at the start, another sampler.

    Reference: Robnik and Seljak (2024), arXiv:2303.18221; there one chain, one metric, a ceiling that stays, and the
    number of independent draws from autocorrelations.

    >>> mclmc_adaptation().windows(400)
    (60, 60, 100, 60, 30, 30, 30, 30)
    """
    fix = 'Write "diagonal", "dense", or None to keep the metric as it is.'
    checks.require(metric in ("diagonal", "dense", None), "metric must be one of three", metric, fix)
    checks.positive("energy_variance", energy_variance, "The usual value is 0.0005.")
    shape = metric or "diagonal"

    def init(key: Key, sampler: Sampler, params: Params, state: Any, pool: Pool | None = None) -> MclmcMemory:
        checks.require(
            hasattr(sampler.tuning, "decoherence_length"),
            "mclmc_adaptation is for samplers.mclmc",
            f"a sampler with {type(sampler.tuning).__name__}",
            "For samplers.adjusted_mclmc take adjusted_mclmc_adaptation; funcebm.adaptation.default chooses.",
        )
        one = tree.map(lambda leaf: leaf[0], state.position)
        matrix = tree.rows(state.position)
        tuning = tree.cast_like(sampler.tuning, matrix)
        if metric is not None:
            tuning = tuning._replace(metric=start_metric(tuning, one, metric))
        zero = torch.zeros((), dtype=matrix.dtype, device=matrix.device)
        root = zero + matrix.shape[1] ** 0.5
        tuning = tuning._replace(step_size=0.25 * root, decoherence_length=root)
        return MclmcMemory(
            tuning=tuning,
            unit=0.25 * root,
            weighted=zero,
            weights=zero,
            ceiling=zero + torch.inf,
            stage=zero,
            moments=start_moments(shape, state.position, pool),
            batch_sum=torch.zeros_like(matrix),
            batch_num=zero,
            batch_moments=start_moments("diagonal", matrix, pool),
        )

    def step_size(memory: MclmcMemory, info: Any, size: int, pool: Pool) -> MclmcMemory:
        """Of the next step, from the energy errors of this one."""
        step = memory.tuning.step_size
        is_finite = torch.isfinite(info.energy_error) & ~info.is_divergent
        error = torch.where(is_finite, info.energy_error, 0)
        excess = (error * (error / (size * energy_variance))).clamp(_SMALLEST, _LARGEST)
        weight = torch.exp(-0.5 * (excess.log() / (6 * _TRUST)) ** 2)
        weight = torch.where(is_finite, weight, 0)
        found, both, num_finite = pool.sum((weight, weight * excess, is_finite.to(weight.dtype)))
        weighted = _FORGET * memory.weighted + both / pool.count * (memory.unit / step) ** 6
        weights = _FORGET * memory.weights + found / pool.count
        wanted = torch.where(weights > 0, memory.unit * (weights / weighted) ** (1 / 6), step)
        ceiling = torch.where(num_finite == pool.count, _RECOVER * memory.ceiling, _SHRINK * step)
        wanted = torch.where(memory.stage < _LAST, wanted, step)
        return memory._replace(
            tuning=memory.tuning._replace(step_size=torch.minimum(wanted, ceiling)),
            weighted=weighted,
            weights=weights,
            ceiling=ceiling,
        )

    def update(memory: MclmcMemory, state: Any, info: Any, pool: Pool | None = None) -> MclmcMemory:
        matrix, pool = tree.rows(state.position), whole(pool, state)
        memory = step_size(memory, info, matrix.shape[1], pool)
        moments = more_moments(shape, memory.moments, state.position, pool)
        counts = (memory.stage == 1) | (memory.stage == 2) | (memory.stage == _LAST)
        return memory._replace(
            moments=tree.where(counts, moments, memory.moments),
            batch_sum=memory.batch_sum + matrix,
            batch_num=memory.batch_num + 1,
        )

    def close_batch(memory: MclmcMemory, pool: Pool) -> MclmcMemory:
        means = memory.batch_sum / memory.batch_num.clamp(min=1)
        moments = more_moments("diagonal", memory.batch_moments, means, pool)
        moments = tree.where(memory.stage == _LAST, moments, memory.batch_moments)
        zeros = torch.zeros_like(memory.batch_sum)
        return memory._replace(batch_moments=moments, batch_sum=zeros, batch_num=torch.zeros_like(memory.batch_num))

    def refresh(
        key: Key, sampler: Sampler, params: Params, memory: MclmcMemory, state: Any, pool: Pool | None = None
    ) -> MclmcMemory:
        pool = whole(pool, state)
        memory = close_batch(memory, pool)
        emptied = tree.zeros_like(memory.moments)
        size = memory.batch_sum.shape[1]
        variance = welford(shape).shrunk(all_moments(shape, memory.moments, pool))
        if metric is None:
            total = sum(leaf.sum() for leaf in tree.leaves(variance))
            tuning = memory.tuning._replace(decoherence_length=torch.sqrt(total))
            adapted = memory._replace(tuning=tuning)
        else:
            root = torch.full_like(memory.unit, size**0.5)
            tuning = memory.tuning._replace(
                metric=metric_of(metric, variance), decoherence_length=root, step_size=0.25 * root
            )
            zero = torch.zeros_like(memory.unit)
            adapted = memory._replace(
                tuning=tuning, unit=0.25 * root, weighted=zero, weights=zero, ceiling=zero + torch.inf
            )
        after = tree.where((memory.stage == 1) | (memory.stage == 2), adapted, memory)
        moments = tree.where(memory.stage < _LAST, emptied, memory.moments)
        return after._replace(moments=moments, stage=(memory.stage + 1).clamp(max=_LAST))

    def final(memory: MclmcMemory, pool: Pool | None = None) -> Tree:
        is_last = memory.stage == _LAST
        num_steps = memory.batch_num
        pool = whole(pool, memory.batch_sum)
        memory = close_batch(memory, pool)
        variance = welford(shape).final(all_moments(shape, memory.moments, pool))
        variance = variance.diagonal() if shape == "dense" else tree.ravel(variance)[0]
        cost = num_steps * welford().final(all_moments("diagonal", memory.batch_moments, pool)) / variance
        cost = torch.where(torch.isfinite(cost), cost.clamp(min=1), 1).mean()
        length = torch.where(is_last, _LENGTH_FACTOR * memory.tuning.step_size * cost, memory.tuning.decoherence_length)
        return memory.tuning._replace(decoherence_length=length)

    def windows(num_steps: int) -> tuple[int, ...]:
        checks.positive_int("num_steps", num_steps)
        if num_steps < _FEWEST_STEPS:
            return (num_steps,)
        first, third, batch = 15 * num_steps // 100, num_steps // 4, 30 * num_steps // (100 * _NUM_BATCHES)
        return (num_steps - 2 * first - third - _NUM_BATCHES * batch, first, third, first, *[batch] * _NUM_BATCHES)

    return Adaptation(init, update, final, windows, refresh)


def adjusted_mclmc_adaptation(
    *, target: float = 0.9, metric: str | None = "diagonal", length_factor: float = 1.3
) -> Adaptation:
    r"""Step size, trajectory length and metric of adjusted MCLMC, from all chains together.

    The step size and the metric are those of :func:`window_adaptation`, with a higher target. In the coordinates of the metric
    all scales are one, and the trajectory length is :math:`1.3 \sqrt d` in :math:`d` dimensions.

    For :func:`funcebm.samplers.adjusted_mclmc`.

    Args:
        target: the acceptance rate to reach, in (0, 1).
        metric: ``"diagonal"``, ``"dense"``, or None, which keeps the metric as it is.
        length_factor: in place of 1.3.

    Returns:
        An :class:`~funcebm.types.Adaptation`.

    Raises:
        ValueError: a number out of its range; at the start, another sampler.

    Reference: Robnik, Cohn-Gordon and Seljak (2025), arXiv:2503.01707.

    >>> adjusted_mclmc_adaptation().windows(100)
    (15, 65, 20)
    """
    checks.positive("length_factor", length_factor, "The usual value is 1.3.")
    inner = window_adaptation(target=target, metric=metric)

    def init(key: Key, sampler: Sampler, params: Params, state: Any, pool: Pool | None = None) -> Any:
        checks.require(
            hasattr(sampler.tuning, "trajectory_length") and sampler.target_acceptance is not None,
            "adjusted_mclmc_adaptation is for samplers.adjusted_mclmc",
            f"a sampler with {type(sampler.tuning).__name__}",
            "Leave the choice to funcebm.adaptation.default.",
        )
        matrix = tree.rows(state.position)
        length = torch.full_like(matrix[0, 0], length_factor * matrix.shape[1] ** 0.5)
        sampler = sampler._replace(tuning=sampler.tuning._replace(trajectory_length=length))
        return inner.init(key, sampler, params, state, pool)

    return inner._replace(init=init)
