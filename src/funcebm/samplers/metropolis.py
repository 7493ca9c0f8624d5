"""The Metropolis-Hastings test, in logarithms and with flags."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import checks, tree
from ..types import Info, Tree

__all__ = ["DIVERGENCE_THRESHOLD", "accepted", "metropolis_hastings", "nan_outside", "unadjusted_info"]

DIVERGENCE_THRESHOLD = 1000.0


def metropolis_hastings(
    log_ratio: Tensor, uniform: Tensor, proposal: Tree, state: Tree, num_gradients: int
) -> tuple[Tree, Info]:
    """Takes ``proposal`` with probability ``min(1, exp(log_ratio))``, else keeps ``state``.

    A proposal whose energy, position or ratio is NaN, or whose energy is infinite, is a rejection flagged ``is_divergent``;
    so is, by flag only, a ratio below ``exp(-1000)``. A ratio of ``+inf``, from outside the support into it, is accepted.

    Args:
        log_ratio: the log of the Metropolis-Hastings ratio. ``()``.
        uniform: uniform on [0, 1). ``()``.
        proposal: a state with the fields ``position`` and ``energy``.
        state: the current one, of the same structure.
        num_gradients: what the proposal cost.

    Returns:
        The next state, and its :class:`~funcebm.types.Info`.

    Reference: Hastings (1970), Biometrika 57(1):97-109.

    >>> from funcebm.samplers.random_walk import RandomWalkState
    >>> state, proposal = (RandomWalkState(torch.full((1,), x), torch.tensor(x)) for x in (1.0, 2.0))
    >>> state, info = metropolis_hastings(state.energy - proposal.energy, torch.tensor(0.3), proposal, state, 0)
    >>> state.position, info.acceptance_rate
    (tensor([2.]), tensor(0.3679))
    """
    is_finite = torch.isfinite(proposal.energy) & tree.all_finite(proposal.position) & ~torch.isnan(log_ratio)
    log_ratio = torch.where(is_finite, log_ratio, -torch.inf)
    acceptance_rate = log_ratio.clamp(max=0).exp()
    is_accepted = uniform < acceptance_rate  # a rate of 0 is never accepted, whatever the uniform
    new_state = tree.where(is_accepted, proposal, state)
    info = Info(
        acceptance_rate=acceptance_rate,
        is_accepted=is_accepted,
        is_divergent=~is_finite | (log_ratio < -DIVERGENCE_THRESHOLD),
        num_gradients=_count(num_gradients, log_ratio),
        energy=new_state.energy,
    )
    return new_state, info


def nan_outside(energy: Tensor, value: Tree) -> Tree:
    """``value`` where the energy is finite, NaN elsewhere.

    States without an energy mark an infinite starting energy with NaN, which ``sample`` then reports.
    """
    return tree.map(lambda leaf: torch.where(torch.isfinite(energy), leaf, torch.nan), value)


def unadjusted_info(position: Tree, energy: Tensor, num_gradients: int) -> Info:
    """The info of a step that always moves; it diverges where it leaves the finite numbers."""
    return Info(
        acceptance_rate=torch.ones_like(energy),
        is_accepted=torch.ones_like(energy, dtype=torch.bool),
        is_divergent=~(torch.isfinite(energy) & tree.all_finite(position)),
        num_gradients=_count(num_gradients, energy),
        energy=energy,
    )


def accepted(state: Any, num_gradients: int = 0) -> Info:
    """The info of a kernel of one's own that always moves: Gibbs, an exact draw, a deterministic map.

    Args:
        state: the new one, with the fields ``position`` and ``energy``, the energy ``()`` of the position; without an energy
            the info has 0 there.
        num_gradients: what the step cost.

    Returns:
        :class:`~funcebm.types.Info` with an acceptance rate of 1. It diverges where the energy or the position is not finite.

    Raises:
        ValueError: a state without a position.

    >>> from typing import NamedTuple
    >>> class State(NamedTuple):
    ...     position: Tensor
    ...     energy: Tensor
    >>> info = accepted(State(torch.zeros(3), torch.tensor(1.5)), 2)
    >>> float(info.acceptance_rate), bool(info.is_divergent), int(info.num_gradients)
    (1.0, False, 2)
    """
    fix = "Make it a NamedTuple with position and energy."
    checks.require(hasattr(state, "position"), "a state must have a position", type(state).__name__, fix)
    energy = getattr(state, "energy", None)
    if energy is None:
        energy = torch.zeros_like(tree.first(state.position).sum())
    return unadjusted_info(state.position, energy, num_gradients)


def _count(num: int, like: Tensor) -> Tensor:
    return torch.full((), num, dtype=torch.int32, device=like.device)
