"""A warm-up in a few lines of Python: what the tests of the algorithms run them with."""

from __future__ import annotations

from typing import Any

import torch
from torch.func import vmap

from funcebm import random, tree
from funcebm.types import Adaptation, Key, Params, Position, Sampler, Tree, step_of_chains

__all__ = ["run"]


def run(
    key: Key, sampler: Sampler, params: Params, positions: Position, adaptation: Adaptation, num_steps: int
) -> tuple[Any, Any, Tree, list[Any]]:
    """The state at the end, the memory, the tuning to sample with, and the tuning that each step used."""
    num_chains = tree.batch_size(positions)
    step = vmap(sampler.step, (None, 0, 0, 0)) if adaptation.is_per_chain else step_of_chains(sampler)
    key_init, key_steps, key_refresh = random.split(key, 3)
    state = vmap(sampler.init, (None, 0))(params, positions)
    memory = adaptation.init(key_init, sampler, params, state)
    windows = adaptation.windows(num_steps) if adaptation.windows else (num_steps,)
    assert sum(windows) == num_steps
    used, done = [], 0
    for index, length in enumerate(windows):
        if index > 0 and adaptation.refresh is not None:
            before = memory
            memory = adaptation.refresh(random.fold_in(key_refresh, index), sampler, params, memory, state)
            _assert_same_kind(memory, before)
        for i in range(done, done + length):
            noise = vmap(sampler.draw)(random.split(random.fold_in(key_steps, i), num_chains), state.position)
            used.append(memory.tuning)
            state, info = step(params, memory.tuning, state, noise)
            before = memory
            memory = adaptation.update(memory, state, info)
            _assert_same_kind(memory, before)
        done += length
    return state, memory, adaptation.final(memory), used


def _assert_same_kind(after: Tree, before: Tree) -> None:
    """A compiled loop carries the memory: its structure, shapes and dtypes must stay."""
    assert tree.structure(after) == tree.structure(before)
    for new, old in zip(tree.leaves(after), tree.leaves(before), strict=True):
        assert isinstance(new, torch.Tensor)
        assert (new.shape, new.dtype) == (old.shape, old.dtype)
