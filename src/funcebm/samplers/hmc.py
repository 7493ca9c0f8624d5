"""Hamiltonian Monte Carlo with a fixed number of leapfrog steps."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, fields, loops, metrics, random, tree
from ..integrators import PhasePoint, leapfrog
from ..types import Energy, Info, Key, Params, Position, Sampler, Tree
from .mala import MalaState as HMCState
from .metropolis import metropolis_hastings

__all__ = ["HMCNoise", "HMCState", "HMCTuning", "hmc"]


class HMCNoise(NamedTuple):
    """Standard normals like the position, a uniform for the test, and one for the step size (or ``()``)."""

    momentum: Tree
    uniform: Tensor
    jitter: Any


class HMCTuning(NamedTuple):
    """``step_size`` in units of time, the metric, ``temperature``, and the relative ``jitter`` of the step size."""

    step_size: Tensor
    metric: Any
    temperature: Tensor
    jitter: Tensor


def hmc(
    energy: Energy,
    *,
    step_size: float | Tensor = 0.1,
    num_leapfrog: int = 10,
    inverse_mass: Tree | None = None,
    temperature: float | Tensor = 1.0,
    jitter: float | Tensor | None = None,
) -> Sampler:
    r"""Hamiltonian Monte Carlo.

    Draws :math:`p \sim N(0, M)`, follows :math:`H(x, p) = E(x)/T + p^\top M^{-1} p / 2` for ``num_leapfrog`` leapfrog
    steps of size :math:`h`, and accepts the end with probability :math:`\min(1, e^{H(x, p) - H(x', p')})`. It leaves
    :math:`e^{-E/T}` invariant. ``num_leapfrog`` gradients a step: the first comes from the state.

    Args:
        energy: ``(params, x) -> ()``.
        step_size: :math:`h > 0`. ``()``.
        num_leapfrog: leapfrog steps in a proposal; static.
        inverse_mass: :math:`M^{-1}`. None is the identity, a matrix ``(D, D)`` is dense over the ravelled position,
            anything else (a number, a vector, a tree like one position) is diagonal. :mod:`funcebm.metrics` makes
            the choice explicit.
        temperature: :math:`T > 0`, in units of energy. ``()``.
        jitter: None, or :math:`j` in (0, 1): each step uses :math:`h (1 + j u)` with :math:`u` uniform on (-1, 1),
            which breaks up trajectories that return to their start.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``HMCState``, ``Info`` and ``HMCTuning``.

    Raises:
        ValueError: a number that is not positive, or an inverse mass that is not a positive definite metric.

    Reference: Neal (2011), Handbook of Markov Chain Monte Carlo, chapter 5.

    >>> sampler = hmc(lambda params, x: (x**2).sum() / 2, step_size=0.3, num_leapfrog=5)
    >>> state, info = sampler(random.key(0), (), sampler.init((), torch.zeros(2)))
    >>> int(info.num_gradients)
    5
    """
    checks.positive("step_size", step_size, "Try 0.1, and smaller where chains diverge.")
    checks.positive_int("num_leapfrog", num_leapfrog)
    checks.positive("temperature", temperature, "Use 1.0 for the density exp(-E).")
    if jitter is not None:
        checks.positive("jitter", jitter, "Give a number in (0, 1), or None for no jitter.")
        if not isinstance(jitter, Tensor):
            checks.require(
                jitter < 1, "jitter must be below 1", jitter, "Give a number in (0, 1), or None for no jitter."
            )
    metric = metrics.of(inverse_mass)
    value_and_gradient = fields.value_and_gradient(energy)

    def init(params: Params, position: Position) -> HMCState:
        metrics.check_shape(metric, position)
        return HMCState(position, *value_and_gradient(params, position))

    def draw(key: Key, position: Position) -> HMCNoise:
        key_momentum, key_accept, key_jitter = random.split(key, 3)
        dtype = tree.first(position).dtype
        uniform = random.uniform(key_accept, dtype=dtype)
        jittered = () if jitter is None else random.uniform(key_jitter, low=-1, dtype=dtype)
        return HMCNoise(tree.normal_like(key_momentum, position), uniform, jittered)

    def start(params: Params, tuning: HMCTuning, state: HMCState, noise: HMCNoise) -> tuple[PhasePoint, Tensor]:
        step_size = tuning.step_size if jitter is None else tuning.step_size * (1 + tuning.jitter * noise.jitter)
        momentum = metrics.momentum(tuning.metric, noise.momentum)
        return PhasePoint(state.position, momentum, tree.scale(1 / tuning.temperature, state.gradient)), step_size

    def one_leapfrog(
        params: Params, tuning: HMCTuning, step_size: Tensor, point: PhasePoint
    ) -> tuple[PhasePoint, Tensor]:
        def field(position: Position) -> tuple[Tensor, Tree]:
            value, gradient = value_and_gradient(params, position)
            return value, tree.scale(1 / tuning.temperature, gradient)

        return leapfrog(field, tuning.metric, step_size, point)

    def accept(tuning: HMCTuning, state: HMCState, noise: HMCNoise, ends: Any) -> tuple[HMCState, Info]:
        before, after, value = ends
        proposal = HMCState(after.position, value, tree.scale(tuning.temperature, after.gradient))
        kinetic = [metrics.kinetic_energy(tuning.metric, point.momentum) for point in (before, after)]
        log_ratio = (state.energy - value) / tuning.temperature + kinetic[0] - kinetic[1]
        return metropolis_hastings(log_ratio, noise.uniform, proposal, state, num_gradients=num_leapfrog)

    def make_step(over_chains: Callable[..., Any]) -> Callable[..., tuple[HMCState, Info]]:
        """The step, of one chain or of many: the loop is outside of ``vmap``, which compiles to better code."""
        start_all = over_chains(start, (None, None, 0, 0))
        leapfrog_all = over_chains(one_leapfrog, (None, None, 0, 0))
        accept_all = over_chains(accept, (None, 0, 0, 0))

        def step(params: Params, tuning: HMCTuning, state: HMCState, noise: HMCNoise) -> tuple[HMCState, Info]:
            before, step_size = start_all(params, tuning, state, noise)
            # what the loop needs is carried, not closed over: compiled, an inner loop keeps nothing else alive
            carry = (before, step_size, tuning)
            carry = loops.repeat(
                lambda carry: (leapfrog_all(params, carry[2], carry[1], carry[0])[0], *carry[1:]),
                carry,
                num_leapfrog - 1,
            )
            after, value = leapfrog_all(params, carry[2], carry[1], carry[0])  # the last one also wants the energy
            return accept_all(tuning, state, noise, (before, after, value))

        return step

    tuning = HMCTuning(
        torch.as_tensor(step_size),
        metric,
        torch.as_tensor(temperature),
        torch.as_tensor(0.0 if jitter is None else jitter),
    )
    return Sampler(init, draw, make_step(lambda function, _: function), tuning, make_step(vmap), target_acceptance=0.8)
