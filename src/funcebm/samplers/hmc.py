"""Hamiltonian Monte Carlo with a fixed number of steps."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import checks, loops, metrics, random
from ..integrators import Integrator, PhasePoint, leapfrog
from ..types import Energy, Info, Key, MetricLike, Number, Params, Position, Sampler, Tree
from ._hamiltonian import arrived, energy_drop, set_off, tempered_field
from ._kernel import Chains, EnergyState, evaluated, lockstep, normal_and_uniform, positive
from .constraints import takes_energy
from .metropolis import metropolis_hastings
from .multinomial_hmc import multinomial_hmc

__all__ = ["HMCNoise", "HMCTuning", "hmc"]

_JITTER = "Give a number in (0, 1), or None for no jitter."


class HMCNoise(NamedTuple):
    """Standard normals like the position, a uniform ``()`` for the test, and one for the step size (or ``()``)."""

    momentum: Tree
    uniform: Tensor
    jitter: Any


class HMCTuning(NamedTuple):
    """``step_size`` in units of time, the metric, ``temperature``, and the relative ``jitter`` of the step size."""

    step_size: Tensor
    metric: Any
    temperature: Tensor
    jitter: Tensor


@takes_energy
def hmc(
    energy: Energy,
    *,
    step_size: Number = 0.1,
    num_leapfrog: int = 10,
    inverse_mass: MetricLike = None,
    temperature: Number = 1.0,
    jitter: Number | None = None,
    integrator: Integrator = leapfrog,
    endpoint: str = "metropolis",
) -> Sampler[EnergyState, Info, HMCTuning]:
    r"""Hamiltonian Monte Carlo.

    Draws :math:`p \sim N(0, M)`, follows :math:`H(x, p) = E(x)/T + p^\top M^{-1} p / 2` for ``num_leapfrog`` leapfrog
    steps of size :math:`h`, and accepts the end with probability :math:`\min(1, e^{H(x, p) - H(x', p')})`. It leaves
    :math:`e^{-E/T}` invariant. ``num_leapfrog`` gradients a step: the first comes from the state.

    With ``endpoint="multinomial"`` a number of the steps, uniform on 0 .. ``num_leapfrog``, goes backwards from the start,
    and the new position is any of the ``num_leapfrog + 1`` states of the trajectory, with probabilities in proportion to
    :math:`e^{-H}`: a few bad states do not cost the others. Its ``acceptance_rate`` is the mean of
    :math:`\min(1, e^{H(x, p) - H(x', p')})` over the new states, ``is_accepted`` says whether one of them was chosen.

    Args:
        energy: ``(params, x) -> ()``.
        step_size: :math:`h > 0`. ``()``.
        num_leapfrog: leapfrog steps (or steps of ``integrator``) in a proposal; static.
        inverse_mass: :math:`M^{-1}`. None is the identity, a matrix ``(D, D)`` is dense over the ravelled position,
            anything else (a number, a vector, a tree like one position) is diagonal. :mod:`funcebm.metrics` makes
            the choice explicit.
        temperature: :math:`T > 0`, in units of energy. ``()``.
        jitter: None, or :math:`j` in (0, 1): each step uses :math:`h (1 + j u)` with :math:`u` uniform on (-1, 1),
            which breaks up trajectories that return to their start.
        integrator: one of :mod:`funcebm.integrators`; static. One that ends on a drift costs one gradient more in a
            proposal, or in each step of a multinomial one.
        endpoint: ``"metropolis"`` or ``"multinomial"``.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``EnergyState``, ``Info`` and ``HMCTuning``.

    Raises:
        ValueError: a number that is not positive, an inverse mass that is not a positive definite metric, or an unknown
            endpoint.
        TypeError: an integrator of another type.

    Reference: Neal (2011), Handbook of Markov Chain Monte Carlo, chapter 5; Betancourt (2017), arXiv:1701.02434, appendix
    A, for the multinomial endpoint.

    >>> sampler = hmc(lambda params, x: (x**2).sum() / 2, step_size=0.3, num_leapfrog=5)
    >>> state, info = sampler(random.key(0), (), sampler.init((), torch.zeros(2)))
    >>> int(info.num_gradients)
    5
    """
    checks.positive_int("num_leapfrog", num_leapfrog)
    tuning = HMCTuning(
        step_size=positive("step_size", step_size),
        metric=metrics.of(inverse_mass),
        temperature=positive("temperature", temperature),
        jitter=torch.zeros(()) if jitter is None else positive("jitter", jitter, _JITTER),
    )
    if jitter is not None and not isinstance(jitter, Tensor):
        checks.require(jitter < 1, "jitter must be below 1", jitter, _JITTER)
    fix = "Use one of funcebm.integrators, or make one with funcebm.integrators.splitting."
    checks.require(isinstance(integrator, Integrator), "integrator must be an Integrator", integrator, fix, TypeError)
    checks.one_of("endpoint", endpoint, ("metropolis", "multinomial"))
    evaluate, init = evaluated(energy, tuning.metric)
    if endpoint == "multinomial":
        return multinomial_hmc(evaluate, init, tuning, num_leapfrog, jitter is not None, integrator)
    num_gradients = num_leapfrog * integrator.num_gradients + (not integrator.ends_on_kick)

    def draw(key: Key, position: Position) -> HMCNoise:
        normal, uniform, key_jitter = normal_and_uniform(key, position, 3)
        return HMCNoise(
            normal, uniform, () if jitter is None else random.uniform(key_jitter, low=-1, dtype=uniform.dtype)
        )

    def step(
        chains: Chains, params: Params, tuning: HMCTuning, state: EnergyState, noise: HMCNoise
    ) -> tuple[EnergyState, Info]:
        field = tempered_field(evaluate, params, tuning.temperature)

        def begin(state: EnergyState, noise: HMCNoise) -> tuple[PhasePoint, Tensor]:
            h = tuning.step_size if jitter is None else tuning.step_size * (1 + tuning.jitter * noise.jitter)
            return set_off(tuning, state, noise.momentum), h

        def advance(h: Tensor, point: PhasePoint) -> tuple[PhasePoint, Tensor]:
            return integrator.step(field, tuning.metric, h, point)

        def finish(
            state: EnergyState, noise: HMCNoise, start: PhasePoint, h: Tensor, point: PhasePoint
        ) -> tuple[EnergyState, Info]:
            point, value = advance(h, point)
            proposal = arrived(tuning, point, value)
            if not integrator.ends_on_kick:  # it has not yet looked at the energy there
                proposal = EnergyState(point.position, *evaluate(params, point.position))
            log_ratio = energy_drop(tuning, state, start.momentum, proposal, point.momentum)
            return metropolis_hastings(log_ratio, noise.uniform, proposal, state, num_gradients)

        start, h = chains(begin)(state, noise)
        point = loops.repeat(lambda point: chains(advance)(h, point)[0], start, num_leapfrog - 1)
        return chains(finish)(state, noise, start, h, point)

    return lockstep(init, draw, step, tuning, target_acceptance=0.8, weight=2 + num_leapfrog // 5)
