"""Neighbours of a state: one site, or some, at other values."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import random, tree
from ..types import Key, Position, Tree
from .integers import levels_of, values_of
from .space import discrete_parts

__all__ = ["changes", "neighbour", "shift", "site_sizes"]


def site_sizes(space: Tree) -> Tensor:
    """How many values each site has, over all leaves in order.

    Args:
        space: a tree of discrete spaces.

    Returns:
        ``(S,)`` int64.

    Raises:
        ValueError: real leaves.

    >>> from funcebm import spaces
    >>> site_sizes({"a": spaces.binary(2), "b": spaces.categorical(1, 5)})
    tensor([2, 2, 5])
    """
    return torch.tensor([size for part in discrete_parts(space) for size in part.sizes])


def shift(space: Tree, position: Position, shifts: Tree) -> Position:
    """Moves each site on by a number of values, beginning again after the last: 0 stays, 1 flips a bit.

    Args:
        space: a tree of discrete spaces.
        position: one state.
        shifts: whole numbers from 0 to the number of values of a site minus one, leaves ``(*sites)``.

    Returns:
        A position.

    >>> from funcebm import spaces
    >>> shift(spaces.spins(3), torch.tensor([1.0, 1.0, -1.0]), torch.tensor([0, 1, 1]))
    tensor([ 1., -1.,  1.])
    """
    moved = []
    for part, leaf, by in zip(discrete_parts(space), tree.leaves(position), tree.leaves(shifts), strict=True):
        if part.kind == "binary":
            moved.append(torch.where(by == 0, leaf, sum(part.levels) - leaf))
            continue
        sizes = torch.tensor(part.sizes, device=leaf.device).reshape(part.sites)
        moved.append(levels_of(part, (values_of(part, leaf) + by).remainder(sizes), leaf.dtype))
    return tree.unflatten(tree.structure(position), moved)


def neighbour(space: Tree, position: Position, site: Tensor, by: Tensor) -> Position:
    """One site moved on by a number of values; the others stay.

    Args:
        space: a tree of discrete spaces.
        position: one state.
        site: counted over all leaves in order. ``()`` int64.
        by: as in :func:`shift`. ``()`` int64.

    Returns:
        A position.

    >>> from funcebm import spaces
    >>> neighbour(spaces.binary(3), torch.zeros(3), torch.tensor(1), torch.tensor(1))
    tensor([0., 1., 0.])
    """
    parts, first, shifts = discrete_parts(space), 0, []
    for part in parts:
        sites = torch.arange(first, first + part.num_sites, device=site.device)
        shifts.append(torch.where(sites == site, by, 0).reshape(part.sites))
        first += part.num_sites
    return shift(space, position, tree.unflatten(tree.structure(position), shifts))


def changes(key: Key, space: Tree, probability: float | Tensor) -> Tree:
    """Shifts that change each site by itself with a probability, to any other value with equal chance.

    Args:
        key: ``(2,)``.
        space: a tree of discrete spaces.
        probability: of a change. ``()``.

    Returns:
        Shifts for :func:`shift`, leaves ``(*sites)`` int64.

    >>> from funcebm import spaces
    >>> changes(random.key(0), spaces.binary(4), 1.0)
    tensor([1, 1, 1, 1])
    """
    parts, structure = tree.flatten(space)
    shifts = []
    for part, key_leaf in zip(parts, random.split(key, len(parts)), strict=True):
        key_is_changed, key_by = random.split(key_leaf)
        by: Tensor | int = 1
        if part.num_values > 2:
            sizes = torch.tensor(part.sizes, device=key.device).reshape(part.sites)
            uniform = random.uniform(key_by, part.sites, dtype=torch.float64)
            by = 1 + torch.floor(uniform * (sizes - 1)).long()
        is_changed = random.uniform(key_is_changed, part.sites) < probability
        shifts.append(torch.where(is_changed, by, 0))
    return tree.unflatten(structure, shifts)
