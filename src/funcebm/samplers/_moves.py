"""The moves of one site in a discrete space, as vectors: which there are, what they change, and how they go back.

A position has ``T`` moves, in the order of the leaves and of their sites: for two levels one at each site (the other level), for
categories one for each value, for ordinals a step down and a step up. A set of moves is a mask ``(T,)``; sums over it need no
gather, and so nothing here depends on data but through arithmetic.
"""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, random, spaces, tree
from ..spaces.space import Space, is_value
from ..types import Energy, Key, Params, Position, Tree

__all__ = [
    "allowed",
    "apply",
    "argmax_mask",
    "check_discrete",
    "checked",
    "differences",
    "door",
    "estimates",
    "masked_sum",
    "num_changed",
    "num_moves",
    "on_levels",
    "reverse",
    "same_sites",
    "space_for",
    "uniform_like",
]

# -- spaces -------------------------------------------------------------------------------------------------------


def space_for(name: str, space: Tree | None, energy: Any) -> Callable[[Position], Tree]:
    """The space of a position: as given; else what the energy carries, which must fit; bits where it carries none, or bits.

    Raises:
        TypeError: something that is no tree of spaces.
        ValueError: real leaves; when called, a position that fits no space of the energy.
    """
    if space is not None:
        check_discrete(name, space)
        return lambda position: space
    found = (getattr(energy, field, None) for field in ("space", "joint_space"))
    carried = [
        candidate for candidate in found if tree.leaves(candidate) and all(map(_is_space, tree.leaves(candidate)))
    ]

    is_of_bits = all(part.levels == (0.0, 1.0) and part.kind == "binary" for part in tree.leaves(carried))

    def of(position: Position) -> Tree:
        for candidate in carried:
            fits = tree.structure(candidate) == tree.structure(position)
            parts = zip(tree.leaves(candidate), tree.leaves(position), strict=False)
            if fits and all(part.kind != "real" and part.shape == tuple(leaf.shape) for part, leaf in parts):
                return candidate
        if not is_of_bits:
            must = f"{name} needs positions of the space of the energy, {tree.map(_shown, carried[0])}"
            fix = (
                "Give them its shape, without real leaves; or name the space: space=spaces.spins(positions.shape[1:])."
            )
            raise ValueError(checks.message(must, str(tree.map(lambda leaf: tuple(leaf.shape), position)), fix))
        return tree.map(lambda leaf: spaces.binary(tuple(leaf.shape)), position)

    return of


def _is_space(part: Any) -> bool:
    return isinstance(part, Space)


def _shown(space: Space) -> str:
    return f"{space.kind} {space.shape}"


def check_discrete(name: str, space: Tree) -> None:
    """A tree of discrete spaces."""
    parts = tree.leaves(space)
    fix = "Make it with spaces.binary, spins, categorical or ordinal."
    wrong = [part for part in parts if not isinstance(part, Space)]
    checks.require(bool(parts) and not wrong, "space must be a tree of spaces", repr(wrong or ()), fix, TypeError)
    fix = f'Move them by another sampler: samplers.cycle(samplers.on("z", {name}), samplers.on("x", hmc)).'
    right = all(part.kind != "real" for part in parts)
    checks.require(right, f"{name} moves discrete leaves only", "a space with real leaves", fix)


def on_levels(space: Tree, position: Position) -> Tensor:
    """Whether a position holds levels of the space only. ``()`` bool; as a formula, for compiled code."""
    right = []
    for part, leaf in zip(tree.leaves(space), tree.leaves(position), strict=True):
        if part.kind == "categorical":
            is_bit = ((leaf == 0) | ((leaf == 1) & is_value(part, leaf.device))).all(-1)
            right.append((is_bit & (leaf.sum(-1) == 1)).all())
        elif part.kind == "ordinal":
            right.append(((leaf == leaf.round()) & (leaf >= 0) & (leaf <= part.levels[-1])).all())
        elif part.kind == "binary":
            right.append(((leaf == part.levels[0]) | (leaf == part.levels[1])).all())
    return torch.stack(right).all()


def checked(space_of: Callable[[Position], Tree], position: Position) -> Tree:
    """The space of a position, which must hold its levels: an error where numbers can be looked at."""
    space = space_of(position)
    spaces.check(space, position, "positions")
    return space


def door(space: Tree, position: Position, energy: Tensor) -> Tensor:
    """The energy, and NaN off the levels, which stops a run at its start where :func:`checked` could not look."""
    return torch.where(on_levels(space, position), energy, torch.nan)


# -- moves --------------------------------------------------------------------------------------------------------


def num_moves(space: Tree) -> int:
    """``T``."""
    return sum(_width(part) * part.num_sites for part in tree.leaves(space))


def _width(space: Space) -> int:
    return {"binary": 1, "categorical": space.num_values, "ordinal": 2}[space.kind]


