"""A machine of 784 and 16 units on the digits of MNIST, black and white, beside figures that were published.

The data are not kept here: ``FUNCEBM_MNIST`` names a folder with ``train-images-idx3-ubyte`` and ``t10k-images-idx3-ubyte``.

Reference: Melchior, Fischer, Wiskott (2016), How to center deep Boltzmann machines, JMLR 17, and the tutorials of PyDeep: -142.56
nats by the centred gradient, -149.05 by the plain one, after 50 epochs.
"""

import os
import resource
from pathlib import Path

import pytest
import torch
from torch.func import vmap

import funcebm as ebm
from funcebm import energies, losses, normalizers, random, samplers, spaces

FOLDER = os.environ.get("FUNCEBM_MNIST")
pytestmark = pytest.mark.skipif(not FOLDER, reason="FUNCEBM_MNIST names no folder")


def _images(part: str) -> torch.Tensor:
    raw = (Path(FOLDER) / f"{part}-images-idx3-ubyte").read_bytes()
    return (torch.frombuffer(bytearray(raw), dtype=torch.uint8, offset=16).reshape(-1, 784) > 127).float()


def _cpu_seconds() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


@pytest.fixture(scope="module", params=["centred", "plain"])
def learned(request):
    began = _cpu_seconds()
    train = _images("train")
    mean = train.mean(0).clamp(1e-3, 1 - 1e-3)
    machine = energies.rbm(784, 16)
    loss = losses.persistent_contrastive_divergence(
        machine.free_energy,
        samplers.rbm_gibbs(machine),
        1,
        buffer_size=100,
        restart_probability=0.0,
        initial=spaces.start(machine.space, mean=mean),
    )
    optimizer = ebm.optimizers.sgd(0.05)
    if request.param == "centred":
        optimizer = ebm.optimizers.chain(ebm.optimizers.centring(mean), optimizer)
    options = {"optimizer": optimizer, "num_steps": 10_000, "batch_size": 100, "ema_decay": 0.999, "jit": True}
    start = machine.init(random.key(0), mean)
    params = ebm.fit(random.key(0), loss, start, train, **options).ema_params
    return request.param, machine, params, mean, _cpu_seconds() - began


@pytest.mark.compiled
def test_the_published_likelihood_is_reached_within_two_minutes(learned):
    kind, machine, params, _, seconds = learned
    test = _images("t10k")
    likelihood = -vmap(machine.free_energy, (None, 0))(params, test).mean() - machine.log_normalizer(params)
    print(f"{kind}: {likelihood:.2f} nats, {seconds:.0f} s of CPU")
    assert likelihood > {"centred": -142.56, "plain": -149.05}[kind]
    assert seconds < 120


@pytest.mark.compiled
def test_annealing_finds_the_normalizer_of_the_trained_machine(learned):
    _, machine, params, mean, _ = learned
    base = energies.independent_sites(machine.joint_space)
    result = normalizers.annealed_importance_sampling(
        random.key(1),
        machine.joint,
        params,
        reference=base,
        reference_params=base.params(torch.cat([mean, torch.full((16,), 0.5)])),
        num_temperatures=1000,
        num_particles=100,
        sampler=lambda energy: samplers.gibbs(energy, machine.blocks),
        jit=True,
    )
    print(result.log_normalizer, result.standard_error, machine.log_normalizer(params))
    assert abs(result.log_normalizer - machine.log_normalizer(params)) < 5 * result.standard_error
