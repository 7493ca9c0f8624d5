"""Training over ranks: each differentiates the loss of its rows, and one message adds the gradients up.

All ranks draw the noise of the whole batch, as one process does, pair its rows where a loss does that, and use their rows of it.
Where the order of sums must not depend on the number of ranks, rows go by fixed blocks, whose gradients are added up in a fixed
tree.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import checks, loops, random, tree
from .._torch import collectives
from ..distributed.mesh import Mesh, shared_rows, tree_sum
from ..types import Batch, Key, Loss, Params, Tree
from .step import Gradient, plain_gradient

__all__ = ["Sharing", "coupled", "own_memory", "share", "shared_gradient", "start_memory", "whole_memory"]

_BLOCKS = 8
_FEW = 4  # rows on which a loss is tried
_TOLERANCE = 1e-3


class Sharing(NamedTuple):
    """How a batch is shared out: ``axes`` are those of the rows in the leaves of the noise, None where there is none."""

    mesh: Mesh
    num_blocks: int
    is_deterministic: bool
    axes: tuple[int | None, ...]

    @property
    def own(self) -> tuple[int, int]:
        """The first and the end of the blocks of this rank."""
        each = self.num_blocks // self.mesh.size
        return self.mesh.rank * each, (self.mesh.rank + 1) * each

    def rows(self, num: int) -> tuple[int, int]:
        """The first and the end of its rows, of a batch of so many; sizes differ by one at most."""
        first, last = self.own
        return num * first // self.num_blocks, num * last // self.num_blocks


def share(loss: Loss, key: Key, params: Params, example: Batch, mesh: Mesh, is_deterministic: bool) -> Sharing | None:
    """How the batches of a run are shared out, after the checks at the door; None where they are not."""
    if mesh.size == 1 and not is_deterministic:
        return None
    num = tree.batch_size(example)
    if is_deterministic:
        must, fix = (
            f"deterministic training needs a number of ranks that divides {_BLOCKS}",
            "Start 1, 2, 4 or 8 ranks.",
        )
        checks.require(_BLOCKS % mesh.size == 0, must, mesh.size, fix)
        must, fix = (
            f"deterministic training needs a batch_size that {_BLOCKS} divides",
            f"Try {-(-num // _BLOCKS) * _BLOCKS}.",
        )
        checks.require(num % _BLOCKS == 0, must, num, fix)
    checks.require(num >= mesh.size, "each rank must have a row of the batch", f"{num} for {mesh.size} ranks", "")
    axes = _row_axes(loss, key, example)
    sharing = Sharing(mesh, _BLOCKS if is_deterministic else mesh.size, is_deterministic, axes)
    _check_rows(loss, key, params, example, sharing)
    return sharing


def _rows(example: Batch, num: int) -> Batch:
    """So many rows of a batch, or of copies of it."""
    return tree.map(lambda leaf: leaf[torch.arange(num, device=leaf.device) % leaf.shape[0]], example)


def _row_axes(loss: Loss, key: Key, example: Batch) -> tuple[int | None, ...]:
    """Along which axis the noise of a loss has one entry for each row of the batch: the one that grows with it."""
    batches = [_rows(example, num) for num in (_FEW, _FEW + 1)]
    few, more = (tree.leaves(coupled(loss, batch, loss.draw(key, batch))) for batch in batches)
    must = "the noise of a loss that ranks share must have an axis with one entry for each row"
    fix = "Train it on one rank, or let its draw give leaves (B, ...)."
    checks.require(len(few) == len(more), must, "another number of leaves for another batch", fix)
    axes: list[int | None] = []
    for small, large in zip(few, more, strict=True):
        pairs = enumerate(zip(small.shape, large.shape, strict=True))
        grown = [axis for axis, (before, after) in pairs if before != after]
        shapes = f"{tuple(small.shape)} for {_FEW} rows and {tuple(large.shape)} for {_FEW + 1}"
        right = not grown or (len(grown) == 1 and small.shape[grown[0]] == _FEW and large.shape[grown[0]] == _FEW + 1)
        checks.require(right, must, shapes, fix)
        axes.append(grown[0] if grown else None)
    return tuple(axes)


def _check_rows(loss: Loss, key: Key, params: Params, example: Batch, sharing: Sharing) -> None:
    """A loss must be a mean over the rows: of all, as of the means of parts."""
    batch = _rows(example, _FEW)
    memory, noise = loss.init(key, params, batch), coupled(loss, batch, loss.draw(key, batch))
    whole = loss.value(params, memory, batch, noise)[0]
    parts = []
    for first in range(0, _FEW, 2):
        rows = tree.map(lambda leaf: leaf[first : first + 2], batch)  # noqa: B023
        parts.append(loss.value(params, memory, rows, _narrowed(noise, sharing.axes, first, first + 2))[0])
    apart, scale = torch.stack(parts).mean() - whole, torch.stack(parts).abs().mean() + whole.abs()
    right = not bool(torch.isfinite(apart)) or bool(apart.abs() <= _TOLERANCE * scale)
    must = "a loss that ranks share must be a mean over the rows of its batch"
    got = f"{float(whole):.4g} for {_FEW} rows and {float(torch.stack(parts).mean()):.4g} as the mean of two halves"
    checks.require(
        right, must, got, "Train it on one rank: it couples the rows, so parts of a batch have another gradient."
    )


def coupled(loss: Loss, batch: Batch, noise: Tree) -> Tree:
    """The noise once rows stand for themselves: what pairs them has seen the whole batch."""
    return noise if loss.couple is None else loss.couple(batch, noise)


def _narrowed(noise: Tree, axes: tuple[int | None, ...], first: int, last: int) -> Tree:
    leaves, structure = tree.flatten(noise)
    parts = [leaf if a is None else leaf.narrow(a, first, last - first) for leaf, a in zip(leaves, axes, strict=True)]
    return tree.unflatten(structure, parts)


# -- the gradient -------------------------------------------------------------------------------------------------


def shared_gradient(sharing: Sharing) -> Gradient:
    """What :func:`~funcebm.training.step.plain_gradient` does, for the rows of this rank, and the mean over all ranks."""

    def gradient(
        loss: Loss, params: Params, memory: Tree, batch: Batch, noise: Tree
    ) -> tuple[Params, Tensor, dict[str, Tensor], Tree]:
        num = tree.batch_size(batch)
        first, last = sharing.rows(num)
        noise = coupled(loss, batch, noise)
        batch = tree.map(lambda leaf: leaf[first:last], batch)
        noise = _narrowed(noise, sharing.axes, first, last)
        if not sharing.is_deterministic:
            own = tree.map(lambda leaf: leaf[0], memory)
            *found, after = plain_gradient(loss, params, own, batch, noise)
            weighted = tree.scale((last - first) / num, tuple(found))
            gradients, value, metrics = _added(sharing.mesh, weighted)
            return gradients, value, metrics, tree.map(lambda leaf: leaf[None], after)
        summed, after = _by_blocks(sharing, loss, params, memory, batch, noise)
        if sharing.mesh.name:
            each = shared_rows(tree.map(lambda leaf: leaf[None], summed), sharing.mesh, sharing.mesh.size)
            summed = tree.map(tree_sum, each)
        gradients, value, metrics = tree.scale(1 / sharing.num_blocks, summed)
        return gradients, value, metrics, after

    return gradient


def _by_blocks(
    sharing: Sharing, loss: Loss, params: Params, memory: Tree, batch: Batch, noise: Tree
) -> tuple[Tree, Tree]:
    """Sums over the blocks of this rank, each by the same program, and their memories."""
    first, last = sharing.own
    leaves, structure = tree.flatten(noise)
    moving = [leaf.movedim(a, 0) for leaf, a in zip(leaves, sharing.axes, strict=True) if a is not None]

    def in_blocks(leaf: Tensor) -> Tensor:
        return leaf.unflatten(0, (last - first, -1)).contiguous()

    def one(carry: Tensor, x: Tree) -> tuple[Tensor, Tree]:
        rows, moved, before = x
        rest = iter(moved)
        parts = [leaf if a is None else next(rest).movedim(0, a) for leaf, a in zip(leaves, sharing.axes, strict=True)]
        *found, after = plain_gradient(loss, params, before, rows, tree.unflatten(structure, parts))
        return carry, (tuple(found), after)

    xs = (tree.map(in_blocks, batch), [in_blocks(leaf) for leaf in moving], memory)
    _, (found, after) = loops.scan(one, torch.zeros((), device=tree.first(params).device), xs)
    return tree.map(tree_sum, found), after


def _added(mesh: Mesh, value: Tree) -> Tree:
    """The sum over ranks, by one message for each dtype."""
    leaves, structure = tree.flatten(value)
    sums: list[Tensor] = list(leaves)
    for dtype in dict.fromkeys(leaf.dtype for leaf in leaves):
        places = [index for index, leaf in enumerate(leaves) if leaf.dtype == dtype]
        flat = torch.cat([leaves[index].reshape(-1) for index in places])
        total = collectives.exchange(flat, mesh.name, mesh.size, True)
        parts = total.split([leaves[index].numel() for index in places])
        for index, part in zip(places, parts, strict=True):
            sums[index] = part.reshape(leaves[index].shape)
    return tree.unflatten(structure, sums)


# -- what a loss remembers ----------------------------------------------------------------------------------------


def start_memory(sharing: Sharing, loss: Loss, key: Key, params: Params, example: Batch) -> Tree:
    """One memory for each block of this rank, on a leading axis; ``()`` where the loss remembers nothing."""
    first, last = sharing.own
    num = tree.batch_size(example)
    each = []
    for block in range(first, last):
        rows = slice(num * block // sharing.num_blocks, num * (block + 1) // sharing.num_blocks)
        each.append(loss.init(random.fold_in(key, block), params, tree.map(lambda leaf: leaf[rows], example)))  # noqa: B023
    return tree.stack(each) if tree.leaves(each) else each[0]


def whole_memory(sharing: Sharing, memory: Tree) -> Tree:
    """The memories of all blocks, on all ranks."""
    return sharing.mesh.gather(memory) if tree.leaves(memory) else memory


def own_memory(sharing: Sharing, memory: Tree) -> Tree:
    """Those of the blocks of this rank, of all; a run with another number of blocks cannot be resumed."""
    if not tree.leaves(memory):
        return memory
    num = tree.batch_size(memory)
    must = f"a run to resume must remember {sharing.num_blocks} blocks"
    fix = "Resume on as many ranks as it was made on; deterministic=True makes 8 blocks on 1, 2, 4 and 8 ranks."
    checks.require(num == sharing.num_blocks, must, num, fix)
    return tree.map(lambda leaf: leaf[slice(*sharing.own)].clone(), memory)
