"""The tuners of microcanonical samplers: the predictor, the ceiling, and what the stages find."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from tests.adaptation.driver import run
from tests.distributions import assert_rate, log_variance_deviation
from torch import Tensor
from torch.func import vmap

from funcebm import metrics, random, samplers, tree
from funcebm.adaptation import adjusted_mclmc_adaptation, mclmc_adaptation
from funcebm.samplers.adjusted_mclmc import adjusted_mclmc
from funcebm.samplers.mclmc import mclmc

CHAINS, DIM = 16, 20
SCALES = torch.logspace(-1, 1, DIM)


class _Info(NamedTuple):
    energy_error: Tensor
    is_divergent: Tensor


def _energy(params, x):
    return params * ((x / SCALES) ** 2).sum() / 2


def _start(adaptation, num=CHAINS, dtype=torch.float64):
    sampler = mclmc(_energy)
    params = torch.tensor(1.0, dtype=dtype)
    state = vmap(sampler.init, (None, 0))(params, random.normal(random.key(1), (num, DIM), dtype=dtype))
    return sampler, params, state, adaptation.init(random.key(0), sampler, params, state)


def _fed(errors):
    return _Info(errors, ~torch.isfinite(errors))


def test_it_starts_as_the_paper_says():
    _, _, _, memory = _start(mclmc_adaptation())
    assert float(memory.tuning.decoherence_length) == pytest.approx(DIM**0.5)
    assert float(memory.tuning.step_size) == pytest.approx(0.25 * DIM**0.5)


def test_the_step_size_is_that_of_the_predictor():
    """Transcribed, with the chains averaged; errors from none to huge."""
    adaptation = mclmc_adaptation(energy_variance=1e-3)
    _, _, state, memory = _start(adaptation)
    errors = random.normal(random.key(3), (30, CHAINS), dtype=torch.float64) * torch.logspace(-5, 3, 30)[:, None]
    X = W = 0.0
    step = 0.25 * DIM**0.5
    for row in errors:
        xi = np.clip(row.numpy() ** 2 / (DIM * 1e-3), 1e-8, 1e12)
        w = np.exp(-0.5 * (np.log(xi) / (6 * 1.5)) ** 2)
        X, W = 149 / 151 * X + np.mean(w * xi) / step**6, 149 / 151 * W + np.mean(w)
        step = (X / W) ** (-1 / 6)
        memory = adaptation.update(memory, state, _fed(row))
        assert float(memory.tuning.step_size) == pytest.approx(step, rel=1e-9)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("num_bad", [1, CHAINS])
def test_a_step_that_is_given_up_holds_the_step_size_down_for_a_while_only(bad, num_bad):
    adaptation = mclmc_adaptation()
    _, _, state, memory = _start(adaptation)
    sixth = lambda step: (DIM * 5e-4) ** 0.5 * (step / 2) ** 3  # noqa: E731  # an energy error whose best step size is 2
    good = lambda memory: _fed(sixth(memory.tuning.step_size).expand(CHAINS))  # noqa: E731
    for _ in range(50):
        memory = adaptation.update(memory, state, good(memory))
    assert float(memory.tuning.step_size) == pytest.approx(2, rel=1e-3)
    errors = good(memory).energy_error.clone()
    errors[:num_bad] = bad
    memory = adaptation.update(memory, state, _fed(errors))
    assert float(memory.tuning.step_size) == pytest.approx(1.6, rel=1e-3)
    sizes = []
    for _ in range(20):
        memory = adaptation.update(memory, state, good(memory))
        sizes.append(float(memory.tuning.step_size))
    assert sizes[0] < 1.7
    assert sizes[-1] == pytest.approx(2, rel=1e-3)


@pytest.mark.parametrize("bad", [torch.nan, 1e30])
def test_a_beginning_of_nothing_but_nan_or_huge_errors_is_survived(bad):
    """The step size shrinks by a fifth a step or faster until the steps succeed, and is then found as ever."""
    adaptation = mclmc_adaptation()
    _, _, state, memory = _start(adaptation, dtype=torch.float32)
    limit = 1e-4
    for _ in range(200):
        step = memory.tuning.step_size
        error = (DIM * 5e-4) ** 0.5 * (step / limit) ** 3
        memory = adaptation.update(memory, state, _fed(torch.where(step > 10 * limit, bad, error).expand(CHAINS)))
    assert float(memory.tuning.step_size) == pytest.approx(limit, rel=1e-2)
    assert bool(torch.isfinite(torch.stack([memory.weighted, memory.weights])).all())


def test_a_wall_of_nan_in_a_real_energy_is_survived():
    energy = lambda params, x: torch.where((x.abs() < 4).all(), (x**2).sum() / 2, torch.nan)  # noqa: E731
    starts = random.normal(random.key(1), (CHAINS, 10))
    state, _, tuning, used = run(random.key(0), mclmc(energy), (), starts, mclmc_adaptation(), 200)
    assert bool(tree.all_finite((state, tuning, used)))
    assert 0.5 < float(tuning.step_size) < 10


@pytest.mark.parametrize("metric", ["diagonal", "dense"])
def test_the_metric_has_the_scales_and_the_energy_error_its_variance(metric):
    """Scales from 0.1 to 10; the second window has 75 steps of 16 chains."""
    sampler = mclmc(_energy)
    params = torch.tensor(1.0)
    starts = random.normal(random.key(1), (CHAINS, DIM))
    state, _, tuning, _ = run(random.key(0), sampler, params, starts, mclmc_adaptation(metric=metric), 300)
    found = tuning.metric.inverse_mass
    found = found.diagonal() if metric == "dense" else found
    assert (torch.log(found / SCALES**2).abs() < 5 * (2 / (75 * CHAINS / 4)) ** 0.5).all()
    errors = []
    for i in range(50):
        noise = vmap(sampler.draw)(random.split(random.key(100 + i), CHAINS), state.position)
        state, info = vmap(sampler.step, (None, None, 0, 0))(params, tuning, state, noise)
        errors.append(info.energy_error)
    variance = float(torch.stack(errors).square().mean()) / DIM
    assert 1e-4 < variance < 2.5e-3


def test_the_length_of_the_second_stage_is_the_size_of_the_target():
    adaptation = mclmc_adaptation(metric=None)
    sampler, params, state, memory = _start(adaptation)
    memory = adaptation.refresh(random.key(1), sampler, params, memory, state)
    draws = random.normal(random.key(2), (50, CHAINS, DIM), dtype=torch.float64) * SCALES
    for draw in draws:
        memory = adaptation.update(memory, state._replace(position=draw), _fed(torch.zeros(CHAINS)))
    memory = adaptation.refresh(random.key(1), sampler, params, memory, state)
    expected = draws.flatten(0, 1).var(0).sum().sqrt()
    assert float(memory.tuning.decoherence_length) == pytest.approx(float(expected), rel=0.01)
    assert isinstance(memory.tuning.metric, metrics.Diagonal)
    assert memory.tuning.metric.inverse_mass.shape == ()


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_the_length_of_the_last_stage_is_the_cost_of_an_independent_draw(correlation):
    """Fed with autoregressive chains, whose cost is ``(1 + r) / (1 - r)`` steps."""
    adaptation = mclmc_adaptation()
    sampler, params, state, memory = _start(adaptation, num=40)
    for i in range(4):
        memory = adaptation.refresh(random.key(i), sampler, params, memory, state)
    memory = memory._replace(tuning=memory.tuning._replace(step_size=torch.tensor(0.5, dtype=torch.float64)))
    noise = random.normal(random.key(9), (401, 40, DIM)).double()
    x = noise[0]
    for i in range(400):
        if i in (100, 200, 300):
            memory = adaptation.refresh(random.key(i), sampler, params, memory, state)
        x = correlation * x + (1 - correlation**2) ** 0.5 * noise[i + 1]
        memory = adaptation.update(memory, state._replace(position=x * SCALES + 3), _fed(torch.full((40,), 1e3)))
    tuning = adaptation.final(memory)
    assert float(tuning.step_size) == 0.5  # held, whatever the energy error
    cost = (1 + correlation) / (1 - correlation)
    # batches of 100 steps miss 2 r / (100 (1 - r)^2) of it at most; 160 x 20 batch means have an error of 2.5 %
    assert float(tuning.decoherence_length) == pytest.approx(0.4 * 0.5 * cost, rel=0.15)


def test_adjusted_finds_scales_rate_and_length():
    scales = SCALES**0.5
    sampler = adjusted_mclmc(lambda params, x: _energy(params, x * SCALES / scales))
    params = torch.tensor(1.0)
    starts = random.normal(random.key(1), (CHAINS, DIM)) * scales
    state, _, tuning, _ = run(random.key(0), sampler, params, starts, adjusted_mclmc_adaptation(), 160)
    assert float(tuning.trajectory_length) == pytest.approx(1.3 * DIM**0.5)
    errors = torch.log(tuning.metric.inverse_mass / scales**2).abs()
    assert (errors < log_variance_deviation(CHAINS * adjusted_mclmc_adaptation().windows(160)[2] / 2)).all()
    rates = []
    for i in range(30):
        noise = vmap(sampler.draw)(random.split(random.key(100 + i), CHAINS), state.position)
        state, info = vmap(sampler.step, (None, None, 0, 0))(params, tuning, state, noise)
        rates.append(info.acceptance_rate.mean())
    assert_rate(torch.stack(rates), 0.9, adjusted_mclmc_adaptation().windows(160)[-1])


@pytest.mark.parametrize("metric", ["diagonal", "dense", None])
def test_every_part_goes_through_vmap_over_parameters(metric):
    adaptation, sampler = mclmc_adaptation(metric=metric), mclmc(_energy)

    def whole(params):
        state = vmap(sampler.init, (None, 0))(params, random.normal(random.key(0), (4, DIM), dtype=torch.float64))
        memory = adaptation.init(random.key(0), sampler, params, state)
        for i in range(12):
            if i in (2, 4, 6, 8, 10):
                memory = adaptation.refresh(random.key(i), sampler, params, memory, state)
            noise = vmap(sampler.draw)(random.split(random.key(100 + i), 4), state.position)
            state, info = vmap(sampler.step, (None, None, 0, 0))(params, memory.tuning, state, noise)
            memory = adaptation.update(memory, state, info)
        return adaptation.final(memory)

    params = torch.tensor([0.5, 2.0], dtype=torch.float64)
    mapped = vmap(whole)(params)
    for i in range(2):
        for a, b in zip(tree.leaves(mapped), tree.leaves(whole(params[i])), strict=True):
            torch.testing.assert_close(a[i], b, rtol=1e-6, atol=1e-9)


def test_windows_add_up_and_short_runs_have_one():
    for num_steps in range(1, 500):
        windows = mclmc_adaptation().windows(num_steps)
        assert sum(windows) == num_steps
        assert min(windows) > 0
        assert len(windows) == (8 if num_steps >= 40 else 1)


def test_bad_input_is_refused_with_a_fix():
    starts, params = torch.zeros(4, DIM), torch.tensor(1.0)
    hmc = samplers.hmc(_energy)
    with pytest.raises(ValueError, match=r"mclmc_adaptation is for samplers.mclmc. Got a sampler with HMCTuning"):
        run(random.key(0), hmc, params, starts, mclmc_adaptation(), 5)
    with pytest.raises(ValueError, match=r"adjusted_mclmc_adaptation is for samplers.adjusted_mclmc. Got .*HMCTuning"):
        run(random.key(0), hmc, params, starts, adjusted_mclmc_adaptation(), 5)
    with pytest.raises(ValueError, match=r"metric must be one of three. Got full"):
        mclmc_adaptation(metric="full")
    with pytest.raises(ValueError, match=r"energy_variance must be positive"):
        mclmc_adaptation(energy_variance=0.0)
    with pytest.raises(ValueError, match=r"length_factor must be positive"):
        adjusted_mclmc_adaptation(length_factor=-1.0)
    with pytest.raises(ValueError, match=r"num_steps must be an integer of at least 1. Got 0"):
        mclmc_adaptation().windows(0)
