"""A Metropolis sampler that starts in its target stays in it, at any step size: the exact test of the whole kernel."""

from __future__ import annotations

import pytest
import torch
from tests.distributions import assert_covariance, assert_mean, assert_same_distribution
from tests.targets import DENSE, draw_skewed, skewed
from torch.func import vmap

import funcebm as ebm
from funcebm import energies, integrators, random, samplers

NUM_CHAINS = 16000


CASES = {
    "mala": lambda t: samplers.mala(skewed, step_size=0.5 / t, temperature=t),
    "mala_large": lambda t: samplers.mala(skewed, step_size=1.2 / t, temperature=t),
    "mala_diagonal": lambda t: samplers.mala(
        skewed, step_size=0.8 / t, preconditioner=torch.tensor([0.4, 1.5]), temperature=t
    ),
    "mala_dense": lambda t: samplers.mala(skewed, step_size=0.8 / t, preconditioner=DENSE, temperature=t),
    "barker": lambda t: samplers.barker(skewed, step_size=1.2, temperature=t),
    "barker_dense": lambda t: samplers.barker(skewed, step_size=1.4, preconditioner=DENSE, temperature=t),
    "random_walk": lambda t: samplers.random_walk(skewed, step_size=1.5, temperature=t),
    "random_walk_dense": lambda t: samplers.random_walk(skewed, step_size=1.5, preconditioner=DENSE, temperature=t),
    "random_walk_uniform": lambda t: samplers.random_walk(
        skewed, step_size=2.0, proposal=lambda key, x: random.uniform(key, (2,), low=-1.0), temperature=t
    ),
    "hmc": lambda t: samplers.hmc(skewed, step_size=0.7, num_leapfrog=3, temperature=t),
    "hmc_large": lambda t: samplers.hmc(skewed, step_size=1.2, num_leapfrog=2, temperature=t),
    "hmc_diagonal": lambda t: samplers.hmc(
        skewed, step_size=0.8, num_leapfrog=3, inverse_mass=torch.tensor([0.4, 1.5]), temperature=t
    ),
    "hmc_dense": lambda t: samplers.hmc(skewed, step_size=0.8, num_leapfrog=3, inverse_mass=DENSE, temperature=t),
    "hmc_jittered": lambda t: samplers.hmc(skewed, step_size=0.7, num_leapfrog=3, jitter=0.9, temperature=t),
    "hmc_position_leapfrog": lambda t: samplers.hmc(
        skewed, step_size=0.7, num_leapfrog=3, integrator=integrators.position_leapfrog, temperature=t
    ),
    "hmc_mclachlan": lambda t: samplers.hmc(
        skewed, step_size=1.3, num_leapfrog=2, integrator=integrators.mclachlan, temperature=t
    ),
    "hmc_yoshida": lambda t: samplers.hmc(
        skewed, step_size=0.7, num_leapfrog=2, integrator=integrators.yoshida, temperature=t
    ),
    "hmc_multinomial": lambda t: samplers.hmc(
        skewed, step_size=0.8, num_leapfrog=4, inverse_mass=DENSE, endpoint="multinomial", temperature=t
    ),
    "dynamic_hmc": lambda t: samplers.dynamic_hmc(skewed, step_size=0.7, trajectory_length=4.0, temperature=t),
    "dynamic_hmc_uniform": lambda t: samplers.dynamic_hmc(
        skewed, step_size=0.7, trajectory_length=4.0, lengths="uniform", temperature=t
    ),
    "ghmc": lambda t: samplers.ghmc(skewed, step_size=0.9, inverse_mass=DENSE, temperature=t),
    "ghmc_three_steps": lambda t: samplers.ghmc(skewed, step_size=0.7, num_leapfrog=3, alpha=0.4, temperature=t),
    "adjusted_mclmc": lambda t: samplers.adjusted_mclmc(
        energies.tempered(skewed, 1 / t), step_size=1.8, trajectory_length=4.0
    ),
    "adjusted_mclmc_dense": lambda t: samplers.adjusted_mclmc(
        energies.tempered(skewed, 1 / t), step_size=1.2, num_steps=3, inverse_mass=DENSE, integrator="leapfrog"
    ),
    "nuts": lambda t: samplers.nuts(skewed, step_size=0.8, max_depth=3, temperature=t),
    "nuts_dense": lambda t: samplers.nuts(skewed, step_size=0.9, max_depth=3, inverse_mass=DENSE, temperature=t),
}


