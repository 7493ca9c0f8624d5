"""Sequential Monte Carlo: resampling, tempering, evidence within its error bar, calibrated."""

from __future__ import annotations

import math

import pytest
import torch
from torch.func import vmap

from funcebm import energies, normalizers, random, samplers
from funcebm.normalizers.sequential_monte_carlo import next_beta, systematic_resampling

from ..distributions import assert_mean


def _reference(dim: int, scale: float = 1.0):
    params = energies.gaussian.params(torch.zeros(dim).double(), scale**2 * torch.eye(dim).double())
    return {"reference": energies.gaussian, "reference_params": params}


def test_systematic_resampling_is_unbiased_and_even():
    weights = torch.tensor([0.05, 0.45, 0.0, 0.3, 0.2], dtype=torch.float64)
    offsets = random.uniform(random.key(0), (4000,), dtype=torch.float64)
    indices = vmap(lambda u: systematic_resampling(weights.log(), u))(offsets)
    counts = (indices[:, :, None] == torch.arange(5)).sum(1)
    assert_mean(counts[:, [0, 1, 3, 4]].double(), 5 * weights[[0, 1, 3, 4]])
    assert int((counts - 5 * weights).abs().max().ceil()) == 1 and not counts[:, 2].any()


def test_next_temperature_keeps_the_effective_sample_size():
    differences = -random.normal(random.key(0), (1000,), dtype=torch.float64).exp() * 50
    beta = next_beta(differences, 0.1, 0.5)
    weights = torch.softmax((beta - 0.1) * differences, 0)
    assert abs(float(1 / (weights**2).sum()) / 1000 - 0.5) < 1e-6
    assert next_beta(differences * 1e-6, 0.1, 0.5) == 1.0


@pytest.mark.parametrize("make", ["mala", "hmc"])
def test_evidence_of_a_bayesian_regression(make):
    """Eight numbers with a normal prior on their mean: the evidence is a Gaussian density."""
    data = torch.tensor([2.3, 1.1, 0.4, 3.3, 2.0, -0.2, 1.7, 2.9], dtype=torch.float64)

    def energy(params, x):
        prior = (x**2).sum() / (2 * 4.0) + math.log(2 * math.pi * 4.0) / 2
        return prior + ((params - x[0]) ** 2).sum() / 2 + len(data) * math.log(2 * math.pi) / 2

    cov = torch.eye(8, dtype=torch.float64) + 4.0
    truth = float(torch.distributions.MultivariateNormal(torch.zeros(8).double(), cov).log_prob(data))
    factory = {
        "mala": None,
        "hmc": lambda energy: samplers.hmc(energy, step_size=0.3, num_leapfrog=4),
    }[make]
    result = normalizers.sequential_monte_carlo(
        random.key(0), energy, data, **_reference(1, 2.0), sampler=factory, num_moves=4, jit=False
    )
    assert result.is_finished and float(result.betas[-1]) == 1 and (result.betas.diff() > 0).all()
    assert float(result.standard_error) < 0.2
    assert abs(float(result.log_normalizer) - truth) < 5 * float(result.standard_error)
    assert result.group_log_normalizers.shape == (16,) and result.log_weights.shape == (1024,)


def test_weighted_draws_and_lost_modes():
    """Two modes of unequal weight, far apart: the share of each is right, as resampling keeps both."""
    means, weights = torch.tensor([[4.0, 0.0], [-4.0, 0.0]]).double(), torch.tensor([0.8, 0.2]).double()
    params = energies.gaussian_mixture.params(means, 0.5, weights=weights)
    result = normalizers.sequential_monte_carlo(
        random.key(3),
        energies.gaussian_mixture,
        params,
        **_reference(2, 4.0),
        num_moves=4,
        num_particles=2048,
        jit=False,
    )
    weights = torch.softmax(result.log_weights, 0).reshape(16, -1)
    shares = (weights * (result.positions[:, 0] > 0).reshape(16, -1)).sum(1) / weights.sum(1)
    assert_mean(shares[:, None], 0.8)
    truth = float(energies.gaussian_mixture.log_normalizer(params))
    assert abs(float(result.log_normalizer) - truth) < 5 * float(result.standard_error)


def test_error_bars_are_calibrated():
    """Of 40 repetitions the squared errors over the squared error bars average to that of Student's t with 15 degrees, 15/13."""
    energy = lambda params, x: (x**4).sum() / 4 - (x**2).sum() + params * x.sum()  # noqa: E731
    x = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
    truth = float(torch.log(torch.trapezoid(torch.exp(-(x**4) / 4 + x**2 - 0.3 * x), x)))
    ratios = []
    for i in range(40):
        result = normalizers.sequential_monte_carlo(
            random.key(i),
            energy,
            torch.tensor(0.3).double(),
            **_reference(1, 3.0),
            num_particles=256,
            num_moves=2,
            jit=False,
        )
        ratios.append(float((result.log_normalizer - truth) / result.standard_error) ** 2)
    # the fourth moment of t_15 makes the standard deviation of one ratio about 1.9
    assert abs(sum(ratios) / 40 - 15 / 13) < 5 * 1.9 / math.sqrt(40), sum(ratios) / 40


def test_fixed_schedule_and_flags():
    energy = lambda params, x: ((x - 3) ** 2).sum() * 50  # noqa: E731
    fixed = normalizers.sequential_monte_carlo(
        random.key(0), energy, (), **_reference(2), schedule=[0.0, 0.05, 0.3, 1.0], num_moves=5, jit=False
    )
    assert fixed.betas.tolist() == [0.0, 0.05, 0.3, 1.0] and fixed.acceptance_rate.shape == (3,)
    short = normalizers.sequential_monte_carlo(
        random.key(0), energy, (), **_reference(2), max_temperatures=2, num_moves=2, jit=False
    )
    assert not short.is_finished and len(short.betas) == 3 and float(short.betas[-1]) < 1


def test_bad_input():
    energy = lambda params, x: (x**2).sum()  # noqa: E731
    for change, match in (
        ({"num_particles": 100, "num_groups": 16}, "share the particles evenly"),
        ({"threshold": 1.0}, r"threshold must be in \(0, 1\)"),
        ({"num_moves": 0}, "num_moves"),
        ({"schedule": "cubic"}, "schedule must be"),
    ):
        with pytest.raises(ValueError, match=match):
            normalizers.sequential_monte_carlo(random.key(0), energy, (), **_reference(1), jit=False, **change)
    with pytest.raises(ValueError, match="must be a number where the particles are"):
        normalizers.sequential_monte_carlo(
            random.key(0), lambda params, x: torch.log(x).sum(), (), **_reference(1), jit=False
        )


@pytest.mark.compiled
def test_compiled_is_eager():
    energy = lambda params, x: ((x - params) ** 2).sum() * 2  # noqa: E731
    runs = [
        normalizers.sequential_monte_carlo(
            random.key(0), energy, torch.tensor(2.0).double(), **_reference(2), num_particles=64, num_moves=3, jit=jit
        )
        for jit in (False, True)
    ]
    torch.testing.assert_close(runs[0].log_normalizer, runs[1].log_normalizer, rtol=0, atol=1e-9)
