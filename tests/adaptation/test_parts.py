"""A warm-up reaches the parts of a sampler: blocks of a mixed position, cycles and mixtures."""

from __future__ import annotations

import pytest
import torch
from tests.distributions import assert_rate

import funcebm as ebm
from funcebm import adaptation, random, samplers, tree

SCALES = torch.tensor([0.1, 3.0])


def energy(params, x):
    """Two scales, with a centre that two bits choose."""
    return (((x["x"] - 2 * SCALES * x["z"]) / SCALES) ** 2).sum() / 2 + 0.5 * (x["z"]).sum()


def _parts():
    return (
        samplers.on("x", lambda e: samplers.hmc(e, step_size=1e-3, num_leapfrog=4), energy),
        samplers.on("z", samplers.gibbs, energy),
    )


def _starts(num=24):
    return {"x": random.normal(random.key(0), (num, 2)), "z": torch.zeros(num, 2)}


def test_hmc_on_a_part_is_tuned_and_gibbs_stays():
    warm = ebm.warm_up(random.key(1), samplers.cycle(*_parts()), (), _starts(), num_steps=200, jit=False)
    hmc, gibbs = warm.tuning
    assert hmc.step_size > 0.1  # a hundred times the first one
    spread = hmc.metric.inverse_mass.sqrt()
    assert 15 < spread[1] / spread[0] < 60  # the scales are thirty apart
    assert tree.structure(gibbs) == tree.structure(_parts()[1].tuning)
    run = ebm.sample(
        random.key(2), samplers.cycle(*_parts()), (), warm.positions, num_samples=30, tuning=warm.tuning, jit=False
    )
    assert 0.5 < run.info.acceptance_rates[..., 0].mean() < 0.95
    assert (run.info.acceptance_rates[..., 1] == 1).all()


def test_one_part_alone_is_tuned_as_well():
    (on_x, _), starts = _parts(), _starts()
    warm = ebm.warm_up(random.key(1), on_x, (), starts, num_steps=150, jit=False)
    assert warm.tuning.step_size > 0.1 and warm.report.late_acceptance_rate.mean() > 0.5
    assert torch.equal(warm.positions["z"], starts["z"])


@pytest.mark.parametrize("combine", [samplers.cycle, lambda *parts: samplers.mix(parts)])
def test_each_part_gets_the_step_size_that_it_has_alone(combine):
    plain = lambda params, x: (x**2).sum() / 2  # noqa: E731
    kernels = [
        samplers.mala(plain, step_size=1e-3),
        samplers.random_walk(plain, step_size=10.0),
        samplers.langevin(plain),
    ]
    starts = random.normal(random.key(3), (30, 4))
    options = {"num_steps": 200, "jit": False}
    together = ebm.warm_up(random.key(4), combine(*kernels), (), starts, **options).tuning
    for index, kernel in enumerate(kernels[:2]):
        alone = ebm.warm_up(random.key(5), kernel, (), starts, **options).tuning
        size = lambda tuning: tuning.step_size * tuning.metric.inverse_mass.mean() ** (1 if index == 0 else 0.5)  # noqa: E731, B023
        assert 0.6 < size(together[index]) / size(alone) < 1.6
    assert together[2].step_size == kernels[2].tuning.step_size  # there is no test to go by


def test_discrete_langevin_reaches_its_acceptance_rate():
    """A chain of bits strong enough that a large step is refused."""
    chain = lambda params, x: -params * ((2 * x[1:] - 1) * (2 * x[:-1] - 1)).sum()  # noqa: E731
    sampler = samplers.discrete_langevin(chain, step_size=0.05)
    starts = torch.zeros(40, 30)
    warm = ebm.warm_up(random.key(0), sampler, torch.tensor(0.6), starts, num_steps=250, jit=False)
    run = ebm.sample(
        random.key(1), sampler, torch.tensor(0.6), warm.positions, num_samples=60, tuning=warm.tuning, jit=False
    )
    assert_rate(run.info.acceptance_rate.mean(0), 0.574, 50)  # the last window
    unadjusted = samplers.discrete_langevin(chain, adjusted=False)
    assert isinstance(adaptation.default(unadjusted, 4), type(adaptation.unchanged()))
    assert adaptation.default(unadjusted, 4).windows is None


@pytest.mark.compiled
def test_a_compiled_warm_up_of_parts_is_the_eager_one():
    runs = [
        ebm.warm_up(random.key(1), samplers.cycle(*_parts()), (), _starts(4), num_steps=30, jit=jit)
        for jit in (True, False)
    ]
    assert torch.equal(runs[0].positions["z"], runs[1].positions["z"])
    torch.testing.assert_close(runs[0].tuning[0].step_size, runs[1].tuning[0].step_size, rtol=1e-3, atol=0)
