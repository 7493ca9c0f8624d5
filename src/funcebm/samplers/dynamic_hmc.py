"""Hamiltonian Monte Carlo with a number of leapfrog steps that varies from step to step."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import checks, metrics, random, tree
from ..integrators import PhasePoint, leapfrog
from ..types import Energy, Info, Key, MetricLike, Number, Params, Position, Sampler, Tree
from ._hamiltonian import arrived, energy_drop, set_off, tempered_field
from ._kernel import Chains, EnergyState, evaluated, lockstep, normal_and_uniform, positive, travel
from .constraints import takes_energy
from .metropolis import metropolis_hastings

__all__ = ["DynamicHMCNoise", "DynamicHMCState", "DynamicHMCTuning", "dynamic_hmc", "van_der_corput"]


class DynamicHMCState(NamedTuple):
    """Where the chain is, how many steps it made, and the last proposal, which adaptation reads.

    Attributes:
        position: where the chain is.
        energy: there. ``()``.
        gradient: of the energy there.
        num_steps: the number of steps so far. ``()`` int64.
        proposal: where the last trajectory ended, whether it was accepted or not.
        velocity: :math:`M^{-1} p` there.
        fraction: :math:`u` of the last trajectory. ``()``.
    """

    position: Position
    energy: Tensor
    gradient: Tree
    num_steps: Tensor
    proposal: Position
    velocity: Tree
    fraction: Tensor


class DynamicHMCNoise(NamedTuple):
    """Standard normals like the position, a uniform for the test, and one for the length (or ``()``)."""

    momentum: Tree
    uniform: Tensor
    fraction: Any


class DynamicHMCTuning(NamedTuple):
    """``step_size`` and the maximal ``trajectory_length`` in units of time, the metric, and ``temperature``."""

    step_size: Tensor
    trajectory_length: Tensor
    metric: Any
    temperature: Tensor


def van_der_corput(index: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Point ``index`` of the base-2 van der Corput sequence: its 16 lowest bits, mirrored at the point. ``()``.

    The points fill [0, 1) evenly at any length, and repeat after 65,536; this is the Halton sequence in one dimension.

    Reference: van der Corput (1935), Proc. Akad. Amsterdam 38:813-821.

    >>> [float(van_der_corput(torch.tensor(i))) for i in range(1, 6)]
    [0.5, 0.25, 0.75, 0.125, 0.625]
    """
    for shift, mask in ((1, 0x5555), (2, 0x3333), (4, 0x0F0F), (8, 0x00FF)):  # swap neighbours, pairs, nibbles, bytes
        index = ((index & mask) << shift) | ((index >> shift) & mask)
    return index.to(dtype or torch.get_default_dtype()) * 2.0**-16


