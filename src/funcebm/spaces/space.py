"""What a space is, the spaces there are, and the check of positions against them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Sequence

import torch
from torch import Tensor

from .. import checks, tree
from ..types import Position, Tree

__all__ = [
    "Space",
    "binary",
    "categorical",
    "check",
    "discrete_parts",
    "is_value",
    "matched",
    "ordinal",
    "real",
    "spins",
]


@dataclass(frozen=True)
class Space:
    """The values of one leaf of a position.

    Attributes:
        kind: ``"binary"``, ``"categorical"``, ``"ordinal"`` or ``"real"``.
        shape: of the leaf; that of a categorical one ends with the number of values.
        levels: the floats that an entry may be, ascending; ``()`` for real ones.
        sizes: how many values each site has, in the order of the flattened sites; ``()`` for real ones.
    """

    kind: str
    shape: tuple[int, ...]
    levels: tuple[float, ...] = ()
    sizes: tuple[int, ...] = ()

    @property
    def sites(self) -> tuple[int, ...]:
        """The shape of the sites, which is that of the leaf but for the axis of one-hot rows."""
        return self.shape[:-1] if self.kind == "categorical" else self.shape

    @property
    def num_sites(self) -> int:
        """How many sites there are."""
        return math.prod(self.sites)

    @property
    def num_values(self) -> int:
        """The largest number of values of a site, the length of one-hot rows; 0 for real ones."""
        return self.shape[-1] if self.kind == "categorical" else max(self.sizes, default=0)


def _shape(name: str, shape: int | Sequence[int]) -> tuple[int, ...]:
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    for size in shape:
        checks.positive_int(f"each of {name}", size)
    return shape


def binary(shape: int | Sequence[int], levels: tuple[float, float] = (0.0, 1.0)) -> Space:
    """Two levels at each site, by default 0 and 1.

    Args:
        shape: of the position, ``(*event,)``, or the number of sites.
        levels: ``(low, high)``.

    Returns:
        A :class:`Space`.

    Raises:
        ValueError: a bad shape, or levels that do not ascend.

    >>> binary(3).levels
    (0.0, 1.0)
    """
    shape = _shape("shape", shape)
    low, high = (float(level) for level in levels)
    right = -math.inf < low < high < math.inf
    checks.require(right, "levels must be two finite numbers, low and high", levels, "Give (0.0, 1.0) or (-1.0, 1.0).")
    return Space("binary", shape, (low, high), (2,) * math.prod(shape))


def spins(shape: int | Sequence[int]) -> Space:
    """Minus or plus one at each site: :func:`binary` with those levels.

    Args:
        shape: of the position, or the number of sites.

    Returns:
        A :class:`Space`.

    >>> spins((4, 4)).levels
    (-1.0, 1.0)
    """
    return binary(shape, (-1.0, 1.0))


def categorical(num_sites: int | Sequence[int], num_values: int | Sequence[int]) -> Space:
    """One of several values without an order at each site, as one-hot rows ``(*sites, K)``.

    Args:
        num_sites: how many sites, or their shape.
        num_values: how many values each has, or one number for each site; then K is the largest, and the entries beyond the
            number of a site are always zero.

    Returns:
        A :class:`Space`.

    Raises:
        ValueError: a number of values below 2, or another number of them than of sites.

    >>> categorical(3, 4).shape, categorical(3, [2, 4, 3]).shape
    ((3, 4), (3, 4))
    """
    sites = _shape("num_sites", num_sites)
    count = math.prod(sites)
    sizes = (num_values,) * count if isinstance(num_values, int) else tuple(num_values)
    must = "num_values must be one number, or one for each site"
    checks.require(len(sizes) == count, must, f"{len(sizes)} for {count} sites", "Give one number.")
    for size in sizes:
        checks.positive_int("each of num_values", size, 2)
    return Space("categorical", (*sites, max(sizes)), (0.0, 1.0), sizes)


def ordinal(shape: int | Sequence[int], num_levels: int) -> Space:
    """Whole numbers ``0 .. num_levels - 1`` with an order at each site, as floats.

    Args:
        shape: of the position, or the number of sites.
        num_levels: how many levels each site has.

    Returns:
        A :class:`Space`.

    Raises:
        ValueError: fewer than two levels, or a bad shape.

    >>> ordinal((8, 8), 17).levels[-1]
    16.0
    """
    shape = _shape("shape", shape)
    checks.positive_int("num_levels", num_levels, 2)
    return Space("ordinal", shape, tuple(float(i) for i in range(num_levels)), (num_levels,) * math.prod(shape))


def real(shape: int | Sequence[int] = ()) -> Space:
    """Real numbers, for the leaves of a mixed position that are not discrete.

    Args:
        shape: of the leaf.

    Returns:
        A :class:`Space`.

    >>> real(2).kind
    'real'
    """
    return Space("real", _shape("shape", shape))


# -- the door -----------------------------------------------------------------------------------------------------


def matched(space: Tree, positions: Tree, name: str) -> list[tuple[str, Space, Tensor]]:
    """Spaces and leaves side by side, with a prefix for messages."""
    parts = tree.leaves(space)
    fix = "Make it of spaces.binary, spins, categorical, ordinal and real, shaped like the position."
    wrong = [type(part).__name__ for part in parts if not isinstance(part, Space)]
    checks.require(bool(parts) and not wrong, "space must be a tree of spaces", ", ".join(wrong) or "()", fix)
    checks.one_structure(name, positions, "the space", space)
    found = zip(tree.paths(space), parts, tree.leaves(positions), strict=True)
    return [(f"leaf {path!r}: " if path else "", part, leaf) for path, part, leaf in found]


def check(space: Tree, positions: Position, name: str = "positions") -> None:
    """Positions must hold the levels of the space: shapes always, values where they can be read (not while tracing).

    Args:
        space: a :class:`Space` or a tree of them.
        positions: like the space, with any leading axes.
        name: what the message calls them.

    Returns:
        Nothing.

    Raises:
        TypeError: a leaf that is no floating-point tensor.
        ValueError: another structure or shape; a value that is no level; a row that is not one-hot.

    >>> check(spins(2), torch.tensor([[1.0, -1.0]]))
    >>> check(spins(2), torch.tensor([0.0, 1.0]))
    Traceback (most recent call last):
    ValueError: positions must hold only the levels of the space, (-1.0, 1.0). Got 0.0. For bits use spaces.binary...
    """
    for where, part, leaf in matched(space, positions, name):
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            got = f"{where}{leaf.dtype if isinstance(leaf, Tensor) else type(leaf).__name__}"
            fix = "Use spaces.from_integers(space, integers), or positions.float()."
            raise TypeError(checks.message(f"{name} must hold floating-point tensors", got, fix))
        right = leaf.ndim >= len(part.shape) and tuple(leaf.shape[leaf.ndim - len(part.shape) :]) == part.shape
        must = f"{name} must have the shape of the space, {part.shape}, after any leading axes"
        checks.require(right, must, f"{where}{tuple(leaf.shape)}", "Categories are one-hot rows (*sites, K).")
        if part.kind != "real" and checks.is_concrete(leaf):
            _check_levels(part, leaf.detach(), where, name)


def _check_levels(space: Space, leaf: Tensor, where: str, name: str) -> None:
    levels = torch.tensor(space.levels, dtype=leaf.dtype, device=leaf.device)
    place = torch.searchsorted(levels, leaf.contiguous()).clamp(max=len(levels) - 1)
    off = leaf != levels[place]
    if bool(off.any()):
        fix = "For bits use spaces.binary, for plus and minus one spaces.spins; convert with 2 * x - 1 and (x + 1) / 2."
        if space.kind in ("categorical", "ordinal"):
            fix = "Round the data to the levels, or use spaces.from_integers."
        shown = f"({space.levels[0]}, ..., {space.levels[-1]})" if len(levels) > 4 else space.levels
        got = where + repr(leaf[off].flatten()[0].item())
        raise ValueError(checks.message(f"{name} must hold only the levels of the space, {shown}", got, fix))
    if space.kind == "categorical":
        wrong = (leaf.sum(-1) != 1) | (leaf * ~is_value(space, leaf.device)).any(-1)
        if bool(wrong.any()):
            fix = "Make it with spaces.from_integers, or torch.nn.functional.one_hot(...).float()."
            got = where + str(leaf[wrong].reshape(-1, space.shape[-1])[0].tolist())
            raise ValueError(
                checks.message(f"the rows of {name} must be one-hot, within the values of their site", got, fix)
            )


def is_value(space: Space, device: torch.device) -> Tensor:
    """Which entries of one-hot rows are values of their site. ``(*sites, K)`` bool."""
    sizes = torch.tensor(space.sizes, device=device).reshape(*space.sites, 1)
    return torch.arange(space.shape[-1], device=device) < sizes


def discrete_parts(space: Tree) -> list[Space]:
    """The leaves of a tree of spaces, none of which may be real."""
    parts = tree.leaves(space)
    kinds = [part.kind if isinstance(part, Space) else type(part).__name__ for part in parts]
    known = all(kind in ("binary", "categorical", "ordinal") for kind in kinds)
    checks.require(known, "only discrete spaces can be enumerated", ", ".join(kinds), "Leave real leaves out.")
    return parts
