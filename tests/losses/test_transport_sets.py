"""Flow matching learns sets of the plane: no kernel tells its draws from fresh data; and torchcfm's published protocol.

The suite learns one set. ``FUNCEBM_ACCEPTANCE=1 pytest -s`` learns three until no kernel tells draws from fresh data, and runs
the protocol of Tong et al. (2024), arXiv:2307.03672, table 2: 10,000 points, MLP of 3 x 64 with SELU on (x, t), AdamW 1e-3 with
decay 1e-5, batches of 512, 1000 epochs, 100 Euler steps. On one thread its independent pairs take 10 s of training, its optimal
ones seven minutes, and a distance between 10,000 points two.

Measured, seed 0, W2 and path energy between 10,000 points. With optimal pairs: 0.342, 0.022 from the normal to the eight
Gaussians, 0.156, 0.051 to the moons, 0.418, 0.013 from the moons to the eight Gaussians; with independent pairs: 0.457, 0.237,
then 0.180, 0.363, then 0.797, 1.658. (W2 between two sets of fresh points is not 0, of the eight Gaussians 0.17 to 0.30 by four
pairs of sets, and larger between fewer. The exact velocity of independent pairs from the normal to the eight Gaussians has the
energy 17.83, which is a path energy of 0.22 to 0.24: 0.202, as published, is below it.)
Unbiased MMD of the moons after three trainings, in standard errors, three draws each: -0.6, 3.6, -0.1; -0.1, -0.2, -0.6; 1.1,
-0.6, -0.9.
"""

from __future__ import annotations

import functools
import math
import os
import sys

import pytest
import torch
from torch.func import vmap

import funcebm as ebm
from funcebm import couplings, losses, networks, random

NUM = 10_000


def eight_gaussians(key, num):
    """Of torchcfm, whose ``var=0.1`` is the square of the variance."""
    return ebm.datasets.eight_gaussians(key, num, std=0.1**0.25, scale=5.0)


def two_moons(key, num):
    """Of torchdyn: thin, each point moved along the diagonal by up to 0.2; scaled as torchcfm does."""
    key_moons, key_shift = random.split(key)
    shift = random.uniform(key_shift, (num, 1), 0.0, 0.2)
    return 3 * (ebm.datasets.two_moons(key_moons, num, noise=0.0) + shift) - 1


def normal(key, num):
    return random.normal(key, (num, 2))


SETS = {
    "normal": normal,
    "eight_gaussians": eight_gaussians,
    "two_moons": two_moons,
    "checkerboard": ebm.datasets.checkerboard,
}
COUPLINGS = {"independent": couplings.independent(), "optimal_transport": couplings.optimal_transport()}


def squared_distance(a, b):
    """The squared Wasserstein distance of order 2 between two sets of as many points."""
    cost = ebm.pairwise.squared_distances(a.double(), b.double())
    index = couplings.assignment(cost)
    return float(cost[torch.arange(len(a)), index].mean())


def flow_and_energy(field, params, x, num_steps=100):
    """Where Euler's steps end, and the mean of the integral of |v|^2."""
    total = 0.0
    for index in range(num_steps):
        velocity = vmap(field, (None, None, 0))(params, torch.tensor(index / num_steps), x)
        total += float(velocity.square().sum(1).mean()) / num_steps
        x = x + velocity / num_steps
    return x, total


