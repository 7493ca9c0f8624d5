"""The ways in which an energy is compiled, for tests of tracing."""

from __future__ import annotations

import pytest
import torch
from torch.func import vmap

import funcebm as ebm
from funcebm import loops

X = torch.tensor([0.5, -1.0, 2.0])


def by_jit(energy):
    return ebm.jit(energy)((), X)


def by_jit_of_gradients(energy):
    return ebm.jit(vmap(torch.func.grad_and_value(energy, argnums=1), (None, 0)))((), torch.stack([X, -X]))[1]


def by_jit_in_a_loop(energy):
    return ebm.jit(lambda x: loops.scan(lambda x, _: (x, energy((), x)), x, torch.zeros(2)))(X)[1]


def by_sample(energy):
    sampler = ebm.samplers.mala(energy, step_size=0.1)
    return ebm.sample(ebm.random.key(0), sampler, (), torch.stack([X, -X]), num_samples=2, jit=True).info.energy


def by_warm_up(energy):
    sampler = ebm.samplers.hmc(energy, num_leapfrog=2)
    options = {"num_steps": 5, "jit": True}
    return ebm.warm_up(ebm.random.key(0), sampler, (), torch.stack([X, -X]), **options).report.acceptance_rate


def by_fit(energy):
    loss = ebm.losses.denoising_score_matching(lambda params, x: energy((), params * x), 0.1)
    options = {"optimizer": ebm.optimizers.sgd(0.1), "num_steps": 2, "batch_size": 2, "jit": True}
    return ebm.fit(ebm.random.key(0), loss, torch.tensor(1.0), torch.stack([X, -X]), **options).params


WAYS = {
    "jit": by_jit,
    "gradients": by_jit_of_gradients,
    "loop": by_jit_in_a_loop,
    "sample": by_sample,
    "warm-up": by_warm_up,
    "fit": by_fit,
}
ways = pytest.mark.parametrize("way", list(WAYS))


class MineError(Exception):
    pass
