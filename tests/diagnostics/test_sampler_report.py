"""What the sampler says, chain by chain, and effective draws for what they cost."""

import math
from typing import Any, NamedTuple

import pytest
import torch

from funcebm import chains, random, samplers
from funcebm.diagnostics import ebfmi, efficiency, ess_bulk, sampler_report


class Info(NamedTuple):
    acceptance_rate: Any = None
    is_divergent: Any = None
    num_gradients: Any = None
    total_energy: Any = None
    tree_depth: Any = None
    is_max_depth: Any = None


class Samples(NamedTuple):
    draws: Any
    info: Any


def gaussian(params, x):
    return 0.5 * (x * x).sum()


def normals(*shape):
    return random.normal(random.key(1), shape, dtype=torch.float64)


def test_the_report_counts_by_chain():
    divergent = torch.zeros(3, 50, dtype=torch.bool)
    divergent[1, 4:7] = True
    depth = torch.full((3, 50), 2, dtype=torch.int32)
    depth[2, 0] = 10
    energies = normals(3, 50)
    info = Info(torch.linspace(0, 1, 150).reshape(3, 50), divergent, 2**depth - 1, energies, depth, depth == 10)
    report = sampler_report(Samples(normals(3, 50, 2), info))
    torch.testing.assert_close(report.acceptance_rate, info.acceptance_rate.double().mean(1))
    assert report.num_divergent.tolist() == [0, 3, 0]
    assert report.num_gradients.tolist() == [150, 150, 147 + 1023]
    assert report.max_tree_depth.tolist() == [2, 2, 10]
    torch.testing.assert_close(report.tree_depth, torch.tensor([2, 2, 2 + 8 / 50], dtype=torch.float64))
    assert report.num_max_depth.tolist() == [0, 0, 1]
    torch.testing.assert_close(report.ebfmi, ebfmi(energies))
    assert report.energy_fraction is None, "no run, no dimension"


def test_what_the_info_does_not_tell_is_none():
    assert all(value is None for value in sampler_report(Samples(normals(3, 50), ())))
    assert efficiency(normals(3, 50))[1:] == (None, None, None)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_run_tells_its_cost_target_and_energies(temperature):
    """For a Gaussian the energies vary by D / 2 (in units of the temperature), which makes the fraction 1."""
    sampler = samplers.hmc(gaussian, step_size=0.4, num_leapfrog=4, temperature=temperature)
    starts = math.sqrt(temperature) * random.normal(random.key(0), (50, 6))
    run = chains.sample(random.key(2), sampler, (), starts, num_samples=60, thin=2, jit=False)
    report = sampler_report(run)
    assert report.num_gradients.tolist() == [60 * 2 * 4] * 50
    assert report.target_acceptance == 0.8
    assert abs(report.energy_fraction - 1) < 0.1
    assert sampler_report(run._replace(run=())).energy_fraction is None
    found = efficiency(run, seconds=4.0)
    assert found.ess == float(ess_bulk(run.draws).min())
    assert found.num_gradients == 50 * 60 * 2 * 4
    assert found.ess_per_gradient == found.ess / found.num_gradients
    assert found.ess_per_second == found.ess / 4


def test_a_chain_that_stands_still_far_out_is_not_in_the_energy_fraction():
    sampler = samplers.hmc(gaussian, step_size=0.4, num_leapfrog=4)
    run = chains.sample(random.key(2), sampler, (), random.normal(random.key(0), (50, 6)), num_samples=60, jit=False)
    energy = run.info.energy.clone()
    energy[7] = 1_000.0
    assert abs(sampler_report(run._replace(info=run.info._replace(energy=energy))).energy_fraction - 1) < 0.1
    still = run._replace(info=run.info._replace(energy=torch.ones(50, 60)))
    assert sampler_report(still).energy_fraction is None


def test_an_unadjusted_sampler_has_no_energy_fraction():
    sampler = samplers.langevin(gaussian, step_size=0.1)
    run = chains.sample(random.key(2), sampler, (), torch.zeros(2, 3), num_samples=10, jit=False)
    assert sampler_report(run).energy_fraction is None


def test_bad_input_is_refused_in_words():
    with pytest.raises(ValueError, match=r"samples.info.is_divergent must be of shape \(C, N\) like the draws"):
        sampler_report(Samples(normals(3, 50), Info(is_divergent=torch.zeros(3))))
    with pytest.raises(ValueError, match="seconds must be positive"):
        efficiency(normals(3, 50), seconds=0.0)
    with pytest.raises(ValueError, match="at least 4 draws"):
        efficiency(normals(3, 2))
