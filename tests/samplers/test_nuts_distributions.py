"""Laws that NUTS keeps: which leaf of a trajectory is chosen, the target, and what chains and metrics must not change."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.distributions import assert_covariance, assert_mean, assert_same_distribution, assert_uniform
from tests.references import NUTS_ENERGIES, RecursiveNUTS
from torch.func import vmap

import funcebm as ebm
from funcebm import metrics, random, samplers, tree
from funcebm.samplers.nuts import NUTSNoise

FUNNEL, QUARTIC = NUTS_ENERGIES["funnel"][0], NUTS_ENERGIES["quartic"][0]
MATRIX = torch.tensor([[0.9, 0.3, 0.0], [0.3, 0.5, -0.1], [0.0, -0.1, 0.7]])


def _double(sampler):
    return sampler._replace(tuning=tree.map(torch.Tensor.double, sampler.tuning))


def _run(sampler, start, key=random.key(1)):
    """One step of many chains, in lock step."""
    state = vmap(sampler.init, (None, 0))((), start)
    noise = vmap(sampler.draw)(random.split(key, len(start)), start)
    return sampler.batched_step((), sampler.tuning, state, noise), state, noise


# -- the choice of a leaf -----------------------------------------------------------------------------------------


STIFFNESS = np.array([0.01, 40.0])  # the first coordinate goes straight on, the second makes the weights uneven


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("seed", "max_depth"), [(1, 3), (2, 5), (3, 6)])
def test_a_leaf_is_chosen_with_the_probability_that_the_papers_give_it(seed, max_depth, dtype):
    """Within a sub-tree by weight; sub-tree ``k`` if its test ``min(1, w_k / w_before)`` is the last that succeeds."""
    num = 20000
    position, momentum = torch.tensor([0.3, -0.2]), torch.tensor([4.0, 1.5])
    stiffness = torch.tensor(STIFFNESS, dtype=dtype)
    sampler = samplers.nuts(lambda params, x: (stiffness * x**2).sum() / 2, step_size=0.25, max_depth=max_depth)
    sampler = sampler._replace(tuning=tree.map(lambda leaf: leaf.to(dtype), sampler.tuning))
    uniforms = random.uniform(random.key(seed), (num, 3, max_depth), dtype=dtype)
    uniforms[:, 0] = uniforms[0, 0]
    start = position.to(dtype).expand(num, 2)
    state = vmap(sampler.init, (None, 0))((), start)
    noise = NUTSNoise(momentum.to(dtype).expand(num, 2), uniforms)
    after, info = sampler.batched_step((), sampler.tuning, state, noise)
    assert (info.tree_depth == max_depth).all()

    energy, gradient = (lambda x: (STIFFNESS * x**2).sum() / 2), (lambda x: STIFFNESS * x)
    reference = RecursiveNUTS(energy, gradient, 0.25, max_depth, np.eye(2))
    points, distribution, before, uneven, build = [position.numpy()], np.ones(1), 1.0, [], reference.build

    def record(level, *arguments):
        nonlocal distribution, before
        result = build(level, *arguments)
        if level == reference.depth:
            points.extend(leaf[0] for leaf in reference.leaves)
            weights = np.exp([leaf[2] for leaf in reference.leaves])
            uneven.extend(weights)
            taken = min(1.0, weights.sum() / before)
            distribution = np.concatenate([(1 - taken) * distribution, taken * weights / weights.sum()])
            before += weights.sum()
        return result

    reference.build = record
    reference.step(*(value.double().numpy() for value in (position, momentum, uniforms[0])))
    distance = torch.cdist(after.position.double(), torch.tensor(np.stack(points))).min(1)
    assert float(distance.values.max()) < 1e-3
    assert max(uneven) > 1.5 * min(uneven)
    counts, distribution = torch.bincount(distance.indices, minlength=len(distribution)), torch.tensor(distribution)
    assert (counts[distribution == 0] == 0).all()
    assert_uniform(counts[distribution > 0], distribution[distribution > 0])


# -- the target ---------------------------------------------------------------------------------------------------


def test_a_correlated_gaussian_from_elsewhere():
    covariance = torch.tensor([[1.0, 1.2], [1.2, 4.0]])
    precision = torch.linalg.inv(covariance)
    sampler = samplers.nuts(lambda params, x: x @ precision @ x / 2, step_size=0.8, max_depth=4)
    start = torch.tensor([2.0, -3.0]).expand(3000, 2).clone()
    draws = ebm.sample(random.key(0), sampler, (), start, num_samples=1, thin=8, jit=False).draws[:, 0]
    assert_mean(draws, 0.0)
    assert_covariance(draws, covariance)


def test_a_chain_that_starts_in_the_funnel_stays_in_it():
    """In one step nothing leaks, even where trajectories turn, run out of depth and diverge."""

    def draws(key):
        key_v, key_x = random.split(key)
        v = 2 * random.normal(key_v, (8000, 1))
        return torch.cat([v, torch.exp(v / 2) * random.normal(key_x, (8000, 2))], 1)

    sampler = samplers.nuts(FUNNEL, step_size=0.6, max_depth=4)
    (after, info), _, _ = _run(sampler, draws(random.key(0)))
    assert info.is_divergent.any()
    assert info.is_max_depth.any()
    assert info.is_turning.any()
    squash = lambda x: torch.cat([x[:, :1], torch.asinh(x[:, 1:])], 1)  # noqa: E731  # the tails have no fourth moments
    assert_same_distribution(squash(after.position), squash(draws(random.key(1))))


# -- what must not change anything --------------------------------------------------------------------------------


@pytest.mark.parametrize("dense", [False, True])
def test_a_chain_in_lock_step_is_a_chain_alone(dense):
    sampler = _double(samplers.nuts(FUNNEL, step_size=0.5, max_depth=6, inverse_mass=MATRIX if dense else None))
    start = random.normal(random.key(0), (40, 3), dtype=torch.float64)
    together, state, noise = _run(sampler, start)
    assert len(together[1].num_gradients.unique()) > 5
    for c in range(len(start)):
        one = lambda value: tree.map(lambda leaf: leaf[c], value)  # noqa: E731, B023
        alone = sampler.step((), sampler.tuning, one(state), one(noise))
        for a, b in zip(tree.leaves(alone), tree.leaves(one(together)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["dense", "diagonal"])
def test_a_metric_is_a_change_of_variables(name):
    """With ``M^-1 = A A^T`` NUTS on ``E(x)`` is NUTS on ``E(A y)`` with the identity, point for point."""
    metric = (
        metrics.dense(MATRIX.double()) if name == "dense" else metrics.diagonal(torch.tensor([0.5, 1.0, 2.0]).double())
    )
    root = metric.inverse_root if name == "dense" else metric.inverse_mass.sqrt().diag()
    options = {"step_size": 0.3, "max_depth": 6}
    plain = _double(samplers.nuts(lambda params, y: QUARTIC(params, root @ y), **options))
    sampler = _double(samplers.nuts(QUARTIC, inverse_mass=metric, **options))
    start = random.normal(random.key(0), (50, 3), dtype=torch.float64)
    (after, info), _, _ = _run(sampler, start @ root.T)
    (expected, expected_info), _, _ = _run(plain, start)
    torch.testing.assert_close(after.position, expected.position @ root.T, rtol=1e-9, atol=1e-9)
    for a, b in zip(info, expected_info, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_temperature_divides_the_energy():
    start = random.normal(random.key(0), (50, 3), dtype=torch.float64)
    (after, info), _, _ = _run(_double(samplers.nuts(QUARTIC, step_size=0.4, temperature=2.0)), start)
    half = samplers.nuts(lambda params, x: QUARTIC(params, x) / 2, step_size=0.4)
    (expected, expected_info), _, _ = _run(_double(half), start)
    torch.testing.assert_close(after.position, expected.position, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(info.total_energy, expected_info.total_energy, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(info.energy, 2 * expected_info.energy, rtol=1e-12, atol=1e-12)


# -- what it tells ------------------------------------------------------------------------------------------------


def test_too_little_depth_is_told():
    for max_depth in (1, 2, 4):  # from the bottom of a bowl, a part of the way up
        (_, info), _, _ = _run(
            samplers.nuts(NUTS_ENERGIES["isotropic"][0], step_size=0.01, max_depth=max_depth), torch.zeros(50, 3)
        )
        assert info.is_max_depth.all()
        assert not info.is_turning.any()
        assert (info.tree_depth == max_depth).all()
        assert (info.num_gradients == 2**max_depth - 1).all()
    (_, info), _, _ = _run(samplers.nuts(QUARTIC, step_size=0.3, max_depth=10), random.normal(random.key(0), (50, 3)))
    assert info.is_turning.all()
    assert not info.is_max_depth.any()


def _cliff(params, x):
    """A Gaussian between two walls, one of 2,000 and one infinite."""
    height = torch.where(x < -1, 2000.0, torch.where(x > 1, torch.inf, 0.0))
    return (x**2).sum() / 2 + height.sum()


def test_a_leaf_beyond_the_cliff_is_a_divergence_and_never_chosen():
    start = torch.full((500, 1), 0.2)
    (after, info), _, noise = _run(samplers.nuts(_cliff, step_size=0.3, max_depth=6), start)
    assert 0.2 < float(info.is_divergent.float().mean()) < 1
    assert (after.position.abs() <= 1).all()
    assert torch.isfinite(info.energy).all()
    assert not (info.is_divergent & (info.is_turning | info.is_max_depth)).any()
    at_once = noise.momentum[:, 0] * torch.where(noise.uniforms[:, 0, 0] < 0.5, -1, 1) > 5  # over the edge in one step
    if at_once.any():
        assert (info.acceptance_rate[at_once] == 0).all()


def test_a_nan_beyond_the_first_leaf_leaves_the_chain_where_it_is():
    sampler = samplers.nuts(lambda params, x: torch.where(x == 1.0, 0.0, torch.nan).sum(), step_size=0.3)
    (after, info), state, _ = _run(sampler, torch.ones(20, 1))
    assert info.is_divergent.all()
    assert not info.is_accepted.any()
    assert (info.num_gradients == 1).all()
    assert (info.acceptance_rate == 0).all()
    assert torch.equal(after.position, state.position)


def test_the_energies_of_the_info_are_those_of_the_new_point():
    start = random.normal(random.key(0), (200, 3), dtype=torch.float64)
    (after, info), state, noise = _run(_double(samplers.nuts(QUARTIC, step_size=0.03, max_depth=5)), start)
    torch.testing.assert_close(info.energy, vmap(QUARTIC, (None, 0))((), after.position))
    initial = state.energy + (noise.momentum**2).sum(1) / 2
    assert ((info.total_energy - initial).abs() < 0.2).all()  # the Hamiltonian changes by the error of the integrator
    assert ((info.total_energy - initial).abs() > 0).any()
    assert (info.total_energy >= info.energy).all()


def test_a_step_costs_what_its_info_says():
    """But for the second leaf of a pair whose first diverged."""
    calls = []

    def energy(params, x):
        calls.append(x)
        return (x**2).sum() / 2

    sampler = samplers.nuts(energy, step_size=0.2)
    state = sampler.init((), torch.ones(2))
    for i in range(5):
        calls.clear()
        state, info = sampler(random.key(i), (), state)
        assert len(calls) == int(info.num_gradients)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_size": 0.0}, "step_size must be positive"),
        ({"step_size": math.nan}, "step_size must be positive"),
        ({"max_depth": 0}, "max_depth must be an integer of at least 1"),
        ({"max_depth": 2.0}, "max_depth must be an integer"),
        ({"max_depth": 31}, "max_depth must be at most"),
        ({"temperature": -1.0}, "temperature must be positive"),
        ({"inverse_mass": torch.tensor([1.0, 0.0])}, "inverse_mass must be positive"),
        ({"inverse_mass": torch.tensor([[1.0, 2.0], [2.0, 1.0]])}, "positive definite"),
    ],
)
def test_numbers_that_make_no_sense_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        samplers.nuts(QUARTIC, **options)


def test_a_metric_of_the_wrong_size_is_an_error():
    with pytest.raises(ValueError, match="inverse_mass must"):
        samplers.nuts(QUARTIC, inverse_mass=torch.ones(2)).init((), torch.zeros(3))
