"""What samplers of slices share: the search for a point on the slice, and the info of a step."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor

from .. import loops, tree
from ..types import Position, Tree
from ._kernel import Chains, ValueState

__all__ = ["Search", "SliceInfo", "begin_search", "found_or_stayed", "shrink"]


class SliceInfo(NamedTuple):
    """The fields of :class:`~funcebm.types.Info`, and the price of the step.

    ``acceptance_rate`` is 1, or 0 where no point of the slice was found.

    Attributes:
        num_evaluations: how many energies the step computed. ``()`` int32.
    """

    acceptance_rate: Tensor
    is_accepted: Tensor
    is_divergent: Tensor
    num_gradients: Tensor
    energy: Tensor
    num_evaluations: Tensor


class Search(NamedTuple):
    """What the loop carries: a bracket around 0, the points tried, and whether the last is on the slice; that one."""

    low: Tensor
    high: Tensor
    num_tried: Tensor
    is_found: Tensor
    position: Position
    energy: Tensor


def begin_search(state: ValueState, low: Tensor, high: Tensor) -> Search:
    """Before the first try."""
    none = torch.zeros_like(state.energy, dtype=torch.int32)
    return Search(low, high, none, none > 0, state.position, state.energy)


def shrink(
    chains: Chains, attempt: Callable[..., Any], search: Search, curve: Tree, uniforms: Tensor, max_shrinks: int
) -> Search:
    """Tries points of the bracket; one off the slice becomes the end on its side of 0, which is on the slice.

    Args:
        chains: as in the step of :func:`~funcebm.samplers._kernel.lockstep`.
        attempt: ``(curve, search, uniform) -> (t, position, energy, is_on_slice)``, a try at ``t`` in the bracket.
        search: from :func:`begin_search`.
        curve: what the attempts move on.
        uniforms: one for each try. ``(max_shrinks + 1,)``, with a chain axis where there is one.
        max_shrinks: tries after the first.
    """

    def one(curve: Tree, uniforms: Tensor, search: Search) -> Search:
        uniform = uniforms.gather(0, search.num_tried.long().reshape(1)).reshape(())
        t, position, energy, is_found = attempt(curve, search, uniform)
        low, high = torch.where(t < 0, t, search.low), torch.where(t < 0, search.high, t)
        return Search(low, high, search.num_tried + 1, is_found, position, energy)

    return loops.while_loop(
        lambda search: ~search.is_found & (search.num_tried <= max_shrinks),
        lambda search: chains(one)(curve, uniforms, search),
        search,
    )


def found_or_stayed(state: ValueState, search: Search, num_evaluations: Tensor) -> tuple[ValueState, SliceInfo]:
    """The point that was found on the slice, or the old state, flagged divergent, where the search gave up."""
    is_found, none = search.is_found, torch.zeros_like(num_evaluations)
    after = tree.where(is_found, ValueState(search.position, search.energy), state)
    return after, SliceInfo(is_found.to(state.energy.dtype), is_found, ~is_found, none, after.energy, num_evaluations)
