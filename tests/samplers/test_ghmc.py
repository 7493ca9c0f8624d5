"""Generalised HMC: its whole distribution from the first step on, what it reduces to, and that its dynamics are reversible."""

from __future__ import annotations

import math

import pytest
import torch
from tests.distributions import assert_covariance, assert_mean, assert_same_distribution, assert_uniform
from tests.targets import draw_skewed, skewed
from torch.func import vmap

import funcebm as ebm
from funcebm import random, samplers, tree

NUM_CHAINS = 16000
DENSE = torch.tensor([[0.6, 0.4], [0.4, 1.1]], dtype=torch.float64)
ONE = torch.tensor(1.0, dtype=torch.float64)


def _ghmc(**options):
    sampler = samplers.ghmc(skewed, **{"step_size": 0.75, "inverse_mass": DENSE, **options})
    return sampler._replace(tuning=tree.map(torch.Tensor.double, sampler.tuning))


def _states(sampler, num=200, seed=1):
    """In equilibrium: exact positions, normal momenta, uniform slices."""
    key_x, key_z, key_u = random.split(random.key(seed), 3)
    state = vmap(sampler.init, (None, 0))(ONE, draw_skewed(key_x, num).double())
    momentum = random.normal(key_z, (num, 2), dtype=torch.float64)
    uniform = random.uniform(key_u, (num,), low=-1.0, dtype=torch.float64)
    return state._replace(momentum=momentum, slice=uniform, is_fresh=torch.zeros_like(uniform, dtype=torch.bool))


def _noise(sampler, num=200, seed=2):
    return vmap(sampler.draw, (0, None))(random.split(random.key(seed), num), torch.zeros(2, dtype=torch.float64))


# -- the distribution ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize(("num_leapfrog", "alpha"), [(1, 0.05), (1, 0.7), (3, 0.3)])
@pytest.mark.parametrize("num_steps", [1, 2, 9])
def test_position_momentum_and_slice_have_their_law_after_any_number_of_steps(
    num_steps, num_leapfrog, alpha, temperature
):
    """Started at exact positions, without momentum or slice: those are drawn by the first step."""
    start, other = (draw_skewed(random.key(seed), NUM_CHAINS) for seed in (11, 12))
    options = {"num_leapfrog": num_leapfrog, "alpha": alpha, "inverse_mass": DENSE.float(), "temperature": temperature}
    sampler = samplers.ghmc(skewed, step_size=0.8, **options)
    run = {"num_samples": 1, "thin": num_steps, "jit": False}
    samples = ebm.sample(random.key(13), sampler, torch.tensor(temperature), start, **run)
    assert 0.2 < float(samples.info.acceptance_rate.mean()) < 0.95
    state = samples.state
    assert_same_distribution(state.position, other)
    assert_mean(state.momentum, 0.0)
    assert_covariance(state.momentum, torch.eye(2))
    assert_same_distribution(state.momentum, random.normal(random.key(14), (NUM_CHAINS, 2)))
    assert_uniform(torch.histc(state.slice, 20, -1, 1))
    assert float(state.slice.abs().max()) <= 1
    squashed = torch.tanh(state.position)  # independent of one another
    assert_mean(squashed[:, :, None] * state.momentum[:, None, :], 0.0)
    assert_mean((squashed - squashed.mean(0)) * state.slice.abs()[:, None], 0.0)
    assert_mean((state.momentum**2 - 1) * state.slice.abs()[:, None], 0.0)


def test_one_step_keeps_the_flow_going():
    """A rejection turns the momentum around, an acceptance does not: that is what makes it go on."""
    sampler = _ghmc(alpha=1e-12)
    state = _states(sampler)
    after, info = sampler.batched_step(ONE, sampler.tuning, state, _noise(sampler))
    rejected = ~info.is_accepted
    assert 0 < int(rejected.sum()) < 200
    torch.testing.assert_close(after.momentum[rejected], -state.momentum[rejected], rtol=1e-5, atol=1e-5)
    assert torch.equal(after.position[rejected], state.position[rejected])
    moved = (after.position - state.position) * torch.linalg.solve(
        torch.linalg.cholesky(DENSE).mT, state.momentum.mT
    ).mT
    assert float(moved[info.is_accepted].sum(1).mean()) > 0


