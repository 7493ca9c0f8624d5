"""Generalised Hamiltonian Monte Carlo: the momentum persists, and so does the slice of the Metropolis test."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import checks, loops, metrics, tree
from ..integrators import PhasePoint, leapfrog
from ..types import Energy, Info, MetricLike, Number, Params, Position, Sampler, Tree
from ._hamiltonian import MomentumNoise, arrived, momentum_noise, set_off, tempered_field
from ._kernel import Chains, evaluated, lockstep, positive
from .constraints import takes_energy
from .metropolis import metropolis_hastings

__all__ = ["GHMCNoise", "GHMCState", "GHMCTuning", "ghmc"]


class GHMCState(NamedTuple):
    """A point in phase space, and the slice.

    Attributes:
        position: where the chain is.
        momentum: :math:`z = A^\\top p` with :math:`M^{-1} = A A^\\top`, whose distribution is :math:`N(0, I)` whatever the
            metric is.
        slice: :math:`u`, whose distribution is uniform on [-1, 1]; its size is the uniform number of the next test. ``()``.
        energy: at the position. ``()``.
        gradient: of the energy at the position.
        is_fresh: whether momentum and slice are still to be drawn, which the first step does. ``()`` bool.
    """

    position: Position
    momentum: Tree
    slice: Tensor
    energy: Tensor
    gradient: Tree
    is_fresh: Tensor


GHMCNoise = MomentumNoise
"""The uniform is used by the first step only, for the slice."""


class GHMCTuning(NamedTuple):
    """``step_size`` in units of time, the refreshment ``alpha``, the drift ``delta`` of the slice, metric, ``temperature``."""

    step_size: Tensor
    alpha: Tensor
    delta: Tensor
    metric: Any
    temperature: Tensor


@takes_energy
def ghmc(
    energy: Energy,
    *,
    step_size: Number = 0.1,
    num_leapfrog: int = 1,
    alpha: Number = 0.1,
    delta: Number | None = None,
    inverse_mass: MetricLike = None,
    temperature: Number = 1.0,
) -> Sampler[GHMCState, Info, GHMCTuning]:
    r"""Generalised Hamiltonian Monte Carlo with a non-reversible Metropolis test.

    The state is a position, a momentum and a slice :math:`u \in [-1, 1]`. A step refreshes part of the momentum, moves the
    slice, and follows :math:`H(x, p) = E(x)/T + p^\top M^{-1} p / 2` for ``num_leapfrog`` leapfrog steps of size :math:`h`:

    .. math:: p \leftarrow \sqrt{1 - \alpha}\, p + \sqrt{\alpha}\, \xi, \qquad
              u \leftarrow ((u + 1 + \delta) \bmod 2) - 1, \qquad \xi \sim N(0, M)

    It accepts the end :math:`(x', p')` where :math:`|u| \le e^{H(x, p) - H(x', p')}`, and then scales the
    slice, :math:`u \leftarrow u\, e^{H(x', p') - H(x, p)}`. Where it rejects, :math:`p \leftarrow -p`. The distribution
    :math:`e^{-E/T}` is invariant, with a normal momentum and a uniform slice independent of it. Small ``alpha`` makes the
    chain keep its direction, at one gradient a step; a rejection turns it around, and the slow slice bunches rejections
    together, so that there are long stretches without. ``alpha = 1`` is HMC. The chain is not reversible: take the error bars
    of its averages from ``diagnostics.mcse_mean(draws, method="batch_means")``; the usual ones are off by a third for small
    ``alpha``.

    The first step of a chain draws momentum and slice. With a step size of 0 the state stays exactly as it is.

    Args:
        energy: ``(params, x) -> ()``.
        step_size: :math:`h > 0`. ``()``.
        num_leapfrog: leapfrog steps in a proposal; static.
        alpha: :math:`\alpha` in (0, 1], the part of the momentum that is drawn again; for a friction :math:`\gamma` it is
            :math:`1 - e^{-2 \gamma h}`. ``()``.
        delta: :math:`\delta` in [0, 1], by default :math:`\alpha / 2`. ``()``.
        inverse_mass: :math:`M^{-1}`, as of :func:`~funcebm.samplers.hmc`.
        temperature: :math:`T > 0`, in units of energy. ``()``.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``GHMCState``, ``Info`` and ``GHMCTuning``.

    Raises:
        ValueError: a number out of its range, or an inverse mass that is not a positive definite metric.

    Reference: Horowitz (1991), Physics Letters B 268(2):247-252; the slice: Neal (2020), arXiv:2001.11950; the default of
    ``delta``: Hoffman and Sountsov (2022), AISTATS, PMLR 151:7799-7813.

    >>> from funcebm import random
    >>> sampler = ghmc(lambda params, x: (x**2).sum() / 2, step_size=0.3)
    >>> state, info = sampler(random.key(0), (), sampler.init((), torch.zeros(2)))
    >>> int(info.num_gradients)
    1
    """
    checks.positive_int("num_leapfrog", num_leapfrog)
    tuning = GHMCTuning(
        step_size=positive("step_size", step_size),
        alpha=positive("alpha", alpha, "Give a number in (0, 1]; 1 is HMC.", most=1),
        delta=torch.as_tensor(alpha) / 2 if delta is None else torch.as_tensor(delta),
        metric=metrics.of(inverse_mass),
        temperature=positive("temperature", temperature),
    )
    if delta is not None and not isinstance(delta, Tensor):
        checks.require(0 <= delta <= 1, "delta must be in [0, 1]", delta, "Leave it out for alpha / 2.")
    evaluate, start = evaluated(energy, tuning.metric)

    def init(params: Params, position: Position) -> GHMCState:
        position, value, gradient = start(params, position)
        zero = torch.zeros((), dtype=tree.first(position).dtype, device=value.device)
        return GHMCState(
            position, tree.zeros_like(position), zero, value, gradient, torch.ones_like(value, dtype=torch.bool)
        )

    def step(
        chains: Chains, params: Params, tuning: GHMCTuning, state: GHMCState, noise: GHMCNoise
    ) -> tuple[GHMCState, Info]:
        field = tempered_field(evaluate, params, tuning.temperature)

        def refresh(state: GHMCState, noise: GHMCNoise) -> tuple[GHMCState, PhasePoint]:
            keep = torch.where(state.is_fresh, 0.0, torch.sqrt(1 - tuning.alpha))
            add = torch.where(state.is_fresh, 1.0, torch.sqrt(tuning.alpha))
            momentum = tree.map(lambda z, xi: keep * z + add * xi, state.momentum, noise.momentum)
            drifted = state.slice + tuning.delta
            drifted = torch.where(drifted > 1, drifted - 2, drifted)
            drifted = torch.where(state.is_fresh, 2 * noise.uniform - 1, drifted)
            refreshed = state._replace(momentum=momentum, slice=drifted, is_fresh=torch.zeros_like(state.is_fresh))
            return refreshed, set_off(tuning, state, momentum)

        def advance(point: PhasePoint) -> tuple[PhasePoint, Tensor]:
            return leapfrog.step(field, tuning.metric, tuning.step_size, point)

        def finish(state: GHMCState, refreshed: GHMCState, point: PhasePoint) -> tuple[GHMCState, Info]:
            point, value = advance(point)
            momentum = metrics.whiten(tuning.metric, point.momentum)
            kinetic = [0.5 * tree.squared_norm(z) for z in (refreshed.momentum, momentum)]
            log_ratio = (state.energy - value) / tuning.temperature + kinetic[0] - kinetic[1]
            position, energy, gradient = arrived(tuning, point, value)
            scaled = (refreshed.slice * torch.exp(-log_ratio)).to(refreshed.slice.dtype)  # of leaves of several dtypes
            proposal = GHMCState(position, momentum, scaled, energy, gradient, refreshed.is_fresh)
            turned = refreshed._replace(momentum=tree.map(torch.neg, refreshed.momentum))
            uniform = refreshed.slice.abs()
            after, info = metropolis_hastings(log_ratio, uniform, proposal, turned, num_gradients=num_leapfrog)
            return tree.where(tuning.step_size == 0, state, after), info

        refreshed, point = chains(refresh)(state, noise)
        point = loops.repeat(lambda point: chains(advance)(point)[0], point, num_leapfrog - 1)
        return chains(finish)(state, refreshed, point)

    return lockstep(init, momentum_noise, step, tuning, target_acceptance=0.9, adaptation="meads")
