"""Denoising score matching at many scales: its weights, its minimiser, and samples from what it learns."""

from __future__ import annotations

import math

import pytest
import torch
from tests.distributions import assert_mean, assert_uniform

from funcebm import losses, random

SCALES = losses.geometric_noise_scales(3.0, 0.1, 6).double()


def energy(params, x, scale):
    """On normal data, exact at all scales at once for params (1, 1)."""
    return (x**2).sum() / 2 / (params[0] + params[1] * scale**2)


def test_at_one_scale_it_is_denoising_times_the_square_of_the_scale():
    sigma, params = torch.tensor([0.7]).double(), torch.tensor([1.3, 0.5]).double()
    data = random.normal(random.key(0), (20, 2, 3), dtype=torch.float64)
    many = losses.annealed_denoising_score_matching(energy, sigma)
    single = losses.denoising_score_matching(lambda params, x: energy(params, x, sigma[0]), sigma[0])
    noise = many.draw(random.key(1), data)
    expected = sigma[0] ** 2 * single.value(params, (), data, noise.normal)[0]
    torch.testing.assert_close(many.value(params, (), data, noise)[0], expected)


def test_each_example_draws_its_own_scale_evenly():
    data = torch.zeros(6000, 1).double()
    noise = losses.annealed_denoising_score_matching(energy, SCALES).draw(random.key(2), data)
    assert_uniform(torch.bincount(noise.choice, minlength=len(SCALES)))


def test_the_minimiser_on_normal_data_is_exact_at_every_scale():
    # the gradient of each example at the optimum has mean zero, and away from it has not
    loss = losses.annealed_denoising_score_matching(energy, SCALES)
    data = random.normal(random.key(3), (20000, 1, 2), dtype=torch.float64)
    noise = loss.draw(random.key(4), data[:, 0])

    def slopes(params):
        one = lambda x, choice, z: torch.func.grad(loss.value, has_aux=True)(  # noqa: E731
            params, (), x, losses.annealed_denoising.AnnealedNoise(choice[None], z[None])
        )[0]
        return torch.func.vmap(one)(data, noise.choice, noise.normal)

    assert_mean(slopes(torch.tensor([1.0, 1.0]).double()), 0.0)
    for wrong in ([1.2, 1.0], [1.0, 1.2]):
        away = slopes(torch.tensor(wrong).double())
        assert (away.mean(0).abs() > 5 * away.std(0) / math.sqrt(20000)).any()


def test_scales_have_one_ratio():
    scales = losses.geometric_noise_scales(8.0, 0.5, 5)
    torch.testing.assert_close(scales, torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5]))


def test_bad_arguments_are_refused_at_the_door():
    with pytest.raises(ValueError, match="noise_scales must be a vector"):
        losses.annealed_denoising_score_matching(energy, torch.tensor(0.5))
    with pytest.raises(ValueError, match="noise_scales must be positive"):
        losses.annealed_denoising_score_matching(energy, torch.tensor([0.5, 0.0]))
    with pytest.raises(ValueError, match="largest must be at least smallest"):
        losses.geometric_noise_scales(0.1, 1.0, 3)
