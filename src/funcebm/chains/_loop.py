"""The inside of a run of many chains: the body of its loop, compiled once, that makes draws.

Inside a run the chain axis is the last one where positions are small, since the innermost axis is the one that
vectorises, and the first one where they are large, which matrix products prefer. Compiled, each iteration draws its own noise.
"""

from __future__ import annotations

from typing import Any, Callable, Iterable

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, loops, random, tree
from .._chunks import largest, sizes, sizes_by_the_clock
from ..types import Key, Params, Position, Sampler, Tree, step_of_chains
from . import _checks, reducers
from .reducers import Reducer

__all__ = [
    "LANES",
    "chain_axis",
    "chain_blocks",
    "chains_first",
    "chunks",
    "compiled_part",
    "draw_inside",
    "draw_noise",
    "draw_step",
    "in_order",
    "join_blocks",
    "make_begin",
    "make_body",
    "kernel_of",
    "name_of",
    "same_kernel",
    "numbers_to_flags",
    "over_chains",
    "summary",
    "take_block",
    "to_inside",
]

LANES = 16  # chains in one register: compiled, fewer are computed by other functions, which round otherwise
_SMALL_POSITION = 16
_BLOCK, _LARGE_BLOCK = 64, 256  # chains
_COPIES = 4  # of a position that a step makes, with its noise and its info


