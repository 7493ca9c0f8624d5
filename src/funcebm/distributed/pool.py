"""How an adaptation sees all chains, when ranks share them: by sums in a fixed order, and by what it asks to be gathered."""

from __future__ import annotations

import itertools
from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor

from .. import checks, random, tree
from .._torch import collectives
from .._torch.tracing import is_tracing
from ..types import Key, Tree
from .mesh import Mesh, single, stacked, tree_sum

__all__ = ["Pool", "make_pool", "whole"]

_BLOCKS = 64  # of chains, whose sums are added up in a fixed tree


class Pool(NamedTuple):
    """The chains of all ranks, seen from the one that holds some of them.

    The chains are divided into at most 64 blocks, which do not depend on how many ranks there are; each rank holds whole ones.
    Sums go within a block first, then over the blocks by a fixed tree. So they have the same bits for any number of ranks. A
    rank that holds fewer chains than others repeats a chain; what is repeated counts nowhere.

    Attributes:
        count: C, how many chains there are on all ranks.
        first: the number of the first one of this rank.
        sum: ``tree of (C_r, ...) -> tree of (...)``, over all chains, by one message.
        mean: the same over ``count``.
        gather: ``(C_r, ...) -> (C, ...)``, of all chains on all ranks; by one message that grows with their number.
        take: ``(C, ...) -> (C_r, ...)``, those of this rank.
        split: ``key -> (C_r, 2)``, the keys of the chains of this rank: ``random.split(key, C)`` has those of all.
        blocks: ``(C_r, ...) -> (b_r, s, ...)``, the chains of this rank by blocks, NaN where a block has fewer than ``s``.
        join: ``(b_r, ...) -> (b, ...)``, what ranks have made of each block, on all ranks; by one message.
    """

    count: int  # type: ignore[assignment]
    first: int
    sum: Callable[[Tree], Tree]
    mean: Callable[[Tree], Tree]
    gather: Callable[[Tree], Tree]
    take: Callable[[Tree], Tree]
    split: Callable[[Key], Key]
    blocks: Callable[[Tree], Tree]
    join: Callable[[Tree], Tree]


class _Layout(NamedTuple):
    """Whose chains are whose; ``rows`` are the numbers of those of this rank, ``places`` and ``is_there`` ``(s, b_r)``
    say where a chain of a block is among them."""

    total: int
    mesh: Mesh
    first: int
    rows: Tensor
    num_blocks: list[int]
    num_chains: list[int]
    width: int
    places: Tensor
    is_there: Tensor
    is_plain: bool


def make_pool(
    num_chains: int, mesh: Mesh = single, *, device: torch.device | str | None = None, width: int = 1
) -> Pool:
    """The pool of some chains over the ranks of a mesh.

    Args:
        num_chains: C, of all ranks.
        mesh: whose ranks share them; by default one process has all.
        device: of the chains.
        width: each of several ranks holds a multiple of it, repeating chains, where that makes them twice as many at most.

    Returns:
        A :class:`Pool`.

    Raises:
        ValueError: no chain.

    >>> pool = make_pool(3)
    >>> pool.count, pool.sum(torch.tensor([1.0, 2.0, 4.0])), pool.mean({"a": torch.ones(3, 2)})
    (3, tensor(7.), {'a': tensor([1., 1.])})
    """
    checks.positive_int("num_chains", num_chains)
    layout = _layout(num_chains, mesh, device, width)

    def add(value: Tree) -> Tree:
        return _sum(layout, value)

    def mean(value: Tree) -> Tree:
        return tree.map(lambda leaf: leaf / num_chains, add(value))

    def split(key: Key) -> Key:
        return random.split(key, len(layout.rows), start=layout.first)

    functions = [_bound(function, layout) for function in (_gather, _take, _blocks, _join)]
    return Pool(num_chains, layout.first, add, mean, functions[0], functions[1], split, functions[2], functions[3])


def whole(pool: Pool | None, value: Tree) -> Pool:
    """The pool, or that of one process with all the chains of ``value``."""
    return make_pool(tree.batch_size(value), device=tree.first(value).device) if pool is None else pool


def _bound(function: Callable[..., Tree], layout: _Layout) -> Callable[[Tree], Tree]:
    return lambda value: function(layout, value)


