"""The No-U-Turn Sampler."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from .. import checks, loops, metrics, random, tree
from ..types import Energy, Key, MetricLike, Number, Params, Position, Sampler
from ._kernel import Chains, EnergyState, StepTuning, evaluated, lockstep, step_tuning
from ._nuts_trajectory import Dynamics, NUTSNoise, Point, Trajectory, grow, start
from .constraints import takes_energy

__all__ = ["NUTSInfo", "NUTSNoise", "NUTSTuning", "nuts"]

NUTSTuning = StepTuning
"""The step size is in units of time."""


class NUTSInfo(NamedTuple):
    """What one step tells. All ``()``.

    Attributes:
        acceptance_rate: the mean of ``min(1, exp(H_0 - H))`` over all new leaves, also those of a sub-tree that was left out.
        is_accepted: whether the chain moved.
        is_divergent: whether a leaf had an energy error beyond 1000 or not finite, which ended the trajectory.
        num_gradients: the leapfrog steps. int32.
        energy: of the new position.
        total_energy: the Hamiltonian ``H`` of the new point, whose changes the E-BFMI measures.
        tree_depth: the number of doublings, without one that was left out. int32.
        is_max_depth: whether the trajectory ended for lack of depth and not by a U-turn.
        is_turning: whether it ended by a U-turn.
    """

    acceptance_rate: Tensor
    is_accepted: Tensor
    is_divergent: Tensor
    num_gradients: Tensor
    energy: Tensor
    total_energy: Tensor
    tree_depth: Tensor
    is_max_depth: Tensor
    is_turning: Tensor


@takes_energy
def nuts(
    energy: Energy,
    *,
    step_size: Number = 0.1,
    max_depth: int = 10,
    inverse_mass: MetricLike = None,
    temperature: Number = 1.0,
) -> Sampler[EnergyState, NUTSInfo, NUTSTuning]:
    r"""No-U-Turn Sampler, with multinomial selection.

    Draws a momentum :math:`p \sim N(0, M)` and follows the leapfrog of :math:`H(x, p) = E(x)/T + \tfrac12 p^\top M^{-1} p`
    forwards or backwards in time, at random, doubling the trajectory each time, until it makes a U-turn: until for a
    (sub-)trajectory with end momenta :math:`p_-, p_+` and the sum of momenta :math:`\rho`

    .. math:: p_-^\top M^{-1} \rho \le 0 \quad \text{or} \quad p_+^\top M^{-1} \rho \le 0,

    which is asked of every span that doubling makes, and of each half of one with the nearest leaf of the other half. A new
    sub-tree that turns, or has a leaf that diverges, is left out. The next state is a leaf: inside a sub-tree with
    probability in proportion to :math:`e^{-H}`, from the new sub-tree with probability :math:`\min(1, w_{new} / w_{old})`,
    the sums of :math:`e^{-H}`, which prefers leaves far from the start. So :math:`e^{-E/T}` is invariant for every step size.

    Args:
        energy: ``(params, x) -> ()``.
        step_size: of the leapfrog, in units of time, above zero. ``()``.
        max_depth: the most doublings: at most ``2**max_depth - 1`` gradients a step. Up to 24; static.
        inverse_mass: :math:`M^{-1}`. None is the identity, a matrix ``(D, D)`` is dense over the ravelled position, anything
            else (a number, a vector, a tree like one position) is diagonal. Variances of the target are a good choice.
        temperature: :math:`T > 0`, in units of energy. ``()``.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``EnergyState``, :class:`NUTSInfo` and ``NUTSTuning``. Many chains go in lock step:
        a step takes as long as its longest trajectory.

    Raises:
        ValueError: a number out of its range, an inverse mass that is not positive definite; from ``init``, one that does not
            fit the position.

    Reference: Hoffman and Gelman (2014), JMLR 15:1593-1623; Betancourt (2017), arXiv:1701.02434, appendix A, for the
    selection and the generalised U-turn. A leaf whose error :math:`H - H_0` is beyond 1000, or not finite, is a divergence,
    as in Stan.

    >>> import torch
    >>> sampler = nuts(lambda params, x: (x**2).sum() / 2, step_size=0.3)
    >>> state, info = sampler(random.key(0), (), sampler.init((), torch.zeros(2)))
    >>> int(info.num_gradients) >= 2 ** int(info.tree_depth) - 1
    True
    """
    checks.positive_int("max_depth", max_depth)
    checks.require(max_depth <= 24, "max_depth must be at most 24", max_depth, "10 allows 1023 leapfrog steps.")
    tuning = step_tuning(step_size, inverse_mass, temperature)
    evaluate, init = evaluated(energy, tuning.metric)

    def draw(key: Key, position: Position) -> NUTSNoise:
        key_momentum, key_uniform = random.split(key)
        uniforms = random.uniform(key_uniform, (3, max_depth), dtype=tree.first(position).dtype)
        return NUTSNoise(tree.normal_like(key_momentum, position), uniforms)

    def step(
        chains: Chains, params: Params, tuning: NUTSTuning, state: EnergyState, noise: NUTSNoise
    ) -> tuple[EnergyState, NUTSInfo]:
        metric = tuning.metric  # of ravelled positions, as all that follows
        if not isinstance(metric, metrics.Dense) and not metrics.is_scalar(metric):
            metric = metrics.Diagonal(tree.ravel(metric.inverse_mass)[0])

        def dynamics(position: Position) -> Dynamics:
            """Of the position only the shapes are kept."""
            _, back = tree.ravel(position)

            def field(vector: Tensor) -> tuple[Tensor, Tensor]:
                value, gradient = evaluate(params, back(vector))
                return value, tree.ravel(gradient)[0]

            return Dynamics(field, metric, tuning.step_size, tuning.temperature)

        def begin(state: EnergyState, noise: NUTSNoise) -> tuple[Tensor, Trajectory]:
            momentum = tree.ravel(noise.momentum)[0]
            initial = state.energy / tuning.temperature + (momentum * momentum).sum() / 2
            point = Point(tree.ravel(state.position)[0], tree.ravel(state.gradient)[0], state.energy, initial)
            return initial, start(dynamics(state.position), noise.uniforms, momentum, point)

        def double(position: Position, uniforms: Tensor, initial: Tensor, t: Trajectory) -> Trajectory:
            return grow(dynamics(position), uniforms, initial, t)

        def finish(state: EnergyState, t: Trajectory) -> tuple[EnergyState, NUTSInfo]:
            _, back = tree.ravel(state.position)
            after = EnergyState(back(t.selected.position), t.selected.energy, back(t.selected.gradient))
            return after, NUTSInfo(
                acceptance_rate=t.acceptance / t.num_leaves,
                is_accepted=t.is_moved,
                is_divergent=t.is_divergent,
                num_gradients=t.num_leaves,
                energy=t.selected.energy,
                total_energy=t.selected.total_energy,
                tree_depth=t.depth,
                is_max_depth=~t.is_turning & ~t.is_divergent,
                is_turning=t.is_turning,
            )

        initial, last = chains(begin)(state, noise)
        if max_depth > 1:
            grown = lambda t: chains(double)(state.position, noise.uniforms, initial, t)  # noqa: E731
            last = loops.while_loop(lambda t: t.goes_on.any(), grown, last, is_masked=False)
        return chains(finish)(state, last)

    return lockstep(init, draw, step, tuning, target_acceptance=0.9, adaptation="harmonic_window")
