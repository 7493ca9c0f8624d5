"""All states of a discrete space, by number."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, tree
from ..types import Position, Tree
from .integers import levels_of, values_of
from .space import discrete_parts

__all__ = ["index", "num_states", "state", "states"]


def num_states(space: Tree) -> int:
    """How many states there are.

    Args:
        space: a tree of discrete spaces.

    Returns:
        An ``int``.

    Raises:
        ValueError: real leaves.

    >>> from funcebm import spaces
    >>> spaces.num_states({"a": spaces.binary(3), "b": spaces.categorical(2, 3)})
    72
    """
    return math.prod(size for part in discrete_parts(space) for size in part.sizes)


def _strides(space: Tree) -> list[list[int]]:
    """What a step of each site adds to the number of a state; the first site of the first leaf is the slowest."""
    stride, strides = num_states(space), []
    for part in discrete_parts(space):
        strides.append([stride := stride // size for size in part.sizes])
    return strides


def state(space: Tree, index: Tensor, dtype: torch.dtype | None = None) -> Position:
    """The state with a number in ``0 .. num_states(space) - 1``; the first site counts slowest.

    Args:
        space: a tree of discrete spaces with fewer than ``2**63`` states.
        index: int64, ``()``.
        dtype: of the position; by default torch's.

    Returns:
        One position.

    Raises:
        ValueError: real leaves, or too many states.

    >>> from funcebm import spaces
    >>> spaces.state(spaces.binary(3), torch.tensor(6))
    tensor([1., 1., 0.])
    """
    parts, structure = tree.flatten(space)
    checks.require(num_states(space) < 2**63, "a space must have fewer than 2**63 states", num_states(space), "Cut it.")
    leaves = []
    for part, strides in zip(parts, _strides(space), strict=True):
        step, size = (torch.tensor(numbers, device=index.device) for numbers in (strides, part.sizes))
        values = torch.div(index, step, rounding_mode="floor").remainder(size)
        leaves.append(levels_of(part, values.reshape(part.sites), dtype))
    return tree.unflatten(structure, leaves)


def states(space: Tree, dtype: torch.dtype | None = None) -> Position:
    """All states in order, leaves ``(num_states, *event)``.

    Args:
        space: a tree of discrete spaces.
        dtype: of the positions; by default torch's.

    Returns:
        Positions, leaves ``(num_states, *event)``.

    Raises:
        ValueError: more than ``2**24`` states.

    >>> from funcebm import spaces
    >>> spaces.states(spaces.spins(2)).tolist()
    [[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]
    """
    num = num_states(space)
    fix = "Use energies.exact, which goes through them in chunks."
    checks.require(num <= 2**24, "all states at once are at most 2**24", num, fix)
    return vmap(lambda index: state(space, index, dtype))(torch.arange(num))


def index(space: Tree, position: Position) -> Tensor:
    """The number of a state, the inverse of :func:`state`. ``()`` int64.

    Args:
        space: a tree of discrete spaces.
        position: one state.

    Returns:
        ``()`` int64.

    >>> from funcebm import spaces
    >>> spaces.index(spaces.binary(3), torch.tensor([1.0, 1.0, 0.0]))
    tensor(6)
    """
    total = torch.zeros((), dtype=torch.int64, device=tree.first(position).device)
    for part, strides, leaf in zip(discrete_parts(space), _strides(space), tree.leaves(position), strict=True):
        total = total + (values_of(part, leaf).reshape(-1) * torch.tensor(strides, device=leaf.device)).sum()
    return total
