"""One process may compile runs of any number of chains, one after the other, and lengths do not compile anew."""

from __future__ import annotations

import pytest
import torch

import funcebm as ebm
from funcebm.transforms import can_compile

pytestmark = pytest.mark.skipif(not can_compile(), reason="needs a compiler")


def test_numbers_of_chains_one_after_the_other():
    sampler = ebm.samplers.langevin(ebm.energies.double_well, step_size=0.01)
    params, key = ebm.energies.double_well.params(), ebm.random.key(0)
    runs = [ebm.sample(key, sampler, params, torch.zeros(num, 2), num_samples=5) for num in (24, 7, 16)]
    for samples in runs[1:]:
        num = samples.draws.shape[0]
        torch.testing.assert_close(samples.draws, runs[0].draws[:num])


def test_lengths_do_not_compile_anew():
    from torch._dynamo.utils import counters

    sampler = ebm.samplers.langevin(ebm.energies.double_well, step_size=0.02)
    params, key, positions = ebm.energies.double_well.params(), ebm.random.key(0), torch.zeros(5, 2)
    ebm.sample(key, sampler, params, positions, num_samples=8)
    before = counters["frames"]["ok"]
    for num_samples in (5, 9, 13):
        ebm.sample(key, sampler, params, positions, num_samples=num_samples)
    assert counters["frames"]["ok"] == before
