"""A run of many chains on its way: the start, the chunks, the end."""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, Generic, Iterator

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, tree
from .._chunks import Loop, drive, make_loop, until_interrupted
from .._progress import progress_bar
from ..distributed.agreement import together
from ..transforms import jit_begin, run_all
from ..types import InfoT, Key, NamedTuple, Params, Position, Sampler, StateT, Tree
from . import _checks, _copies, _ranks
from ._loop import (
    LANES,
    chain_axis,
    chain_blocks,
    chains_first,
    chunks,
    compiled_part,
    draw_inside,
    draw_step,
    join_blocks,
    make_begin,
    make_body,
    name_of,
    numbers_to_flags,
    summary,
    take_block,
    to_inside,
)
from ._text import text_of
from .reducers import Reducer

__all__ = ["Run", "Samples", "begin", "collect_position", "finish", "go_on", "start"]


class Run(NamedTuple):
    """What :func:`resume` needs beside the state; opaque."""

    chain_keys: Key
    sampler: Sampler
    params: Params
    tuning: Tree | Callable[[Tensor], Tree]
    accumulator: Tree
    num_steps: int
    thin: int
    collect: Callable[[Any, Any], Tree]
    reducer: Reducer | None
    jit: bool
    progress: bool
    chunk_size: int | None
    place: _ranks.Place
    num_burn_in: int = 0  # steps that are still to be dropped