def _layout(count: int, mesh: Mesh, device: Any, width: int = 1) -> _Layout:
    total = min(_BLOCKS, 1 << (count - 1).bit_length())
    ends = [total * rank // mesh.size for rank in range(mesh.size + 1)]
    rows = [count * end // total for end in ends]
    num_blocks = [last - first for first, last in itertools.pairwise(ends)]
    num_chains = [last - first for first, last in itertools.pairwise(rows)]
    num_held = -(-max(num_chains) // width) * width
    if mesh.size == 1 or count < width or num_held > 2 * max(num_chains):
        num_held = max(num_chains)
    longest, first = -(-count // total), rows[mesh.rank]
    block = ends[mesh.rank] + torch.arange(max(num_blocks), device=device)
    starts = torch.div(count * block, total, rounding_mode="floor")
    lengths = torch.div(count * (block + 1), total, rounding_mode="floor") - starts
    lengths = torch.where(block < ends[mesh.rank + 1], lengths, 0)
    place = torch.arange(longest, device=device)[:, None]
    is_there = place < lengths
    places = torch.where(is_there, starts - first + place, 0)
    is_plain = count % total == 0 and total % mesh.size == 0
    held = (first + torch.arange(num_held, device=device)).clamp(max=count - 1)
    return _Layout(count, mesh, first, held, num_blocks, num_chains, longest, places, is_there, is_plain)


# -- sums ---------------------------------------------------------------------------------------------------------


def _in_blocks(layout: _Layout, leaf: Tensor, fill: float) -> Tensor:
    """``(C_r, ...) -> (s, b_r, ...)``."""
    if layout.is_plain:
        num = layout.num_chains[0]  # the same on all ranks
        return leaf[:num].unflatten(0, (-1, layout.width)).movedim(1, 0)
    is_there = layout.is_there.reshape(*layout.is_there.shape, *[1] * (leaf.ndim - 1))
    return torch.where(is_there, leaf[layout.places], fill)


def _sum(layout: _Layout, value: Tree) -> Tree:
    leaves, structure = tree.flatten(value)
    leaves = [leaf.to(torch.int64) if leaf.dtype == torch.bool else leaf for leaf in leaves]
    sums: list[Any] = list(leaves)
    dtypes = list(dict.fromkeys(leaf.dtype for leaf in leaves))
    groups = [[index for index, leaf in enumerate(leaves) if leaf.dtype == dtype] for dtype in dtypes]
    own = []
    for group in groups:  # one pass for all leaves of a dtype
        flat = torch.cat([leaves[index].reshape(leaves[index].shape[0], -1) for index in group], 1)
        own.append(tree_sum(_in_blocks(layout, flat, 0)))
    for group, total in zip(groups, _over_blocks(layout, own), strict=True):
        parts = total.split([leaves[index][0].numel() for index in group])
        for index, part in zip(group, parts, strict=True):
            sums[index] = part.reshape(leaves[index].shape[1:])
    return tree.unflatten(structure, sums)


def _over_blocks(layout: _Layout, own: list[Tensor]) -> list[Tensor]:
    """The sums ``(F,)`` of those of blocks ``(b_r, F)``; where each rank holds a subtree it sends the top of it alone."""
    mesh, num = layout.mesh, layout.num_blocks[0]
    if mesh.size > 1 and num > 0 and num & (num - 1) == 0 and set(layout.num_blocks) == {num}:
        return [tree_sum(leaf) for leaf in stacked([tree_sum(leaf) for leaf in own], mesh.size, mesh.name)]
    return [tree_sum(leaf) for leaf in _join(layout, own)]


# -- rows ---------------------------------------------------------------------------------------------------------


def _joined(layout: _Layout, value: Tree, counts: list[int]) -> Tree:
    """What all ranks hold, one after the other, without what is repeated."""
    if layout.mesh.size == 1:
        return value
    leaves, structure = tree.flatten(value)
    everything = stacked(leaves, layout.mesh.size, layout.mesh.name)
    if all(min(counts) == leaf.shape[1] for leaf in everything):
        return tree.unflatten(structure, [leaf.flatten(0, 1) for leaf in everything])
    cut = [torch.cat([leaf[rank, :num] for rank, num in enumerate(counts)]) for leaf in everything]
    return tree.unflatten(structure, cut)


def _gather(layout: _Layout, value: Tree) -> Tree:
    if layout.mesh.size == 1 and collectives.HAS_OPERATOR and is_tracing():
        # in memory, as the message of several ranks is: what comes after is the same program
        return tree.map(lambda leaf: collectives.exchange(leaf, "", 1, False)[0], value)
    return tree.map(torch.Tensor.contiguous, _joined(layout, value, layout.num_chains))


def _join(layout: _Layout, value: Tree) -> Tree:
    return _joined(layout, value, layout.num_blocks)


def _take(layout: _Layout, value: Tree) -> Tree:
    if layout.mesh.size == 1:
        return value
    return tree.map(lambda leaf: leaf[layout.rows], value)


def _blocks(layout: _Layout, value: Tree) -> Tree:
    return tree.map(lambda leaf: _in_blocks(layout, leaf, torch.nan).movedim(0, 1), value)
