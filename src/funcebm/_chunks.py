"""The one driver of long loops: chains, warm-ups, annealing and training all go chunk by chunk through it.

A loop repeats a pure body ``(shared, carry, (index, given, noise)) -> (carry, y)``. Compiled, the noise is ``()`` and the body
draws its own; eager, the noise of a whole chunk is drawn at once. So what comes out does not depend on how steps are cut into
chunks.
"""

from __future__ import annotations

import contextlib
import time
from functools import partial
from typing import Any, Callable, Iterable, Iterator

import torch
from torch import Tensor

from . import loops, tree
from .transforms import jit_scan
from .types import Sampler, Tree

__all__ = [
    "advance",
    "drive",
    "drive_all",
    "largest",
    "make_loop",
    "sizes",
    "sizes_by_the_clock",
    "until_interrupted",
    "weight_of",
]

_BYTES = 2**26  # that are made in one chunk, after which Ctrl-C is heard
_STEPS = 4096
_CUDA_STEPS = 256  # a chunk is recorded before it can be replayed
_FIRST_STEPS, _SECONDS = 16, 0.25  # in the first chunk of an eager run; what the later ones shall take

Loop = Callable[..., tuple[Tree, Tree]]


def largest(bytes_per_step: int, like: Tensor, weight: int = 1) -> int:
    """How many steps a chunk may have; ``weight`` says how much longer than a step of a chain one takes.

    >>> largest(2**20, torch.zeros(1)), largest(8, torch.zeros(1)), largest(8, torch.zeros(1), weight=8)
    (64, 4096, 512)
    """
    most = _CUDA_STEPS if like.is_cuda else _STEPS // weight
    return max(1, min(most, _BYTES // max(bytes_per_step, 1)))


def sizes(num: int, most: int) -> list[int]:
    """Chunks as large as they may be, and a last one with the rest; other lengths compile nothing.

    >>> sizes(10, 4)
    [4, 4, 2]
    """
    return [min(most, num - first) for first in range(0, num, most)]


def sizes_by_the_clock(num: int, most: int, num_steps: int = 1) -> Iterator[int]:
    """Chunks of some tenths of a second, for eager runs, of which Ctrl-C then loses little.

    Args:
        num: how many draws are to be made.
        most: in a chunk.
        num_steps: of each draw.
    """
    size = max(1, _FIRST_STEPS // num_steps)
    while num > 0:
        size = min(size, most, num)
        start = time.perf_counter()
        yield size
        num -= size
        factor = _SECONDS / max(time.perf_counter() - start, 1e-6)
        size = max(1, int(size * min(factor, 4.0))) if not 0.5 < factor < 2 else size


def weight_of(sampler: Sampler) -> int:
    """How many plain steps one of this sampler counts as, where ``jit=None`` decides by the amount of work.

    Eagerly, a step of HMC with ten leapfrog steps takes two to three times as long as one of MALA, one of NUTS four to
    twenty times.

    >>> from funcebm import samplers
    >>> energy = lambda params, x: (x**2).sum() / 2
    >>> [weight_of(sampler) for sampler in (samplers.mala(energy), samplers.hmc(energy), samplers.nuts(energy))]
    [1, 4, 10]
    """
    return sampler.weight or (1 if sampler.batched_step is None else 10)


def make_loop(
    body: Callable[..., Any], draw: Callable[[Tree, Tree, Tensor], Tree], *, jit: bool, name: str = "a loop"
) -> Loop:
    """The loop of a body, compiled or as a pure function: see :func:`~funcebm.transforms.jit_scan`.

    Args:
        body: one iteration.
        draw: ``(shared, carry, indices) -> noise``, that of the iterations ``indices`` ``(T,)``.
        jit: compile.
        name: what messages call the loop.
    """
    return jit_scan(body, name=name) if jit else partial(_plain_loop, body, draw)


def _plain_loop(
    body: Callable[..., Any],
    draw: Callable[[Tree, Tree, Tensor], Tree],
    shared: Tree,
    carry: Tree,
    xs: Tree,
    every: int = 1,
    is_kept: bool = True,
) -> tuple[Tree, Tree]:
    indices, given, _ = xs
    xs = (indices, given, () if loops.is_compiling() else draw(shared, carry, indices))

    def one(carry: Tree, x: Tree) -> tuple[Tree, Tree]:
        return body(shared, carry, x)

    def group(carry: Tree, x: Tree) -> tuple[Tree, Tree]:
        before, last = tree.map(lambda leaf: leaf[:-1], x), tree.map(lambda leaf: leaf[-1], x)
        return one(loops.fold(lambda carry, x: one(carry, x)[0], carry, before), last)

    if not is_kept:
        return loops.fold(lambda carry, x: one(carry, x)[0], carry, xs), ()
    if every == 1:
        return loops.scan(one, carry, xs)
    return loops.scan(group, carry, tree.map(lambda leaf: leaf.unflatten(0, (len(indices) // every, every)), xs))


def advance(
    loop: Loop,
    shared: Tree,
    carry: Tree,
    steps: tuple[int, int],
    like: Tensor,
    given: Callable[[Tensor], Tree] = lambda indices: (),
    **options: Any,
) -> tuple[Tree, Tree]:
    """One chunk: the steps from the first to before the last.

    Args:
        loop: from :func:`make_loop`.
        shared: what all iterations have.
        carry: where they begin.
        steps: the first, and the end.
        like: a tensor on the device.
        given: of the indices of steps ``(T,)``, what each iteration gets beside its own; where it is shorter, so is the chunk.
        options: ``every`` and ``is_kept`` of the loop; ``dtype`` of the indices.
    """
    indices = torch.arange(*steps, device=like.device, dtype=options.pop("dtype", torch.int32))
    rows = given(indices)
    indices = indices[: tree.batch_size(rows)] if tree.leaves(rows) else indices
    return loop(shared, carry, (indices, rows, ()), **options)


def drive(
    loop: Loop,
    shared: Tree,
    carry: Tree,
    chunks: Iterable[int],
    *,
    first: int = 0,
    every: int = 1,
    bar: Any = None,
    **options: Any,
) -> Iterator[tuple[Tree, Tree, int]]:
    """Chunk after chunk: the carry so far, what the chunk emitted, and its size.

    Args:
        loop: as of :func:`advance`, which is given the ``options``.
        shared: what all iterations have.
        carry: where they begin.
        chunks: their sizes, in groups of ``every`` steps, of which the last one emits.
        first: the index of the first step.
        every: steps in a group.
        bar: a progress bar.
        options: ``like``, and what else :func:`advance` takes.
    """
    for size in chunks:
        last = first + size * every
        carry, ys = advance(loop, shared, carry, (first, last), every=every, **options)
        first = last
        yield carry, ys, size
        if bar is not None:
            bar.update(size)


def drive_all(loop: Loop, shared: Tree, carry: Tree, chunks: Iterable[int], **options: Any) -> tuple[Tree, Tree]:
    """All chunks of :func:`drive`: the last carry, and all that they emitted, one after another."""
    emitted = []
    for carry, ys, _ in drive(loop, shared, carry, chunks, **options):  # noqa: B020
        emitted.append(ys)
    return carry, tree.map(lambda *parts: torch.cat(parts), *emitted)


@contextlib.contextmanager
def until_interrupted(note: Callable[[], Any] = lambda: None, *, is_on: bool = True) -> Iterator[None]:
    """Ctrl-C ends what is inside, where the chunk that is being made is lost and nothing else, and calls ``note``."""
    try:
        yield
    except KeyboardInterrupt:
        if not is_on:
            raise
        note()
