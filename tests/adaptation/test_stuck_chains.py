"""Chains that do not move in a warm-up, short warm-ups, flat and large energies: mended, or told."""

from __future__ import annotations

import contextlib
import sys

import pytest
import torch
from torch.func import vmap

import funcebm as ebm
from funcebm import random, samplers

from ..distributions import assert_mean

KEYS = random.split(random.key(5), 4)


def hierarchy(y, x):
    """A mean, a log scale, and five effects whose data have unit errors."""
    mu, log_tau, eta = x[0], x[1], x[2:]
    residual = y - mu - log_tau.exp() * eta
    return mu**2 / 8 + log_tau**2 / 0.5 + (eta**2).sum() / 2 + (residual**2).sum() / 2


def wide(params, x):
    return (x**4).sum() / 4


MAKE = {"hmc": lambda energy: samplers.hmc(energy, num_leapfrog=8), "mala": samplers.mala, "barker": samplers.barker}


@pytest.mark.parametrize("name", ["mala", *(pytest.param(name, marks=pytest.mark.slow) for name in ("hmc", "barker"))])
def test_no_chain_is_stuck_after_a_warm_up_from_wide_starts(name):
    data = 1.4 * random.normal(KEYS[0], (8, 5))
    starts = 2.0 * random.normal(KEYS[1], (8, 16, 7))
    sampler = MAKE[name](hierarchy)

    def run(y, x, key):
        return ebm.warm_up(key, sampler, y, x, num_steps=200, jit=False)

    positions, _, report = vmap(run)(data, starts, random.split(KEYS[2], 8))
    assert not (positions == starts).all(-1).any()
    assert float((report.late_acceptance_rate < 0.01).float().mean()) < 0.01


@pytest.mark.parametrize("energy", [hierarchy, wide], ids=["hierarchy", "wide"])
def test_a_chain_that_cannot_move_takes_the_place_of_one_that_does(energy):
    starts = 0.5 * random.normal(KEYS[1], (16, 7))
    starts[3] = 9.0  # so steep that every step from there is rejected
    sampler = samplers.mala(energy)
    positions, _, report = ebm.warm_up(KEYS[2], sampler, torch.zeros(5), starts, num_steps=80, jit=False)
    assert float(positions[3].abs().max()) < 20
    assert len(torch.unique(positions[:, 0])) == 16  # no copies at the end
    assert not any("hardly ever" in warning for warning in report.warnings)


def test_where_no_chain_moves_all_stay_and_it_is_told():
    nowhere = lambda params, x: torch.where(x.abs().max() > 1e-30, torch.inf, 0.0) + 0 * x.sum()  # noqa: E731
    _, _, report = ebm.warm_up(KEYS[0], samplers.random_walk(nowhere), (), torch.zeros(4, 2), num_steps=60, jit=False)
    assert any("chains 0, 1, 2, 3 hardly ever accepted" in warning for warning in report.warnings)


@pytest.mark.parametrize("num_steps", [20, 30, pytest.param(45, marks=pytest.mark.slow)])
def test_a_short_warm_up_is_right_or_says_that_it_is_not(num_steps):
    energy = lambda params, x: (x**2).sum() / 2  # noqa: E731
    sampler = samplers.hmc(energy)
    for seed in range(3):
        starts = random.normal(random.key(seed), (4, 3))
        warm = ebm.warm_up(random.key(seed), sampler, (), starts, num_steps=num_steps, jit=False)
        assert int(warm.report.num_last) == max(int(0.1 * num_steps), min(int(0.4 * num_steps), 20))
        run = ebm.sample(KEYS[3], sampler, (), warm.positions, num_samples=20, tuning=warm.tuning, jit=False)
        assert warm.report.warnings or float(run.info.acceptance_rate.mean()) > 0.4


@pytest.mark.parametrize(
    ("energy", "words"),
    [
        (lambda p, x: 0 * x.sum(), "is flat"),
        (lambda p, x: 0 * x.sum() + 7.0, "is flat"),
        (lambda p, x: -(x**2).sum() / 2, "minus the log density"),
        (lambda p, x: -10 * x.abs().sum(), "minus the log density"),
        (lambda p, x: torch.distributions.Normal(0.0, 0.1).log_prob(x).sum(), "minus the log density"),
    ],
)
def test_an_energy_without_a_density_is_flat_or_falls_not_too_steep(energy, words):
    report = ebm.warm_up(KEYS[0], samplers.hmc(energy), (), torch.ones(4, 2), num_steps=100, jit=False).report
    assert any(words in w or "not finite" in w for w in report.warnings), str(report)
    assert not any("too steep" in warning for warning in report.warnings)


