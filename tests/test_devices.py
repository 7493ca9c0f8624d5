"""Everything is made where the user's tensors are: on the meta device, which holds no numbers, nothing of another one appears."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.func import grad_and_value, vmap

import funcebm as ebm
from funcebm import optimizers, random, tree

from . import cases_losses
from .cases import ENERGIES, LOSSES, SAMPLERS, quartic, quartic_params

DEVICE = "meta"
LOOP_BY_THE_NUMBERS = {
    "adjusted_mclmc", "dynamic_hmc", "dynamic_hmc_uniform", "elliptical_slice", "hit_and_run_slice", "nuts",
    "nuts_dense", "riemannian_hmc", "flow_matching_bridge",
}  # fmt: skip
"""Samplers and couplings that ask numbers, of which there are none, how often to iterate."""


def _there(value: Any) -> Any:
    return tree.map(lambda leaf: leaf.to(DEVICE), value)


def _assert_all_there(*values: Any) -> None:
    leaves = [leaf for leaf in tree.leaves(values) if isinstance(leaf, torch.Tensor)]
    assert leaves
    assert {leaf.device.type for leaf in leaves} == {DEVICE}


KEY = random.key(0, device=DEVICE)


@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - LOOP_BY_THE_NUMBERS))
def test_samplers(name):
    position = torch.ones(3)
    sampler = SAMPLERS[name](quartic, position)
    position, params, tuning = _there((position, quartic_params(), sampler.tuning))
    state, noise = sampler.init(params, position), sampler.draw(KEY, position)
    _assert_all_there(state, noise, sampler.step(params, tuning, state, noise))


@pytest.mark.parametrize("name", sorted(set(LOSSES) - LOOP_BY_THE_NUMBERS))
def test_losses_and_optimizers(name):
    loss = LOSSES[name]()
    params, batch = _there((cases_losses.params(), cases_losses.with_labels(name, cases_losses.batch())))
    memory, noise = loss.init(KEY, params, batch), loss.draw(KEY, batch)
    gradients, (value, aux) = grad_and_value(loss.value, has_aux=True)(params, memory, batch, noise)
    _assert_all_there(memory, noise, gradients, value, aux)
    rate = ebm.schedules.cosine(1e-2, 1e-4, 100)
    optimizer = optimizers.chain(optimizers.clip_by_global_norm(1.0), optimizers.adamw(rate))
    state = optimizer.init(params)
    _assert_all_there(state, optimizer.update(gradients, state, params))


@pytest.mark.parametrize("name", sorted(ENERGIES))
def test_energies(name):
    energy, params, position = ENERGIES[name]
    if name in ("conditioned", "resnet"):
        pytest.skip("closes over a tensor of the user's")
    params, position = _there((params, position))
    _assert_all_there(energy(params, position), torch.func.grad(energy, argnums=(0, 1))(params, position))
    if getattr(energy, "sample", None) is not None:
        _assert_all_there(energy.sample(KEY, params, 5), energy.log_normalizer(params))


@pytest.mark.parametrize("name", random.__all__)
def test_draws(name):
    draws = {
        "bernoulli": lambda: random.bernoulli(KEY, 0.3, (3,)),
        "categorical": lambda: random.categorical(KEY, torch.zeros(4, device=DEVICE), (3,)),
        "fold_in": lambda: random.fold_in(KEY, 3),
        "permutation": lambda: random.permutation(KEY, 5),
        "randint": lambda: random.randint(KEY, (3,), 0, 9),
        "split": lambda: random.split(KEY),
        "threefry": lambda: random.threefry(KEY, KEY),
    }
    if name in ("check_key", "key"):
        pytest.skip("draws nothing")
    _assert_all_there(draws.get(name, lambda: getattr(random, name)(KEY, (3,)))())


@pytest.mark.parametrize("name", ["langevin", "hmc_dense", "ghmc", "mclmc"])
def test_whole_runs(name):
    positions = torch.ones(4, 3)
    sampler = SAMPLERS[name](quartic, positions[0])
    positions, params = _there((positions, quartic_params()))
    options = {"num_burn_in": 1, "thin": 2, "jit": False}
    samples = ebm.sample(random.key(0), sampler, params, positions, num_samples=3, **options)
    _assert_all_there(samples.draws, samples.info, samples.state)
    more = ebm.resume(samples, num_samples=2)
    _assert_all_there(more.draws, more.info, more.state)
    reduced = ebm.sample(
        random.key(0), sampler, params, positions, num_samples=3, reduce=ebm.reducers.covariance(), **options
    )
    _assert_all_there(reduced.draws, reduced.state)


def test_diagnostics_and_fields():
    key, params = KEY, _there(quartic_params())
    x, y = random.normal(key, (20, 2)), random.normal(key, (30, 2))
    chains = random.normal(key, (4, 50, 2))
    d = ebm.diagnostics
    _assert_all_there(d.mmd(x, y, bandwidth=1.0), d.energy_distance(x, y), d.sliced_wasserstein(key, x, y))
    _assert_all_there(d.auroc(x[:, 0], y[:, 0]), d.fpr_at_tpr(x[:, 0], y[:, 0]), d.average_precision(x[:, 0], y[:, 0]))
    _assert_all_there(*(getattr(d, name)(chains) for name in ("rhat", "folded_rhat", "split_rhat", "mcse_mean", "ess")))
    for field in (ebm.fields.gradient, ebm.fields.score, ebm.fields.laplacian, ebm.fields.hessian):
        _assert_all_there(vmap(field(quartic), (None, 0))(params, x))
