"""Batch means: error bars that hold for chains that are not reversible."""

from __future__ import annotations

import math

import pytest
import torch
from tests.distributions import SIGMAS

import funcebm as ebm
from funcebm import random
from funcebm.diagnostics import ess, mcse_mean, mcse_sd

KEY = random.key(2)
HALF = {"method": "batch_means"}


def _autoregressive(rho, num_chains, num):
    noise = random.normal(KEY, (num, num_chains), dtype=torch.float64)
    rows = [noise[0] / (1 - rho**2) ** 0.5]
    for row in noise[1:]:
        rows.append(rho * rows[-1] + row)
    return torch.stack(rows, 1)


@pytest.mark.parametrize("rho", [0.0, 0.8, -0.6])
def test_an_autoregression_has_the_size_in_closed_form(rho):
    num_chains, num = 20, 10_000
    draws = _autoregressive(rho, num_chains, num)
    exact = num_chains * num * (1 - rho) / (1 + rho)
    size = 464  # 10,000^(2/3)
    num_batches = num_chains * (num // size)
    # a variance of as many batches; batches of this size miss 2 |rho| / (1 - rho^2) / size of the sum
    bias = 2 * abs(rho) / (1 - rho**2) / size
    tolerance = SIGMAS * math.sqrt(2 / num_batches) + bias
    assert abs(float(ess(draws, **HALF)) / exact - 1) < tolerance
    spread = draws.std()
    torch.testing.assert_close(mcse_mean(draws, **HALF), spread / ess(draws, **HALF).sqrt(), rtol=1e-4, atol=0)


def test_constants_bad_names_and_trees():
    assert float(ess(torch.ones(2, 9), **HALF)) == 18
    assert ess({"a": torch.rand(2, 9, 3)}, **HALF)["a"].shape == (3,)
    for function in (ess, mcse_mean, mcse_sd):
        with pytest.raises(ValueError, match=r'method must be one of two. Got bulk. Write "initial_sequence"'):
            function(torch.zeros(2, 9), method="bulk")


@pytest.mark.slow
def test_error_bars_of_ghmc_with_small_refreshment():
    """Root mean squares of (estimate - truth) / error over 400 runs of 4 chains on a normal target: 1 for right error bars."""
    num, groups = 2500, 400
    sampler = ebm.samplers.ghmc(lambda params, x: (x**2).sum() / 2, step_size=0.5, alpha=0.1)
    starts = random.normal(KEY, (groups * 4, 1), dtype=torch.float64)
    run = ebm.sample(random.fold_in(KEY, 1), sampler, (), starts, num_samples=num, num_burn_in=50, jit=False)
    draws = run.draws[..., 0].unflatten(0, (groups, 4)).permute(1, 2, 0)  # (4, N, groups): a coordinate for each group
    mean, sd = draws.mean((0, 1)), draws.flatten(0, 1).std(0)
    rms = lambda z: float((z**2).mean().sqrt())  # noqa: E731
    found = {}
    for method in ("initial_sequence", "batch_means"):
        errors = mcse_mean(draws, method=method), mcse_sd(draws, method=method)
        found[method] = rms(mean / errors[0]), rms((sd - 1) / errors[1])
    print(found)
    # 400 squares; the errors themselves are of 52 batches of 184 draws, which are ten times longer than the correlations
    for value in found["batch_means"]:
        assert abs(value - 1) < SIGMAS / math.sqrt(2 * groups) + 0.05
    assert found["initial_sequence"][0] < 0.9 and found["initial_sequence"][1] > 1.1
