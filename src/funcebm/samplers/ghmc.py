"""Generalised Hamiltonian Monte Carlo: the momentum persists, and so does the slice of the Metropolis test."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor

from .. import checks, loops, metrics, random, tree
from ..integrators import PhasePoint, leapfrog
from ..types import Energy, Info, Key, Params, Position, Sampler, Tree
from ._kernel import STEP_SIZE, TEMPERATURE, Chains, evaluated, lockstep, positive, tempered_field
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
        fresh: 1 before the first step, which draws momentum and slice, 0 after it. ``()``.
    """

    position: Position
    momentum: Tree
    slice: Tensor
    energy: Tensor
    gradient: Tree
    fresh: Tensor


class GHMCNoise(NamedTuple):
    """Standard normals like the position, and a uniform on [0, 1), which only the first step uses. ``()``."""

    momentum: Tree
    uniform: Tensor


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
    step_size: float | Tensor = 0.1,
    num_leapfrog: int = 1,
    alpha: float | Tensor = 0.1,
    delta: float | Tensor | None = None,
    inverse_mass: Tree | None = None,
    temperature: float | Tensor = 1.0,
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

    >>> sampler = ghmc(lambda params, x: (x**2).sum() / 2, step_size=0.3)
    >>> state, info = sampler(random.key(0), (), sampler.init((), torch.zeros(2)))
    >>> int(info.num_gradients)
    1
    """
    checks.positive_int("num_leapfrog", num_leapfrog)
    tuning = GHMCTuning(
        step_size=positive("step_size", step_size, STEP_SIZE),
        alpha=positive("alpha", alpha, "Give a number in (0, 1]."),
        delta=torch.as_tensor(alpha) / 2 if delta is None else torch.as_tensor(delta),
        metric=metrics.of(inverse_mass),
        temperature=positive("temperature", temperature, TEMPERATURE),
    )
    if not isinstance(alpha, Tensor):
        checks.require(alpha <= 1, "alpha must be at most 1", alpha, "Give a number in (0, 1]; 1 is HMC.")
    if delta is not None and not isinstance(delta, Tensor):
        checks.require(0 <= delta <= 1, "delta must be in [0, 1]", delta, "Leave it out for alpha / 2.")
    evaluate, start = evaluated(energy, tuning.metric)

    def init(params: Params, position: Position) -> GHMCState:
        position, value, gradient = start(params, position)
        zero = torch.zeros((), dtype=tree.first(position).dtype, device=value.device)
        return GHMCState(position, tree.zeros_like(position), zero, value, gradient, torch.ones_like(zero))

    def draw(key: Key, position: Position) -> GHMCNoise:
        key_momentum, key_slice = random.split(key)
        uniform = random.uniform(key_slice, dtype=tree.first(position).dtype)
        return GHMCNoise(tree.normal_like(key_momentum, position), uniform)

    def refresh(params: Params, tuning: GHMCTuning, state: GHMCState, noise: GHMCNoise) -> tuple[GHMCState, PhasePoint]:
        is_first = state.fresh > 0
        keep = torch.where(is_first, 0.0, torch.sqrt(1 - tuning.alpha))
        add = torch.where(is_first, 1.0, torch.sqrt(tuning.alpha))
        momentum = tree.map(lambda z, xi: keep * z + add * xi, state.momentum, noise.momentum)
        drifted = state.slice + tuning.delta
        drifted = torch.where(drifted > 1, drifted - 2, drifted)
        drifted = torch.where(is_first, 2 * noise.uniform - 1, drifted)
        gradient = tree.scale(1 / tuning.temperature, state.gradient)
        point = PhasePoint(state.position, metrics.momentum(tuning.metric, momentum), gradient)
        return state._replace(momentum=momentum, slice=drifted, fresh=torch.zeros_like(state.fresh)), point

    def advance(params: Params, tuning: GHMCTuning, point: PhasePoint) -> tuple[PhasePoint, Tensor]:
        field = tempered_field(evaluate, params, tuning.temperature)
        return leapfrog.step(field, tuning.metric, tuning.step_size, point)

    def accept(
        params: Params, tuning: GHMCTuning, state: GHMCState, refreshed: GHMCState, after: PhasePoint, value: Tensor
    ) -> tuple[GHMCState, Info]:
        momentum = metrics.whiten(tuning.metric, after.momentum)
        kinetic = [0.5 * tree.squared_norm(z) for z in (refreshed.momentum, momentum)]
        log_ratio = (state.energy - value) / tuning.temperature + kinetic[0] - kinetic[1]
        proposal = refreshed._replace(
            position=after.position,
            momentum=momentum,
            slice=(refreshed.slice * torch.exp(-log_ratio)).to(refreshed.slice.dtype),  # of leaves of several dtypes
            energy=value,
            gradient=tree.scale(tuning.temperature, after.gradient),
        )
        turned = refreshed._replace(momentum=tree.map(torch.neg, refreshed.momentum))
        uniform = refreshed.slice.abs()
        new_state, info = metropolis_hastings(log_ratio, uniform, proposal, turned, num_gradients=num_leapfrog)
        return tree.where(tuning.step_size == 0, state, new_state), info

    def make_step(chains: Chains) -> Callable[..., tuple[GHMCState, Info]]:
        def step(params: Params, tuning: GHMCTuning, state: GHMCState, noise: GHMCNoise) -> tuple[GHMCState, Info]:
            refreshed, point = chains(refresh)(params, tuning, state, noise)
            point = loops.repeat(lambda point: chains(advance)(params, tuning, point)[0], point, num_leapfrog - 1)
            after, value = chains(advance)(params, tuning, point)  # the last one also wants the energy
            return chains(accept)(params, tuning, state, refreshed, after, value)

        return step

    return lockstep(init, draw, make_step, tuning, target_acceptance=0.9, adaptation="meads")
