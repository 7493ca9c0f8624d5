"""Noise-contrastive losses: the regressions they are, what cancels, and what they refuse."""

from __future__ import annotations

import math

import pytest
import torch
from tests.distributions import assert_mean
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from funcebm import energies, losses, random

DTYPE = torch.float64
NOISE = losses.gaussian_noise(torch.tensor([0.5, -0.2], dtype=DTYPE), torch.tensor([2.0, 1.0], dtype=DTYPE))


def energy(params, x):
    return params["k"] * (x**2).sum() / 2 + params["b"] * torch.sin(x[0])


def _params():
    return {"k": torch.tensor(1.3, dtype=DTYPE), "b": torch.tensor(0.4, dtype=DTYPE)}


def _energy(params, x):
    return params["k"] * (x**2).sum(-1) / 2 + params["b"] * torch.sin(x[..., 0])


@pytest.mark.parametrize("num_noise", [1, 3])
def test_nce_is_logistic_regression_of_torch(num_noise):
    data = random.normal(random.key(0), (40, 2), dtype=DTYPE)
    loss = losses.noise_contrastive_estimation(energy, NOISE, num_noise=num_noise)
    params = losses.with_log_normalizer(_params(), 0.7)
    noise = loss.draw(random.key(1), data)
    gradient, (value, aux) = torch.func.grad_and_value(loss.value, has_aux=True)(params, (), data, noise)

    leaves = [leaf.clone().requires_grad_() for leaf in (params.energy["k"], params.energy["b"], params.log_normalizer)]
    points = torch.cat([data, noise.reshape(-1, 2)])
    labels = torch.cat([torch.ones(40), torch.zeros(40 * num_noise)]).to(DTYPE)
    mean, variances = torch.tensor([0.5, -0.2], dtype=DTYPE), torch.tensor([2.0, 1.0], dtype=DTYPE)
    normal = torch.distributions.MultivariateNormal(mean, torch.diag(variances))
    logits = (
        -_energy({"k": leaves[0], "b": leaves[1]}, points) - leaves[2] - normal.log_prob(points) - math.log(num_noise)
    )
    expected = binary_cross_entropy_with_logits(logits, labels, reduction="sum") / 40
    expected.backward()
    torch.testing.assert_close(value, expected.detach())
    got = (gradient.energy["k"], gradient.energy["b"], gradient.log_normalizer)
    torch.testing.assert_close(got, tuple(leaf.grad for leaf in leaves))
    rates = [((logits > 0) == (labels > 0))[labels == label].to(DTYPE).mean() for label in (0, 1)]
    torch.testing.assert_close(aux.metrics["accuracy"], (rates[0] + rates[1]) / 2)


def test_ranking_is_cross_entropy_and_no_constant_matters():
    data = random.normal(random.key(0), (40, 2), dtype=DTYPE)
    loss = losses.ranking_noise_contrastive_estimation(energy, NOISE, num_noise=5)
    noise = loss.draw(random.key(1), data)
    points = torch.cat([data[:, None], noise], 1)
    logits = -_energy(_params(), points) - torch.func.vmap(torch.func.vmap(NOISE.log_density))(points)
    expected = cross_entropy(logits, torch.zeros(40, dtype=torch.int64))
    value, aux = loss.value(_params(), (), data, noise)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(aux.metrics["accuracy"], (logits.argmax(1) == 0).to(DTYPE).mean())
    shifted = losses.ranking_noise_contrastive_estimation(
        lambda params, x: energy(params, x) + 100, NOISE._replace(log_density=lambda x: NOISE.log_density(x) - 7)
    )
    torch.testing.assert_close(shifted.value(_params(), (), data, noise)[0], expected)


def test_the_conditional_loss_by_hand_and_its_moves():
    data = random.normal(random.key(0), (3000, 2), dtype=DTYPE)
    loss = losses.conditional_noise_contrastive_estimation(energy, 0.6, num_noise=2)
    moved = loss.draw(random.key(1), data)
    assert_mean(((moved - data[:, None]) / 0.6)[:, 1].square(), 1.0)
    gap = _energy(_params(), moved) - _energy(_params(), data[:, None])
    value, aux = loss.value(_params(), (), data, moved)
    torch.testing.assert_close(value, 2 * torch.log1p(torch.exp(-gap)).mean())
    torch.testing.assert_close(aux.metrics["accuracy"], (gap > 0).to(DTYPE).mean())


