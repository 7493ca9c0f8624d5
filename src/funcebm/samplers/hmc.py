"""Hamiltonian Monte Carlo with a fixed number of steps."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor

from .. import checks, loops, metrics, random, tree
from ..integrators import Integrator, PhasePoint, leapfrog
from ..types import Energy, Info, Key, Params, Position, Sampler, Tree
from ._kernel import STEP_SIZE, TEMPERATURE, Chains, EnergyState, evaluated, lockstep, positive, tempered_field
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
    step_size: float | Tensor = 0.1,
    num_leapfrog: int = 10,
    inverse_mass: Tree | None = None,
    temperature: float | Tensor = 1.0,
    jitter: float | Tensor | None = None,
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
        step_size=positive("step_size", step_size, STEP_SIZE),
        metric=metrics.of(inverse_mass),
        temperature=positive("temperature", temperature, TEMPERATURE),
        jitter=torch.zeros(()) if jitter is None else positive("jitter", jitter, _JITTER),
    )
    if jitter is not None and not isinstance(jitter, Tensor):
        checks.require(jitter < 1, "jitter must be below 1", jitter, _JITTER)
    fix = "Use one of funcebm.integrators, or make one with funcebm.integrators.splitting."
    checks.require(isinstance(integrator, Integrator), "integrator must be an Integrator", integrator, fix, TypeError)
    endpoints = ("metropolis", "multinomial")
    checks.require(endpoint in endpoints, f"endpoint must be one of {endpoints}", endpoint, "Write one of them.")
    evaluate, init = evaluated(energy, tuning.metric)
    if endpoint == "multinomial":
        return multinomial_hmc(evaluate, init, tuning, num_leapfrog, jitter is not None, integrator)
    num_gradients = num_leapfrog * integrator.num_gradients + (not integrator.ends_on_kick)

    def draw(key: Key, position: Position) -> HMCNoise:
        key_momentum, key_accept, key_jitter = random.split(key, 3)
        dtype = tree.first(position).dtype
        jittered = () if jitter is None else random.uniform(key_jitter, low=-1, dtype=dtype)
        return HMCNoise(tree.normal_like(key_momentum, position), random.uniform(key_accept, dtype=dtype), jittered)

    def begin(params: Params, tuning: HMCTuning, state: EnergyState, noise: HMCNoise) -> tuple[PhasePoint, Tensor]:
        """p ~ N(0, M), and the step size of this trajectory."""
        h = tuning.step_size if jitter is None else tuning.step_size * (1 + tuning.jitter * noise.jitter)
        momentum = metrics.momentum(tuning.metric, noise.momentum)
        return PhasePoint(state.position, momentum, tree.scale(1 / tuning.temperature, state.gradient)), h

    def advance(params: Params, tuning: HMCTuning, h: Tensor, point: PhasePoint) -> tuple[PhasePoint, Tensor]:
        """One step, and the energy where it last looked."""
        return integrator.step(tempered_field(evaluate, params, tuning.temperature), tuning.metric, h, point)

    def end(params: Params, tuning: HMCTuning, h: Tensor, point: PhasePoint) -> tuple[EnergyState, Tree]:
        """The last step, to a state: an integrator that ends on a drift has not yet looked at the energy there."""
        point, value = advance(params, tuning, h, point)
        if not integrator.ends_on_kick:
            return EnergyState(point.position, *evaluate(params, point.position)), point.momentum
        return EnergyState(point.position, value, tree.scale(tuning.temperature, point.gradient)), point.momentum

    def accept(
        params: Params,
        tuning: HMCTuning,
        state: EnergyState,
        noise: HMCNoise,
        momentum: Tree,
        proposal: EnergyState,
        end: Tree,
    ) -> tuple[EnergyState, Info]:
        before, after = (metrics.kinetic_energy(tuning.metric, p) for p in (momentum, end))
        log_ratio = (state.energy - proposal.energy) / tuning.temperature + before - after
        return metropolis_hastings(log_ratio, noise.uniform, proposal, state, num_gradients)

    def make_step(chains: Chains) -> Callable[..., tuple[EnergyState, Info]]:
        def step(params: Params, tuning: HMCTuning, state: EnergyState, noise: HMCNoise) -> tuple[EnergyState, Info]:
            start, h = chains(begin)(params, tuning, state, noise)
            point = loops.repeat(lambda point: chains(advance)(params, tuning, h, point)[0], start, num_leapfrog - 1)
            proposal, momentum = chains(end)(params, tuning, h, point)
            return chains(accept)(params, tuning, state, noise, start.momentum, proposal, momentum)

        return step

    return lockstep(init, draw, make_step, tuning, target_acceptance=0.8)
