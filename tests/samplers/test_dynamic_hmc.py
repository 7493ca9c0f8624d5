"""HMC whose trajectories vary in length: how long they are, and that each is one of HMC."""

from __future__ import annotations

import math

import pytest
import torch
from torch.func import vmap

import funcebm as ebm
from funcebm import metrics, random, samplers, tree
from funcebm.samplers.dynamic_hmc import van_der_corput

DENSE = torch.tensor([[1.0, 0.3], [0.3, 0.5]], dtype=torch.float64)
ONE = torch.tensor(1.0, dtype=torch.float64)


def _energy(params, x):
    return params * ((x**2).sum() / 2 + 0.3 * torch.sin(2 * x[0] + x[1]) + 0.1 * x[0] ** 4 + 0.2 * x[0] * x[1] ** 2)


def _sampler(lengths="halton", step_size=0.5, trajectory_length=4.0, **options):
    options = {"step_size": step_size, "trajectory_length": trajectory_length, "lengths": lengths, **options}
    sampler = samplers.dynamic_hmc(_energy, **options)
    return sampler._replace(tuning=tree.map(torch.Tensor.double, sampler.tuning))


def _close(a, b):
    assert tree.structure(a) == tree.structure(b)
    for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-11, atol=1e-12)


# -- lengths ------------------------------------------------------------------------------------------------------


def test_van_der_corput_mirrors_the_bits():
    index = torch.tensor([0, 1, 2, 3, 6, 1000, 65535, 65536, 65537])
    mirrored = [int(f"{i % 2**16:016b}"[::-1], 2) / 2**16 for i in index.tolist()]
    assert van_der_corput(index, torch.float64).tolist() == mirrored
    assert van_der_corput(index).dtype == torch.float32
    assert van_der_corput(index).double().tolist() == mirrored


def _counts(sampler, states, noise):
    _, info = vmap(sampler.step, (None, None, 0, 0))(ONE, sampler.tuning, states, noise)
    return info.num_gradients


def _many(sampler, num):
    start = torch.zeros(num, 2, dtype=torch.float64)
    states = vmap(sampler.init, (None, 0))(ONE, start)
    return states, vmap(sampler.draw)(random.split(random.key(1), num), start)


@pytest.mark.parametrize("first", [0, 1024, 5000])
def test_halton_lengths_are_even_over_any_stretch(first):
    """With ``T / h = 8`` and 1,024 steps in a row, each of the eight lengths comes 128 times, but for one at the ends."""
    sampler = _sampler()
    states, noise = _many(sampler, 1024)
    counts = _counts(sampler, states._replace(num_steps=first + torch.arange(1024)), noise)
    assert (torch.bincount(counts, minlength=9)[1:] - 128).abs().max() <= 1
    assert counts.min() == 1 and counts.max() == 8
    expected = (8 * van_der_corput(first + 1 + torch.arange(1024), torch.float64)).ceil().clamp(min=1)
    assert torch.equal(counts.double(), expected)


def test_uniform_lengths_follow_the_noise():
    sampler = _sampler("uniform")
    states, noise = _many(sampler, 500)
    counts = _counts(sampler, states, noise)
    assert torch.equal(counts.double(), (8 * noise.fraction).ceil().clamp(min=1))
    assert set(counts.tolist()) == set(range(1, 9))
    assert float(noise.fraction.min()) >= 0 and float(noise.fraction.max()) < 1


@pytest.mark.parametrize(
    ("options", "fraction", "num"),
    [
        ({}, 0.0, 1),
        ({"trajectory_length": 0.01}, 0.99, 1),
        ({"trajectory_length": 1e9, "max_leapfrog": 90}, 0.5, 90),
        ({"max_leapfrog": 3}, 0.9, 3),
        ({"max_leapfrog": 3}, 0.2, 2),
    ],
)
def test_lengths_are_at_least_one_and_at_most_the_largest(options, fraction, num):
    sampler = _sampler("uniform", **options)
    state = sampler.init(ONE, torch.zeros(2, dtype=torch.float64))
    noise = sampler.draw(random.key(0), state.position)._replace(fraction=torch.tensor(fraction).double())
    _, info = sampler.step(ONE, sampler.tuning, state, noise)
    assert int(info.num_gradients) == num


def test_a_step_size_that_is_not_a_number_ends_and_is_flagged():
    sampler = _sampler()
    tuning = sampler.tuning._replace(step_size=math.nan * ONE)
    state = sampler.init(ONE, torch.zeros(2, dtype=torch.float64))
    after, info = sampler(random.key(0), ONE, state, tuning)
    assert int(info.num_gradients) == 1
    assert bool(info.is_divergent)
    assert torch.equal(after.position, state.position)


def test_chains_share_the_halton_length_and_count_their_steps():
    start = random.normal(random.key(2), (5, 2), dtype=torch.float64)
    samples = ebm.sample(random.key(3), _sampler(), ONE, start, num_samples=6, num_burn_in=3, jit=False)
    expected = [max(1, math.ceil(8 * float(van_der_corput(torch.tensor(i))))) for i in range(4, 10)]
    assert samples.info.num_gradients.tolist() == [expected] * 5
    assert samples.state.num_steps.tolist() == [9] * 5


