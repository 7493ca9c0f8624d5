"""Elliptical slice sampling is exact for any likelihood, smooth or not, and for any limit of its loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.distributions import assert_covariance, assert_mean, assert_same_distribution
from tests.targets import draw_skewed, skewed
from torch.func import vmap

import funcebm as ebm
from funcebm import metrics, random, samplers, tree

MEAN = torch.tensor([0.5, -0.3])
COVARIANCE = torch.tensor([[1.5, 0.6], [0.6, 2.0]])


def _run(sampler, params, start, steps, seed=13):
    samples = ebm.sample(random.key(seed), sampler, params, start, num_samples=1, thin=steps, jit=False)
    return samples.draws[:, 0], samples.info


def _rest_of_skewed(mean, covariance):
    """The energy that, times the prior, makes the skewed density."""
    precision = torch.linalg.inv(covariance)

    def energy(params, x):
        return skewed(params, x) - (x - mean) @ precision @ (x - mean) / 2

    return energy


PRIORS = {
    "standard": (0.0, None, torch.zeros(2), torch.eye(2)),
    "number": (0.7, 1.7, torch.full((2,), 0.7), 1.7 * torch.eye(2)),
    "diagonal": (MEAN, torch.tensor([0.8, 2.5]), MEAN, torch.diag(torch.tensor([0.8, 2.5]))),
    "dense": (MEAN, COVARIANCE, MEAN, COVARIANCE),
}


@pytest.mark.parametrize("max_shrinks", [0, 1, 3, 50])
@pytest.mark.parametrize("prior", list(PRIORS))
def test_a_skewed_target_is_invariant_however_short_the_loop(prior, max_shrinks):
    mean, covariance, full_mean, full_covariance = PRIORS[prior]
    start, other = (draw_skewed(random.key(seed), 16000) for seed in (11, 12))
    energy = _rest_of_skewed(full_mean, full_covariance)
    sampler = samplers.elliptical_slice(energy, mean=mean, covariance=covariance, max_shrinks=max_shrinks)
    draws, info = _run(sampler, torch.tensor(1.0), start, 3)
    assert_same_distribution(draws, other)
    rate = float(info.is_accepted.float().mean())
    assert rate == 1 if max_shrinks == 50 else 0.2 < rate < 1


def test_one_step_is_in_detailed_balance():
    start = draw_skewed(random.key(21), 16000)
    sampler = samplers.elliptical_slice(_rest_of_skewed(MEAN, COVARIANCE), mean=MEAN, covariance=COVARIANCE)
    y, _ = _run(sampler, torch.tensor(1.0), start, 1)
    x, y = start.double(), y.double()
    assert_mean(torch.tanh(x) * y**2 - torch.tanh(y) * x**2, 0.0)
    assert_mean(torch.sigmoid(x[:, 0]) * y[:, 1] - torch.sigmoid(y[:, 0]) * x[:, 1], 0.0)


def test_a_gaussian_likelihood_gives_the_posterior_of_the_textbook():
    """Data ``y = x + noise`` of covariance ``R``: precision ``C^-1 + R^-1``; from a start far away."""
    noise = torch.tensor([[0.5, -0.2], [-0.2, 0.9]])
    data = torch.tensor([1.5, -2.0])
    precisions = [torch.linalg.inv(matrix.double()) for matrix in (COVARIANCE, noise)]
    covariance = torch.linalg.inv(precisions[0] + precisions[1])
    mean = covariance @ (precisions[0] @ MEAN.double() + precisions[1] @ data.double())
    energy = lambda params, x: (x - data) @ torch.linalg.inv(noise) @ (x - data) / 2  # noqa: E731
    sampler = samplers.elliptical_slice(energy, mean=MEAN, covariance=COVARIANCE)
    draws, _ = _run(sampler, (), torch.tensor([-4.0, 5.0]).expand(16000, 2).clone(), 40)
    assert_mean(draws, mean)
    assert_covariance(draws, covariance)


@pytest.mark.parametrize("outside", [math.inf, math.nan])
def test_a_likelihood_that_jumps_is_no_obstacle(outside):
    """A Gaussian cut off below zero, and twice as likely above one."""

    def energy(params, x):
        inside = torch.where(x > 1, -math.log(2), 0.0)
        return torch.where(x > 0, inside, outside).sum()

    draws, info = _run(samplers.elliptical_slice(energy), (), torch.full((16000, 1), 0.5), 30)
    assert float(draws.min()) > 0
    assert not info.is_divergent.any()
    below = 0.3413447  # of the standard normal distribution, between 0 and 1
    above = 0.5 - below
    assert_mean((draws > 1).float(), 2 * above / (below + 2 * above))


def test_a_flat_likelihood_gives_the_first_point_of_the_ellipse():
    sampler = samplers.elliptical_slice(lambda params, x: 0.0 * x.sum(), mean=0.5, covariance=torch.tensor([0.25, 4.0]))
    state = sampler.init((), torch.tensor([1.0, -2.0]))
    noise = sampler.draw(random.key(0), state.position)
    after, info = sampler.step((), sampler.tuning, state, noise)
    phi = 2 * math.pi * noise.angles[0]
    expected = 0.5 + (state.position - 0.5) * torch.cos(phi) + noise.normal * torch.tensor([0.5, 2.0]) * torch.sin(phi)
    torch.testing.assert_close(after.position, expected)
    assert int(info.num_evaluations) == 1
    assert int(info.num_gradients) == 0


def _numpy_step(energy, mean, root, x, normal, level, angles):
    nu, bound = root @ normal, energy(x) - np.log(level)
    phi = 2 * np.pi * angles[0]
    low, high = phi - 2 * np.pi, phi
    for count in range(len(angles)):
        if count > 0:
            phi = low + (high - low) * angles[count]
        y = mean + (x - mean) * np.cos(phi) + nu * np.sin(phi)
        if energy(y) <= bound:
            return y, count + 1
        low, high = (phi, high) if phi < 0 else (low, phi)
    return x, len(angles)


def test_it_is_its_definition():
    mean, covariance = MEAN.double(), COVARIANCE.double()
    energy = lambda params, x: params * (x**4).sum() + 3 * torch.sin(2 * x[0] + x[1])  # noqa: E731
    energy_np = lambda x: 1.3 * (x**4).sum() + 3 * np.sin(2 * x[0] + x[1])  # noqa: E731
    sampler = samplers.elliptical_slice(energy, mean=mean, covariance=covariance, max_shrinks=3)
    params = torch.tensor(1.3, dtype=torch.float64)
    state, counts = sampler.init(params, torch.tensor([0.5, -1.0]).double()), []
    root = np.linalg.cholesky(covariance.numpy())
    for i in range(40):
        noise = sampler.draw(random.fold_in(random.key(7), i), state.position)
        arrays = [part.numpy() for part in (state.position, *noise)]
        expected, count = _numpy_step(energy_np, mean.numpy(), root, *arrays)
        state, info = sampler.step(params, sampler.tuning, state, noise)
        np.testing.assert_allclose(state.position.numpy(), expected, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(float(info.energy), energy_np(expected), rtol=1e-10)
        assert int(info.num_evaluations) == count
        counts.append(count if info.is_accepted else "none")
    assert set(counts) == {1, 2, 3, 4, "none"}  # every way to end was seen


def test_where_no_angle_is_found_the_chain_stays_and_says_so():
    energy = lambda params, x: 1e6 * ((x - 1) ** 2).sum()  # noqa: E731
    sampler = samplers.elliptical_slice(energy, max_shrinks=2)
    state = sampler.init((), torch.ones(3))
    after, info = sampler(random.key(0), (), state)
    assert torch.equal(after.position, state.position)
    assert bool(info.is_divergent)
    assert not bool(info.is_accepted)
    assert float(info.acceptance_rate) == 0
    assert float(info.energy) == float(state.energy) == 0
    assert int(info.num_evaluations) == 3


def test_many_chains_in_lock_step_are_the_step_of_each():
    energy = lambda params, x: params * (x["a"] ** 4).sum() + torch.exp(x["b"]).sum()  # noqa: E731
    mean = {"a": torch.tensor([0.1, 0.2]), "b": torch.tensor([[0.3]])}
    sampler = samplers.elliptical_slice(energy, mean=mean, covariance=tree.map(lambda leaf: leaf + 1, mean))
    start = {"a": random.normal(random.key(0), (9, 2)), "b": random.normal(random.key(1), (9, 1, 1))}
    params = torch.tensor(2.0)
    states = vmap(sampler.init, (None, 0))(params, start)
    noise = vmap(sampler.draw)(random.split(random.key(2), 9), start)
    results = [
        sampler.batched_step(params, sampler.tuning, states, noise),
        vmap(sampler.step, (None, None, 0, 0))(params, sampler.tuning, states, noise),
        tree.stack(
            [
                sampler.step(params, sampler.tuning, *tree.map(lambda leaf: leaf[c], (states, noise)))  # noqa: B023
                for c in range(9)
            ]
        ),
    ]
    assert len(set(results[0][1].num_evaluations.tolist())) > 1
    for other in results[1:]:
        assert tree.structure(other) == tree.structure(results[0])
        for a, b in zip(tree.leaves(results[0]), tree.leaves(other), strict=True):
            torch.testing.assert_close(a, b)


def test_the_energy_is_computed_as_often_as_the_info_says():
    calls = []

    def energy(params, x):
        calls.append(x)
        return 20 * (x**2).sum()

    sampler = samplers.elliptical_slice(energy)
    state = sampler.init((), torch.tensor([0.1, 0.2]))
    for i in range(5):
        calls.clear()
        state, info = sampler(random.key(i), (), state)
        assert len(calls) == int(info.num_evaluations)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"covariance": -1.0}, "covariance must be positive"),
        ({"covariance": torch.tensor([1.0, 0.0])}, "covariance must be positive"),
        ({"covariance": torch.tensor([[1.0, 2.0], [2.0, 1.0]])}, "covariance must be positive definite"),
        ({"covariance": torch.tensor([[1.0, 0.5], [0.0, 1.0]])}, "covariance must be symmetric"),
        ({"covariance": torch.ones(3)}, r"covariance must have the shapes \[\(2,\)\]"),
        ({"covariance": torch.eye(3)}, r"covariance must be \(2, 2\)"),
        ({"mean": torch.zeros(3)}, r"mean must have the shapes \[\(2,\)\]"),
        ({"mean": {"a": torch.zeros(2)}}, "mean must be a tree of the same structure as one position"),
        ({"max_shrinks": -1}, "max_shrinks must be an integer of at least 0"),
        ({"max_shrinks": 2.0}, "max_shrinks must be an integer"),
    ],
)
def test_a_prior_that_makes_no_sense_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        samplers.elliptical_slice(lambda params, x: x.sum(), **options).init((), torch.zeros(2))


def test_a_matrix_of_positions_takes_a_diagonal_by_name():
    sampler = samplers.elliptical_slice(lambda params, x: x.sum(), covariance=metrics.diagonal(torch.ones(2, 2)))
    state, _ = sampler(random.key(0), (), sampler.init((), torch.zeros(2, 2)))
    assert state.position.shape == (2, 2)


def test_a_chain_that_starts_off_the_support_is_named():
    energy = lambda params, x: torch.where(x > 0, 0.0, torch.inf).sum()  # noqa: E731
    starts = torch.tensor([[1.0], [-1.0]])
    with pytest.raises(ValueError, match="chains 1"):
        ebm.sample(random.key(0), samplers.elliptical_slice(energy), (), starts, num_samples=2, jit=False)
