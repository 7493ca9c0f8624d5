"""Positions as small integers, for storage, and back."""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor

from .. import checks, tree
from ..types import Position, Tree
from .space import Space

__all__ = ["collect", "from_integers", "levels_of", "to_integers", "values_of"]


def levels_of(space: Space, values: Tensor, dtype: torch.dtype | None) -> Tensor:
    """The numbers of values ``(..., *sites)`` as floats of the space ``(..., *shape)``."""
    dtype = dtype or torch.get_default_dtype()
    if space.kind == "categorical":
        return (values[..., None] == torch.arange(space.shape[-1], device=values.device)).to(dtype)
    low = space.levels[0]
    if space.kind == "binary":
        return low + (space.levels[1] - low) * values.to(dtype)
    return values.to(dtype)


def values_of(space: Space, leaf: Tensor) -> Tensor:
    """The number of the value at each site, ``(..., *sites)`` int64."""
    if space.kind == "categorical":
        return leaf.argmax(-1)
    if space.kind == "binary":
        return (leaf > sum(space.levels) / 2).long()
    return leaf.long()


def _has_small_levels(space: Space) -> bool:
    return all(level == int(level) and -128 <= level < 128 for level in space.levels)


def to_integers(space: Tree, positions: Position) -> Tree:
    """Positions as small integers, for storage: a quarter of float32, and categories without their one-hot axis.

    Bits, spins and ordinals keep their levels where these are whole numbers (else 0 and 1); categories become the number of
    the value; real leaves stay as they are.

    Args:
        space: a :class:`Space` or a tree of them.
        positions: like the space, with any leading axes.

    Returns:
        The same structure; int8 leaves, or int16 where int8 is too small.

    >>> from funcebm import spaces
    >>> spaces.to_integers(spaces.categorical(2, 3), torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]))
    tensor([2, 0], dtype=torch.int8)
    """

    def one(part: Space, leaf: Tensor) -> Tensor:
        if part.kind == "real":
            return leaf
        dtype = torch.int8 if part.num_values <= 128 else torch.int16
        if part.kind != "categorical" and _has_small_levels(part):
            return leaf.to(dtype)
        return values_of(part, leaf).to(dtype)

    return tree.map(one, space, positions)


def from_integers(space: Tree, integers: Tree, dtype: torch.dtype | None = None) -> Position:
    """The inverse of :func:`to_integers`.

    Args:
        space: a :class:`Space` or a tree of them.
        integers: leaves ``(..., *sites)``, such as labels for a categorical space.
        dtype: of the positions; by default torch's.

    Returns:
        Positions, floating-point leaves ``(..., *shape)``.

    Raises:
        ValueError: another shape, numbers that are no values of the space.

    >>> from funcebm import spaces
    >>> spaces.from_integers(spaces.categorical(2, 3), torch.tensor([2, 0]))
    tensor([[0., 0., 1.],
            [1., 0., 0.]])
    """

    def one(part: Space, leaf: Tensor) -> Tensor:
        if part.kind == "real":
            return leaf if dtype is None else leaf.to(dtype)
        _check_values(part, leaf)
        if part.kind == "binary" and _has_small_levels(part):
            leaf = (leaf > sum(part.levels) / 2).long()
        return levels_of(part, leaf, dtype)

    return tree.map(one, space, integers)


def _check_values(space: Space, leaf: Tensor) -> None:
    """Whole numbers of values that the sites have; of two levels the levels themselves too."""
    shape = tuple(leaf.shape[leaf.ndim - len(space.sites) :])
    fix = "Categories are numbers of values, without a one-hot axis."
    checks.require(shape == space.sites, f"integers must be (..., *{space.sites})", str(tuple(leaf.shape)), fix)
    if not checks.is_concrete(leaf):
        return
    sizes = torch.tensor(space.sizes, device=leaf.device).reshape(space.sites)
    right = (leaf >= 0) & (leaf < sizes) & (leaf == leaf.round() if leaf.is_floating_point() else True)
    if space.kind == "binary" and not bool(right.all()):
        right = (leaf == space.levels[0]) | (leaf == space.levels[1])
    if not bool(right.all()):
        must = f"integers must be numbers of values, 0 .. {space.num_values - 1}"
        must += f", or the levels {space.levels}" if space.kind == "binary" else ""
        raise ValueError(
            checks.message(must, str(leaf[~right].flatten()[0].item()), "Look at the data, or enlarge the space.")
        )


def collect(space: Tree) -> Callable[[Any, Any], Tree]:
    """For the argument ``collect`` of :func:`funcebm.sample`: keeps draws as integers (:func:`to_integers`).

    Args:
        space: a :class:`Space` or a tree of them.

    Returns:
        ``(state, info) -> tree``.

    >>> from funcebm import spaces
    >>> keep = spaces.collect(spaces.binary(784))
    """

    def keep(state: Any, info: Any) -> Tree:
        return to_integers(space, state.position)

    return keep