def test_small_moves_tend_to_score_matching():
    # 2 softplus(-G) = 2 log 2 - G + G^2 / 4 + ..., and the means of G and G^2 are sigma^2 (laplacian / 2, |grad|^2):
    # the loss is 2 log 2 + sigma^2 / 2 times that of score matching, up to O(sigma^4)
    x, sigma = torch.tensor([[0.4, -0.9]], dtype=DTYPE), 0.02
    loss = losses.conditional_noise_contrastive_estimation(energy, sigma)
    normal = random.normal(random.key(2), (20000, 2), dtype=DTYPE)
    value = lambda z: loss.value(_params(), (), x, (x + sigma * z)[:, None])[0]  # noqa: E731
    both = torch.func.vmap(lambda z: (value(z) + value(-z)) / 2)(normal)  # antithetic: the odd terms are gone
    exact, _ = losses.score_matching(energy)(random.key(0), _params(), x)
    assert_mean((both - 2 * math.log(2)) / (sigma**2 / 2), exact, bias=20 * sigma**2)


def test_a_noise_model_that_is_the_data_is_told_by_chance_only():
    harmonic = energies.harmonic
    noise = losses.exact_noise(harmonic, harmonic.params(), shape=(2,))
    loss = losses.noise_contrastive_estimation(harmonic, noise)
    params = losses.with_log_normalizer(harmonic.params(), harmonic.log_normalizer(harmonic.params(), (2,)))
    value, _ = loss(random.key(3), params, random.normal(random.key(4), (50, 2)))
    torch.testing.assert_close(value, torch.tensor(2 * math.log(2)))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="noise must be a NoiseModel"):
        losses.noise_contrastive_estimation(energy, 0.5)
    with pytest.raises(ValueError, match="num_noise must be an integer of at least 1"):
        losses.ranking_noise_contrastive_estimation(energy, NOISE, num_noise=0)
    loss = losses.noise_contrastive_estimation(energy, NOISE)
    with pytest.raises(TypeError, match="params must be NormalizedParams"):
        loss(random.key(0), _params(), torch.zeros(3, 2, dtype=DTYPE))
    with pytest.raises(ValueError, match="noise and data must have one event shape"):
        loss.draw(random.key(0), torch.zeros(3, 5, dtype=DTYPE))
    with pytest.raises(ValueError, match="a draw of the noise must be a tree of the same structure"):
        loss.draw(random.key(0), {"a": torch.zeros(3, 5, dtype=DTYPE)})
    with pytest.raises(ValueError, match="noise must be positive"):
        losses.conditional_noise_contrastive_estimation(energy, -1.0)
    with pytest.raises(ValueError, match="noise must be a number or a ConditionalNoise"):
        losses.conditional_noise_contrastive_estimation(energy, NOISE)
    with pytest.raises(ValueError, match="log_normalizer must be a number"):
        losses.with_log_normalizer(_params(), torch.zeros(2))


def test_moves_that_are_not_symmetric_have_the_data_as_minimiser_too():
    grid = torch.linspace(-8.0, 8.0, 161, dtype=torch.float64)
    noise = losses.ConditionalNoise(lambda y, x: -((y - 0.8 * x) ** 2).sum() / 2, lambda key, x: x)
    loss = losses.conditional_noise_contrastive_estimation(lambda params, x: params * (x**2).sum() / 2, noise)
    data, moves = torch.exp(-(grid**2) / 2), torch.exp(-((grid - 0.8 * grid[:, None]) ** 2) / 2)
    weights = data[:, None] * moves / (data[:, None] * moves).sum()

    def population(params):
        at = torch.func.vmap(torch.func.vmap(lambda x, y: loss.value(params, (), x, y)[0], (None, 0)), (0, None))
        return (weights * at(grid[:, None, None], grid[:, None, None, None])).sum()

    slope = torch.func.grad(population)
    assert slope(torch.tensor(1.0, dtype=torch.float64)).abs() < 1e-9
    assert slope(torch.tensor(1.3, dtype=torch.float64)) > 0.05
