"""Energies that are infinite or NaN somewhere: rejections with a flag, never a number in their place."""

from __future__ import annotations

import math

import pytest
import torch
from tests.distributions import assert_mean
from torch.func import vmap

import funcebm as ebm
from funcebm import random, samplers
from funcebm.samplers.mala import MalaState


def _power(params, x):
    """``x^1.5``, NaN below zero."""
    return (x**1.5).sum()


def _half_line(params, x):
    """Infinite below zero, and with a gradient of zero there."""
    return torch.where(x > 0, x.abs() ** 1.5, torch.inf).sum()


MEAN = math.gamma(4 / 3) / math.gamma(2 / 3)  # of exp(-x^1.5), 0.6595


@pytest.mark.parametrize("energy", [_power, _half_line])
@pytest.mark.parametrize(
    "factory",
    [
        lambda energy: samplers.hmc(energy, step_size=0.3, num_leapfrog=3, jitter=0.3),
        lambda energy: samplers.mala(energy, step_size=0.1),
        lambda energy: samplers.dynamic_hmc(energy, step_size=0.3, trajectory_length=1.2),
        lambda energy: samplers.ghmc(energy, step_size=0.3, alpha=0.5),
    ],
)
def test_a_support_with_an_edge_is_sampled_and_nothing_is_left_at_the_edge(energy, factory):
    start = torch.full((2000, 1), 0.7)
    samples = ebm.sample(random.key(0), factory(energy), (), start, num_samples=1, thin=60, jit=False)
    draws = samples.draws[:, 0]
    assert float(draws.min()) > 0
    assert_mean(draws, MEAN)


def test_a_proposal_outside_is_a_divergence_and_a_rejection():
    sampler = samplers.hmc(_power, step_size=0.3, num_leapfrog=2)
    state = sampler.init((), torch.tensor([0.05]))
    noise = sampler.draw(random.key(0), state.position)._replace(momentum=torch.tensor([-3.0]))
    after, info = sampler.step((), sampler.tuning, state, noise)
    assert bool(info.is_divergent)
    assert not bool(info.is_accepted)
    assert float(info.acceptance_rate) == 0
    assert torch.equal(after.position, state.position)
    assert float(info.energy) == float(state.energy)


def test_a_large_error_of_the_energy_is_a_divergence():
    sampler = samplers.hmc(lambda params, x: (x**4).sum(), step_size=1.0, num_leapfrog=3)
    _, info = sampler(random.key(0), (), sampler.init((), torch.tensor([5.0])))
    assert bool(info.is_divergent)
    assert not bool(info.is_accepted)


def test_an_unadjusted_chain_that_blows_up_says_so():
    sampler = samplers.langevin(lambda params, x: (x**4).sum(), step_size=1.0)
    samples = ebm.sample(random.key(0), sampler, (), torch.full((2, 1), 5.0), num_samples=8, jit=False)
    assert not samples.info.is_divergent[:, 0].any()
    assert samples.info.is_divergent[:, -1].all()
    assert not torch.isfinite(samples.draws[:, -1]).any()


def _metropolis(log_ratio, uniform=0.5, energy=1.0, position=1.0):
    proposal = MalaState(torch.tensor([position]), torch.tensor(energy), torch.zeros(1))
    state = MalaState(torch.zeros(1), torch.tensor(0.0), torch.zeros(1))
    return samplers.metropolis_hastings(torch.tensor(log_ratio), torch.tensor(uniform), proposal, state, 1)


@pytest.mark.parametrize(
    ("arguments", "rate", "is_divergent"),
    [
        ({"log_ratio": 0.7}, 1.0, False),
        ({"log_ratio": math.log(0.25)}, 0.25, False),
        ({"log_ratio": -2000.0}, 0.0, True),
        ({"log_ratio": math.inf}, 1.0, False),  # from outside the support into it
        ({"log_ratio": -math.inf}, 0.0, True),
        ({"log_ratio": math.nan}, 0.0, True),
        ({"log_ratio": 1.0, "energy": math.inf}, 0.0, True),
        ({"log_ratio": 1.0, "energy": -math.inf}, 0.0, True),
        ({"log_ratio": 1.0, "energy": math.nan}, 0.0, True),
        ({"log_ratio": 1.0, "position": math.nan}, 0.0, True),
        ({"log_ratio": 1.0, "position": math.inf}, 0.0, True),
    ],
)
def test_the_metropolis_test_case_by_case(arguments, rate, is_divergent):
    for uniform in (0.0, 0.2, 0.3, 1 - 2.0**-24):
        state, info = _metropolis(uniform=uniform, **arguments)
        assert math.isclose(float(info.acceptance_rate), rate, rel_tol=1e-6)
        assert bool(info.is_divergent) == is_divergent
        assert bool(info.is_accepted) == (uniform < rate)
        assert bool(state.position == arguments.get("position", 1.0)) == bool(info.is_accepted)
        assert not math.isnan(float(state.position))


