"""Energy discrepancy: its closed form on Gaussians, its minimiser for every t, and the stabiliser."""

from __future__ import annotations

import math

import pytest
import torch
from tests.distributions import assert_mean

from funcebm import losses, random, tree

DTYPE = torch.float64
VARIANCE = 0.6


def energy(params, x):
    return params * (x**2).sum() / 2


def _each(k, noise_scale, num_negatives, num=3000, dim=1, stabiliser=0.0):
    """Value and slope in k for each of many examples, without the bias of order 1 / M: that of M minus that of M / 2."""
    data = math.sqrt(VARIANCE) * random.normal(random.key(0), (num, 1, dim), dtype=DTYPE)
    parts = []
    for count in (num_negatives, num_negatives // 2):
        loss = losses.energy_discrepancy(energy, noise_scale, num_negatives=count, stabiliser=stabiliser)
        noise = loss.draw(random.key(1), data[:, 0])

        def one(x, noise):
            return torch.func.grad_and_value(lambda k: loss.value(k, (), x, noise)[0])(k)  # noqa: B023

        slope, value = torch.func.vmap(one)(data, tree.map(lambda leaf: leaf[:, None], noise))
        parts.append(torch.stack([value, slope], 1))
    return 2 * parts[0] - parts[1]


def _closed_form(k, t, dim=1):
    return dim / 2 * (k * VARIANCE - torch.log1p(k * t) - k * (VARIANCE + t) / (1 + k * t))


@pytest.mark.parametrize("noise_scale", [0.3, 1.0])
@pytest.mark.parametrize("k", [0.7, 1 / VARIANCE, 3.0])
def test_the_closed_form_on_gaussian_data(k, noise_scale):
    # the loss is E(x) - U_t(y), with U_t the closed form's: the constant, E|x|^2, is that of k = 0, which is zero
    k = torch.tensor(k, dtype=DTYPE)
    expected = torch.stack([_closed_form(k, noise_scale**2), torch.func.grad(_closed_form)(k, noise_scale**2)])
    assert_mean(_each(k, noise_scale, 400), expected, bias=0.002)


@pytest.mark.parametrize("t", [0.01, 1.0, 100.0])
def test_the_closed_form_is_least_at_the_precision_for_every_t(t):
    best = torch.tensor(1 / VARIANCE, dtype=DTYPE)
    assert abs(torch.func.grad(_closed_form)(best, t)) < 1e-12
    assert torch.func.grad(_closed_form)(0.9 * best, t) < 0 < torch.func.grad(_closed_form)(1.1 * best, t)


def test_the_closed_form_is_between_score_matching_and_likelihood():
    k = torch.tensor(2.3, dtype=DTYPE)
    # t -> 0: D / t tends to score matching, k^2 s^2 / 2 - k (its laplacian is k)
    torch.testing.assert_close(_closed_form(k, 1e-6) / 1e-6, k**2 * VARIANCE / 2 - k, rtol=1e-4, atol=1e-4)
    # t -> infinity: the slope tends to that of the negative log-likelihood, (s^2 - 1 / k) / 2
    torch.testing.assert_close(torch.func.grad(_closed_form)(k, 1e7), (VARIANCE - 1 / k) / 2, rtol=1e-5, atol=1e-5)


def test_value_by_hand_on_dicts():
    batch = {
        "a": random.normal(random.key(0), (5, 2), dtype=DTYPE),
        "b": random.normal(random.key(1), (5,), dtype=DTYPE),
    }

    def of_dict(params, x):
        return params * ((x["a"] ** 2).sum() + x["b"] ** 4)

    loss = losses.energy_discrepancy(of_dict, 0.4, num_negatives=3, stabiliser=0.5)
    noise, k = loss.draw(random.key(2), batch), torch.tensor(0.8, dtype=DTYPE)
    value, aux = loss.value(k, (), batch, noise)
    total, energies = 0.0, []
    for i in range(5):
        x = {name: leaf[i] for name, leaf in batch.items()}
        terms = []
        for j in range(3):
            there = {name: x[name] + 0.4 * noise.away[name][i] + 0.4 * noise.back[name][i, j] for name in x}
            terms.append(torch.exp(of_dict(k, x) - of_dict(k, there)))
            energies.append(torch.stack([of_dict(k, x), of_dict(k, there)]))
        total = total + torch.log(0.5 / 3 + torch.stack(terms).mean())
    torch.testing.assert_close(value, total / 5)
    here, there = torch.stack(energies).mean(0)
    got = [aux.metrics[name] for name in ("positive_energy", "negative_energy", "energy_gap")]
    torch.testing.assert_close(torch.stack(got), torch.stack([here, there, there - here]))


def test_the_stabiliser_bounds_the_loss_from_below():
    steep, data = torch.tensor(1e4, dtype=DTYPE), torch.zeros(10, 2, dtype=DTYPE)
    free = losses.energy_discrepancy(energy, 1.0, num_negatives=4, stabiliser=0.0)
    bounded = losses.energy_discrepancy(energy, 1.0, num_negatives=4, stabiliser=1.0)
    assert free(random.key(0), steep, data)[0] < -100
    torch.testing.assert_close(bounded(random.key(0), steep, data)[0], torch.tensor(math.log(1 / 4)).to(DTYPE))


def test_bad_arguments_are_refused_at_the_door():
    with pytest.raises(ValueError, match="noise_scale must be positive"):
        losses.energy_discrepancy(energy, 0.0)
    with pytest.raises(ValueError, match="num_negatives must be an integer of at least 1"):
        losses.energy_discrepancy(energy, 0.5, num_negatives=0)
    with pytest.raises(ValueError, match="stabiliser must not be negative"):
        losses.energy_discrepancy(energy, 0.5, stabiliser=-1.0)
