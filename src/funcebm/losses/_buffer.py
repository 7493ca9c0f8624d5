"""The buffer of persistent chains: which slots a batch takes, which of them restart, and how the ends go back."""

from __future__ import annotations

import warnings
from typing import Any, Callable, NamedTuple, Union

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, random, spaces, tree
from ..energies._carried import carried_space
from ..types import Batch, Energy, Key, Position, Tree

__all__ = [
    "BufferNoise",
    "Initial",
    "PersistentMemory",
    "mean_age",
    "fresh",
    "check_buffer",
    "choose_slots",
    "draw_initial",
    "is_given",
    "is_space",
    "num_drawn",
    "write",
    "starts_of",
    "read",
    "warn_of_levels",
]


Initial = Union[Callable[[Key], Position], Tree, None]
"""Where chains start: a function of a key, a space, or None for normal numbers."""


class PersistentMemory(NamedTuple):
    """The memory of persistent chains.

    Attributes:
        positions: where every chain of the buffer is, ``(buffer_size, *event)``; of a ladder of K rungs all positions,
            ``(buffer_size, K, *event)``.
        ages: how many updates, of ``num_steps`` steps each, every chain has made since it started. ``(buffer_size,)`` int64.
    """

    positions: Tree
    ages: Tensor


class BufferNoise(NamedTuple):
    """The slots drawn ``(B,)``, which of them restart ``(B,)`` bool, and where."""

    slots: Tensor
    is_restarted: Tensor
    restart: Tree


class Starts(NamedTuple):
    """Where the chains of a contrastive loss start, and where their ends go.

    Attributes:
        num_keys: that ``draw`` takes.
        init: ``(key, batch) -> memory``.
        draw: ``(keys, batch) -> (parts, positions)``: the first parts of the noise, and positions like those of the chains.
        read: ``(memory, batch, noise) -> chains``.
        begin: what ``sampler.init`` takes, of the chains.
        write: ``(memory, noise, chains, state) -> (memory, metrics)``, from the states in which they end.
        are_data: whether the chains start at the batch.
        are_given: whether they start where the user says, who may be wrong.
    """

    num_keys: int
    init: Callable[[Key, Batch], Any]
    draw: Callable[[list[Key], Batch], tuple[tuple[Tree, ...], Position]]
    read: Callable[[Any, Batch, Any], Any]
    begin: Callable[[Any], Tree]
    write: Callable[[Any, Any, Any, Any], tuple[Any, dict[str, Tensor]]]
    are_data: bool = False
    are_given: bool = False


def is_given(initial: Any) -> bool:
    """Whether starts are the numbers of a user: not those of a space, of the data, or normal ones."""
    return not (initial is None or isinstance(initial, str) or is_space(initial))


def is_space(value: Any) -> bool:
    """Whether this is a tree of :mod:`funcebm.spaces`, and not of tensors, nor a function."""
    found = tree.leaves(value)
    return bool(found) and all(isinstance(leaf, spaces.Space) for leaf in found)


def starts_of(initial: Callable[[Key], Position] | Tree, batch: Batch) -> Callable[[Key], Position]:
    """Where one chain starts, for a function or for a space, whose levels the data must hold."""
    if not is_space(initial):
        return initial
    spaces.check(initial, batch, "the batch")
    return spaces.start(initial, dtype=tree.first(batch).dtype)


def warn_of_levels(batch: Batch, energy: Energy | None = None) -> None:
    """Chains for data of two levels should not start from normal noise, unless the energy says what its states are."""
    first = tree.first(batch)
    if carried_space(energy, batch) is not None or not checks.is_concrete(first) or len(tree.leaves(batch)) > 1:
        return
    low, high = first.amin(), first.amax()
    if bool(low < high) and bool(((first == low) | (first == high)).all()):
        warnings.warn(
            f"the data hold two levels only, {low.item():g} and {high.item():g}, but chains start from standard normal "
            "numbers. For a model of discrete states pass its space: initial=funcebm.spaces.binary(shape).",
            stacklevel=3,
        )


def check_buffer(buffer_size: int, restart_probability: float | Tensor) -> None:
    """The options of a buffer, checked."""
    checks.positive_int("buffer_size", buffer_size)
    if not isinstance(restart_probability, Tensor):
        must = "restart_probability must be in [0, 1]"
        checks.require(0 <= restart_probability <= 1, must, restart_probability, "Try 0.05.")


def num_drawn(batch: Batch, buffer_size: int, num_more: int = 0) -> int:
    """B, if the buffer holds as many chains (and ``num_more`` that are only looked at)."""
    num = tree.batch_size(batch)
    more = f" and {num_more} more" if num_more else ""
    checks.require(
        num + num_more <= buffer_size,
        f"buffer_size must be at least the batch size{more}",
        f"{buffer_size} and {num}",
        "Make buffer_size larger (10,000 is usual) or the batch smaller.",
    )
    return num


