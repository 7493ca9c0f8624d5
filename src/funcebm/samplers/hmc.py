"""Hamiltonian Monte Carlo with a fixed number of steps."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, fields, loops, metrics, random, tree
from ..integrators import Integrator, PhasePoint, leapfrog
from ..types import Energy, Info, Key, Params, Position, Sampler, Tree
from .constraints import takes_energy
from .mala import MalaState as HMCState
from .metropolis import metropolis_hastings
from .multinomial import Trajectory, begin, choose, finish

__all__ = ["HMCNoise", "HMCState", "HMCTuning", "hmc", "tempered"]


class HMCNoise(NamedTuple):
    """Standard normals like the position, a uniform for the test, and one for the step size (or ``()``).

    For the multinomial endpoint ``uniform`` is ``(num_leapfrog,)``, and ``num_backward`` an integer ``()``, which else is not
    there.
    """

    momentum: Tree
    uniform: Tensor
    jitter: Any
    num_backward: Any = ()


class HMCTuning(NamedTuple):
    """``step_size`` in units of time, the metric, ``temperature``, and the relative ``jitter`` of the step size."""

    step_size: Tensor
    metric: Any
    temperature: Tensor
    jitter: Tensor


def tempered(
    value_and_gradient: Callable[[Params, Position], tuple[Tensor, Tree]], params: Params, temperature: Tensor
) -> Callable[[Position], tuple[Tensor, Tree]]:
    """The field that trajectories follow, ``x -> (E(x), grad E(x) / T)``."""

    def field(position: Position) -> tuple[Tensor, Tree]:
        value, gradient = value_and_gradient(params, position)
        return value, tree.scale(1 / temperature, gradient)

    return field


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
) -> Sampler:
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
        A :class:`~funcebm.types.Sampler` with ``HMCState``, ``Info`` and ``HMCTuning``.

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
    checks.positive("step_size", step_size, "Try 0.1, and smaller where chains diverge.")
    checks.positive_int("num_leapfrog", num_leapfrog)
    checks.positive("temperature", temperature, "Use 1.0 for the density exp(-E).")
    if jitter is not None:
        checks.positive("jitter", jitter, "Give a number in (0, 1), or None for no jitter.")
        if not isinstance(jitter, Tensor):
            checks.require(
                jitter < 1, "jitter must be below 1", jitter, "Give a number in (0, 1), or None for no jitter."
            )
    fix = "Use one of funcebm.integrators, or make one with funcebm.integrators.splitting."
    checks.require(
        isinstance(integrator, Integrator), "integrator must be an Integrator", integrator, fix, error=TypeError
    )
    endpoints = ("metropolis", "multinomial")
    checks.require(endpoint in endpoints, f"endpoint must be one of {endpoints}", endpoint, "Write one of them.")
    is_multinomial = endpoint == "multinomial"
    metric = metrics.of(inverse_mass)
    value_and_gradient = fields.value_and_gradient(energy)
    num_measured = num_leapfrog if is_multinomial else 1
    num_gradients = num_leapfrog * integrator.num_gradients + (0 if integrator.ends_on_kick else num_measured)
    check_shape = metrics.shape_check(metric)

    def init(params: Params, position: Position) -> HMCState:
        check_shape(position)
        return HMCState(position, *value_and_gradient(params, position))

    def draw(key: Key, position: Position) -> HMCNoise:
        key_momentum, key_accept, key_jitter, *key_backward = random.split(key, 4 if is_multinomial else 3)
        dtype = tree.first(position).dtype
        uniform = random.uniform(key_accept, (num_leapfrog,) if is_multinomial else (), dtype=dtype)
        jittered = () if jitter is None else random.uniform(key_jitter, low=-1, dtype=dtype)
        num_backward = random.randint(key_backward[0], (), 0, num_leapfrog + 1) if is_multinomial else ()
        return HMCNoise(tree.normal_like(key_momentum, position), uniform, jittered, num_backward)

    def start(params: Params, tuning: HMCTuning, state: HMCState, noise: HMCNoise) -> tuple[PhasePoint, Tensor]:
        step_size = tuning.step_size if jitter is None else tuning.step_size * (1 + tuning.jitter * noise.jitter)
        momentum = metrics.momentum(tuning.metric, noise.momentum)
        return PhasePoint(state.position, momentum, tree.scale(1 / tuning.temperature, state.gradient)), step_size

    def advance(params: Params, tuning: HMCTuning, step_size: Tensor, point: PhasePoint) -> PhasePoint:
        field = tempered(value_and_gradient, params, tuning.temperature)
        return integrator.step(field, tuning.metric, step_size, point)[0]

    def advance_and_measure(
        params: Params, tuning: HMCTuning, step_size: Tensor, point: PhasePoint
    ) -> tuple[PhasePoint, Tensor]:
        """One step, and the energy and gradient where it ends."""
        field = tempered(value_and_gradient, params, tuning.temperature)
        point, value = integrator.step(field, tuning.metric, step_size, point)
        if not integrator.ends_on_kick:
            value, gradient = field(point.position)
            point = point._replace(gradient=gradient)
        return point, value

    def accept(tuning: HMCTuning, state: HMCState, noise: HMCNoise, ends: Any) -> tuple[HMCState, Info]:
        before, after, value = ends
        proposal = HMCState(after.position, value, tree.scale(tuning.temperature, after.gradient))
        kinetic = [metrics.kinetic_energy(tuning.metric, point.momentum) for point in (before, after)]
        log_ratio = (state.energy - value) / tuning.temperature + kinetic[0] - kinetic[1]
        return metropolis_hastings(log_ratio, noise.uniform, proposal, state, num_gradients=num_gradients)

    def make_step(over_chains: Callable[..., Any]) -> Callable[..., tuple[HMCState, Info]]:
        """The step, of one chain or of many: the loop is outside of ``vmap``, which compiles to better code."""
        start_all = over_chains(start, (None, None, 0, 0))
        advance_all = over_chains(advance, (None, None, 0, 0))
        measure_all = over_chains(advance_and_measure, (None, None, 0, 0))
        accept_all = over_chains(accept, (None, 0, 0, 0))

        def step(params: Params, tuning: HMCTuning, state: HMCState, noise: HMCNoise) -> tuple[HMCState, Info]:
            before, step_size = start_all(params, tuning, state, noise)
            # what the loop needs is carried, not closed over: compiled, an inner loop keeps nothing else alive
            carry = (before, step_size, tuning)
            carry = loops.repeat(
                lambda carry: (advance_all(params, carry[2], carry[1], carry[0]), *carry[1:]), carry, num_leapfrog - 1
            )
            after, value = measure_all(params, carry[2], carry[1], carry[0])  # the last one also wants the energy
            return accept_all(tuning, state, noise, (before, after, value))

        return step

    def visit(params: Params, tuning: HMCTuning, step_size: Tensor, trajectory: Trajectory, x: Any) -> Trajectory:
        index, uniform = x
        is_forward = index < trajectory.num_forward
        origin = tree.where(index == trajectory.num_forward, trajectory.start, trajectory.point)
        point, value = advance_and_measure(params, tuning, torch.where(is_forward, step_size, -step_size), origin)
        return choose(tuning, trajectory, point, value, uniform)

    def make_multinomial_step(over_chains: Callable[..., Any]) -> Callable[..., tuple[HMCState, Info]]:
        start_all = over_chains(start, (None, None, 0, 0))
        begin_all = over_chains(
            lambda tuning, state, noise, point: begin(tuning, state, point, num_leapfrog - noise.num_backward),
            (None, 0, 0, 0),
        )
        visit_all = over_chains(visit, (None, None, 0, 0, (None, 0)))
        end_all = over_chains(lambda trajectory: finish(trajectory, num_leapfrog, num_gradients), (0,))

        def step(params: Params, tuning: HMCTuning, state: HMCState, noise: HMCNoise) -> tuple[HMCState, Info]:
            point, step_size = start_all(params, tuning, state, noise)
            carry = (begin_all(tuning, state, noise, point), step_size, tuning)
            index = torch.arange(num_leapfrog, device=noise.uniform.device)
            trajectory, *_ = loops.fold(
                lambda carry, x: (visit_all(params, carry[2], carry[1], carry[0], x), *carry[1:]),
                carry,
                (index, noise.uniform.movedim(-1, 0)),
            )
            return end_all(trajectory)

        return step

    tuning = HMCTuning(
        torch.as_tensor(step_size),
        metric,
        torch.as_tensor(temperature),
        torch.as_tensor(0.0 if jitter is None else jitter),
    )
    make = make_multinomial_step if is_multinomial else make_step
    return Sampler(init, draw, make(lambda function, _: function), tuning, make(vmap), target_acceptance=0.8)
