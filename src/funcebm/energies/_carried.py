"""The space of an energy that is made from others: what they say of their states holds for it too."""

from __future__ import annotations

from typing import Any, TypeVar

from .. import tree
from ..types import Position, Tree

__all__ = ["carried_space", "with_space_of", "with_space_of_part"]

_NAMES = ("space", "joint_space")

EnergyT = TypeVar("EnergyT")


def with_space_of(energy: EnergyT, *parts: Any) -> EnergyT:
    """The energy, with the ``space`` (and ``joint_space``) on which all parts that have one agree.

    Samplers read it there; an energy without one is taken for one of bits.

    >>> from funcebm import spaces
    >>> whole, part = (lambda params, x: x.sum()), (lambda params, x: 2 * x.sum())
    >>> part.space = spaces.spins(3)
    >>> with_space_of(whole, part, max).space.levels
    (-1.0, 1.0)
    """
    for name in _NAMES:
        found = [part for part in (getattr(part, name, None) for part in parts) if part is not None]
        if found and all(one == found[0] for one in found):
            setattr(energy, name, found[0])
    return energy


def with_space_of_part(energy: EnergyT, whole: Any, names: tuple[str, ...], *, is_one: bool) -> EnergyT:
    """The energy of some entries of a position, with their spaces; of one entry alone, or of a dict of them."""
    for name in _NAMES:
        space = getattr(whole, name, None)
        if isinstance(space, dict) and all(entry in space for entry in names):
            setattr(energy, name, space[names[0]] if is_one else {entry: space[entry] for entry in names})
    return energy


def carried_space(energy: Any, batch: Position) -> Tree | None:
    """The space that an energy has for positions ``(B, *event)`` like these; None where it has none, or one of real numbers."""
    for name in _NAMES:
        space = getattr(energy, name, None)
        if space is None or tree.structure(space) != tree.structure(batch):
            continue
        parts = list(zip(tree.leaves(space), tree.leaves(batch), strict=True))
        fits = all(part.shape == tuple(leaf.shape[1:]) for part, leaf in parts)
        if fits and any(part.kind != "real" for part, _ in parts):
            return space
    return None
