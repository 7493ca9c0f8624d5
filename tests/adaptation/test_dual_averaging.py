"""Dual averaging: its recursion, transcribed, and where it settles."""

from __future__ import annotations

import math

import pytest
import torch
from torch.func import vmap

from funcebm import random
from funcebm.adaptation import dual_averaging


def _transcription(rates, first, target=0.8, gamma=0.05, t0=10, kappa=0.75):
    """Hoffman and Gelman, algorithm 5, in plain Python numbers."""
    error, average, anchor, path = 0.0, 0.0, math.log(10 * first), []
    for t, rate in enumerate(rates, start=1):
        rate = min(rate, 1.0) if math.isfinite(rate) else 0.0
        error = (1 - 1 / (t + t0)) * error + (target - rate) / (t + t0)
        log_step = anchor - math.sqrt(t) / gamma * error
        average = t**-kappa * log_step + (1 - t**-kappa) * average
        path.append((math.exp(log_step), math.exp(average)))
    return path


@pytest.mark.parametrize("options", [{}, {"target": 0.6, "gamma": 0.1, "t0": 3, "kappa": 0.9}])
def test_it_is_the_recursion_of_the_paper(options):
    rates = random.uniform(random.key(0), (60,), dtype=torch.float64)
    rates[7], rates[20], rates[30] = torch.nan, 1.5, -torch.inf
    algorithm = dual_averaging(**options)
    state = algorithm.init(torch.tensor(0.3, dtype=torch.float64))
    for rate, (step_size, averaged) in zip(rates, _transcription(rates.tolist(), 0.3, **options), strict=True):
        state = algorithm.update(state, rate)
        assert float(state.step_size) == pytest.approx(step_size, rel=1e-12)
        assert float(algorithm.final(state)) == pytest.approx(averaged, rel=1e-12)


@pytest.mark.parametrize("first", [1e-3, 0.5, 100.0])
@pytest.mark.parametrize("target", [0.234, 0.65, 0.9])
def test_it_finds_the_step_size_of_the_target_on_a_known_curve(first, target):
    """The acceptance is ``erfc(h / 2)``, seen through the outcomes of 100 chains a step: of 40,000 in all."""
    algorithm = dual_averaging(target=target)
    state = algorithm.init(torch.tensor(first, dtype=torch.float64))
    curve = lambda h: torch.erfc(h / 2)  # noqa: E731
    for uniforms in random.uniform(random.key(1), (400, 100), dtype=torch.float64):
        state = algorithm.update(state, (uniforms < curve(state.step_size)).double().mean())
    assert float(curve(algorithm.final(state))) == pytest.approx(target, abs=0.01)


def test_before_any_update_the_step_size_is_the_first_one():
    state = dual_averaging().init(torch.tensor(0.7))
    assert float(state.step_size) == pytest.approx(0.7)
    assert float(dual_averaging().final(state)) == pytest.approx(0.7)
    assert state.step_size.dtype == torch.float32


def test_a_thousand_rejections_leave_a_step_size_that_can_grow_again():
    algorithm = dual_averaging()
    state = algorithm.init(torch.tensor(1.0))
    for _ in range(1000):
        state = algorithm.update(state, torch.tensor(torch.nan))
    assert float(state.step_size) > 0
    for _ in range(20_000):
        state = algorithm.update(state, torch.exp(-state.step_size))
    assert float(torch.exp(-algorithm.final(state))) == pytest.approx(0.8, abs=0.05)


def test_it_goes_through_vmap():
    algorithm = dual_averaging()
    firsts, rates = torch.tensor([0.1, 1.0]), torch.tensor([0.3, torch.nan])
    mapped = vmap(lambda first, rate: algorithm.update(algorithm.init(first), rate))(firsts, rates)
    for i in range(2):
        alone = algorithm.update(algorithm.init(firsts[i]), rates[i])
        for field, value in zip(alone._fields, alone, strict=True):
            torch.testing.assert_close(getattr(mapped, field)[i], value)


@pytest.mark.parametrize("options", [{"target": 1.0}, {"target": 0.0}, {"gamma": 0.0}, {"t0": -1}, {"kappa": 0.5}])
def test_numbers_out_of_range_are_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} must.* Got "):
        dual_averaging(**options)