class Samples(NamedTuple, Generic[StateT, InfoT]):
    """What a run returns; generic in the state and the info of the sampler.

    Attributes:
        draws: what was collected, with leading axes ``(C, N)``; ``()`` where nothing is kept.
        info: the info of the sampler at each draw, ``(C, N)``; with ``reduce`` its mean over the draws, ``(C,)``; ``()``
            where ``collect`` keeps nothing.
        state: the state of the sampler at the end, ``(C, ...)``.
        reduced: the results of ``reduce``, ``(C, ...)``, over the whole run; ``()`` without it.
        is_complete: False where the run was interrupted; what it had finished is here.
        run: what :func:`resume` needs; ``()`` inside a transform or a compiled function.
        chains: ``(first, end, C)``: which of all chains the draws (or with ``reduce`` its results) are of; all of them but where
            a mesh shares them out. The state is always that of the chains of this rank.
    """

    draws: Tree
    info: InfoT
    state: StateT
    reduced: Tree
    is_complete: bool | tuple[()]
    run: Run | tuple[()]
    chains: tuple[int, int, int] | tuple[()] = ()

    def __repr__(self) -> str:
        return text_of(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _of_pickle, _copies.without_functions(self)

    def __copy__(self) -> Samples:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Samples:
        return _copies.deep_copy(self, memo)


def _of_pickle(*fields: Any) -> Samples:
    return _copies.with_place(Samples(*fields))


_THREADS_FROM = 2**18  # numbers that a chunk computes; for fewer a thread is not worth its start


def collect_position(state: Any, info: Any) -> Position:
    """What a run keeps of a draw by default."""
    return state.position


class _Chains(NamedTuple):
    """All chains on their way, in the blocks that are run together; each carry is ``(state, accumulator)``, its axis inside."""

    axis: int
    blocks: list[tuple[int, int, int]]
    program: _Program
    carries: list[Tree]


class _Program(NamedTuple):
    """The loop of a run, and what is the same in all its iterations, for each block."""

    loop: Loop
    shared: list[Tree]


def _blocks(run: Run, positions: Position) -> list[tuple[int, int, int]]:
    num_chains = tree.batch_size(positions)
    is_split = run.jit and tree.first(positions).device.type == "cpu"
    is_shared = run.place.mesh.size > 1 and run.place.total >= LANES
    return chain_blocks(num_chains, is_shared) if is_split else [(0, num_chains, num_chains)]


def go_on(run: Run, state: Any) -> _Chains:
    axis, blocks = chain_axis(state.position), _blocks(run, state.position)
    inside = to_inside((state, run.accumulator), axis)
    carries = [take_block(inside, block, axis) for block in blocks]
    return _Chains(axis, blocks, _program(run, axis, blocks), carries)


def _joined(chains: _Chains) -> tuple[Any, Tree]:
    """The state and the accumulator of all chains, ``(C, ...)``."""
    return chains_first(join_blocks(chains.carries, chains.blocks, chains.axis), chains.axis)


def start(run: Run, positions: Position) -> tuple[Run, _Chains]:
    """The states at the start, which must be finite, and the accumulator of a run that reduces."""
    init, axis, blocks = run.sampler.init, chain_axis(positions), _blocks(run, positions)
    if run.jit and run.reducer is None:
        program = _program(run, axis, blocks)
        begin = jit_begin(make_begin(init, axis), program.loop)
        first = torch.zeros(1, dtype=_index_dtype(run), device=run.chain_keys.device)
        starts = [take_block(positions, block, 0) for block in blocks]
        pairs = zip(starts, program.shared, strict=True)
        with checks.dtypes_explained(params=run.params, positions=positions):
            results = [begin((run.params, start), shared, (first, (), ())) for start, shared in pairs]
        if all(bool(is_finite) for _, is_finite in results) and not all(_checks.is_flat(c[0]) for c, _ in results):
            return run, _Chains(axis, blocks, program, [carry for carry, _ in results])
    state = vmap(init, (None, 0))(run.params, tree.map(torch.clone, positions))  # an energy may write into its own
    _checks.start(state, partial(init, run.params), positions, run.place.first)
    if run.reducer is not None:  # one step, which is thrown away, shows what there is to reduce
        index = torch.zeros((), dtype=torch.int64, device=run.chain_keys.device)
        noise = draw_step(run.sampler, run.chain_keys, state.position, index)
        tuning = run.tuning(index) if callable(run.tuning) else run.tuning
        example = vmap(run.sampler.step, (None, None, 0, 0))(run.params, tuning, state, noise)
        accumulator = vmap(summary(run.collect, run.reducer).init)(example)
        run = run._replace(accumulator=tree.map(torch.clone, accumulator))
    return run, go_on(run, state)


def _index_dtype(run: Run) -> torch.dtype:
    """Keys take 32 bits of the index of a step; a schedule is given what it would be given elsewhere."""
    return torch.int64 if callable(run.tuning) else torch.int32


def _program(run: Run, axis: int, blocks: list[tuple[int, int, int]]) -> _Program:
    schedule = run.tuning if callable(run.tuning) else None
    body = make_body(compiled_part(run.sampler), schedule, run.collect, run.reducer, axis)
    name = f"{name_of(run.sampler)}, {blocks[-1][1]} chains, blocks"
    loop = make_loop(body, draw_inside(run.sampler, axis), jit=run.jit, name=name)
    tuning = () if callable(run.tuning) else run.tuning
    shared = [(run.params, tuning, take_block(run.chain_keys, block, 0)) for block in blocks]
    return _Program(loop, shared)


def _advance(
    run: Run, chains: _Chains, num_draws: int, thin: int, is_kept: bool = True, bar: Any = None
) -> Iterator[tuple[Run, _Chains, Tree, int]]:
    """Makes draws chunk by chunk: the run and the chains so far, what the chunk emitted ``(n, ...)``, and ``n``."""
    program, first, is_masked = chains.program, run.num_steps, run.thin > 1 and run.reducer is not None
    positions = chains_first(chains.carries[0][0].position, chains.axis)
    num_values = tree.size(chains.carries)

    def all_blocks(shared: list[Tree], carries: list[Tree], xs: Tree, **options: Any) -> tuple[list[Tree], Tree]:
        pairs = zip(shared, carries, strict=True)
        calls = [partial(program.loop, one, carry, xs, **options) for one, carry in pairs]
        results = run_all(calls) if len(xs[0]) * num_values > _THREADS_FROM else [call() for call in calls]
        ys = join_blocks([y for _, y in results], chains.blocks, -1 if chains.axis == -1 else 1)
        return [carry for carry, _ in results], ys

    def is_draw(indices: Tensor) -> Tree:
        return (indices - first) % thin == thin - 1 if is_masked else ()

    options: Any = {"every": thin, "is_kept": is_kept, "like": run.chain_keys, "dtype": _index_dtype(run)}
    num_draws_of_chunks = chunks(positions, num_draws, thin, run.chunk_size, jit=run.jit)
    driven = drive(
        all_blocks, program.shared, chains.carries, num_draws_of_chunks, first=first, given=is_draw, bar=bar, **options
    )
    for carries, ys, size in driven:
        run, chains = run._replace(num_steps=run.num_steps + size * thin), chains._replace(carries=carries)
        yield run, chains, ys, size


def _burn_in(run: Run, chains: _Chains, most: int | None = None) -> tuple[Run, _Chains]:
    """Steps whose draws and statistics are dropped, at most so many; the run knows how many are missing, also after Ctrl-C."""
    num_burn_in, end = run.num_burn_in, run.num_steps + run.num_burn_in
    if num_burn_in == 0:
        return run, chains
    num_burn_in = num_burn_in if most is None else min(most, num_burn_in)
    accumulators = [carry[1] for carry in chains.carries]
    is_alone = run.place.mesh.size == 1
    with progress_bar(num_burn_in, "burn-in", run.progress) as bar, until_interrupted(is_on=is_alone):
        for run, chains, _, _ in _advance(run, chains, num_burn_in, 1, is_kept=False, bar=bar):  # noqa: B020
            pass
    carries = [(carry[0], before) for carry, before in zip(chains.carries, accumulators, strict=True)]
    return run._replace(num_burn_in=end - run.num_steps), chains._replace(carries=carries)


def begin(run: Run, chains: _Chains) -> Samples:
    """A run before its first step, to be gone on with."""
    return _samples(run, chains, (), False)


def finish(run: Run, chains: _Chains, num_samples: int, most: int | None = None) -> Samples:
    """The rest of a run that has started; an error of one rank is one of all.

    Args:
        run: on its way.
        chains: where they are.
        num_samples: draws to be made.
        most: where more steps of the burn-in are left, the run ends after so many of them, without draws.
    """
    try:
        run, chains = _burn_in(run, chains, most)
        if run.num_burn_in > 0:
            return _samples(run, chains, (), False)
        run, chains, buffer, num_done = _sample(run, chains, num_samples)
    except BaseException:
        _ranks.stop(run.place)
        with together(run.place.mesh):
            raise
    num_all = _ranks.meet(run.place, num_done)
    if num_all > num_done:  # another rank was interrupted later: all end with the same number of draws
        run, chains, more, _ = _sample(run, chains, num_all - num_done, is_last=True)
        buffer = tree.map(lambda *parts: torch.cat(parts), buffer, more) if num_done else more
    return _samples(run, chains, buffer, num_all == num_samples)


def _sample(run: Run, chains: _Chains, num_samples: int, is_last: bool = False) -> tuple[Run, _Chains, Tree, int]:
    """Makes draws until there are enough, or Ctrl-C: what was collected, the chain axis inside, and how many draws."""
    buffer: Tree = ()
    num_done = 0
    with progress_bar(num_samples, "sampling", run.progress) as bar:
        with until_interrupted(lambda: _ranks.stop(run.place)):
            for run, chains, ys, size in _advance(run, chains, num_samples, run.thin, bar=bar):  # noqa: B020
                buffer = _keep(buffer, ys, num_done, num_samples)
                num_done += size
                if not is_last and num_done < num_samples and _ranks.stops(run.place):
                    break
    if num_done < num_samples:
        buffer = tree.map(lambda leaf: leaf[:num_done], buffer)
    return run, chains, buffer, num_done


def _samples(run: Run, chains: _Chains, buffer: Tree, is_complete: bool) -> Samples:
    """What the run gives back."""
    state, accumulator = _joined(chains)
    run, axis, place = run._replace(accumulator=accumulator), chains.axis, run.place
    draws: Tree = ()
    info: Any = ()  # nothing, where collect keeps nothing
    reduced: Tree = ()
    if tree.leaves(buffer):  # (N, ..., C) or (N, C, ...) to (C, N, ...)
        draws, info = chains_first(buffer, -1 if axis == -1 else 1)
        info = numbers_to_flags(info)
        draws, info, place = _ranks.gathered(place, *_ranks.own_rows(place, (draws, info)))
    elif run.reducer is not None:
        info, reduced, place = _ranks.reduced(place, run.reducer, *accumulator)
    state = tree.map(lambda leaf: leaf.contiguous(), state)
    if checks.is_traced((run.chain_keys, state)):
        return Samples(draws, info, state, reduced, (), ())
    if run.place.last == run.place.first:
        run = run._replace(place=run.place._replace(spare=state))
    return Samples(draws, info, _ranks.own_rows(run.place, state), reduced, is_complete, run, place.chains)


def _keep(buffer: Tree, ys: Tree, start: int, num_samples: int) -> Tree:
    """Puts what a chunk emitted where it belongs; the buffer is made once, when it is known what comes."""
    size = tree.batch_size(ys) if tree.leaves(ys) else 0
    if size in (0, num_samples):
        return ys
    if start == 0:
        buffer = tree.map(lambda leaf: leaf.new_empty(num_samples, *leaf.shape[1:]), ys)
    tree.map(lambda kept, leaf: kept[start : start + size].copy_(leaf), buffer, ys)
    return buffer
