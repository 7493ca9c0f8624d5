"""Effective sample sizes: closed forms, invariances, bad input."""

import math

import pytest
import torch
from tests.diagnostics.series import autoregressive

from funcebm import random
from funcebm.diagnostics import ess, ess_bulk, ess_quantile, ess_tail

ALL = {"ess": ess, "ess_bulk": ess_bulk, "ess_tail": ess_tail, "ess_quantile": lambda draws: ess_quantile(draws, 0.2)}


@pytest.mark.parametrize("name", ["ess", "ess_bulk"])
@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.5, 0.9])
def test_an_autoregression_has_the_ess_of_its_closed_form(name, rho):
    num_chains, num, repeats = 4, 2000, 50
    draws = autoregressive(random.key(7), (num_chains, num, repeats), rho)
    relative = ALL[name](draws) / (num_chains * num)
    expected = (1 - rho) / (1 + rho)
    error = relative.std() / math.sqrt(repeats)
    assert abs(relative.mean() - expected) < 5 * error + 0.03 * expected  # the truncation has a bias of about tau / n


@pytest.mark.parametrize("rho", [0.5, 0.9])
def test_the_median_of_an_autoregression_has_the_ess_of_its_closed_form(rho):
    """The signs of two normals of correlation r have the correlation (2 / pi) asin(r)."""
    num_chains, num, repeats = 4, 2000, 50
    draws = autoregressive(random.key(8), (num_chains, num, repeats), rho)
    relative = ess_quantile(draws, 0.5) / (num_chains * num)
    lags = torch.arange(1, 2000, dtype=torch.float64)
    expected = 1 / (1 + 2 * (2 / math.pi * torch.asin(rho**lags)).sum())
    error = relative.std() / math.sqrt(repeats)
    assert abs(relative.mean() - expected) < 5 * error + 0.03 * expected


def test_the_ess_for_a_scale_that_changes_slowly_is_seen_by_the_tails_alone():
    """Signs at random, sizes that mix slowly: the mean is well known, the tails are not."""
    size = autoregressive(random.key(9), (4, 2000), 0.98).abs()
    draws = size * random.rademacher(random.key(10), (4, 2000), dtype=torch.float64)
    assert float(ess_bulk(draws)) > 5000
    assert float(ess_tail(draws)) < 1000


@pytest.mark.parametrize("name", ALL)
def test_independent_draws_count_one_each(name):
    draws = random.normal(random.key(1), (8, 1000, 20), dtype=torch.float64)
    relative = ALL[name](draws) / 8000
    assert abs(relative.mean() - 1) < 0.05


def test_ranks_do_not_change_under_monotone_maps_and_need_no_moments():
    draws = autoregressive(random.key(2), (4, 500, 3), 0.7)
    for function in (ess_bulk, ess_tail):
        torch.testing.assert_close(function(draws.exp()), function(draws), rtol=1e-12, atol=0)
    reciprocal = 1 / draws  # a distribution without a mean
    assert bool((ess_bulk(reciprocal) > 400).all())


@pytest.mark.parametrize("name", ALL)
def test_constants_and_scale(name):
    assert float(ALL[name](torch.full((3, 100), 0.1))) == 300
    draws = autoregressive(random.key(5), (3, 200, 4), 0.6)
    torch.testing.assert_close(ALL[name](draws * 1e-20), ALL[name](draws), rtol=1e-9, atol=0)
    torch.testing.assert_close(ALL[name](draws + 5), ALL[name](draws), rtol=1e-9, atol=0)


def test_many_chains_are_transformed_in_parts(monkeypatch):
    from funcebm.diagnostics import effective_sample_size

    draws = autoregressive(random.key(8), (7, 64, 2), 0.5)
    whole = ess(draws)
    monkeypatch.setattr(effective_sample_size, "_CHUNK", 700)
    torch.testing.assert_close(ess(draws), whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize("prob", [0.0, 1.0, -0.1, math.nan, "0.5"])
def test_a_probability_is_between_0_and_1(prob):
    for function in (ess_quantile, ess_tail):
        with pytest.raises(ValueError, match="prob must be a number between 0 and 1"):
            function(torch.zeros(2, 10), prob)
