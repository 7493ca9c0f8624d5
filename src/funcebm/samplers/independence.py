"""Independence Metropolis: proposals from a flow, wherever the chain is."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from .. import checks, random, tree
from ..flows import Flow
from ..flows.flow import normal_log_density
from ..types import Energy, Info, Key, Params, Position, Sampler, Tree
from .metropolis import metropolis_hastings

__all__ = ["IndependenceNoise", "IndependenceState", "independence"]


class IndependenceState(NamedTuple):
    r"""A position, its energy ``()`` and the log density of the proposal there ``()``."""

    position: Position
    energy: Tensor
    log_density: Tensor

    def carry_over(self, fresh: IndependenceState) -> IndependenceState:
        """All of it belongs to the position."""
        return fresh


class IndependenceNoise(NamedTuple):
    """Standard normals like the position, and a uniform ``()`` for the test."""

    normal: Tree
    uniform: Tensor


def independence(
    energy: Energy, proposal: Flow, proposal_params: Params = ()
) -> Sampler[IndependenceState, Info, tuple[()]]:
    r"""Independence Metropolis-Hastings with a flow as proposal.

    Proposes :math:`y \sim q`, wherever the chain is, and accepts with probability :math:`\min(1, w(y)/w(x))`,
    :math:`w = e^{-E}/q`. So it leaves :math:`e^{-E}` invariant for every flow, and jumps between all modes that the flow
    knows. Where q is small and the target is not, it stays long: mix it with local moves, ``mix(independence(...),
    mala(...))``. No gradient; one pass through the flow.

    Args:
        energy: ``(params, x) -> ()``.
        proposal: from :func:`funcebm.flows.flow`, best with ``divergence="discrete"``, whose density is exact. Its inverse is
            used where a chain starts and after another sampler moved it.
        proposal_params: of the flow.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``IndependenceState``, ``Info`` and no tuning.

    Raises:
        TypeError: something that is not a flow.

    Reference: Tierney (1994), Annals of Statistics 22(4):1701-1728; with flows, Gabrié, Rotskoff and Vanden-Eijnden (2022),
    PNAS 119(10):e2109420119.

    >>> import torch
    >>> from funcebm import flows
    >>> flow = flows.flow(lambda params, t, x: params * x, times=4)
    >>> sampler = independence(lambda params, x: (x**2).sum() / 2, flow, torch.tensor(0.1))
    >>> state, info = sampler(random.key(0), (), sampler.init((), torch.zeros(2)))
    >>> bool(info.acceptance_rate > 0.5)
    True
    """
    checks.require(isinstance(proposal, Flow), "proposal must be a flow", proposal, "Use flows.flow(field).", TypeError)

    def init(params: Params, position: Position) -> IndependenceState:
        return IndependenceState(position, energy(params, position), proposal.log_density(proposal_params, position))

    def draw(key: Key, position: Position) -> IndependenceNoise:
        key_normal, key_accept = random.split(key)
        dtype = tree.first(position).dtype
        return IndependenceNoise(tree.normal_like(key_normal, position), random.uniform(key_accept, dtype=dtype))

    def step(
        params: Params, tuning: Any, state: IndependenceState, noise: IndependenceNoise
    ) -> tuple[IndependenceState, Info]:
        position, log_det = proposal.forward(proposal_params, noise.normal)
        log_density = normal_log_density(noise.normal) - log_det
        proposed = IndependenceState(position, energy(params, position), log_density)
        log_ratio = (state.energy + state.log_density) - (proposed.energy + proposed.log_density)
        return metropolis_hastings(log_ratio, noise.uniform, proposed, state, num_gradients=0)

    return Sampler(init, draw, step, ())