def _split(space: Tree, vector: Tensor) -> list[Tensor]:
    """The parts of ``(T,)`` for each leaf, ``(*sites, width)``; without the last axis for two levels."""
    parts = tree.leaves(space)
    pieces = vector.split([_width(part) * part.num_sites for part in parts])
    shapes = [part.sites if part.kind == "binary" else (*part.sites, _width(part)) for part in parts]
    return [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def _join(pieces: list[Tensor]) -> Tensor:
    return torch.cat([piece.reshape(-1) for piece in pieces]) if len(pieces) > 1 else pieces[0].reshape(-1)


def allowed(space: Tree, position: Position) -> Tensor:
    """Which moves lead to another position of the space. ``(T,)`` bool."""
    pieces = []
    for part, leaf in zip(tree.leaves(space), tree.leaves(position), strict=True):
        if part.kind == "categorical":
            pieces.append((leaf == 0) & is_value(part, leaf.device))
        elif part.kind == "ordinal":
            pieces.append(torch.stack([leaf > 0, leaf < part.levels[-1]], -1))
        else:
            pieces.append(torch.ones_like(leaf, dtype=torch.bool))
    return _join(pieces)


def estimates(space: Tree, position: Position, gradient: Tree) -> Tensor:
    """What each move changes in the log density, to first order: ``-grad E . (y - x)``, ``-inf`` where not allowed. ``(T,)``."""
    pieces = []
    for part, x, slope in zip(tree.leaves(space), tree.leaves(position), tree.leaves(gradient), strict=True):
        if part.kind == "categorical":
            pieces.append((x * slope).sum(-1, keepdim=True) - slope)
        elif part.kind == "ordinal":
            pieces.append(torch.stack([slope, -slope], -1))
        else:
            pieces.append((2 * x - sum(part.levels)) * slope)
    vector = _join(pieces)
    if all(part.kind == "binary" for part in tree.leaves(space)):
        return vector
    return torch.where(allowed(space, position), vector, -torch.inf)


def differences(energy: Energy, space: Tree, params: Params, position: Position, value: Tensor) -> Tensor:
    """What each move changes in the log density, exactly, by one energy a move; ``-inf`` where it is not allowed. ``(T,)``."""
    each = torch.eye(num_moves(space), dtype=torch.bool, device=value.device)
    changed = value - vmap(lambda mask: energy(params, apply(space, position, mask)))(each)
    return torch.where(allowed(space, position), changed, -torch.inf)


def apply(space: Tree, position: Position, mask: Tensor) -> Position:
    """Where the moves of a mask lead; at most one at each site."""
    leaves, structure = tree.flatten(position)
    moved = []
    for part, x, chosen in zip(tree.leaves(space), leaves, _split(space, mask), strict=True):
        if part.kind == "categorical":
            moved.append(torch.where(chosen.any(-1, keepdim=True), chosen.to(x.dtype), x))
        elif part.kind == "ordinal":
            moved.append(x + chosen[..., 1].to(x.dtype) - chosen[..., 0].to(x.dtype))
        else:
            moved.append(torch.where(chosen, sum(part.levels) - x, x))
    return tree.unflatten(structure, moved)


def reverse(space: Tree, position: Position, mask: Tensor) -> Tensor:
    """The moves that lead back from ``apply(space, position, mask)`` to ``position``. ``(T,)`` bool."""
    pieces = []
    for part, x, chosen in zip(tree.leaves(space), tree.leaves(position), _split(space, mask), strict=True):
        if part.kind == "categorical":
            pieces.append(chosen.any(-1, keepdim=True) & (x == 1))
        elif part.kind == "ordinal":
            pieces.append(chosen.flip(-1))
        else:
            pieces.append(chosen)
    return _join(pieces)


def same_sites(space: Tree, mask: Tensor) -> Tensor:
    """All moves at the sites that a mask moves. ``(T,)`` bool."""
    pieces = _split(space, mask)
    parts = zip(tree.leaves(space), pieces, strict=True)
    return _join([c if part.kind == "binary" else c.any(-1, keepdim=True).expand(c.shape) for part, c in parts])


def num_changed(space: Tree, before: Position, after: Position) -> Tensor:
    """How many sites differ. ``()``, floating point."""
    counts = []
    for part, x, y in zip(tree.leaves(space), tree.leaves(before), tree.leaves(after), strict=True):
        differs = (x != y).any(-1) if part.kind == "categorical" else x != y
        counts.append(differs.to(x.dtype).sum())
    return torch.stack(counts).sum()


# -- choices ------------------------------------------------------------------------------------------------------


def argmax_mask(scores: Tensor) -> Tensor:
    """True at the largest entry of a vector."""
    return torch.arange(scores.shape[-1], device=scores.device) == scores.argmax(-1, keepdim=True)


def masked_sum(mask: Tensor, values: Tensor) -> Tensor:
    """The sum of the values where the mask holds, whatever they are elsewhere. ``()``."""
    return torch.where(mask, values, 0).sum()


def uniform_like(key: Key, space: Tree, position: Position) -> Tree:
    """A uniform number on [0, 1) for each site."""
    leaves, structure = tree.flatten(position)
    keys = [key] if len(leaves) == 1 else list(random.split(key, len(leaves)).unbind(0))
    parts = zip(tree.leaves(space), keys, leaves, strict=True)
    drawn = [random.uniform(k, part.sites, dtype=leaf.dtype) for part, k, leaf in parts]
    return tree.unflatten(structure, drawn)