@takes_energy
def dynamic_hmc(
    energy: Energy,
    *,
    step_size: Number = 0.1,
    trajectory_length: Number = 1.0,
    lengths: str = "halton",
    max_leapfrog: int = 1000,
    inverse_mass: MetricLike = None,
    temperature: Number = 1.0,
) -> Sampler[DynamicHMCState, Info, DynamicHMCTuning]:
    r"""Hamiltonian Monte Carlo with jittered trajectory lengths.

    Step :math:`i` is one of HMC with

    .. math:: n_i = \max(1, \lceil u_i T / h \rceil), \qquad u_i \in (0, 1)

    leapfrog steps, so the lengths spread over :math:`(0, T]`, which no period of the target resonates with. Each
    :math:`n` leaves :math:`e^{-E/\tau}` (with the temperature :math:`\tau`) invariant, and :math:`n_i` does not depend on where
    the chain is.

    Args:
        energy: ``(params, x) -> ()``.
        step_size: :math:`h > 0`, in units of time. ``()``.
        trajectory_length: :math:`T > 0`, the *longest* time of a trajectory; the mean is about half. ``()``.
        lengths: ``"halton"``: :math:`u_i` is :func:`van_der_corput` of :math:`i + 1`, the same in all chains, which so go on in
            lock step; or ``"uniform"``, drawn again for each step and chain. Chains that run together cost as much as the
            longest.
        max_leapfrog: :math:`n_i` is never more; static.
        inverse_mass: as of :func:`~funcebm.samplers.hmc`.
        temperature: :math:`\tau > 0`, in units of energy. ``()``.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``DynamicHMCState``, ``Info`` and ``DynamicHMCTuning``. ``num_gradients`` of the
        info is :math:`n_i`.

    Raises:
        ValueError: a number that is not positive, an unknown kind of lengths, or an inverse mass that is not a positive
            definite metric.

    Reference: Hoffman, Radul and Sountsov (2021), AISTATS, PMLR 130:3907-3915, whose jitter this is.

    >>> sampler = dynamic_hmc(lambda params, x: (x**2).sum() / 2, step_size=0.25, trajectory_length=2.0)
    >>> state = sampler.init((), torch.zeros(2))
    >>> for i in range(4):
    ...     state, info = sampler(random.key(i), (), state)
    ...     print(int(info.num_gradients), end=" ")
    4 2 6 1
    """
    checks.positive_int("max_leapfrog", max_leapfrog)
    tuning = DynamicHMCTuning(
        positive("step_size", step_size),
        positive("trajectory_length", trajectory_length, "Try about the largest scale of the target."),
        metrics.of(inverse_mass),
        positive("temperature", temperature),
    )
    checks.one_of("lengths", lengths, ("halton", "uniform"))
    evaluate, at_start = evaluated(energy, tuning.metric)

    def init(params: Params, position: Position) -> DynamicHMCState:
        position, value, gradient = at_start(params, position)
        num_steps = torch.zeros((), dtype=torch.int64, device=value.device)
        proposal = tree.map(torch.clone, position)
        fraction = torch.zeros((), dtype=tree.first(position).dtype, device=value.device)
        return DynamicHMCState(position, value, gradient, num_steps, proposal, tree.zeros_like(position), fraction)

    def draw(key: Key, position: Position) -> DynamicHMCNoise:
        normal, uniform, key_length = normal_and_uniform(key, position, 3)
        fraction = random.uniform(key_length, dtype=uniform.dtype) if lengths == "uniform" else ()
        return DynamicHMCNoise(normal, uniform, fraction)

    def step(
        chains: Chains, params: Params, tuning: DynamicHMCTuning, state: DynamicHMCState, noise: DynamicHMCNoise
    ) -> tuple[DynamicHMCState, Info]:
        field = tempered_field(evaluate, params, tuning.temperature)

        def begin(state: DynamicHMCState, noise: DynamicHMCNoise) -> tuple[PhasePoint, Tensor, Tensor]:
            is_halton = lengths == "halton"
            fraction = van_der_corput(state.num_steps + 1, state.fraction.dtype) if is_halton else noise.fraction
            num = torch.ceil(fraction * tuning.trajectory_length / tuning.step_size).clamp(max=max_leapfrog)
            num = num.to(torch.int32).clamp(min=1)
            return set_off(tuning, state, noise.momentum), num, fraction

        def advance(at: tuple[PhasePoint, Tensor]) -> tuple[PhasePoint, Tensor]:
            return leapfrog.step(field, tuning.metric, tuning.step_size, at[0])

        def finish(
            state: DynamicHMCState, uniform: Tensor, start: PhasePoint, end: PhasePoint, value: Tensor, fraction: Tensor
        ) -> tuple[DynamicHMCState, Info]:
            proposal = arrived(tuning, end, value)
            log_ratio = energy_drop(tuning, state, start.momentum, proposal, end.momentum)
            stay = EnergyState(state.position, state.energy, state.gradient)
            kept, info = metropolis_hastings(log_ratio, uniform, proposal, stay, num_gradients=1)
            velocity = metrics.velocity(tuning.metric, end.momentum)
            memory = (state.num_steps + 1, end.position, velocity, fraction)
            return DynamicHMCState._make((*kept, *memory)), info

        start, num, fraction = chains(begin)(state, noise)
        end, value = travel(chains(advance), (start, state.energy), num)
        after, info = chains(finish)(state, noise.uniform, start, end, value, fraction)
        return after, info._replace(num_gradients=num)

    return lockstep(init, draw, step, tuning, target_acceptance=0.651, adaptation="chees")
