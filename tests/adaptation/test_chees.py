"""ChEES: the gradient of its criterion, its recursion, and the length that it finds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.adaptation.driver import run
from tests.distributions import assert_rate, log_variance_deviation
from torch.func import vmap

from funcebm import metrics, random, samplers, tree
from funcebm.adaptation import chees, chees_gradient, dual_averaging

CHAINS = 64


def _gaussian(params, x):
    return params * tree.squared_norm(x) / 2


def _trajectories(length, dtype=torch.float64):
    """Exact ones on a standard Gaussian: a rotation, of 200 chains in 3 dimensions, each for a fraction of the length."""
    keys = random.split(random.key(0), 4)
    start, momentum = (random.normal(key, (200, 3), dtype=dtype) for key in keys[:2])
    fraction, rate = (random.uniform(key, (200,), dtype=dtype) for key in keys[2:])
    time = fraction * length
    cosine, sine = torch.cos(time)[:, None], torch.sin(time)[:, None]
    return start, cosine * start + sine * momentum, cosine * momentum - sine * start, time, rate


@pytest.mark.parametrize("length", [0.3, 1.1, 2.9])
def test_the_gradient_is_that_of_the_criterion(length):
    """Finite differences in the log of the length, with the two means held."""
    length = torch.tensor(length, dtype=torch.float64)
    start, end, _, _, rate = _trajectories(length)
    centre, weighted = start.mean(0), (rate[:, None] * end).sum(0) / rate.sum()

    def criterion(log_length):
        start, end, *_ = _trajectories(log_length.exp())
        change = ((end - weighted) ** 2).sum(1) - ((start - centre) ** 2).sum(1)
        return (rate * change**2 / 4).sum() / rate.sum()

    h = 1e-5
    slope = (criterion(length.log() + h) - criterion(length.log() - h)) / (2 * h)
    gradient, total = chees_gradient(*_trajectories(length))
    torch.testing.assert_close(gradient, slope, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(total, rate.sum())


def test_chains_that_went_wrong_are_left_out():
    start, end, velocity, time, rate = _trajectories(torch.tensor(1.1))
    rate = rate.clamp(min=0.01)
    rate[0], rate[1] = torch.nan, 1e-5
    end[2], velocity[3, 1] = torch.inf, torch.nan
    spoilt = chees_gradient(start, end, velocity, time, rate)
    for value in (end, velocity, rate):
        value[:4] = 0
    for got, expected in zip(spoilt, chees_gradient(start, end, velocity, time, rate), strict=True):
        torch.testing.assert_close(got, expected)
    nothing, total = chees_gradient(start, end, velocity, time, 0 * rate)
    assert float(nothing) == float(total) == 0


def _transcription(steps, first_step, target=0.651):
    """The paper's updates in NumPy, from what each step of all chains gave."""
    log_length = log_average = math.log(first_step)
    second, lengths = 0.0, []
    algorithm = dual_averaging(target=target)
    searching = algorithm.init(torch.tensor(first_step, dtype=torch.float64))
    length = first_step
    for t, (x, y, v, u, rate, is_divergent) in enumerate(steps, start=1):
        a = np.where(rate > 1e-4, rate, 0)
        total = max(a.sum(), 1e-300)  # when all chains reject, nothing is learned of the length
        m, n = x.mean(0), (a[:, None] * y).sum(0) / total
        change = ((y - n) ** 2).sum(1) - ((x - m) ** 2).sum(1)
        g = (a * u * length * change * ((y - n) * v).sum(1)).sum() / total
        second = 0.95 * second + 0.05 * g**2 if a.any() else second
        log_length += np.clip(0.025 * g / np.sqrt(second / (1 - 0.95**t) + 1e-20), -0.35, 0.35)
        log_average = t**-0.5 * log_length + (1 - t**-0.5) * log_average
        with np.errstate(divide="ignore", over="ignore"):
            harmonic = 1 / np.mean(1 / rate[~is_divergent])
        searching = algorithm.update(searching, torch.tensor(np.mean(~is_divergent) * harmonic))
        step_size = float(searching.step_size)
        length = float(np.clip(np.exp(log_length), step_size, 1000 * step_size))
        lengths.append((step_size, length))
    return lengths, math.exp(log_average)


