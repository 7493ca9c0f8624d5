"""Graphs of sites as tensors: edges ``(M, 2)``, and colours ``(B, N)`` of sites that do not interact.

Edges join the flattened sites of a position, each pair once. A colouring is a mask for each colour: sites of one colour have
no edge between them, so given the others they are independent, and Gibbs samplers update them at once.
"""

from __future__ import annotations

import itertools
import math
from typing import Sequence

import torch
from torch import Tensor

from . import checks

__all__ = [
    "check_blocks",
    "check_edges",
    "checkerboard",
    "colouring",
    "complete",
    "components",
    "grid",
    "layers",
    "num_sites",
    "torus",
]

# -- graphs -------------------------------------------------------------------------------------------------------


def _lattice(shape: int | Sequence[int], is_periodic: bool) -> Tensor:
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    for size in shape:
        checks.positive_int("each of shape", size)
    sites = torch.arange(math.prod(shape)).reshape(shape)
    edges = []
    for axis, size in enumerate(shape):
        if is_periodic and size >= 3:
            pairs = torch.stack([sites, sites.roll(-1, axis)], -1)
        else:
            pairs = torch.stack([sites.narrow(axis, 0, size - 1), sites.narrow(axis, 1, size - 1)], -1)
        edges.append(pairs.reshape(-1, 2))
    return torch.cat(edges)


def torus(shape: int | Sequence[int]) -> Tensor:
    """A lattice whose opposite sides are joined: a ring, a torus.

    A side of two sites has one edge between them, not two.

    Args:
        shape: of the lattice; sites count in the order of ``reshape(-1)``.

    Returns:
        Edges ``(M, 2)``.

    >>> torus(3).tolist()
    [[0, 1], [1, 2], [2, 0]]
    """
    return _lattice(shape, True)


def grid(shape: int | Sequence[int]) -> Tensor:
    """A lattice with open ends: a chain, a rectangle.

    Args:
        shape: of the lattice; sites count in the order of ``reshape(-1)``.

    Returns:
        Edges ``(M, 2)``.

    >>> grid((2, 2)).tolist()
    [[0, 2], [1, 3], [0, 1], [2, 3]]
    """
    return _lattice(shape, False)


def checkerboard(shape: int | Sequence[int]) -> Tensor:
    """The two colours of a lattice, of sites whose indices add up to an even or an odd number.

    They are blocks for :func:`grid`, and for :func:`torus` where every side is even (or 2).

    Args:
        shape: of the lattice.

    Returns:
        Masks, bool ``(2, *shape)``.

    Raises:
        ValueError: a side below 1.

    >>> checkerboard((2, 2)).int().tolist()
    [[[1, 0], [0, 1]], [[0, 1], [1, 0]]]
    """
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    parity = torch.zeros(shape, dtype=torch.int64)
    for axis, size in enumerate(shape):
        checks.positive_int("each of shape", size)
        parity = parity + torch.arange(size).reshape(-1, *[1] * (len(shape) - axis - 1))
    return torch.stack([parity % 2 == 0, parity % 2 == 1])


def complete(num: int) -> Tensor:
    """All pairs of ``num`` sites.

    Args:
        num: how many sites.

    Returns:
        Edges ``(num * (num - 1) / 2, 2)``.

    Raises:
        ValueError: a number below 1.

    >>> complete(3).tolist()
    [[0, 1], [0, 2], [1, 2]]
    """
    checks.positive_int("num", num)
    return torch.combinations(torch.arange(num), 2)


def layers(widths: Sequence[int]) -> Tensor:
    """All pairs of units in consecutive layers, which count through: an RBM with two, a deep Boltzmann machine with more.

    Args:
        widths: how many units each layer has.

    Returns:
        Edges ``(M, 2)``.

    Raises:
        ValueError: a width below 1.

    >>> layers([2, 1]).tolist()
    [[0, 2], [1, 2]]
    """
    for width in widths:
        checks.positive_int("each of widths", width)
    starts = [sum(widths[:i]) for i in range(len(widths) + 1)]
    units = [torch.arange(a, b) for a, b in itertools.pairwise(starts)]
    pairs = [torch.cartesian_prod(a, b) for a, b in itertools.pairwise(units)]
    return torch.cat(pairs) if pairs else torch.zeros(0, 2, dtype=torch.int64)


