"""Slice sampling along random directions: its target is invariant at any width, and it is its definition."""

from __future__ import annotations

import math

import pytest
import torch
from tests.distributions import assert_same_distribution
from tests.targets import DENSE, draw_skewed, skewed

import funcebm as ebm
from funcebm import random, samplers
from funcebm.samplers.hit_and_run_slice import hit_and_run_slice

NUM_CHAINS = 8000


@pytest.mark.parametrize(
    "options",
    [
        {"step_size": 3.0},
        {"step_size": 0.3, "max_widenings": 3},
        {"step_size": 30.0, "max_widenings": 0, "preconditioner": DENSE},
        {"step_size": 8.0, "max_shrinks": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_the_target_is_invariant_at_any_width(options, temperature):
    sampler = hit_and_run_slice(skewed, temperature=temperature, **options)
    start, other = (draw_skewed(random.key(seed), NUM_CHAINS) for seed in (21, 22))
    samples = ebm.sample(random.key(23), sampler, torch.tensor(temperature), start, num_samples=1, thin=3, jit=False)
    assert_same_distribution(samples.draws[:, 0], other)
    fails = "max_shrinks" in options
    assert bool((samples.info.acceptance_rate < 1).any()) == fails


def test_it_is_its_definition():
    """Neal's figures 3 and 5, with Python's own loops."""
    sampler = hit_and_run_slice(skewed, step_size=0.7, max_widenings=4, preconditioner=DENSE)
    x, params = torch.tensor([0.3, -0.2], dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
    tuning = ebm.tree.cast_like(sampler.tuning, x)
    root = torch.linalg.cholesky(DENSE.double())
    state = sampler.init(params, x)
    for seed in range(30):
        noise = sampler.draw(random.key(seed), x)
        level, place, share = noise.uniform.tolist()
        direction = root @ (noise.normal / noise.normal.norm())
        bound = float(skewed(params, state.position)) - math.log(level)
        inside = lambda t: float(skewed(params, state.position + t * direction)) <= bound  # noqa: B023, E731
        low = -float(tuning.step_size) * place
        high, left = low + float(tuning.step_size), math.floor(5 * share)
        right = 4 - left
        while left > 0 and inside(low):
            low, left = low - float(tuning.step_size), left - 1
        while right > 0 and inside(high):
            high, right = high + float(tuning.step_size), right - 1
        for uniform in noise.tries.tolist():
            t = low + (high - low) * uniform
            if inside(t):
                break
            low, high = (t, high) if t < 0 else (low, t)
        expected = state.position + t * direction
        state, info = sampler.step(params, tuning, state, noise)
        torch.testing.assert_close(state.position, expected, rtol=1e-6, atol=1e-7)
        assert bool(info.is_accepted)


def test_borders_and_jumps_are_no_divergence():
    def energy(params, x):
        return torch.where((x > 0).all() & (x.sum() < 1), torch.floor(3 * x[0]), torch.nan)

    start = torch.full((200, 2), 0.25)
    samples = ebm.sample(random.key(1), hit_and_run_slice(energy, step_size=0.5), (), start, num_samples=20, jit=False)
    assert bool(((samples.draws > 0) & (samples.draws.sum(-1, keepdim=True) < 1)).all())
    assert not bool(samples.info.is_divergent.any())


@pytest.mark.compiled
def test_compiled_draws_are_the_eager_ones():
    start = draw_skewed(random.key(3), 8).double()
    run = lambda jit: ebm.sample(  # noqa: E731
        random.key(4), samplers.hit_and_run_slice(skewed), torch.tensor(1.0).double(), start, num_samples=5, jit=jit
    )
    torch.testing.assert_close(run(True).draws, run(False).draws, rtol=1e-9, atol=1e-9)