def test_the_density_and_the_exact_draws_belong_together():
    """Stein: with the score ``s`` of the density, ``E[s(x)] = 0`` and ``E[x s(x)^T] = -I``."""
    draws = draw_skewed(random.key(0), 30000).double()
    scores = vmap(lambda x: -torch.func.grad(lambda x: skewed(torch.tensor(1.0), x))(x))(draws)
    assert_mean(scores, 0.0)
    assert_mean(draws[:, :, None] * scores[:, None, :], -torch.eye(2))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("name", list(CASES))
def test_the_target_is_invariant_at_large_steps(name, temperature):
    start, other = (draw_skewed(random.key(seed), NUM_CHAINS) for seed in (11, 12))
    options = {"num_samples": 1, "thin": 3, "jit": False}
    samples = ebm.sample(random.key(13), CASES[name](temperature), torch.tensor(temperature), start, **options)
    assert 0.15 < float(samples.info.acceptance_rate.mean()) < 0.95
    assert_same_distribution(samples.draws[:, 0], other)


def test_the_test_can_tell_a_wrong_kernel():
    """Without its Metropolis test, Langevin at this step size does not keep the distribution; the statement above sees it."""
    start, other = (draw_skewed(random.key(seed), NUM_CHAINS) for seed in (11, 12))
    sampler = samplers.langevin(skewed, step_size=0.2)
    samples = ebm.sample(random.key(13), sampler, torch.tensor(1.0), start, num_samples=1, thin=3, jit=False)
    with pytest.raises(AssertionError):
        assert_same_distribution(samples.draws[:, 0], other)


@pytest.mark.parametrize(
    "name",
    ["mala", "mala_dense", "barker", "barker_dense", "random_walk", "hmc", "hmc_jittered", "adjusted_mclmc"]
    + ["hmc_yoshida", "hmc_multinomial", "dynamic_hmc", "dynamic_hmc_uniform", "nuts", "nuts_dense"],
)
def test_one_step_is_in_detailed_balance(name):
    """In equilibrium ``(x, x')`` and ``(x', x)`` have one distribution; a skewed moment tells them apart."""
    start = draw_skewed(random.key(21), NUM_CHAINS)
    samples = ebm.sample(random.key(22), CASES[name](1.0), torch.tensor(1.0), start, num_samples=1, jit=False)
    x, y = start.double(), samples.draws[:, 0].double()
    squashed = torch.tanh(x) * y**2 - torch.tanh(y) * x**2
    assert_mean(squashed, 0.0)
    assert_mean(torch.sigmoid(x[:, 0]) * y[:, 1] - torch.sigmoid(y[:, 0]) * x[:, 1], 0.0)


@pytest.mark.parametrize(("k", "step_size", "temperature"), [(1.0, 0.5, 1.0), (2.0, 0.8, 1.0), (1.5, 0.3, 2.0)])
def test_unadjusted_langevin_on_a_gaussian_has_the_known_variance(k, step_size, temperature):
    """``T / (k (1 - h k / 2))``, both as a fixed point and as the limit from elsewhere."""
    expected = temperature / (k * (1 - step_size * k / 2))
    sampler = samplers.langevin(lambda k, x: k * (x**2).sum() / 2, step_size=step_size, temperature=temperature)
    stationary = expected**0.5 * random.normal(random.key(31), (NUM_CHAINS, 2))
    for start, steps in ((stationary, 1), (torch.full_like(stationary, 3.0), 25)):
        options = {"num_samples": 1, "thin": steps, "jit": False}
        draws = ebm.sample(random.key(32), sampler, torch.tensor(k), start, **options).draws[:, 0]
        assert_mean(draws, 0.0, bias=1e-4)
        assert_covariance(draws, expected * torch.eye(2), bias=1e-4)


def test_chains_forget_where_they_started():
    sampler = CASES["hmc"](1.0)
    start = torch.tensor([1.5, -4.0]).expand(5000, 2).clone()
    samples = ebm.sample(random.key(41), sampler, torch.tensor(1.0), start, num_samples=1, num_burn_in=60, jit=False)
    assert_same_distribution(samples.draws[:, 0], draw_skewed(random.key(42), NUM_CHAINS))
