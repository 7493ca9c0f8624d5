"""Every diagnostic that ArviZ has gives its number, whatever the shape, dtype, ties and scale."""

import logging
import math
import warnings

import hypothesis
import pytest
import torch
from hypothesis import strategies

from funcebm import random
from funcebm.diagnostics import (
    ebfmi,
    ess,
    ess_bulk,
    ess_quantile,
    ess_tail,
    folded_rhat,
    mcse_mean,
    mcse_quantile,
    mcse_sd,
    rhat,
    split_rhat,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import arviz as az

TABLE = {
    "rhat": (rhat, az.rhat, {}),
    "split_rhat": (split_rhat, az.rhat, {"method": "split"}),
    "folded_rhat": (folded_rhat, az.rhat, {"method": "folded"}),
    "ess": (ess, az.ess, {"method": "mean"}),
    "ess_bulk": (ess_bulk, az.ess, {}),
    "ess_tail": (ess_tail, az.ess, {"method": "tail"}),
    "ess_tail_01": (lambda draws: ess_tail(draws, 0.01), az.ess, {"method": "tail", "prob": 0.01}),
    "ess_quantile": (lambda draws: ess_quantile(draws, 0.3), az.ess, {"method": "quantile", "prob": 0.3}),
    "ess_median": (lambda draws: ess_quantile(draws, 0.5), az.ess, {"method": "median"}),
    "mcse_mean": (mcse_mean, az.mcse, {}),
    "mcse_sd": (mcse_sd, az.mcse, {"method": "sd"}),
    "mcse_quantile": (lambda draws: mcse_quantile(draws, 0.9), az.mcse, {"method": "quantile", "prob": 0.9}),
    "mcse_far_quantile": (lambda draws: mcse_quantile(draws, 0.01), az.mcse, {"method": "quantile", "prob": 0.01}),
}

DISTRIBUTIONS = {
    "normal": lambda z: z,
    "slow": lambda z: autoregressive(z, 0.95),
    "alternating": lambda z: autoregressive(z, -0.9),
    "apart": lambda z: z + torch.arange(z.shape[0])[:, None, None],
    "wider": lambda z: z * (1 + torch.arange(z.shape[0]))[:, None, None],
    "heavy": lambda z: z**5,
    "rounded": lambda z: (2 * z).round(),
    "coin": lambda z: z > 0,
    "rare": lambda z: (z > 1.5).long(),
    "float32": lambda z: z.float(),
    "float32, far from zero": lambda z: (z + 1000).float(),
}


def autoregressive(noise, rho):
    draws = noise.clone()
    for t in range(1, noise.shape[1]):
        draws[:, t] = rho * draws[:, t - 1] + math.sqrt(1 - rho**2) * noise[:, t]
    return draws


def by_arviz(function, draws, **options):
    logging.getLogger("arviz").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = az.convert_to_dataset({"x": draws.double().numpy()})
        return torch.as_tensor(function(data, **options).x.values)


def agree(name, draws):
    ours, function, options = TABLE[name]
    if name.endswith("rhat") and draws.shape[0] == 1:
        return  # ArviZ gives no R-hat of one chain, though it has two halves
    expected = by_arviz(function, draws, **options)
    torch.testing.assert_close(ours(draws), expected, rtol=1e-6, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_numbers_are_those_of_arviz(name, distribution):
    for num_chains, num in ((1, 4), (1, 51), (2, 5), (2, 100), (3, 6), (4, 7), (5, 9), (4, 101), (7, 400)):
        noise = random.normal(random.fold_in(random.key(num_chains), num), (num_chains, num, 3), dtype=torch.float64)
        agree(name, DISTRIBUTIONS[distribution](noise))


@pytest.mark.parametrize("name", TABLE)
@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(
    seed=strategies.integers(0, 2**31 - 1),
    num_chains=strategies.integers(1, 6),
    num=strategies.integers(4, 60),
    rho=strategies.floats(-0.95, 0.95),
    digits=strategies.integers(-1, 3),
)
def test_any_draws_agree_with_arviz(name, seed, num_chains, num, rho, digits):
    noise = random.normal(random.key(seed), (num_chains, num, 1), dtype=torch.float64)
    draws = autoregressive(noise, rho)
    if digits >= 0:  # ties
        draws = (draws * 10**digits).round() / 10**digits
    draws[0, 0] += 0.5  # ArviZ and we differ on what is constant but for rounding
    agree(name, draws)


def test_ebfmi_is_that_of_arviz():
    energies = random.normal(random.key(0), (5, 301), dtype=torch.float64).cumsum(1)
    torch.testing.assert_close(ebfmi(energies), torch.as_tensor(az.bfmi(energies.numpy())), rtol=1e-12, atol=0)
