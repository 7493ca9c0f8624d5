"""A user's script, for type checkers: what an editor knows of samples, tunings and losses.

mypy reads it with the sources, pyright by ``test_house.py`` where it is installed. Where a line that should
be an error is none, its ``type: ignore`` is unused, which is an error.
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import assert_type

import funcebm as ebm
from funcebm.losses._buffer import PersistentMemory
from funcebm.samplers.hmc import HMCTuning
from funcebm.types import LossAux


def energy(params: Tensor, x: Tensor) -> Tensor:
    return params * (x**2).sum() / 2


def sampling(key: Tensor, params: Tensor, starts: Tensor) -> None:
    sampler = ebm.samplers.hmc(energy, step_size=0.3)
    assert_type(sampler.tuning, HMCTuning)
    state, info = sampler(key, params, sampler.init(params, starts[0]))
    assert_type(state.energy, Tensor)
    assert_type(info.acceptance_rate, Tensor)
    positions, tuning, _ = ebm.warm_up(key, sampler, params, starts, num_steps=100)
    assert_type(tuning.step_size, Tensor)
    samples = ebm.sample(key, sampler, params, positions, num_samples=10, tuning=tuning)
    assert_type(samples.info.acceptance_rate, Tensor)
    assert_type(ebm.resume(samples, num_samples=5).state.energy, Tensor)
    print(samples.info.acceptance)  # type: ignore[attr-defined]
    trees = ebm.sample(key, ebm.samplers.nuts(energy), params, starts, num_samples=10)
    assert_type(trees.info.tree_depth, Tensor)
    assert_type(ebm.samplers.thin(sampler, 2).tuning.jitter, Tensor)


def training(key: Tensor, params: Tensor, data: Tensor) -> None:
    loss = ebm.losses.persistent_contrastive_divergence(energy, ebm.samplers.langevin, 5, buffer_size=100)
    memory = loss.init(key, params, data)
    assert_type(memory, PersistentMemory)
    assert_type(memory.ages, Tensor)
    assert_type(loss(key, params, data, memory), tuple[Tensor, LossAux[PersistentMemory]])
    print(memory.age)  # type: ignore[attr-defined]


def compiling(x: Tensor) -> None:
    def scaled(x: Tensor, factor: Tensor) -> Tensor:
        return factor * x

    assert_type(ebm.jit(scaled)(x, torch.ones(())), Tensor)
    ebm.jit(scaled)(x)  # type: ignore[call-arg]
