"""Monte Carlo standard errors are the spread of what they are the error of."""

import math

import pytest
import torch
from scipy import stats
from tests.diagnostics.series import autoregressive

from funcebm import random
from funcebm.diagnostics import mcse_mean, mcse_quantile, mcse_sd
from funcebm.diagnostics.monte_carlo_error import beta_quantiles

REPEATS = 400


def assert_standard(z, spread):
    """``REPEATS`` deviations in units of their standard errors have mean 0 and variance 1, but for ``spread``."""
    assert abs(z.mean()) < 5 / math.sqrt(REPEATS) + spread
    assert abs(z.var() - 1) < 5 * math.sqrt(2 / REPEATS) + spread


@pytest.mark.parametrize("rho", [-0.5, 0.8])
def test_the_standard_errors_are_those_of_mean_sd_and_quantiles(rho):
    draws = autoregressive(random.key(3), (4, 1000, REPEATS), rho)
    flat = draws.flatten(0, 1)
    assert_standard(flat.mean(0) / mcse_mean(draws), 0.0)
    assert_standard((flat.std(0) - 1) / mcse_sd(draws), 0.05)
    for prob in (0.1, 0.5):
        truth = stats.norm.ppf(prob)
        assert_standard((flat.quantile(prob, 0) - truth) / mcse_quantile(draws, prob), 0.1)


def test_the_error_of_the_sd_needs_no_normal_law():
    """Exponential draws: the variance of (x - 1)^2 is 8, not 2, so the error of the sd is sqrt(8 / 4 / N) and not half."""
    draws = -random.uniform(random.key(4), (4, 5000, 20), dtype=torch.float64).log()
    expected = math.sqrt(8 / 4 / 20_000)
    assert abs(float(mcse_sd(draws).mean()) / expected - 1) < 0.05


def test_a_constant_has_no_error():
    still = torch.full((3, 100), 0.1)
    assert float(mcse_mean(still)) == 0
    assert float(mcse_quantile(still, 0.3)) == 0
    assert bool(mcse_sd(still).isnan())


@pytest.mark.parametrize("function", [mcse_mean, mcse_sd, lambda draws: mcse_quantile(draws, 0.3)])
def test_errors_have_the_units_of_the_draws(function):
    draws = autoregressive(random.key(5), (3, 200, 4), 0.6)
    torch.testing.assert_close(function(draws * 1e-20), 1e-20 * function(draws), rtol=1e-9, atol=0)
    torch.testing.assert_close(function(draws + 5), function(draws), rtol=1e-9, atol=0)


def test_beta_quantiles_are_those_of_scipy():
    a = torch.tensor([1.0, 1.0, 1.001, 1.1, 2.0, 50.0, 1e5, 1e6, 2.0], dtype=torch.float64)
    b = torch.tensor([1.0, 1e6, 1.001, 100.0, 5.0, 3.0, 1e3, 1e6, 1e7], dtype=torch.float64)
    expected = torch.as_tensor(stats.beta.ppf(stats.norm.cdf([[-1.0, 1.0]]), a[:, None].numpy(), b[:, None].numpy()))
    torch.testing.assert_close(beta_quantiles(a, b), expected, rtol=1e-9, atol=0)


def test_a_probability_is_between_0_and_1():
    with pytest.raises(ValueError, match="prob must be a number between 0 and 1"):
        mcse_quantile(torch.zeros(2, 10), 1.0)