# -- the door -----------------------------------------------------------------------------------------------------


def check_edges(edges: Tensor, num: int | None = None) -> None:
    """Edges must be pairs of different sites ``0 .. num - 1``, each pair once.

    Args:
        edges: ``(M, 2)`` integers.
        num: how many sites there are; None for any.

    Returns:
        Nothing.

    Raises:
        TypeError: edges that are no integer tensor.
        ValueError: another shape; a site joined to itself, or that does not exist; a pair that comes twice.

    >>> check_edges(torch.tensor([[0, 1], [1, 0]]))
    Traceback (most recent call last):
    ValueError: each pair of sites must come once. Got (0, 1) 2 times. Add up the couplings of one pair.
    """
    fix = "Use graphs.torus, graphs.grid, or torch.tensor([[0, 1], [1, 2]])."
    is_integer = isinstance(edges, Tensor) and not edges.is_floating_point() and edges.dtype != torch.bool
    got = str(edges.dtype) if isinstance(edges, Tensor) else type(edges).__name__
    checks.require(is_integer, "edges must be a tensor of integers", got, fix, TypeError)
    right = edges.ndim == 2 and edges.shape[1] == 2
    checks.require(right, "edges must have the shape (M, 2)", str(tuple(edges.shape)), fix)
    if not checks.is_concrete(edges) or not len(edges):
        return
    low, high = int(edges.min()), int(edges.max())
    inside = low >= 0 and (num is None or high < num)
    must = f"edges must join sites 0 .. {'' if num is None else num - 1}"
    checks.require(inside, must, str(low if low < 0 else high), "Count the sites from zero.")
    loops = edges[edges[:, 0] == edges[:, 1]]
    got = str(int(loops[0, 0])) if len(loops) else ""
    checks.require(not len(loops), "an edge must join two sites", f"site {got} with itself", "Give it a field instead.")
    pairs, counts = edges.sort(1).values.unique(dim=0, return_counts=True)
    if bool((counts > 1).any()):
        twice = tuple(pairs[counts.argmax()].tolist())
        fix = "Add up the couplings of one pair."
        raise ValueError(checks.message("each pair of sites must come once", f"{twice} {int(counts.max())} times", fix))


def num_sites(edges: Tensor, num: int | None = None) -> int:
    """The number of sites: as given, or up to the last one that has an edge; the edges are checked.

    Args:
        edges: ``(M, 2)``.
        num: the number, where it is known.

    Returns:
        An ``int``.

    Raises:
        ValueError: no edges and no number; edges that :func:`check_edges` refuses.

    >>> num_sites(grid(4))
    4
    """
    check_edges(edges, num)
    if num is not None:
        return num
    checks.require(len(edges) > 0, "there must be an edge, or num_sites", "neither", "Give num_sites.")
    return int(edges.max()) + 1


def check_blocks(blocks: Tensor, edges: Tensor | None = None) -> None:
    """Blocks must be masks that partition the sites, with no edge inside a block.

    Args:
        blocks: bool ``(B, *event)``, one row for each colour.
        edges: ``(M, 2)`` over the flattened sites; None leaves them out of the check.

    Returns:
        Nothing.

    Raises:
        TypeError: blocks that are not bool.
        ValueError: a site in no block or in several; an edge inside a block, which makes block Gibbs wrong.

    >>> check_blocks(torch.tensor([[True, True, False], [False, False, True]]), grid(3))
    Traceback (most recent call last):
    ValueError: no edge may be inside a block. Got (0, 1) in block 0. Use graphs.colouring(edges).
    """
    fix = "Use graphs.colouring(edges)."
    got = str(blocks.dtype) if isinstance(blocks, Tensor) else type(blocks).__name__
    checks.require(got == "torch.bool", "blocks must be a bool tensor (B, *event)", got, fix, TypeError)
    right = blocks.ndim >= 2
    checks.require(right, "blocks must lead with one row for each colour", str(tuple(blocks.shape)), fix)
    if not checks.is_concrete(blocks):
        return
    flat = blocks.reshape(len(blocks), -1)
    counts = flat.sum(0)
    wrong = torch.nonzero(counts != 1).flatten()
    where = f"site {int(wrong[0])} in {int(counts[wrong[0]])} blocks" if len(wrong) else ""
    checks.require(not len(wrong), "every site must be in one block", where, fix)
    if edges is None:
        return
    check_edges(edges, flat.shape[1])
    inside = flat[:, edges[:, 0]] & flat[:, edges[:, 1]]
    if bool(inside.any()):
        block, edge = torch.nonzero(inside)[0].tolist()
        got = f"{tuple(edges[edge].tolist())} in block {block}"
        raise ValueError(checks.message("no edge may be inside a block", got, fix))