def test_an_energy_that_falls_to_its_bulk_is_right():
    energy = lambda p, x: (x**2).sum() / 2 - 5e3  # noqa: E731
    starts = 100 + random.normal(KEYS[0], (4, 2))
    report = ebm.warm_up(KEYS[0], samplers.hmc(energy), (), starts, num_steps=150, jit=False).report
    assert not any("falls" in warning for warning in report.warnings)


def test_energies_too_large_for_their_differences_are_told():
    energy = lambda shift, x: (x**2).sum() / 2 + shift  # noqa: E731
    for shift, dtype, is_told in ((1e8, torch.float32, True), (1e8, torch.float64, False), (1e3, torch.float32, False)):
        starts = random.normal(KEYS[0], (4, 2), dtype=dtype)
        shift = torch.tensor(shift, dtype=dtype)
        report = ebm.warm_up(KEYS[1], samplers.mala(energy), shift, starts, num_steps=50, jit=False).report
        assert any("rounding" in warning for warning in report.warnings) == is_told


@pytest.mark.parametrize(
    ("make", "when"), [(samplers.mala, 30), (samplers.mala, 90), (samplers.dynamic_hmc, 1), (samplers.mclmc, 70)]
)
def test_an_interrupt_gives_back_what_was_found(monkeypatch, make, when):
    class Bar(contextlib.nullcontext):
        num = 0

        def __enter__(self):
            return self

        def update(self, num):
            self.num += num
            if self.num >= when:
                raise KeyboardInterrupt

    starts = random.normal(KEYS[0], (8, 2))
    sampler = make(lambda params, x: (x**2).sum() / 2)
    monkeypatch.setattr(sys.modules["funcebm.adaptation.warm_up"], "progress_bar", lambda *_: Bar())
    positions, tuning, report = ebm.warm_up(KEYS[1], sampler, (), starts, num_steps=100, jit=False)
    num = len(report.step_size)
    assert when <= num < 100 and not report.is_complete and report.warnings
    assert f"interrupted after {num} steps" in str(report)
    assert "hardly ever" not in str(report) and not torch.equal(positions, starts)
    run = ebm.sample(KEYS[2], sampler, (), positions, tuning=tuning, num_samples=5, jit=False)
    assert bool(torch.isfinite(run.draws).all())
    monkeypatch.undo()
    whole = ebm.warm_up(KEYS[1], sampler, (), starts, num_steps=100, jit=False).report
    assert whole.is_complete and torch.equal(whole.step_size[:num], report.step_size)


def _simulate(key, x):
    z = random.normal(key, (5,))
    return x[0] + x[1].exp() * x[2:] + z


def _prior(key):
    return random.normal(key, (7,)) * torch.tensor([2.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hmc", "mala", "nuts"])
def test_calibration_ranks_are_uniform_from_wide_starts_with_default_settings(name):
    """Prior draws among posterior draws, one of each of 15 chains: independent but for the restarts."""
    sampler = {**MAKE, "nuts": lambda energy: samplers.nuts(energy, max_depth=6)}[name](hierarchy)

    def posterior(key, y):
        key_start, key_warm, key_run = random.split(key, 3).unbind(0)
        warm = ebm.warm_up(key_warm, sampler, y, 2.0 * random.normal(key_start, (16, 7)), num_steps=200, jit=False)
        options = {"num_samples": 1, "thin": 50, "tuning": warm.tuning, "jit": False}
        return ebm.sample(key_run, sampler, y, warm.positions, **options).draws[:15, 0]

    found = ebm.diagnostics.simulation_based_calibration(
        KEYS[2], _prior, _simulate, posterior, num_simulations=400, num_bins=8
    )
    print(found, found.p_value)
    assert found.warnings == ()
    for index in range(2):
        assert_mean(found.ranks[:, index, None].double(), 7.5)