@pytest.mark.parametrize("as_tree", [False, True])
def test_it_is_the_recursion_of_the_paper(as_tree):
    sampler = samplers.dynamic_hmc(_gaussian, step_size=0.5)
    params = torch.tensor(1.0, dtype=torch.float64)
    positions = random.normal(random.key(1), (CHAINS, 4), dtype=torch.float64)
    split = lambda x: {"a": x[:, :1, None], "b": x[:, 1:]} if as_tree else x  # noqa: E731
    flat = lambda x: torch.cat([x["a"][:, :, 0], x["b"]], 1) if as_tree else x  # noqa: E731
    adaptation = chees(metric=None)
    state = vmap(sampler.init, (None, 0))(params, split(positions))
    memory = adaptation.init(random.key(2), sampler, params, state)
    first, steps, seen = float(memory.tuning.step_size), [], []
    for i in range(25):
        start = flat(state.position)
        noise = vmap(sampler.draw)(random.split(random.key(100 + i), CHAINS), state.position)
        state, info = sampler.batched_step(params, memory.tuning, state, noise)
        values = (start, flat(state.proposal), flat(state.velocity), state.fraction)
        steps.append([value.numpy() for value in (*values, info.acceptance_rate, info.is_divergent)])
        memory = adaptation.update(memory, state, info)
        seen.append((float(memory.tuning.step_size), float(memory.tuning.trajectory_length)))
    expected, average = _transcription(steps, first)
    np.testing.assert_allclose(seen, expected, rtol=1e-9)
    final = adaptation.final(memory)
    assert float(final.trajectory_length) == pytest.approx(max(average, float(final.step_size)), rel=1e-9)


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_on_a_gaussian_it_finds_the_best_length(scale):
    """With exact dynamics and ``u`` uniform the criterion is ``1/2 - sin(2T)/(4T)``, largest at ``T = 2.2467`` scales.

    A trajectory is rounded up to whole steps, half a step on average, and that is taken off.
    """
    sampler = samplers.dynamic_hmc(_gaussian)
    params = torch.tensor(scale**-2)
    starts = random.normal(random.key(1), (CHAINS, 20)) * scale
    _, _, tuning, used = run(random.key(0), sampler, params, starts, chees(metric=None), 250)
    best = 2.2467 * scale - float(tuning.step_size) / 2
    assert float(tuning.trajectory_length) == pytest.approx(best, rel=0.2)
    assert float(used[0].trajectory_length) == float(used[0].step_size)


def test_with_a_metric_it_is_the_same_length_on_any_scales():
    scales = torch.logspace(-1, 1, 20)
    sampler = samplers.dynamic_hmc(lambda params, x: ((x / scales) ** 2).sum() / 2)
    starts = random.normal(random.key(1), (CHAINS, 20)) * scales
    state, _, tuning, _ = run(random.key(0), sampler, (), starts, chees(), 250)
    errors = torch.log(tuning.metric.inverse_mass / scales**2).abs()
    assert (errors < log_variance_deviation(CHAINS * chees().windows(250)[2] / 10)).all()
    assert float(tuning.trajectory_length) == pytest.approx(2.2467 - float(tuning.step_size) / 2, rel=0.25)
    rates = []
    for i in range(60):
        noise = vmap(sampler.draw)(random.split(random.key(100 + i), CHAINS), state.position)
        state, info = sampler.batched_step((), tuning, state, noise)
        rates.append(1 / (1 / info.acceptance_rate).mean())
    assert_rate(torch.stack(rates), 0.651, chees().windows(250)[-1])


def test_the_criterion_does_not_depend_on_units():
    """A diagonal or dense metric equal to squared units changes nothing: the same run in other coordinates."""
    params = torch.tensor(1.0, dtype=torch.float64)
    units = torch.tensor([0.01, 1.0, 50.0], dtype=torch.float64)
    adaptation = chees(metric=None)

    def lengths(units, metric):
        sampler = samplers.dynamic_hmc(lambda params, x: _gaussian(params, x / units), inverse_mass=metric)
        starts = random.normal(random.key(1), (8, 3), dtype=torch.float64) * units
        return [float(u.trajectory_length) for u in run(random.key(0), sampler, params, starts, adaptation, 15)[3]]

    plain = lengths(torch.ones(3, dtype=torch.float64), None)
    np.testing.assert_allclose(lengths(units, metrics.diagonal(units**2)), plain, rtol=1e-8)
    np.testing.assert_allclose(lengths(units, metrics.dense(torch.diag(units**2))), plain, rtol=1e-8)


