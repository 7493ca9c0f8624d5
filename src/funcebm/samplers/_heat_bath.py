"""Draws from the conditionals of sites, by one uniform number each: the common part of Gibbs samplers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..spaces.space import Space, is_value
from ..types import Info

__all__ = ["DiscreteInfo", "heat_bath", "logits_of", "next_values", "value_of"]


class DiscreteInfo(NamedTuple):
    """The fields of :class:`~funcebm.types.Info`, and how far the step goes.

    Attributes:
        num_changed: the expected number of sites that change: those that differ in the proposal, times the acceptance rate.
            The larger, the faster a chain moves. ``()``, floating point.
    """

    acceptance_rate: Tensor
    is_accepted: Tensor
    is_divergent: Tensor
    num_gradients: Tensor
    energy: Tensor
    num_changed: Tensor

    @classmethod
    def of(cls, info: Info, num_changed: Tensor) -> DiscreteInfo:
        """Adds what one step would change."""
        return cls(*info, num_changed=num_changed)


def value_of(uniform: Tensor, probabilities: Tensor) -> Tensor:
    """The value that a uniform number ``(...,)`` draws from probabilities ``(..., V)``, as ``int64``.

    It is the number of values ``k >= 1`` with ``u < P(value >= k)``: monotone, so that common numbers keep an order of chains,
    and of two values the second one where ``u < p``. A value without probability is never drawn: ``u`` is taken of their sum
    as rounded.
    """
    tails = probabilities.flip(-1).cumsum(-1).flip(-1)
    return (uniform[..., None] * tails[..., :1] < tails[..., 1:]).sum(-1)


def heat_bath(space: Space, logits: Tensor, uniform: Tensor, dtype: torch.dtype) -> Tensor:
    """A leaf whose every site is drawn from its conditional.

    Args:
        space: of the leaf.
        logits: of the upper level, ``(*sites)``, for two levels; else of each value, ``(*sites, V)``.
        uniform: ``(*sites)``.
        dtype: of the leaf.
    """
    if space.kind == "binary":
        low, high = space.levels
        return torch.where(uniform < torch.sigmoid(logits), high, low).to(dtype)
    if space.kind == "categorical":
        logits = torch.where(is_value(space, logits.device), logits, -torch.inf)
    value = value_of(uniform, torch.softmax(logits, -1))
    if space.kind == "ordinal":
        return value.to(dtype)
    return (value[..., None] == torch.arange(space.shape[-1], device=value.device)).to(dtype)


def logits_of(space: Space, gradient: Tensor) -> Tensor:
    """The logits of the conditionals, where the energy is linear in each site."""
    return -gradient if space.kind == "categorical" else -(space.levels[1] - space.levels[0]) * gradient


def next_values(space: Space, leaf: Tensor) -> Tensor:
    """Another value at every site: the other level, the next value."""
    if space.kind == "binary":
        return sum(space.levels) - leaf
    sizes = torch.tensor(space.sizes, device=leaf.device).reshape(space.sites)
    value = (leaf.argmax(-1) + 1) % sizes
    return (value[..., None] == torch.arange(space.shape[-1], device=leaf.device)).to(leaf.dtype)
