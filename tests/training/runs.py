"""One small run, in all the ways that the tests of training need it."""

from __future__ import annotations

import torch
from tests import cases_losses as cases

from funcebm import losses, optimizers, random, samplers, tree
from funcebm.training import fit

DATA = 0.5 * random.normal(random.key(40), (37, 3))


def optimizer():
    return optimizers.chain(optimizers.clip_by_global_norm(5.0), optimizers.adam(0.02))


OPTIMIZER = optimizer()


def pcd():
    """A loss with a chain and a memory inside."""
    sampler = samplers.langevin(cases.energy, step_size=0.05)
    return losses.persistent_contrastive_divergence(cases.energy, sampler, 3, buffer_size=20, restart_probability=0.2)


def train(loss, num_steps=23, data=DATA, **options):
    settings = {"optimizer": OPTIMIZER, "batch_size": 8, "jit": False, "ema_decay": 0.9, **options}
    return fit(random.key(41), loss, cases.params(), data, num_steps=num_steps, **settings)


def assert_close(a, b, **tolerance):
    assert tree.structure(a) == tree.structure(b)
    for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True):
        torch.testing.assert_close(x, y, equal_nan=True, **tolerance)


def assert_same(a, b):
    assert_close(a, b, rtol=0, atol=0)


def assert_same_run(a, b):
    """All of two runs, bit for bit."""
    assert_same((evolved(a), a.validation), (evolved(b), b.validation))
    assert (a.num_steps, a.epoch, a.epoch_steps) == (b.num_steps, b.epoch, b.epoch_steps)


def evolved(result):
    return (result.params, result.ema_params, result.opt_state, result.memory, result.metrics)
