"""Noise models: densities against torch.distributions, draws of the distribution that the density says."""

from __future__ import annotations

import pytest
import torch
from tests.distributions import assert_covariance, assert_mean, assert_same_distribution
from torch.distributions import MultivariateNormal

from funcebm import energies, losses, random

DTYPE = torch.float64
MEAN = torch.tensor([1.0, -2.0, 0.5], dtype=DTYPE)
MATRIX = torch.tensor([[2.0, 0.6, 0.0], [0.6, 1.0, -0.3], [0.0, -0.3, 0.5]], dtype=DTYPE)
COVARIANCES = {
    "number": (1.5, 1.5 * torch.eye(3, dtype=DTYPE)),
    "variances": (MATRIX.diagonal(), torch.diag(MATRIX.diagonal())),
    "matrix": (MATRIX, MATRIX),
}


@pytest.mark.parametrize("form", ["vector", "image", "dict"])
@pytest.mark.parametrize("kind", COVARIANCES)
def test_gaussian_noise_is_the_normal_law(kind, form):
    covariance, full = COVARIANCES[kind]
    shape = {
        "vector": lambda v: v,
        "image": lambda v: v.reshape(*v.shape[:-1], 1, 3),
        "dict": lambda v: {"a": v[..., :1], "b": v[..., 1:]},
    }[form]
    noise = losses.gaussian_noise(shape(MEAN), shape(covariance) if kind == "variances" else covariance)
    x = random.normal(random.key(0), (20, 3), dtype=DTYPE)
    expected = MultivariateNormal(MEAN, full).log_prob(x)
    torch.testing.assert_close(torch.func.vmap(noise.log_density)(shape(x)), expected)
    draws = noise.sample(random.key(1), 4000)
    rows = torch.cat([leaf.reshape(4000, -1) for leaf in (draws.values() if form == "dict" else [draws])], 1)
    assert_mean(rows, MEAN)
    assert_covariance(rows, full)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fitted_noise_has_the_moments_of_the_data(dtype):
    data = (random.normal(random.key(2), (3000, 3), dtype=DTYPE) @ MATRIX + MEAN).to(dtype).reshape(3000, 1, 3)
    noise = losses.fitted_gaussian_noise(data, inflation=1.5, floor=0.1)
    draws = noise.sample(random.key(3), 4000)
    assert draws.dtype == dtype and draws.shape == (4000, 1, 3)
    flat = data.reshape(3000, 3).double()
    mean, covariance = flat.mean(0), 1.5 * torch.cov(flat.T) + 0.1 * torch.eye(3)
    assert_mean(draws.reshape(4000, 3), mean)
    assert_covariance(draws.reshape(4000, 3), covariance)
    expected = MultivariateNormal(mean, covariance).log_prob(flat[:5])
    got = torch.func.vmap(noise.log_density)(data[:5])
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-4)
    diagonal = losses.fitted_gaussian_noise(data, is_diagonal=True)
    expected = MultivariateNormal(mean, torch.diag(flat.var(0))).log_prob(flat[:5])
    got = torch.func.vmap(diagonal.log_density)(data[:5])
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-4)


def test_exact_noise_has_the_density_and_the_draws_of_the_energy():
    energy = energies.gaussian
    params = energy.params(MEAN[:2], MATRIX[:2, :2])
    noise = losses.exact_noise(energy, params)
    other = losses.gaussian_noise(MEAN[:2], MATRIX[:2, :2])
    x = random.normal(random.key(4), (10, 2), dtype=DTYPE)
    torch.testing.assert_close(torch.func.vmap(noise.log_density)(x), torch.func.vmap(other.log_density)(x))
    assert_same_distribution(noise.sample(random.key(5), 4000), other.sample(random.key(6), 4000))


def test_what_is_no_law_is_refused():
    with pytest.raises(ValueError, match="energy must have a log_normalizer and a sample"):
        losses.exact_noise(energies.ackley, energies.ackley.params())
    with pytest.raises(ValueError, match="energy must have a log_normalizer and a sample"):
        losses.exact_noise(lambda params, x: (x**2).sum(), ())
    with pytest.raises(ValueError, match="covariance must be symmetric and positive definite"):
        losses.gaussian_noise(MEAN, MATRIX - 2 * torch.eye(3))
    with pytest.raises(ValueError, match="covariance must be symmetric and positive definite"):
        losses.gaussian_noise(MEAN, MATRIX + torch.triu(torch.ones(3, 3), 1))
    with pytest.raises(ValueError, match=r"variances like mean, or a matrix \(3, 3\). Got shapes \[\(2,\)\]"):
        losses.gaussian_noise(MEAN, torch.ones(2))
    with pytest.raises(ValueError, match="covariance must be positive"):
        losses.gaussian_noise(MEAN, 0.0)
    constant = torch.cat([random.normal(random.key(0), (50, 1)), torch.ones(50, 1)], 1)
    with pytest.raises(ValueError, match=r"data must vary in every direction.*Give a floor"):
        losses.fitted_gaussian_noise(constant)
    with pytest.raises(ValueError, match="at least two examples"):
        losses.fitted_gaussian_noise(torch.zeros(1, 2))
