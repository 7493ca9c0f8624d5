"""Compiled training on one vector of params is training on their leaves, number by number."""

from __future__ import annotations

import pytest
import torch

import funcebm as ebm
from funcebm import losses, optimizers, random, tree
from funcebm.training import run
from funcebm.training._vectors import vectors_of
from funcebm.training.step import TrainState

NETWORK, PARAMS = ebm.energies.mlp(random.key(1), 2, (5, 4))
LOSS = losses.denoising_score_matching(NETWORK, 0.5)
DATA = random.normal(random.key(2), (40, 2))


def _fit(optimizer, params=PARAMS, **options):
    given = {"optimizer": optimizer, "num_steps": 7, "batch_size": 8, "jit": True, "ema_decay": 0.9, **options}
    return ebm.fit(random.key(0), LOSS, params, DATA, **given)


@pytest.mark.compiled
@pytest.mark.parametrize(
    "optimizer",
    [
        optimizers.chain(optimizers.sgd(1.0, weight_decay=0.1), optimizers.adamw(1e-2)),
        optimizers.sgd(0.1, momentum=0.9),
    ],
    ids=["adamw", "sgd"],
)
def test_vectors_and_leaves_give_the_same_bits(monkeypatch, optimizer):
    seen = []
    monkeypatch.setattr(run, "vectors_of", lambda *arguments: seen.append(vectors_of(*arguments)) or seen[-1])
    on_vectors = _fit(optimizer)
    assert seen[0] is not None
    monkeypatch.setattr(run, "vectors_of", lambda *arguments: None)
    on_leaves = _fit(optimizer)
    for name in ("params", "ema_params", "opt_state"):
        one, other = getattr(on_vectors, name), getattr(on_leaves, name)
        assert tree.structure(one) == tree.structure(other)
        assert all(map(torch.equal, tree.leaves(one), tree.leaves(other))), name
    assert torch.equal(on_vectors.metrics["loss"], on_leaves.metrics["loss"])
    assert all(leaf.untyped_storage().nbytes() == 4 * leaf.numel() for leaf in tree.leaves(on_vectors.params))


@pytest.mark.compiled
def test_a_step_that_is_not_finite_is_skipped_on_vectors_too():
    def energy(params, x):
        return NETWORK(params, x) * torch.where(x[0] > 1.5, float("inf"), 1.0)

    loss = losses.denoising_score_matching(energy, 0.5)
    options = {"optimizer": optimizers.adam(1e-2), "num_steps": 10, "batch_size": 8, "max_bad_steps": None}
    found = [ebm.fit(random.key(0), loss, PARAMS, DATA, jit=jit, **options) for jit in (True, False)]
    for one in found:
        assert 0 < one.metrics["skipped"].sum() < 10
    for one, other in zip(*(tree.leaves(fit.params) for fit in found), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("optimizer", "params"),
    [
        (optimizers.chain(optimizers.clip_by_global_norm(1.0), optimizers.adam(1e-3)), PARAMS),
        (optimizers.adam(1e-3), {"a": torch.ones(2), "b": torch.ones(2), "c": torch.ones(2, dtype=torch.float64)}),
        (optimizers.adam(1e-3), torch.ones(2)),
    ],
    ids=["a norm of all leaves", "two dtypes", "one leaf"],
)
def test_what_is_not_done_number_by_number_stays_as_leaves(optimizer, params):
    assert vectors_of(TrainState(params, (), optimizer.init(params), ()), optimizer) is None


def test_there_and_back_is_the_same_state():
    optimizer = optimizers.chain(optimizers.sgd(1.0), optimizers.adam(1e-3))
    updates, opt_state = optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)
    state = TrainState(PARAMS, updates, opt_state, torch.ones(sum(leaf.numel() for leaf in tree.leaves(PARAMS))))
    vectors = vectors_of(state, optimizer)
    flat = vectors.of_state(state)
    assert flat.params.ndim == 1 and flat.opt_state[1].first.shape == flat.params.shape == flat.ema_params.shape
    back = vectors.to_state(flat)
    assert tree.structure(back) == tree.structure(state)
    assert all(map(torch.equal, tree.leaves(back), tree.leaves(state)))
