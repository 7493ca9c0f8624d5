"""A first step size: of the right order, from a few trials."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, loops, metrics, random, tree
from ..distributed.pool import Pool, whole
from ..types import Key, Params, Sampler, Tree, step_of_chains

__all__ = ["find_step_size", "pooled_acceptance_rate", "stable_step_size"]

_MOST_TRIALS = 60
_FRACTION = 0.1
_NUM_ITERATIONS = 30
_STUCK = 1e-3


def pooled_acceptance_rate(info: Any, average: str = "mean", pool: Pool | None = None) -> Tensor:
    r"""One acceptance rate of all chains. ``()``.

    ``"mean"`` is their mean, where a rate that is not finite counts as 0. ``"harmonic"`` is the harmonic mean of the rates of
    at least 0.001, times the share of such chains: one chain where the energy is steep counts for more than several where it
    is not, and one that is stuck for no more than its share.

    >>> from types import SimpleNamespace
    >>> info = SimpleNamespace(acceptance_rate=torch.tensor([0.9, 0.9, 0.9, 0.1]))
    >>> pooled_acceptance_rate(info), pooled_acceptance_rate(info, "harmonic")
    (tensor(0.7000), tensor(0.3000))
    """
    rate = torch.where(torch.isfinite(info.acceptance_rate), info.acceptance_rate, 0)
    if average == "mean":
        return whole(pool, rate).mean(rate)
    pool, moves = whole(pool, rate), rate >= _STUCK
    num, inverse = pool.sum((moves.to(rate.dtype), torch.where(moves, 1 / rate.clamp(min=_STUCK), 0)))
    return num / pool.count * num / inverse.clamp(min=torch.finfo(rate.dtype).tiny)


def find_step_size(
    key: Key,
    sampler: Sampler,
    params: Params,
    state: Any,
    tuning: Tree,
    *,
    target: float | Tensor = 0.8,
    is_wanted: bool | Tensor = True,
    pool: Pool | None = None,
) -> Tensor:
    r"""A step size at which the acceptance rate is near ``target``, by doubling or halving.

    From ``tuning.step_size`` all chains take one step, with fresh noise and always from ``state``. If their mean acceptance
    rate is above ``target`` the step size doubles until it is not, else it halves until it is. What comes back is within a
    factor 2 of where the rate crosses the target, but for the noise of the trials. It never goes further than a factor
    ``2**60``: where no step size does, as on a flat energy, that is what comes back.

    Args:
        key: ``(2,)``.
        sampler: a kernel with ``tuning.step_size`` and an acceptance test.
        params: the parameters of its energy.
        state: of all chains; every leaf leads with the chain axis.
        tuning: the tuning of the sampler.
        target: the acceptance rate to cross. ``()``.
        is_wanted: where False, no trial is made and ``tuning.step_size`` comes back. ``()`` bool.
        pool: of all chains, where ``state`` has those of one rank.

    Returns:
        The step size. ``()``.

    Raises:
        ValueError: a sampler without a step size.

    Reference: Hoffman and Gelman (2014), JMLR 15:1593-1623, algorithm 4; there one leapfrog step and the rate 0.5, in Stan
    0.8; here one step of any sampler, over all chains.

    >>> from funcebm import samplers
    >>> sampler = samplers.mala(lambda params, x: (x**2).sum() / 2)
    >>> state = vmap(sampler.init, (None, 0))((), random.normal(random.key(0), (100, 10)))
    >>> step_size = find_step_size(random.key(1), sampler, (), state, sampler.tuning, target=0.574)
    >>> bool(0.3 < step_size < 1.5)
    True
    """
    checks.require(
        hasattr(tuning, "step_size"),
        "find_step_size is for samplers with a step_size in their tuning",
        type(tuning).__name__,
        "A sampler without one needs no step size.",
    )
    step, pool = step_of_chains(sampler), whole(pool, state)
    first = tuning.step_size
    zero = torch.zeros_like(first)
    wanted = (first == first) & torch.as_tensor(is_wanted, device=first.device)

    def trial(carry: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        step_size, direction, num, _ = carry
        keys = pool.split(random.fold_in(key, num))
        noise = vmap(sampler.draw)(keys, state.position)
        _, info = step(params, tuning._replace(step_size=step_size), state, noise)
        sign = torch.where(pooled_acceptance_rate(info, pool=pool) > target, zero + 1, zero - 1)
        direction = torch.where(direction == 0, sign, direction)
        goes_on = sign == direction
        return torch.where(goes_on, step_size * 2**direction, step_size), direction, num + 1, goes_on

    start = (first, zero, torch.zeros_like(first, dtype=torch.int64), wanted)
    step_size, *_ = loops.while_loop(lambda carry: carry[3] & (carry[2] < _MOST_TRIALS), trial, start)
    return step_size


def stable_step_size(
    key: Key,
    sampler: Sampler,
    params: Params,
    state: Any,
    tuning: Tree,
    *,
    fraction: float = _FRACTION,
    pool: Pool | None = None,
) -> Tensor:
    r"""A step size for a sampler without an acceptance test, from the curvature of the energy.

    With :math:`\lambda` the largest eigenvalue, in absolute value and over all chains, of the Hessian in the coordinates of
    the metric, :math:`A^\top \nabla^2 E\, A` (of :math:`\nabla^2 E` without a metric), it is

    .. math:: h = \frac{f}{\lambda} \quad \text{(Langevin)}, \qquad
              h = \sqrt{\frac{2 f}{\lambda}} \quad \text{(with friction, where step sizes are times)} .

    On a Gaussian both are stable up to :math:`f = 2`. For Langevin dynamics the stiffest direction has the variance
    :math:`1 / (1 - f / 2)` in place of 1: 5 % too much at the default. The eigenvalue comes from 30 power iterations for
    each chain, each the cost of a few gradients; it is approached from below, to about 10 % in 1,000 dimensions.

    Args:
        key: ``(2,)``.
        sampler: a kernel whose state has the ``gradient`` of the energy, with ``tuning.step_size``.
        params: the parameters of its energy.
        state: of all chains; every leaf leads with the chain axis.
        tuning: the tuning of the sampler; a field ``friction`` says that the step size is a time.
        fraction: :math:`f`.
        pool: of all chains, where ``state`` has those of one rank.

    Returns:
        The step size. ``()``.

    Raises:
        ValueError: a sampler without a step size, or whose state has no gradient.

    >>> from funcebm import samplers
    >>> sampler = samplers.langevin(lambda params, x: (x**2 * torch.tensor([1.0, 50.0])).sum() / 2)
    >>> state = vmap(sampler.init, (None, 0))((), torch.zeros(4, 2))
    >>> stable_step_size(random.key(0), sampler, (), state, sampler.tuning)
    tensor(0.0020)
    """
    checks.require(
        hasattr(tuning, "step_size") and hasattr(state, "gradient"),
        "stable_step_size is for samplers with a step_size in their tuning and a gradient in their state",
        f"{type(tuning).__name__} and {type(state).__name__}",
        "Set the step size by hand.",
    )
    metric = getattr(tuning, "metric", metrics.of(None))
    metric = tree.cast_like(metric, tree.first(state.position))

    def curvature(start: Tree, position: Tree) -> Tensor:
        gradient = torch.func.vjp(lambda at: sampler.init(params, at).gradient, position)[1]

        def multiply(vector: Tree) -> Tree:
            return metrics.whiten(metric, gradient(metrics.displacement(metric, vector))[0])

        vector = start
        for _ in range(_NUM_ITERATIONS):
            image = multiply(vector)
            norm = tree.squared_norm(image).sqrt()
            vector = tree.scale(1 / torch.where(norm > 0, norm, 1), image)
        return tree.squared_norm(multiply(vector)).sqrt() / tree.squared_norm(vector).sqrt()

    pool = whole(pool, state)
    starts = vmap(tree.normal_like)(pool.split(key), state.position)
    largest = pool.gather(vmap(curvature)(starts, state.position))
    largest = torch.where(torch.isfinite(largest), largest, 0).amax()
    step_size = torch.sqrt(2 * fraction / largest) if hasattr(tuning, "friction") else fraction / largest
    return torch.where(largest > 0, step_size, tuning.step_size)
