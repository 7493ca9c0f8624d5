"""The space of an energy that is made from others: what they say of their states holds for it too."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor

from .. import checks, tree
from ..spaces.space import Space
from ..types import Position, Tree

__all__ = ["carried_space", "with_space_of", "with_space_of_mask", "with_space_of_part"]

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
    """The energy of some entries of a position, with their spaces; of one entry alone, or of a dict of them.

    Names are those of entries of a dict or a NamedTuple, and of entries of these, ``"layers/weight"``.
    """
    for name in _NAMES:
        space = getattr(whole, name, None)
        found = {entry: _entry(space, entry) for entry in names}
        if names and all(part is not None for part in found.values()):
            setattr(energy, name, found[names[0]] if is_one else found)
    return energy


def _entry(space: Tree | None, path: str) -> Tree | None:
    for name in path.split("/"):
        is_field = isinstance(space, tuple) and name in getattr(space, "_fields", ())
        space = getattr(space, name) if is_field else space.get(name) if isinstance(space, dict) else None
    return space


def with_space_of_mask(energy: EnergyT, whole: Any, free: Tensor) -> EnergyT:
    """The energy of the free numbers of a position, ``whole[free]``, with their space.

    That of the whole, which fits no part, where the mask is traced, or is not one of the space: samplers refuse it then.
    """
    for name in _NAMES:
        space = getattr(whole, name, None)
        if isinstance(space, Space):
            fits = checks.is_concrete(free) and tuple(free.shape) == space.shape[: free.ndim]
            setattr(energy, name, _masked(space, free) if fits else space)
    return energy


def _masked(space: Space, free: Tensor) -> Space:
    """The space of ``whole[free]``; of categories one-hot rows, for a mask of their entries too."""
    if space.kind == "categorical" and free.ndim == len(space.shape):
        fix = f"Give a mask of the sites, {space.sites}; the free part is whole[free], (F, K)."
        whole_rows = bool((free.all(-1) | ~free.any(-1)).all())
        checks.require(whole_rows, "free must free one-hot rows as a whole", "a mask that splits one", fix)
        free = free.any(-1)
    rest = space.shape[free.ndim :]
    of_sites = free.reshape(*free.shape, *(1,) * (len(space.sites) - free.ndim)).expand(space.sites).flatten().tolist()
    sizes = tuple(size for size, is_free in zip(space.sizes, of_sites, strict=True) if is_free) if space.sizes else ()
    return Space(space.kind, (int(free.sum()), *rest), space.levels, sizes)


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