def chunks(
    positions: Position, num_draws: int, thin: int = 1, chunk_size: int | None = None, *, jit: bool
) -> Iterable[int]:
    """How many draws each call makes; eager by the clock. What is drawn does not depend on it."""
    if chunk_size is not None or checks.is_traced(positions):
        return sizes(num_draws, chunk_size or num_draws)
    num_bytes = _COPIES * sum(leaf.numel() * leaf.element_size() for leaf in tree.leaves(positions))
    most = max(1, largest(num_bytes, tree.first(positions)) // thin)
    return sizes(num_draws, most) if jit else sizes_by_the_clock(num_draws, most, thin)


def chain_axis(positions: Position) -> int:
    """Where the chain axis is inside a run: -1 for small positions, 0 for large ones."""
    num_chains = tree.batch_size(positions)
    return -1 if tree.size(positions) <= _SMALL_POSITION * num_chains else 0


def chain_blocks(num_chains: int, is_shared: bool = False) -> list[tuple[int, int, int]]:
    """Parts of the chains that a compiled run makes one by one, or at once in threads: ``(first, last, size)``.

    Sizes are few, so that other numbers of chains compile nothing: a part that is smaller than its size is filled up with copies
    of its last chain. What a part works on stays in the fast caches. No part has fewer chains than a register, but where there
    are so few in all; where ranks share them, less than half of one.

    >>> chain_blocks(100), chain_blocks(600)[-2:]
    ([(0, 64, 64), (64, 100, 64)], [(512, 576, 64), (576, 600, 32)])
    """
    blocks, first = [], 0
    for size in (_LARGE_BLOCK, _BLOCK):
        while num_chains - first >= size:
            blocks.append((first, first + size, size))
            first += size
    if first < num_chains:
        least = LANES if num_chains >= (LANES // 2 if is_shared else LANES) else 1
        blocks.append((first, num_chains, max(least, 1 << (num_chains - first - 1).bit_length())))
    return blocks


def take_block(value: Tree, block: tuple[int, int, int], axis: int) -> Tree:
    """The chains of a block, contiguous, filled up to its size."""
    first, last, size = block
    if first == 0 and last == size == tree.leaves(value)[0].shape[axis]:
        return value

    def take(leaf: Tensor) -> Tensor:
        part = leaf.narrow(axis, first, last - first)
        if size > last - first:
            filler = leaf.narrow(axis, last - 1, 1).expand(*_with(leaf.shape, axis, size - (last - first)))
            part = torch.cat([part, filler], axis)
        return part.contiguous()

    return tree.map(take, value)


def join_blocks(values: list[Tree], blocks: list[tuple[int, int, int]], axis: int) -> Tree:
    """All chains again, without what filled the blocks up."""
    first, end, size = blocks[-1]
    count = end - first  # the others are full
    if len(blocks) == 1 and count == size:
        return values[0]

    def join(*leaves: Tensor) -> Tensor:
        last = leaves[-1] if count == size else leaves[-1].narrow(axis, 0, count)
        return torch.cat([*leaves[:-1], last], axis) if len(leaves) > 1 else last

    return tree.map(join, *values)


def _with(shape: torch.Size, axis: int, size: int) -> list[int]:
    sizes = list(shape)
    sizes[axis] = size
    return sizes


def to_inside(value: Tree, axis: int) -> Tree:
    """From a leading chain axis to the one inside a run, in memory too."""
    return tree.map(lambda leaf: leaf.movedim(0, axis).contiguous(), value)


def chains_first(value: Tree, axis: int) -> Tree:
    """The way back, as views."""
    return tree.map(lambda leaf: leaf.movedim(axis, 0), value)


def over_chains(function: Callable[..., Any], axis: int, num_shared: int = 0) -> Callable[..., Any]:
    """Gives a function of a leading chain axis the one inside a run; the first ``num_shared`` arguments have none.

    The axis is moved before ``vmap``, not by its ``in_dims``, which reads memory out of bounds where a 0-d result does
    not depend on the chain.
    """

    def mapped(*arguments: Tree) -> Tree:
        shared, mapped_arguments = arguments[:num_shared], arguments[num_shared:]
        result = function(*shared, *(chains_first(argument, axis) for argument in mapped_arguments))
        return tree.map(lambda leaf: leaf.movedim(0, axis), result)

    return mapped


def _no_init(params: Params, position: Position) -> Any:
    raise RuntimeError("a run calls init before it is compiled")


def compiled_part(sampler: Sampler) -> Sampler:
    """What a compiled run depends on: neither the numbers, which are its arguments, nor ``init``, which it does not call."""
    unused: Any = dict.fromkeys(("unconstrained", "bijection", "adaptation", "relocation", "weight"))
    return sampler._replace(tuning=(), init=_no_init, parts=(), **unused)


def name_of(sampler: Sampler) -> str:
    """The function that made it."""
    return getattr(sampler.step, "__qualname__", type(sampler.step).__name__).split(".")[0]


def kernel_of(sampler: Sampler) -> str:
    """What a sampler is, in a word: the function that made it, those of its parts, and whether it is constrained.

    A run does not go on with another one, though its state and tuning may look alike.
    """
    parts = ", ".join(kernel_of(part) for part in sampler.parts)
    name = f"{name_of(sampler)}({parts})" if parts else name_of(sampler)
    return name if sampler.bijection is None else f"constrained {name}"


def same_kernel(sampler: Sampler, written: str, where: str) -> None:
    """A run goes on with the sampler that it was begun with; nothing is known where ``written`` is empty."""
    right = kernel_of(sampler) == written or not written
    checks.require(
        right,
        f"sampler must be the {written} of {where}",
        kernel_of(sampler),
        f"Build the sampler as it was for {where}.",
    )


def draw_step(sampler: Sampler, chain_keys: Key, positions: Position, index: Tensor) -> Tree:
    """The noise of the step ``index`` ``()`` of all chains: leaves ``(C, *event)``."""
    return vmap(sampler.draw)(vmap(random.fold_in, (0, None))(chain_keys, index), positions)


def draw_noise(sampler: Sampler, chain_keys: Key, positions: Position, indices: Tensor) -> Tree:
    """The noise of the steps ``indices`` ``(T,)`` of all chains: leaves ``(T, C, *event)``."""
    return vmap(lambda index: draw_step(sampler, chain_keys, positions, index))(indices)


def in_order(value: Tree) -> Tree:
    """The same numbers, contiguous: eager sums and products go by the strides, and would round a chain by how many there are.

    Compiled, memory is laid out by the compiler.
    """
    return value if loops.is_compiling() else tree.map(torch.Tensor.contiguous, value)


def draw_inside(sampler: Sampler, axis: int) -> Callable[[Tree, Tree, Tensor], Tree]:
    """``(shared, carry, indices) -> noise`` inside a run, of one step ``()`` or of many ``(T,)``.

    What is shared ends with the keys of the chains, the carry begins with their state.
    """

    def draw(shared: Tree, carry: Tree, indices: Tensor) -> Tree:
        chain_keys, positions = shared[-1], chains_first(carry[0].position, axis)
        if indices.ndim == 0:
            noise = draw_step(sampler, chain_keys, positions, indices)
            return in_order(tree.map(lambda leaf: leaf.movedim(0, axis), noise))
        noise = draw_noise(sampler, chain_keys, positions, indices)
        return in_order(tree.map(lambda leaf: leaf.movedim(1, axis if axis == -1 else 1), noise))

    return draw


def _flags_to_numbers(info: Any) -> Any:
    """Flags as numbers: compiled, stores of bools are not vectorised on CPU, and would cost more than the step."""
    return tree.map(lambda leaf: leaf.to(torch.float32) if leaf.dtype == torch.bool else leaf, info)


def numbers_to_flags(info: Any) -> Any:
    """The fields ``is_...`` of an info as bools again."""
    return info._replace(**{name: getattr(info, name).bool() for name in info._fields if name.startswith("is_")})


def summary(collect: Callable[[Any, Any], Tree], reducer: Reducer) -> Reducer:
    """What a run that keeps no draws accumulates of ``(state, info)``: means of the info, and the user's reducer."""
    infos = reducers.mean()
    return Reducer(
        lambda x: (infos.init(x[1]), reducer.init(collect(*x))),
        lambda a, x: (infos.update(a[0], x[1]), reducer.update(a[1], collect(*x))),
        lambda a: (infos.final(a[0]), reducer.final(a[1])),
    )


def make_begin(init: Callable[[Params, Position], Any], axis: int) -> Callable[..., Any]:
    """The start of a compiled run: ``(params, positions) -> (carry, whether all of it is finite)``."""

    def begin(params: Params, positions: Position) -> tuple[Tree, Tensor]:
        state = vmap(init, (None, 0))(params, positions)
        return (tree.map(lambda leaf: leaf.movedim(0, axis), state), ()), tree.all_finite(state)

    return begin


def make_body(
    sampler: Sampler,
    schedule: Callable[[Tensor], Tree] | None,
    collect: Callable[[Any, Any], Tree],
    reducer: Reducer | None,
    axis: int,
) -> Callable[..., Any]:
    """The iteration that a run repeats: ``(shared, carry, x) -> (carry, y)``.

    ``shared`` are the params, the tuning and the keys of the chains; the carry is ``(state, accumulator)``; ``x`` is the index
    of the step, whether it ends a draw, and its noise, ``()`` where it is to be drawn here; ``y`` is what was collected and the
    info, or ``()`` where nothing is kept.
    """

    def collecting(state: Any, info: Any) -> Tree:
        return _checks.collected(collect(state, info))

    step = over_chains(step_of_chains(sampler), axis, num_shared=2)
    collect_all, draw = over_chains(vmap(collecting), axis), draw_inside(sampler, axis)

    def body(shared: Tree, carry: Tree, x: Tree) -> tuple[Tree, Tree]:
        params, tuning, _ = shared
        state, accumulator = carry
        index, is_draw, noise = x
        noise = noise if tree.leaves(noise) else draw(shared, carry, index)
        if schedule is not None:
            tuning = tree.cast_like(schedule(index), tree.first(state))
        state, info = step(params, tuning, state, noise)
        if reducer is not None:
            update = over_chains(vmap(summary(collect, reducer).update), axis)
            new = update(accumulator, (state, info))
            accumulator = tree.where(is_draw, new, accumulator) if tree.leaves(is_draw) else new
            return (state, accumulator), ()
        collected = collect_all(state, info)
        return (state, accumulator), (collected, _flags_to_numbers(info)) if tree.leaves(collected) else ()

    return body