# -- reductions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_leapfrog", [1, 4])
def test_with_full_refreshment_it_is_hmc_noise_for_noise(num_leapfrog):
    """The uniform of each test of HMC is the size of the slice, which the test before left behind."""
    options = {"num_leapfrog": num_leapfrog, "inverse_mass": DENSE, "temperature": 0.75}
    ghmc = _ghmc(alpha=1.0, delta=0.3, **options)
    hmc = samplers.hmc(skewed, step_size=0.75, **options)
    hmc = hmc._replace(tuning=tree.map(torch.Tensor.double, hmc.tuning))
    start = draw_skewed(random.key(3), 200).double()
    states = [vmap(sampler.init, (None, 0))(ONE, start) for sampler in (ghmc, hmc)]
    hmc_noise = vmap(hmc.draw)(random.split(random.key(4), 200), start)
    accepted = []
    for i in range(6):
        noise = _noise(ghmc, seed=20 + i)
        drifted = 2 * noise.uniform - 1 if i == 0 else torch.remainder(states[0].slice + 1 + ghmc.tuning.delta, 2) - 1
        hmc_noise = hmc_noise._replace(momentum=noise.momentum, uniform=drifted.abs())
        states[0], info = ghmc.batched_step(ONE, ghmc.tuning, states[0], noise)
        states[1], expected = hmc.batched_step(ONE, hmc.tuning, states[1], hmc_noise)
        torch.testing.assert_close(states[0].position, states[1].position, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(info.acceptance_rate, expected.acceptance_rate, rtol=1e-8, atol=1e-9)
        assert torch.equal(info.is_accepted, expected.is_accepted)
        accepted.append(info.is_accepted.double().mean())
    assert 0.1 < float(torch.stack(accepted).mean()) < 0.9


def test_a_step_size_of_zero_freezes_the_state_exactly():
    sampler = _ghmc(num_leapfrog=2)
    zero = torch.zeros((), dtype=torch.float64)
    state = _states(sampler)
    for alpha in (zero, sampler.tuning.alpha):
        tuning = sampler.tuning._replace(step_size=zero, alpha=alpha, delta=alpha / 2)
        after, _ = sampler.batched_step(ONE, tuning, state, _noise(sampler))
        assert all(torch.equal(a, b) for a, b in zip(tree.leaves(after), tree.leaves(state), strict=True))


def test_a_frozen_chain_draws_its_momentum_when_it_first_moves():
    sampler = _ghmc()
    fresh = vmap(sampler.init, (None, 0))(ONE, draw_skewed(random.key(5), 50).double())
    frozen, _ = sampler.batched_step(ONE, sampler.tuning._replace(step_size=0 * ONE), fresh, _noise(sampler, 50))
    assert frozen.is_fresh.all()
    noise = _noise(sampler, 50, seed=6)
    after, info = sampler.batched_step(ONE, sampler.tuning, frozen, noise)
    assert not after.is_fresh.any()
    rejected = ~info.is_accepted
    assert torch.equal(after.momentum[rejected], -noise.momentum[rejected])
    assert torch.equal(after.slice[rejected], 2 * noise.uniform[rejected] - 1)


# -- the dynamics -------------------------------------------------------------------------------------------------


def _frozen_noise_tuning(sampler):
    """Neither refreshment nor drift: a step is a deterministic map."""
    return sampler.tuning._replace(alpha=0 * ONE, delta=0 * ONE)


@pytest.mark.parametrize("num_leapfrog", [1, 3])
def test_without_refreshment_turning_the_momentum_goes_back(num_leapfrog):
    """``R F R F`` is the identity on (position, momentum, slice), for acceptances and rejections alike."""
    sampler = _ghmc(num_leapfrog=num_leapfrog)
    tuning, noise, state = _frozen_noise_tuning(sampler), _noise(sampler), _states(sampler)
    turn = lambda state: state._replace(momentum=-state.momentum)  # noqa: E731
    there, info = sampler.batched_step(ONE, tuning, state, noise)
    back, _ = sampler.batched_step(ONE, tuning, turn(there), noise)
    back = turn(back)
    assert 0 < float(info.is_accepted.double().mean()) < 1
    for a, b in zip(tree.leaves(back), tree.leaves(state), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_without_refreshment_a_step_keeps_the_measure():
    """The Jacobian determinant of (x, z, u) is ``exp(H' - H)`` in size, 1 where it rejects: density times volume is kept."""
    sampler = _ghmc(num_leapfrog=2, step_size=1.25)
    tuning, states = _frozen_noise_tuning(sampler), _states(sampler, 12)
    noise = tree.map(lambda leaf: leaf[0], _noise(sampler))
    energy_of = lambda x, z: skewed(ONE, x) + z @ z / 2  # noqa: E731

    def flow(x, z, u, state):
        value, slope = skewed(ONE, x), torch.func.grad(skewed, 1)(ONE, x)
        state = state._replace(position=x, momentum=z, slice=u, energy=value, gradient=slope)
        after, _ = sampler.step(ONE, tuning, state, noise)
        return torch.cat([after.position, after.momentum, after.slice[None]])

    outcomes = set()
    for i in range(12):
        state = tree.map(lambda leaf: leaf[i], states)  # noqa: B023
        x, z, u = state.position, state.momentum, state.slice
        blocks = torch.func.jacrev(flow, (0, 1, 2))(x, z, u, state)
        jacobian = torch.cat([blocks[0], blocks[1], blocks[2][:, None]], 1)
        end = flow(x, z, u, state)
        expected = torch.exp(energy_of(end[:2], end[2:4]) - energy_of(x, z))
        torch.testing.assert_close(torch.linalg.det(jacobian).abs(), expected, rtol=1e-9, atol=1e-12)
        outcomes.add(bool((end[:2] == x).all()))
    assert outcomes == {True, False}


def test_the_slice_drifts_around_the_interval():
    """With every proposal rejected, ``u`` goes on by ``delta`` and comes back in at -1."""
    sampler = _ghmc(delta=0.3, step_size=60.0)
    state = tree.map(lambda leaf: leaf[0], _states(sampler))._replace(slice=torch.tensor(0.5).double())
    slices = []
    for i in range(8):
        state, info = sampler(random.key(i), ONE, state)
        assert not bool(info.is_accepted)
        assert bool(info.is_divergent)
        slices.append(float(state.slice))
    expected = [(0.5 + 1 + 0.3 * (i + 1)) % 2 - 1 for i in range(8)]
    assert max(abs(a - b) for a, b in zip(slices, expected, strict=True)) < 1e-6


# -- the door -----------------------------------------------------------------------------------------------------


def test_delta_is_half_of_alpha_unless_given():
    assert float(samplers.ghmc(skewed, alpha=0.3).tuning.delta) == pytest.approx(0.15)
    assert float(samplers.ghmc(skewed, alpha=0.3, delta=0.0).tuning.delta) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_size": 0.0}, "step_size must be positive"),
        ({"num_leapfrog": 0}, "num_leapfrog must be an integer of at least 1"),
        ({"alpha": 0.0}, "alpha must be positive"),
        ({"alpha": 1.5}, "alpha must be at most 1"),
        ({"alpha": math.nan}, "alpha must be positive"),
        ({"delta": -0.1}, r"delta must be in \[0, 1\]"),
        ({"delta": 1.1}, r"delta must be in \[0, 1\]"),
        ({"temperature": -1.0}, "temperature must be positive"),
        ({"inverse_mass": torch.tensor([1.0, 0.0])}, "inverse_mass must be positive"),
    ],
)
def test_numbers_that_make_no_sense_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        samplers.ghmc(skewed, **options)