def test_metropolis_on_four_points_is_in_detailed_balance():
    """``pi_i P_ij = pi_j P_ji`` exactly, for a symmetric proposal and every pair."""
    energies = torch.tensor([0.0, 0.5, 2.0, 0.1], dtype=torch.float64)
    rate = vmap(vmap(lambda a, b: _rate(a, b), (None, 0)), (0, None))(energies, energies)
    flow = torch.exp(-energies)[:, None] * rate
    torch.testing.assert_close(flow, flow.T)


def _rate(before, after):
    proposal, state = ((MalaState(torch.zeros(1).double(), value, ())) for value in (after, before))
    return samplers.metropolis_hastings(before - after, torch.tensor(0.5).double(), proposal, state, 1)[
        1
    ].acceptance_rate


@pytest.mark.parametrize("energy", [_power, _half_line])
@pytest.mark.parametrize("name", ["langevin", "mala", "hmc", "dynamic_hmc", "ghmc", "gradient_descent", "nesterov"])
def test_a_chain_that_starts_outside_is_an_error_that_names_it(energy, name):
    positions = torch.tensor([[1.0], [-1.0], [2.0], [-0.5]])
    sampler = getattr(samplers, name)(energy, step_size=0.01)
    with pytest.raises(ValueError, match=r"finite at the start. Got chains 1, 3\. Start these chains inside"):
        ebm.sample(random.key(0), sampler, (), positions, num_samples=2, jit=False)


@pytest.mark.parametrize(
    ("factory", "num_calls", "num_gradients"),
    [
        (lambda energy: samplers.langevin(energy), 1, 1),
        (lambda energy: samplers.mala(energy), 1, 1),
        (lambda energy: samplers.hmc(energy, num_leapfrog=1), 1, 1),
        (lambda energy: samplers.hmc(energy, num_leapfrog=7), 7, 7),
        (lambda energy: samplers.ghmc(energy), 1, 1),
        (lambda energy: samplers.ghmc(energy, num_leapfrog=4), 4, 4),
        (lambda energy: samplers.gradient_descent(energy), 1, 1),
        (lambda energy: samplers.nesterov(energy), 2, 1),  # the energy of the info is that of the new position
    ],
)
def test_a_step_costs_what_its_info_says(factory, num_calls, num_gradients):
    calls = []

    def energy(params, x):
        calls.append(x)
        return (x**2).sum() / 2

    sampler = factory(energy)
    state = sampler.init((), torch.ones(2))
    for i in range(3):
        calls.clear()
        state, info = sampler(random.key(i), (), state)
        assert len(calls) == num_calls
        assert int(info.num_gradients) == num_gradients


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        (samplers.langevin, {"step_size": 0.0}, "step_size must be positive"),
        (samplers.langevin, {"temperature": -1.0}, "temperature must be positive"),
        (samplers.mala, {"step_size": torch.tensor([0.1, -0.1])}, "step_size must be positive"),
        (samplers.mala, {"step_size": math.nan}, "step_size must be positive"),
        (samplers.hmc, {"step_size": math.inf}, "step_size must be positive"),
        (samplers.hmc, {"num_leapfrog": 0}, "num_leapfrog must be an integer of at least 1"),
        (samplers.hmc, {"num_leapfrog": 2.0}, "num_leapfrog must be an integer"),
        (samplers.hmc, {"jitter": 0.0}, "jitter must be"),
        (samplers.hmc, {"jitter": 1.0}, "jitter must be"),
        (samplers.hmc, {"inverse_mass": torch.tensor([1.0, 0.0])}, "inverse_mass must be positive"),
    ],
)
def test_numbers_that_make_no_sense_are_errors(factory, options, message):
    with pytest.raises(ValueError, match=message):
        factory(_power, **options)
