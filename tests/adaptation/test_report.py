"""The report of a warm-up names the chains that went wrong, and no others."""

from __future__ import annotations

import pytest
import torch

import funcebm as ebm
from funcebm import random, samplers
from funcebm.adaptation.report import Report


def _report(late_acceptance_rate, late_divergent, num_steps=1_000, step_size=0.3):
    per_step = torch.full((num_steps,), step_size)
    counts = torch.ones(num_steps, dtype=torch.int64)
    rates = torch.full((num_steps,), 0.8)
    late = torch.tensor(late_acceptance_rate), torch.tensor(late_divergent)
    return Report(per_step, rates, counts, 4 * counts, *late, torch.tensor(0.25))


def test_nothing_is_said_where_nothing_is_wrong():
    report = _report([0.8, 0.7], [0.0, 12.0])  # of 250 late steps
    assert report.warnings == ()
    assert "warning" not in str(report)
    assert str(report).startswith("warm-up of 2 chains, 1,000 steps\nstep size        0.25\nacceptance rate  0.800")
    assert "divergences      1,000, 250 of them late" in str(report)
    assert "gradients        4,000" in repr(report)


def test_chains_that_are_stuck_or_diverge_are_named():
    report = _report([0.8, 0.0, 0.7, 0.005], [0.0, 0.0, 13.0, 250.0])
    assert len(report.warnings) == 2
    assert report.warnings[0].startswith("chains 1, 3 hardly ever accepted")
    assert report.warnings[1].startswith("chains 2, 3 still diverged")
    assert str(report).count("warning: ") == 2


def test_one_divergence_on_the_way_of_a_short_warm_up_is_no_warning():
    assert _report([0.8] * 2, [1.0, 2.0], num_steps=24).warnings == ()
    assert "chains 1 still" in _report([0.8] * 2, [1.0, 3.0], num_steps=24).warnings[0]


def test_divergences_at_step_sizes_that_were_not_kept_are_no_warning():
    found = _report([0.8] * 8, [4.0] * 8, num_steps=100)
    is_long = torch.arange(100) % 5 == 0
    sizes, counts = torch.where(is_long, 0.4, 0.25), torch.where(is_long, 8, 0)
    assert found._replace(step_size=sizes, num_divergent=counts).warnings == ()
    assert "still diverged" in found._replace(step_size=sizes, num_divergent=counts.roll(1)).warnings[0]


@pytest.mark.slow
@pytest.mark.parametrize("dim", [1, 3])
def test_a_gaussian_is_not_too_steep(dim):
    sampler, starts = samplers.hmc(lambda params, x: (x**2).sum() / 2), random.normal(random.key(dim), (8, dim))
    report = ebm.warm_up(random.key(0), sampler, (), starts, num_steps=200, jit=False).report
    assert int(report.num_divergent[-50:].sum()) > 0  # the search goes beyond what is stable
    assert report.warnings == ()


def test_the_report_of_several_samplers_shows_no_step_size_of_zero():
    quadratic = lambda params, x: (x**2).sum() / 2  # noqa: E731
    sampler = samplers.cycle(samplers.mala(quadratic), samplers.random_walk(quadratic))
    warm = ebm.warm_up(random.key(0), sampler, (), torch.zeros(4, 2), num_steps=40, jit=False)
    assert "step size" not in str(warm.report)


def test_many_chains_are_counted_and_a_step_size_that_is_lost_is_told():
    report = _report([0.0] * 20, [0.0] * 20, step_size=torch.nan)
    assert "chains 0, 1, 2, 3, 4, 5, 6, 7 and 12 more" in report.warnings[0]
    assert "the step size met a number that is not finite" in report.warnings[1]


def test_a_warm_up_too_short_for_a_step_size_is_told():
    assert "19 steps are too few to find a step size" in _report([0.8] * 2, [0.0, 0.0], num_steps=19).warnings[0]
    sampler = samplers.elliptical_slice(lambda params, x: x.sum())
    warm = ebm.warm_up(random.key(0), sampler, (), torch.zeros(4, 2), num_steps=5, jit=False)
    assert warm.report.warnings == ()  # it has no step size to find


def test_the_step_size_that_is_shown_is_the_one_that_comes_back():
    sampler = samplers.mala(lambda params, x: (x**2).sum() / 2)
    warm = ebm.warm_up(random.key(0), sampler, (), torch.zeros(4, 2), num_steps=30, jit=False)
    assert float(warm.report.final_step_size) == float(warm.tuning.step_size) != float(warm.report.step_size[-1])
