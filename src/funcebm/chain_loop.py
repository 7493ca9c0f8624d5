"""The inside of a run of many chains: one function, compiled once, that makes draws from noise.

Inside a run the chain axis is the last one where positions are small, since the innermost axis is the one that
vectorises, and the first one where they are large, which matrix products prefer.
"""

from __future__ import annotations

import math
from typing import Any, Callable

import torch
from torch import Tensor
from torch.func import vmap

from . import checks, loops, random, reducers, tree
from .reducers import Reducer
from .types import Key, Params, Position, Sampler, Tree, step_of_chains

__all__ = [
    "chain_axis",
    "chains_first",
    "compiled_part",
    "draw_noise",
    "is_traced",
    "make_chunk",
    "numbers_to_flags",
    "over_chains",
    "slab_sizes",
    "summary",
    "to_inside",
]

_SMALL_POSITION = 16
# of noise, in a chunk of the default size, and steps; on a GPU a part is recorded before it can be replayed
_CHUNK_BYTES, _CHUNK_STEPS = 2**25, 8192
_CUDA_CHUNK_BYTES, _CUDA_CHUNK_STEPS = 2**29, 1024
_SLABS = 4  # the noise of a chunk is drawn and used up in so many parts
_SLAB_BYTES = 2**18  # but not in smaller ones


def is_traced(value: Tree) -> bool:
    """Whether a compiler, or a transform such as ``vmap``, is at work on these tensors."""
    tensors = [leaf for leaf in tree.leaves(value) if isinstance(leaf, Tensor)]
    return loops.is_compiling() or not all(leaf.is_meta or checks.is_concrete(leaf) for leaf in tensors)


def slab_sizes(positions: Position, num_draws: int, thin: int, chunk_size: int | None, jit: bool) -> list[int]:
    """How many draws each compiled call makes: few enough for the noise to stay small, and all nearly equal."""
    if chunk_size is None and is_traced(positions):
        return [num_draws]
    draw_bytes = thin * sum(leaf.numel() * leaf.element_size() for leaf in tree.leaves(positions))
    is_cuda = tree.first(positions).is_cuda
    most_bytes, most_steps = (_CUDA_CHUNK_BYTES, _CUDA_CHUNK_STEPS) if is_cuda else (_CHUNK_BYTES, _CHUNK_STEPS)
    chunk = chunk_size or max(1, min(most_steps // thin, most_bytes // draw_bytes))
    slab = max(math.ceil(chunk / _SLABS), min(chunk, _SLAB_BYTES // draw_bytes), 1)
    num_slabs = math.ceil(num_draws / slab)
    if jit:  # a slab of one draw would be compiled by itself, and round differently
        num_slabs = min(num_slabs, max(num_draws // 2, 1))
    return [num_draws // num_slabs + (index < num_draws % num_slabs) for index in range(num_slabs)]


def chain_axis(positions: Position) -> int:
    """Where the chain axis is inside a run: -1 for small positions, 0 for large ones."""
    num_chains = tree.batch_size(positions)
    return -1 if sum(leaf.numel() for leaf in tree.leaves(positions)) <= _SMALL_POSITION * num_chains else 0


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
    return sampler._replace(tuning=(), init=_no_init)


def draw_noise(sampler: Sampler, chain_keys: Key, positions: Position, indices: Tensor, axis: int) -> Tree:
    """The noise of the steps ``indices`` ``(U, thin)`` of all chains: leaves ``(U, thin, C, *event)``, ``C`` at ``axis``."""
    fold_chains = vmap(random.fold_in, (0, None))
    keys = vmap(fold_chains, (None, 0))(chain_keys, indices.flatten())  # (U * thin, C, 2)
    noise = vmap(vmap(sampler.draw), (0, None))(keys, positions)
    destination = -1 if axis == -1 else 2
    return tree.map(lambda leaf: leaf.unflatten(0, indices.shape).movedim(2, destination), noise)


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


def make_chunk(
    sampler: Sampler,
    schedule: Callable[[Tensor], Tree] | None,
    collect: Callable[[Any, Any], Tree],
    reducer: Reducer | None,
    is_kept: bool,
    axis: int,
) -> Callable[..., Any]:
    """The function that a run calls again and again: ``(params, tuning, carry, xs) -> (carry, ys)``.

    The carry is ``(state, accumulator)``; ``xs`` are the step indices and the noise, ``(U, thin, ...)``; ``ys`` is what
    was collected and the info, ``(U, ...)``, or ``()``.
    """
    step = over_chains(step_of_chains(sampler), axis, num_shared=2)
    collect_all = over_chains(vmap(collect), axis)

    def one_step(params: Params, tuning: Tree, state: Any, x: Tree) -> tuple[Any, Any]:
        index, noise = x
        if schedule is not None:
            tuning = tree.cast_like(schedule(index), tree.first(state))
        return step(params, tuning, state, noise)

    def chunk(params: Params, tuning: Tree, carry: Tree, chain_keys: Key, indices: Tensor) -> tuple[Tree, Tree]:
        positions = chains_first(carry[0].position, axis)
        xs = (indices, draw_noise(sampler, chain_keys, positions, indices, axis))

        def one_draw(state: Any, x: Tree) -> tuple[Any, Any]:
            if tree.batch_size(x) > 1:  # thinned
                before = tree.map(lambda leaf: leaf[:-1], x)
                state = loops.fold(lambda state, x: one_step(params, tuning, state, x)[0], state, before)
            return one_step(params, tuning, state, tree.map(lambda leaf: leaf[-1], x))

        def emit(state: Any, x: Tree) -> tuple[Any, Tree]:
            state, info = one_draw(state, x)
            return state, (collect_all(state, info), _flags_to_numbers(info))

        def accumulate(carry: Tree, x: Tree) -> Tree:
            state, info = one_draw(carry[0], x)
            if reducer is None:
                return state, ()
            return state, over_chains(vmap(summary(collect, reducer).update), axis)(carry[1], (state, info))

        if not is_kept:
            return loops.fold(accumulate, carry, xs), ()
        state, ys = loops.scan(emit, carry[0], xs)
        return (state, ()), ys

    return chunk
