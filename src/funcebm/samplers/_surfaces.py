"""Kernels of one position, of which some keep to a surface that others do not know."""

from __future__ import annotations

from typing import Iterator, Sequence

from torch.func import vmap

from .. import checks, tree
from ..types import Position, Sampler
from .parts import part_of

__all__ = ["check_surfaces"]


def check_surfaces(members: Sequence[Sampler], position: Position) -> None:
    """A leaf that a constraint keeps on a surface (a simplex) must not be moved by a sampler that moves all its numbers.

    That one would leave the surface, where the free numbers of the other do not exist; the density on it has no meaning for it
    either. Constraints with as many free numbers as numbers, such as positive ones, are borders that an energy can know itself.

    Args:
        members: which move one position after each other.
        position: of which the shapes are read.

    Raises:
        ValueError: such a leaf.
    """
    moved = [pair for member in members for pair in _moved(member, position, "")]
    free = {path for path, is_surface in moved if not is_surface}
    torn = sorted({path for path, is_surface in moved if is_surface} & free)
    must = "samplers of one position must all keep to the surface on which a constraint holds it"
    got = f"one without the constraint{', on the leaf ' + repr(torn[0]) if torn and torn[0] else ''}"
    fix = "Make each with constrained(energy, bijection), or let the plain ones move other leaves: on(names, sampler, energy)."
    checks.require(not torn, must, got, fix)


def _moved(sampler: Sampler, position: Position, prefix: str) -> Iterator[tuple[str, bool]]:
    """The paths of leaves that a sampler of the library moves, and whether on a surface; nothing of other kernels."""
    names = getattr(sampler.init, "leaves", ())
    paths = ["/".join(filter(None, (prefix, path))) for path in tree.paths(position)]
    if sampler.bijection is not None:
        like = vmap(sampler.bijection.inverse)(tree.map(lambda leaf: leaf[None], position))
        free = tree.map(lambda leaf: leaf[0], like)
        if tree.structure(free) == tree.structure(position):
            sizes = [
                (leaf.numel(), y.numel()) for leaf, y in zip(tree.leaves(position), tree.leaves(free), strict=True)
            ]
        else:
            sizes = [(tree.size(position), tree.size(free))] * len(paths)
        yield from ((path, size != num) for path, (size, num) in zip(paths, sizes, strict=True))
    elif names:
        (member,) = sampler.parts
        part = {name: part_of(position, name) for name in names}
        is_one = getattr(sampler.init, "is_one", False)
        at = "/".join(filter(None, (prefix, names[0]))) if is_one else prefix
        yield from _moved(member, part[names[0]] if is_one else part, at)
    elif sampler.parts:
        for member in sampler.parts:
            yield from _moved(member, position, prefix)
    elif getattr(sampler.init, "moves_all", False):
        yield from ((path, False) for path in paths)
