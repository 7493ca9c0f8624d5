"""What samplers of slices share: how a search along a curve ends."""

from __future__ import annotations

from typing import Callable, TypeVar

import torch
from torch import Tensor

from .. import tree

__all__ = ["found_or_stayed"]

StateT = TypeVar("StateT")
InfoT = TypeVar("InfoT")


def found_or_stayed(
    make_info: Callable[..., InfoT], state: StateT, found: StateT, is_found: Tensor, num_evaluations: Tensor
) -> tuple[StateT, InfoT]:
    """The point that was found on the slice, or the old state, flagged divergent, where the search gave up."""
    after = tree.where(is_found, found, state)
    info = make_info(
        acceptance_rate=is_found.to(state.energy.dtype),  # type: ignore[attr-defined]
        is_accepted=is_found,
        is_divergent=~is_found,
        num_gradients=torch.zeros_like(num_evaluations),
        energy=after.energy,
        num_evaluations=num_evaluations,
    )
    return after, info
