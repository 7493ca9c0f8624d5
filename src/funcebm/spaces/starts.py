"""Where chains start in a space."""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, random, tree
from ..types import Key, Position, Tree
from .integers import levels_of
from .space import Space, is_value, matched

__all__ = ["sample", "start"]


def start(space: Tree, *, mean: Tree | None = None, dtype: torch.dtype | None = None) -> Callable[[Key], Position]:
    """Where chains start: a function from a key to one position, with independent sites.

    Args:
        space: a :class:`Space` or a tree of them.
        mean: like a position, the means that the sites shall have, such as ``data.mean(0)``; of categories their
            frequencies. None for the uniform distribution (standard normal at real leaves). Ordinals take None.
        dtype: of the position; by default torch's.

    Returns:
        ``key -> position``, for the arguments ``initial`` and ``start`` of the contrastive losses, or under ``vmap``.

    Raises:
        ValueError: a mean outside of the levels.

    >>> from funcebm import spaces
    >>> spaces.start(spaces.spins(4))(random.key(0)).abs()
    tensor([1., 1., 1., 1.])
    """
    parts, structure = tree.flatten(space)
    if mean is not None:
        for where, part, leaf in matched(space, mean, "mean"):
            right = part.kind in ("binary", "categorical", "real")
            checks.require(right, "a mean says nothing of ordinals", where + part.kind, "Leave mean out.")
            if part.kind != "real" and checks.is_concrete(leaf):
                inside = bool(((leaf >= part.levels[0]) & (leaf <= part.levels[1])).all())
                checks.require(
                    inside, f"mean must be within {part.levels}", where + "a number outside", "Use data.mean(0)."
                )
    means = [None] * len(parts) if mean is None else tree.leaves(mean)

    def begin(key: Key) -> Position:
        keys = [key] if len(parts) == 1 else list(random.split(key, len(parts)).unbind(0))
        drawn = [_draw(part, k, m, dtype) for part, k, m in zip(parts, keys, means, strict=True)]
        return tree.unflatten(structure, drawn)

    return begin


def _draw(space: Space, key: Key, mean: Tensor | None, dtype: torch.dtype | None) -> Tensor:
    if space.kind == "real":
        noise = random.normal(key, space.shape, dtype=dtype)
        return noise if mean is None else noise + mean.to(noise)
    if space.kind == "categorical":
        inside = is_value(space, key.device)
        weights = inside.double() if mean is None else mean.to(key.device).double() * inside
        values = random.categorical(key, weights.log())
    elif space.kind == "binary":
        low, high = space.levels
        chance = 0.5 if mean is None else (mean.to(key.device) - low) / (high - low)
        values = random.uniform(key, space.shape) < chance
    else:
        values = random.randint(key, space.sites, 0, space.num_values)
    return levels_of(space, values, dtype)


def sample(key: Key, space: Tree, num: int, *, mean: Tree | None = None, dtype: torch.dtype | None = None) -> Position:
    """Independent draws of :func:`start`, leaves ``(num, *event)``: positions for :func:`funcebm.sample`.

    Args:
        key: ``(2,)``.
        space: a :class:`Space` or a tree of them.
        num: how many positions.
        mean, dtype: as in :func:`start`.

    Returns:
        Positions, leaves ``(num, *event)``.

    Raises:
        ValueError: a number below 1, or a mean outside of the levels.

    >>> from funcebm import spaces
    >>> spaces.sample(random.key(0), spaces.ordinal(2, 5), 3).shape
    torch.Size([3, 2])
    """
    checks.positive_int("num", num)
    return vmap(start(space, mean=mean, dtype=dtype))(random.split(key, num))