# -- each step is one of HMC --------------------------------------------------------------------------------------


@pytest.mark.parametrize("num", [1, 2, 7])
def test_with_its_length_fixed_it_is_hmc_noise_for_noise(num):
    options = {"inverse_mass": DENSE, "temperature": 0.8}
    sampler = _sampler("uniform", 0.6, 4.8, **options)
    hmc = samplers.hmc(_energy, step_size=0.6, num_leapfrog=num, **options)
    hmc = hmc._replace(tuning=tree.map(torch.Tensor.double, hmc.tuning))
    start = random.normal(random.key(4), (200, 2), dtype=torch.float64)
    states = [vmap(one.init, (None, 0))(ONE, start) for one in (sampler, hmc)]
    noise = vmap(sampler.draw)(random.split(random.key(5), 200), start)
    noise = noise._replace(fraction=torch.full_like(noise.fraction, (num - 0.5) / 8))
    hmc_noise = vmap(hmc.draw)(random.split(random.key(6), 200), start)
    hmc_noise = hmc_noise._replace(momentum=noise.momentum, uniform=noise.uniform)
    got, info = sampler.batched_step(ONE, sampler.tuning, states[0], noise)
    expected, hmc_info = hmc.batched_step(ONE, hmc.tuning, states[1], hmc_noise)
    _close((got.position, got.energy, got.gradient), tuple(expected))
    _close(info, hmc_info)
    assert 0 < float(info.is_accepted.double().mean()) < 1


def test_chains_of_different_lengths_are_each_their_own():
    """In lock step the short ones wait; and each tells its own cost."""
    sampler = _sampler("uniform", inverse_mass=DENSE)
    start = random.normal(random.key(7), (40, 2), dtype=torch.float64)
    states = vmap(sampler.init, (None, 0))(ONE, start)
    noise = vmap(sampler.draw)(random.split(random.key(8), 40), start)
    together = sampler.batched_step(ONE, sampler.tuning, states, noise)
    for c in range(40):
        one = lambda leaf: leaf[c]  # noqa: B023, E731
        alone = sampler.step(ONE, sampler.tuning, tree.map(one, states), tree.map(one, noise))
        _close(tree.map(one, together), alone)
    assert len(set(together[1].num_gradients.tolist())) == 8


def test_a_batch_costs_its_longest_trajectory():
    calls = []

    def energy(params, x):
        calls.append(x)
        return (x**2).sum() / 2

    sampler = samplers.dynamic_hmc(energy, step_size=0.5, trajectory_length=4.0, lengths="uniform")
    start = torch.ones(20, 2)
    states = vmap(sampler.init, (None, 0))((), start)
    noise = vmap(sampler.draw)(random.split(random.key(9), 20), start)
    calls.clear()
    _, info = sampler.batched_step((), sampler.tuning, states, noise)
    assert len(calls) == int(info.num_gradients.max()) > int(info.num_gradients.min())


def test_the_state_keeps_the_last_proposal_and_how_it_arrived():
    """Where the trajectory ended, ``M^-1 p`` there, and ``u``; whether or not it was accepted."""
    sampler = _sampler(step_size=0.875, trajectory_length=4.375, inverse_mass=DENSE)
    state = sampler.init(ONE, torch.tensor([0.5, -1.0], dtype=torch.float64))
    assert torch.equal(state.proposal, state.position)
    outcomes = set()
    for i in range(30):
        noise = sampler.draw(random.key(i), state.position)
        after, info = sampler.step(ONE, sampler.tuning, state, noise)
        x, p = state.position, metrics.momentum(sampler.tuning.metric, noise.momentum)
        slope = lambda x: torch.func.grad(_energy, 1)(ONE, x)  # noqa: E731
        for _ in range(int(info.num_gradients)):
            p = p - 0.4375 * slope(x)
            x = x + 0.875 * sampler.tuning.metric.inverse_mass @ p
            p = p - 0.4375 * slope(x)
        _close((after.proposal, after.velocity), (x, sampler.tuning.metric.inverse_mass @ p))
        assert float(after.fraction) == float(van_der_corput(torch.tensor(i + 1)))
        _close(after.position, x if info.is_accepted else state.position)
        outcomes.add(bool(info.is_accepted))
        state = after
    assert outcomes == {True, False}


# -- the door -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_size": 0.0}, "step_size must be positive"),
        ({"trajectory_length": -1.0}, "trajectory_length must be positive"),
        ({"trajectory_length": math.inf}, "trajectory_length must be positive and finite"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"max_leapfrog": 0}, "max_leapfrog must be an integer of at least 1"),
        ({"lengths": "sobol"}, "lengths must be one of .*halton.*Got sobol"),
        ({"inverse_mass": torch.tensor([1.0, 0.0])}, "inverse_mass must be positive"),
    ],
)
def test_numbers_that_make_no_sense_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        samplers.dynamic_hmc(_energy, **options)


def test_a_metric_of_another_size_is_an_error_at_the_start():
    sampler = samplers.dynamic_hmc(_energy, inverse_mass=torch.ones(3))
    with pytest.raises(ValueError, match="inverse_mass must have the shapes"):
        sampler.init(ONE, torch.zeros(2))