# -- colours ------------------------------------------------------------------------------------------------------


def colouring(edges: Tensor, num: int | None = None, shape: int | Sequence[int] | None = None) -> Tensor:
    """Colours the sites so that no edge joins two of one colour: the blocks of a Gibbs sampler.

    A graph that two colours suffice for (a chain, a grid, a torus with even sides, an RBM) gets two; others are coloured
    greedily, in the order of falling degree, with at most one colour more than the largest degree.

    Args:
        edges: ``(M, 2)`` over the flattened sites.
        num: how many sites; by default up to the last that has an edge.
        shape: of a position, for the shape of the masks; by default ``(N,)``.

    Returns:
        Masks, bool ``(B, N)`` or ``(B, *shape)``.

    Raises:
        ValueError: edges that are not pairs of different sites, or a shape with another number of sites.

    Reference: Welsh and Powell (1967), The Computer Journal 10(1):85-86.

    >>> colouring(grid(4)).int().tolist()
    [[1, 0, 1, 0], [0, 1, 0, 1]]
    """
    shape = None if shape is None else (shape,) if isinstance(shape, int) else tuple(shape)
    count = num_sites(edges, math.prod(shape) if num is None and shape is not None else num)
    got = f"{shape} for {count} sites"
    checks.require(
        shape is None or math.prod(shape) == count, "shape must have one entry for each site", got, "Leave it out."
    )
    neighbours: list[list[int]] = [[] for _ in range(count)]
    for a, b in edges.tolist():
        neighbours[a].append(b)
        neighbours[b].append(a)
    colours = _two_colours(neighbours) or _greedy(neighbours)
    colour = torch.tensor(colours, device=edges.device)
    blocks = colour == torch.arange(max(colours) + 1, device=edges.device)[:, None]
    return blocks.reshape(len(blocks), *(shape or (count,)))


def _two_colours(neighbours: list[list[int]]) -> list[int] | None:
    colours = [-1] * len(neighbours)
    for first in range(len(neighbours)):
        if colours[first] >= 0:
            continue
        colours[first], waiting = 0, [first]
        while waiting:
            site = waiting.pop()
            for other in neighbours[site]:
                if colours[other] < 0:
                    colours[other] = 1 - colours[site]
                    waiting.append(other)
                elif colours[other] == colours[site]:
                    return None
    return colours


def _greedy(neighbours: list[list[int]]) -> list[int]:
    colours = [-1] * len(neighbours)
    for site in sorted(range(len(neighbours)), key=lambda site: -len(neighbours[site])):
        taken = {colours[other] for other in neighbours[site]}
        colours[site] = next(colour for colour in range(len(neighbours)) if colour not in taken)
    return colours


def components(edges: Tensor, num: int | None = None) -> Tensor:
    """The connected part that each site is in, named by its smallest site.

    Args:
        edges: ``(M, 2)``.
        num: how many sites; by default up to the last that has an edge.

    Returns:
        ``(N,)`` int64.

    >>> components(torch.tensor([[1, 2]]), 4).tolist()
    [0, 1, 1, 3]
    """
    parent = list(range(num_sites(edges, num)))

    def root(site: int) -> int:
        while parent[site] != site:
            parent[site] = parent[parent[site]]
            site = parent[site]
        return site

    for a, b in edges.tolist():
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return torch.tensor([root(site) for site in range(len(parent))], device=edges.device)