def draw_initial(key: Key, batch: Batch, num: int, initial: Initial, energy: Energy | None = None) -> Position:
    """``num`` positions where chains start: the user's, uniform in a space, or standard normal numbers like the data.

    Where nothing is said and the energy has a discrete space that fits the data, they are uniform in it.
    """
    if initial is not None:
        return vmap(starts_of(initial, batch))(random.split(key, num))
    space = carried_space(energy, batch)
    if space is not None:
        return vmap(spaces.start(space, dtype=tree.first(batch).dtype))(random.split(key, num))
    return tree.normal_like(key, tree.map(lambda leaf: leaf[:1].expand(num, *leaf.shape[1:]), batch))


def choose_slots(key: Key, num_slots: int, num: int) -> Tensor:
    """``num`` of the slots ``0 .. num_slots - 1``, none twice, all choices equally likely: the start of a permutation.

    The places of the ``num`` smallest of 64-bit random numbers; sorting all of them would take most of a training step.
    """
    words = random.bits(key, (2, num_slots)).long()
    return torch.topk((words[0] << 32) | (words[1] & 0xFFFFFFFF), num, largest=False).indices


def read(memory: PersistentMemory, noise: BufferNoise) -> PersistentMemory:
    """The chains drawn, some of them started again, in the order of the batch."""

    def begun(kept: Tensor, restart: Tensor) -> Tensor:
        is_restarted = noise.is_restarted.reshape(-1, *[1] * (restart.ndim - 1))
        return torch.where(is_restarted, restart, kept[noise.slots])

    ages = torch.where(noise.is_restarted, 0, memory.ages[noise.slots])
    return PersistentMemory(tree.map(begun, memory.positions, noise.restart), ages)


def write(memory: PersistentMemory, noise: BufferNoise, chains: PersistentMemory) -> PersistentMemory:
    """The buffer with these chains, one update older, back in their slots; all others as they were, bit for bit."""
    older = chains._replace(ages=chains.ages + 1)
    return tree.map(lambda kept, new: kept.index_copy(0, noise.slots, new), memory, older)


def fresh(positions: Tree) -> PersistentMemory:
    """A buffer of chains that have not moved yet."""
    first = tree.first(positions)
    return PersistentMemory(positions, torch.zeros(first.shape[0], dtype=torch.int64, device=first.device))


def buffered(
    buffer_size: int,
    restart_probability: float | Tensor,
    draw_initial: Callable[[Key, Batch, int], Tree],
    *,
    num_more: int = 0,
    is_from_normal: bool = False,
    energy: Energy | None = None,
    example: Callable[[Tree], Position] = lambda starts: starts,
    begin: Callable[[PersistentMemory], Tree] = lambda chains: chains.positions,
    end: Callable[[Any], Tree] = lambda state: state.position,
) -> Starts:
    """Chains that live in a buffer; the first part of the noise is a :class:`BufferNoise`.

    Args:
        buffer_size: of chains.
        restart_probability: of each chain drawn.
        draw_initial: ``(key, batch, num) -> starts``, where chains begin.
        num_more: other slots that are drawn as well, the second part of the noise ``(num_more,)``.
        is_from_normal: whether they begin as normal noise, which data of two levels deserve a warning for.
        energy: may say in its space that they do not.
        example: positions like those of the sampler's noise, of such starts.
        begin: what ``sampler.init`` takes, of the chains drawn.
        end: what goes back to the buffer, of the states in which they end.
    """
    check_buffer(buffer_size, restart_probability)
    probability = tree.number(restart_probability)

    def init(key: Key, batch: Batch) -> PersistentMemory:
        num_drawn(batch, buffer_size, num_more)
        if is_from_normal:
            warn_of_levels(batch, energy)
        return fresh(draw_initial(key, batch, buffer_size))

    def draw(keys: list[Key], batch: Batch) -> tuple[tuple[Tree, ...], Position]:
        key_slots, key_is_restarted, key_restart = keys
        num = num_drawn(batch, buffer_size, num_more)
        restart = draw_initial(key_restart, batch, num)
        is_restarted = random.uniform(key_is_restarted, num) < probability.to(key_slots.device)
        slots = choose_slots(key_slots, buffer_size, num + num_more)
        noise = BufferNoise(slots[:num], is_restarted, restart)
        return (noise, slots[num:]) if num_more else (noise,), example(restart)

    def write_back(
        memory: PersistentMemory, noise: Any, chains: PersistentMemory, state: Any
    ) -> tuple[PersistentMemory, dict[str, Tensor]]:
        memory = write(memory, noise.buffer, chains._replace(positions=end(state)))
        return memory, {"buffer_age": mean_age(memory)}

    return Starts(3, init, draw, lambda memory, batch, noise: read(memory, noise.buffer), begin, write_back)


def mean_age(memory: PersistentMemory) -> Tensor:
    """The mean age of all chains, in updates. ``()``."""
    return memory.ages.to(tree.first(memory.positions).dtype).mean()