def test_divergent_chains_lower_the_step_size_by_their_share():
    sampler = samplers.dynamic_hmc(_gaussian, step_size=0.5)
    params = torch.tensor(1.0)
    state = vmap(sampler.init, (None, 0))(params, random.normal(random.key(0), (8, 2)))
    adaptation = chees(metric=None)
    memory = adaptation.init(random.key(1), sampler, params, state)
    _, info = sampler.batched_step(
        params, memory.tuning, state, vmap(sampler.draw)(random.split(random.key(2), 8), state.position)
    )
    rate = torch.full((8,), 0.8)
    for num_divergent in (0, 2, 8):
        divergent = torch.arange(8) < num_divergent
        fed = info._replace(acceptance_rate=torch.where(divergent, 0.0, rate), is_divergent=divergent)
        after = adaptation.update(memory, state, fed)
        expected = dual_averaging(target=0.651).update(
            memory.dual_averaging, torch.tensor(0.8 * (8 - num_divergent) / 8)
        )
        torch.testing.assert_close(after.dual_averaging, expected)
        assert torch.isfinite(torch.stack([after.log_length, after.log_average, after.second])).all()


def test_every_part_goes_through_vmap_over_parameters():
    adaptation = chees()
    sampler = samplers.dynamic_hmc(_gaussian, max_leapfrog=20)
    keys = random.split(random.key(3), 3)

    def whole(params):
        state = vmap(sampler.init, (None, 0))(params, random.normal(keys[0], (4, 2)))
        memory = adaptation.init(keys[0], sampler, params, state)
        for i in range(6):
            if i in (2, 4):
                memory = adaptation.refresh(random.fold_in(keys[1], i), sampler, params, memory, state)
            noise = vmap(sampler.draw)(random.split(random.fold_in(keys[2], i), 4), state.position)
            state, info = vmap(sampler.step, (None, None, 0, 0))(params, memory.tuning, state, noise)
            memory = adaptation.update(memory, state, info)
        return adaptation.final(memory)

    params = torch.tensor([0.5, 2.0])
    mapped = vmap(whole)(params)
    for i in range(2):
        for a, b in zip(tree.leaves(mapped), tree.leaves(whole(params[i])), strict=True):
            torch.testing.assert_close(a[i], b, rtol=1e-4, atol=1e-6)


def test_windows_add_up_and_short_runs_have_one():
    for num_steps in range(1, 300):
        assert sum(chees().windows(num_steps)) == num_steps
        assert min(chees().windows(num_steps)) > 0
    assert chees(metric=None).windows(500) == (500,)
    assert chees().windows(19) == (19,)


def test_bad_input_is_refused_with_a_fix():
    params = torch.tensor(1.0)
    with pytest.raises(ValueError, match=r"chees is for samplers.dynamic_hmc. Got a sampler with HMCTuning"):
        run(random.key(0), samplers.hmc(_gaussian), params, torch.zeros(4, 2), chees(), 5)
    with pytest.raises(ValueError, match=r"chees needs at least 2 chains. Got 1. Start 64 chains"):
        run(random.key(0), samplers.dynamic_hmc(_gaussian), params, torch.zeros(1, 2), chees(), 5)
    with pytest.raises(ValueError, match=r"target must be between 0 and 1. Got 0"):
        chees(target=0)
    with pytest.raises(ValueError, match=r"metric must be one of three. Got full"):
        chees(metric="full")
    with pytest.raises(ValueError, match=r"max_leapfrog must be an integer"):
        chees(max_leapfrog=0)
    with pytest.raises(ValueError, match=r"num_steps must be an integer of at least 1. Got 0"):
        chees().windows(0)
