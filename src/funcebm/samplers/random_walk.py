"""Random-walk Metropolis, with any symmetric proposal and without gradients."""

from __future__ import annotations

from typing import Callable, NamedTuple

from torch import Tensor

from .. import checks, metrics, random, tree
from ..types import Energy, Info, Key, MetricLike, Number, Params, Position, Sampler, Tree
from ._kernel import ValueState, valued
from .constraints import takes_energy
from .langevin import LangevinTuning as RandomWalkTuning
from .langevin import langevin_tuning
from .metropolis import metropolis_hastings

__all__ = ["RandomWalkNoise", "RandomWalkState", "RandomWalkTuning", "random_walk"]

RandomWalkState = ValueState


class RandomWalkNoise(NamedTuple):
    """What the proposal drew, a tree like the position, and a uniform ``()`` for the test."""

    increment: Tree
    uniform: Tensor


@takes_energy
def random_walk(
    energy: Energy,
    *,
    step_size: Number = 0.5,
    proposal: Callable[[Key, Position], Tree] | None = None,
    preconditioner: MetricLike = None,
    temperature: Number = 1.0,
) -> Sampler[RandomWalkState, Info, RandomWalkTuning]:
    r"""Random-walk Metropolis.

    Proposes :math:`y = x + h A z`, with :math:`P = A A^\top`, and accepts with probability
    :math:`\min(1, e^{(E(x) - E(y)) / T})`, so :math:`e^{-E/T}` is invariant where :math:`z` and :math:`-z` have the same
    distribution. Only energy values are used, so the energy need not be continuous or differentiable. Aim at an acceptance rate
    of 0.234; in ``D`` dimensions that is near :math:`h = 2.38 / \sqrt D` where :math:`P` is the covariance of the target.

    Args:
        energy: ``(params, x) -> ()``.
        step_size: :math:`h > 0`, in units of ``x`` over the root of those of :math:`P`. ``()``.
        proposal: ``(key, x) -> z``, a tree like ``x``, of a symmetric distribution that does not depend on the numbers in
            ``x`` (it sees where the chain started); None draws standard normals.
        preconditioner: :math:`P`, as in :func:`~funcebm.samplers.mala`.
        temperature: :math:`T > 0`, in units of energy. ``()``.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``RandomWalkState``, ``Info`` and ``RandomWalkTuning``.

    Raises:
        ValueError: a number that is not positive, a preconditioner that is not symmetric and positive definite, or a
            proposal that is not like the position.

    Reference: Metropolis, Rosenbluth, Rosenbluth, Teller and Teller (1953), Journal of Chemical Physics 21:1087-1092;
    Roberts, Gelman and Gilks (1997), Annals of Applied Probability 7(1):110-120.

    >>> import torch
    >>> sampler = random_walk(lambda params, x: x.abs().sum(), step_size=1.0)
    >>> state, info = sampler(random.key(0), (), sampler.init((), torch.zeros(2)))
    >>> int(info.num_gradients)
    0
    """
    tuning = langevin_tuning(step_size, preconditioner, temperature, "Try 1.0, and the acceptance rate 0.23.")
    value, init = valued(energy, tuning.metric, "preconditioner")

    def draw(key: Key, position: Position) -> RandomWalkNoise:
        key_increment, key_accept = random.split(key)
        increment = (proposal or tree.normal_like)(key_increment, position)
        checks.one_structure("what proposal returns", increment, "the position", position)
        checks.same_shapes("what proposal returns", increment, position, "Draw one number for each coordinate.")
        return RandomWalkNoise(increment, random.uniform(key_accept, dtype=tree.first(position).dtype))

    def step(
        params: Params, tuning: RandomWalkTuning, state: ValueState, noise: RandomWalkNoise
    ) -> tuple[ValueState, Info]:
        move = metrics.displacement(tuning.metric, noise.increment)
        position = tree.add_scaled(state.position, tuning.step_size, move)
        proposed = ValueState(position, value(params, position))
        log_ratio = (state.energy - proposed.energy) / tuning.temperature
        return metropolis_hastings(log_ratio, noise.uniform, proposed, state, num_gradients=0)

    return Sampler(init, draw, step, tuning, target_acceptance=0.234)
