"""Denoising score matching: the sign, the scale and the minimiser."""

from __future__ import annotations

import pytest
import torch

from funcebm import losses, random


def isotropic(params, x):
    return params * (x**2).sum() / 2


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
@pytest.mark.parametrize("shape", [(1,), (5,), (2, 3)], ids=str)
def test_the_minimiser_on_normal_data(shape, sigma):
    # dL/dk = mean of x~ . (k x~ - xi / sigma), whose expectation is zero at k = 1 / (1 + sigma^2)
    num = 20000
    data = random.normal(random.key(0), (num, *shape), dtype=torch.float64)
    loss = losses.denoising_score_matching(isotropic, sigma)
    noise = loss.draw(random.key(1), data)
    k = torch.tensor(1 / (1 + sigma**2), dtype=torch.float64)
    gradient = torch.func.grad(lambda k: loss.value(k, (), data, noise)[0])
    noisy = data + sigma * noise
    each = (noisy * (k * noisy - noise / sigma)).flatten(1).sum(1)
    standard_error = float(each.std()) / num**0.5
    torch.testing.assert_close(gradient(k), each.mean())
    assert abs(float(gradient(k))) < 5 * standard_error
    assert gradient(0.5 * k) < -5 * standard_error < 5 * standard_error < gradient(1.5 * k)


def test_value_by_hand():
    data = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    noise = torch.tensor([[0.5, -1.0], [2.0, 0.0]], dtype=torch.float64)
    k, sigma = torch.tensor(3.0, dtype=torch.float64), 0.25
    value, aux = losses.denoising_score_matching(isotropic, sigma).value(k, (), data, noise)
    slope = 3.0 * (data + sigma * noise)
    torch.testing.assert_close(value, ((slope - noise / sigma) ** 2).sum(1).mean() / 2)
    torch.testing.assert_close(aux.metrics["squared_score"], (slope**2).sum(1).mean())
    assert aux.memory == ()


def test_it_is_score_matching_of_the_noisy_data_up_to_a_constant():
    # the difference of two energies' losses is the same for both (Vincent 2011), within standard errors
    num, sigma = 20000, 0.5

    def energy(params, x):
        return params * torch.log1p((x**2).sum())

    data = random.exponential(random.key(0), (num, 2), dtype=torch.float64)
    denoising, exact = losses.denoising_score_matching(energy, sigma), losses.score_matching(energy)
    noise = denoising.draw(random.key(1), data)
    noisy = data + sigma * noise

    def each(k):
        pair = lambda x, z, y: (denoising.value(k, (), x, z)[0], exact.value(k, (), y, ())[0])  # noqa: E731
        return torch.func.vmap(pair)(data[:, None], noise[:, None], noisy[:, None])

    (denoising1, exact1), (denoising2, exact2) = each(torch.tensor(1.0).double()), each(torch.tensor(2.0).double())
    difference = (denoising2 - denoising1) - (exact2 - exact1)
    assert abs(float(difference.mean())) < 5 * float(difference.std()) / num**0.5
    assert abs(float((exact2 - exact1).mean())) > 10 * float(difference.std()) / num**0.5


def test_a_bad_noise_scale_is_refused_at_the_door():
    with pytest.raises(ValueError, match="noise_scale must be positive"):
        losses.denoising_score_matching(isotropic, 0.0)
