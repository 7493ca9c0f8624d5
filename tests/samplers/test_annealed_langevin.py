"""Annealed Langevin dynamics on Gaussian data, where every step is linear."""

from __future__ import annotations

import pytest
import torch

import funcebm as ebm
from funcebm import losses, random, samplers

from ..distributions import assert_covariance, assert_mean

SCALES = torch.tensor([3.0, 1.0, 0.3], dtype=torch.float64)
MEAN = torch.tensor([2.0, -1.0], dtype=torch.float64)


def _energy(params, x, scale):
    """N(mean, 0.5^2) data with noise."""
    return ((x - params) ** 2).sum() / (2 * (0.25 + scale**2))


def test_mean_and_variance_are_those_of_the_linear_recursion():
    epsilon, each = 0.3, 4
    sampler = samplers.annealed_langevin(_energy, SCALES, step_size=epsilon, num_steps_each=each)
    starts = 3 * random.normal(random.key(0), (8_000, 2), dtype=torch.float64)
    draws = ebm.sample(
        random.key(1), sampler, MEAN, starts, num_samples=1, num_burn_in=len(SCALES) * each - 1, jit=False
    ).draws[:, 0]
    mean, variance = torch.zeros(2, dtype=torch.float64), torch.tensor(9.0, dtype=torch.float64)
    for scale in SCALES.repeat_interleave(each):
        shrink = 1 - epsilon * scale**2 / (0.25 + scale**2)
        mean, variance = MEAN + shrink * (mean - MEAN), shrink**2 * variance + 2 * epsilon * scale**2
    assert_mean(draws, mean)
    assert_covariance(draws, variance * torch.eye(2, dtype=torch.float64))


def test_it_ends_at_the_last_scale_and_stays_there():
    """At the last scale it is unadjusted Langevin with the step epsilon sigma^2, bit for bit."""
    sampler = samplers.annealed_langevin(_energy, SCALES, step_size=torch.tensor(0.2).double(), num_steps_each=2)
    state = sampler.init(MEAN, torch.zeros(2, dtype=torch.float64))
    seen = []
    for i in range(9):
        state, info = sampler(random.key(i), MEAN, state)
        seen.append(float(info.energy))
        assert int(info.num_gradients) == 1
    torch.testing.assert_close(state.gradient, (state.position - MEAN) / (0.25 + SCALES[-1] ** 2))
    assert int(state.step_count) == 9
    plain = samplers.langevin(
        lambda params, x: _energy(params, x, SCALES[-1]), step_size=torch.tensor(0.2).double() * SCALES[-1] ** 2
    )
    noise = sampler.draw(random.key(7), state.position)
    ours, _ = sampler.step(MEAN, sampler.tuning, state, noise)
    theirs, _ = plain.step(MEAN, plain.tuning, plain.init(MEAN, state.position), noise)
    torch.testing.assert_close(ours.position, theirs.position, rtol=0, atol=1e-14)


def test_it_samples_what_annealed_denoising_trains():
    """The loss and the sampler belong together: a bimodal density that plain Langevin at the last scale does not cross."""
    scales = losses.geometric_noise_scales(4.0, 0.2, 8)

    def energy(params, x, scale):
        variance = 0.04 + scale**2
        modes = torch.stack([-((x - 3) ** 2).sum(), -((x + 3) ** 2).sum()]) / (2 * variance)
        return -torch.logsumexp(modes + torch.tensor([0.7, 0.3]).log(), 0)

    sampler = samplers.annealed_langevin(energy, scales, step_size=0.2, num_steps_each=15)
    starts = 4 * random.normal(random.key(0), (1500, 1))
    draws = ebm.sample(random.key(1), sampler, (), starts, num_samples=1, num_burn_in=8 * 15 - 1, jit=False).draws
    # the weights settle while the modes still overlap
    assert_mean((draws[:, 0] > 0).double(), 0.7, bias=0.05)


def test_bad_input():
    for scales, match in (
        (SCALES.flip(0), "fall strictly"),
        (torch.ones(()), "must be a vector"),
        (-SCALES, "positive"),
    ):
        with pytest.raises(ValueError, match=match):
            samplers.annealed_langevin(_energy, scales)
    with pytest.raises(ValueError, match="num_steps_each"):
        samplers.annealed_langevin(_energy, SCALES, num_steps_each=0)