def learn(source, target, coupling, seed, num_epochs=1000, jit=True):
    key_source, key_target, key_model, key_fit = random.split(random.key(seed), 4)
    field, params = networks.time_mlp(
        key_model, 2, (64, 64, 64), activation=torch.nn.functional.selu, num_frequencies=0
    )
    points = SETS[target](key_target, NUM)
    data = points if source == "normal" else losses.TransportBatch(points, source=SETS[source](key_source, NUM))
    loss = losses.flow_matching(field, coupling=COUPLINGS[coupling])
    optimizer = ebm.optimizers.adamw(1e-3, weight_decay=1e-5)
    num_steps = num_epochs * (NUM // 512)
    fit = ebm.fit(key_fit, loss, params, data, optimizer=optimizer, num_steps=num_steps, batch_size=512, jit=jit)
    return field, fit.params


@functools.cache
def least(source, target, num):
    """The squared distance of the two sets themselves."""
    keys = random.split(random.key(999))
    return squared_distance(SETS[source](keys[0], num), SETS[target](keys[1], num))


def judge(field, params, source, target, seed, num=NUM):
    key_source, key_target = random.split(random.fold_in(random.key(1000), seed))
    x0, fresh = SETS[source](key_source, num), SETS[target](key_target, num)
    moved, energy = flow_and_energy(field, params, x0)
    shortest = least(source, target, num)
    return {"W2": math.sqrt(squared_distance(moved, fresh)), "NPE": abs(energy - shortest) / shortest}


def told_apart(field, params, target, seed, num=2000, repeats=3):
    """The unbiased squared MMD between draws and fresh data, in standard errors under equal distributions, some times."""
    found = []
    for key in random.split(random.fold_in(random.key(2000), seed), repeats):
        key_source, key_target, key_test = random.split(key, 3)
        moved = flow_and_energy(field, params, normal(key_source, num))[0]
        test = ebm.diagnostics.mmd_test(key_test, moved, SETS[target](key_target, num), num_permutations=1)
        found.append(float(test.value / test.standard_error))
    return found


@pytest.mark.slow
def test_draws_of_a_flow_are_near_fresh_data():
    """A small network, few steps: enough for the moons, at a hundredth of the published work."""
    field, params = learn("normal", "two_moons", "independent", 0, num_epochs=60, jit=False)
    result = judge(field, params, "normal", "two_moons", 0, num=1000)
    untrained = judge(field, ebm.tree.zeros_like(params), "normal", "two_moons", 0, num=1000)
    assert result["W2"] < 0.7 < untrained["W2"]


PUBLISHED = {  # W2 and normalised path energy: mean and standard deviation of five seeds
    ("normal", "eight_gaussians", "optimal_transport"): (0.303, 0.043, 0.031),
    ("normal", "eight_gaussians", "independent"): (0.373, 0.103, 0.202),
    ("two_moons", "eight_gaussians", "optimal_transport"): (0.601, 0.027, 0.015),
    ("two_moons", "eight_gaussians", "independent"): (1.557, 0.407, 2.680),
    ("normal", "two_moons", "optimal_transport"): (0.130, 0.016, 0.083),
    ("normal", "two_moons", "independent"): (0.178, 0.014, 0.891),
}


acceptance = pytest.mark.skipif(os.environ.get("FUNCEBM_ACCEPTANCE") != "1", reason="set FUNCEBM_ACCEPTANCE=1: an hour")


@acceptance
@pytest.mark.compiled
@pytest.mark.parametrize("target", ["two_moons", "checkerboard", "eight_gaussians"])
def test_no_kernel_tells_draws_from_fresh_data(target):
    """MMD within three standard errors of zero after each of three trainings.

    Of the mean of three sets of draws, which sees 0.6 of the bias that one sees. The MMD of one is skewed to the right: between
    fresh sets of moons it was above 3 in 2 of 366 cases, once 6.5, so of 27 one is above 3 every seventh time.
    """
    found = []
    for seed in range(3):
        key_target, key_model, key_fit = random.split(random.key(seed), 3)
        field, params = networks.time_mlp(key_model, 2, (128, 128, 128))
        loss, optimizer = losses.flow_matching(field, time=losses.uniform_times()), ebm.optimizers.adam(1e-3)
        options = {"optimizer": optimizer, "num_steps": 15_000, "batch_size": 512, "ema_decay": 0.999, "jit": True}
        fit = ebm.fit(key_fit, loss, params, SETS[target](key_target, 50_000), **options)
        found += told_apart(field, fit.ema_params, target, seed)
        print(f"\n{target}, seed {seed}: {found[-3:]}")
    means = torch.tensor(found).reshape(3, 3).mean(1)
    assert float(means.abs().max()) * math.sqrt(3) < 3, found
    untrained = told_apart(field, ebm.tree.zeros_like(params), target, 0)
    assert min(untrained) > 10


@acceptance
@pytest.mark.compiled
@pytest.mark.parametrize("case", PUBLISHED, ids="-".join)
def test_the_published_protocol(case):
    result = judge(*learn(*case, seed=0), *case[:2], seed=0)
    mean, spread, _ = PUBLISHED[case]
    print(f"\n{case}: {result}, published {PUBLISHED[case]}")
    assert result["W2"] < mean + 2 * spread


if __name__ == "__main__":
    case, epochs, seed = tuple(sys.argv[1:4]), int(sys.argv[4]), int(sys.argv[5])
    print(case, seed, epochs, judge(*learn(*case, seed=seed, num_epochs=epochs), *case[:2], seed=seed))
