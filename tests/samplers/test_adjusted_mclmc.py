"""The adjusted microcanonical sampler is its definition; its invariance is in ``test_invariance.py``."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.distributions import assert_mean, assert_uniform
from tests.references import isokinetic_kick_in_numpy
from torch.func import vmap

from funcebm import random, samplers, tree
from funcebm.samplers.adjusted_mclmc import random_count


@pytest.mark.parametrize("mean", [0.2, 1.0, 1.4, 1.5, 2.0, 3.3, 17.9])
def test_the_random_number_of_steps_has_the_given_mean_and_the_stated_law(mean):
    """Equal weights on ``1 .. k``, less on ``k + 1``, and exactly the mean."""
    uniform = random.uniform(random.key(0), (40000,), dtype=torch.float64)
    counts = random_count(torch.tensor(mean, dtype=torch.float64), uniform)
    assert_mean(counts, max(mean, 1.0))
    assert float(counts.min()) == 1
    mean = max(mean, 1.0)
    most = math.floor(2 * mean - 1)
    span = most * (most + 1) / (2 * (most + 1 - mean))
    weights = torch.tensor([1.0] * most + [span - most]) / span
    assert torch.isclose((weights * torch.arange(1, most + 2)).sum(), torch.tensor(mean))
    cells = int(torch.count_nonzero(weights > 1e-9))
    assert float(counts.max()) == cells
    if cells > 1:
        assert_uniform(torch.bincount(counts.long(), minlength=cells + 1)[1 : cells + 1], weights[:cells])


def test_the_ends_of_the_uniform_are_no_exceptions():
    for mean in (1.0, 1.5, 2.0, 10.0):
        ends = random_count(torch.tensor(mean), torch.tensor([0.0, 1 - 2.0**-24]))
        assert float(ends[0]) == 1
        assert float(ends[1]) <= 2 * mean


def _numpy_trajectory(energy, gradient, h, num, scale, integrator, x, u, uniform):
    b, start, total, u = 0.1931833275037836, x, 0.0, u / np.linalg.norm(u)
    plan = {"leapfrog": [0.5, 1.0, 0.5], "mclachlan": [b, 0.5, 1 - 2 * b, 0.5, b]}[integrator]
    for _ in range(num):
        for index, part in enumerate(plan):
            if index % 2 == 0:
                u, change = isokinetic_kick_in_numpy(part * h, u, scale * gradient(x))
                total += change
            else:
                x = x + part * h * scale * u
    ratio = energy(start) - energy(x) - total
    return (x if np.log(uniform) < ratio else start), min(1.0, np.exp(ratio))


def _energy(params, x):
    return params * (x**2).sum() / 2 + 0.2 * (x**4).sum() + torch.sin(x[0] + 2 * x[1])


@pytest.mark.parametrize("integrator", ["leapfrog", "mclachlan"])
@pytest.mark.parametrize("num_steps", [None, 3])
def test_it_is_its_definition(integrator, num_steps):
    energy_np = lambda x: 1.3 * (x**2).sum() / 2 + 0.2 * (x**4).sum() + np.sin(x[0] + 2 * x[1])  # noqa: E731
    gradient_np = lambda x: 1.3 * x + 0.8 * x**3 + np.cos(x[0] + 2 * x[1]) * np.array([1.0, 2.0, 0.0])  # noqa: E731
    inverse_mass = torch.tensor([0.25, 1.0, 4.0], dtype=torch.float64)
    options = {"step_size": 0.625, "trajectory_length": 1.25, "num_steps": num_steps, "integrator": integrator}
    sampler = samplers.adjusted_mclmc(_energy, inverse_mass=inverse_mass, **options)
    sampler = sampler._replace(tuning=tree.map(torch.Tensor.double, sampler.tuning))
    params = torch.tensor(1.3, dtype=torch.float64)
    state = sampler.init(params, torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64))
    accepted, scale = [], np.array([0.5, 1.0, 2.0])
    for i in range(16):
        noise = sampler.draw(random.fold_in(random.key(7), i), state.position)
        num = num_steps or 1 + math.floor(3 * float(noise.length))  # of mean 2: one, two or three steps
        arrays = [part.numpy() for part in (state.position, noise.velocity, noise.uniform)]
        expected = _numpy_trajectory(energy_np, gradient_np, 0.625, num, scale, integrator, *arrays)
        state, info = sampler.step(params, sampler.tuning, state, noise)
        np.testing.assert_allclose(state.position.numpy(), expected[0], rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(float(info.acceptance_rate), expected[1], rtol=1e-9)
        assert int(info.num_gradients) == num * {"leapfrog": 1, "mclachlan": 2}[integrator]
        accepted.append(bool(info.is_accepted))
    assert 0 < sum(accepted) < 16


def test_many_chains_in_lock_step_are_the_step_of_each():
    sampler = samplers.adjusted_mclmc(_energy, step_size=0.9, trajectory_length=3.0)
    params, start = torch.tensor(1.3).double(), random.normal(random.key(0), (9, 3), dtype=torch.float64)
    states = vmap(sampler.init, (None, 0))(params, start)
    noise = vmap(sampler.draw)(random.split(random.key(1), 9), start)
    each = [
        sampler.step(params, sampler.tuning, *tree.map(lambda leaf: leaf[c], (states, noise)))  # noqa: B023
        for c in range(9)
    ]
    expected = tree.stack(each)
    assert len(set(expected[1].num_gradients.tolist())) > 2
    for got in (
        sampler.batched_step(params, sampler.tuning, states, noise),
        vmap(sampler.step, (None, None, 0, 0))(params, sampler.tuning, states, noise),
    ):
        assert tree.structure(got) == tree.structure(expected)
        for a, b in zip(tree.leaves(got), tree.leaves(expected), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_no_trajectory_is_longer_than_the_cap():
    sampler = samplers.adjusted_mclmc(_energy, step_size=1e-6, trajectory_length=1.0, max_steps=4)
    state = sampler.init(torch.tensor(1.0), torch.ones(3))
    noise = sampler.draw(random.key(0), state.position)._replace(length=torch.tensor(0.9))
    _, info = sampler.step(torch.tensor(1.0), sampler.tuning, state, noise)
    assert int(info.num_gradients) == 8


@pytest.mark.parametrize("outside", [math.inf, math.nan])
def test_a_proposal_outside_is_a_divergence_and_a_rejection(outside):
    energy = lambda params, x: torch.where(x[0] < 1, (x**2).sum(), outside)  # noqa: E731
    sampler = samplers.adjusted_mclmc(energy, step_size=1.0, num_steps=1)
    state = sampler.init((), torch.tensor([0.9, 0.0]))
    noise = sampler.draw(random.key(0), state.position)._replace(velocity=torch.tensor([3.0, 0.0]))
    after, info = sampler.step((), sampler.tuning, state, noise)
    assert bool(info.is_divergent)
    assert not bool(info.is_accepted)
    assert float(info.acceptance_rate) == 0
    assert torch.equal(after.position, state.position)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trajectory_length": 0.0}, "trajectory_length must be positive"),
        ({"num_steps": 0}, "num_steps must be an integer of at least 1"),
        ({"max_steps": 2.5}, "max_steps must be an integer"),
    ],
)
def test_lengths_that_make_no_sense_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        samplers.adjusted_mclmc(_energy, **options)
