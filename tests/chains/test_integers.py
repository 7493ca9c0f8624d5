"""Positions of integers and bools, where no gradient is needed, and where one is."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch

import funcebm as ebm
from funcebm import random, samplers

from ..distributions import assert_mean

KEY = random.key(0)


def _flips(params, x):
    return params * (x["z"] * torch.arange(3)).sum().to(torch.float32) + (x["on"] != x["z"][0].bool()).float()


def _walk():
    """A Metropolis sampler of one's own, of whole numbers 0 .. 4 and a bool."""

    def init(params, position):
        return _State(position, _flips(params, position))

    def draw(key, position):
        keys = random.split(key, 4)
        return (*(random.randint(k, (), 0, n) for k, n in zip(keys, (3, 5, 2), strict=False)), random.uniform(keys[3]))

    def step(params, tuning, state, noise):
        index, level, flag, uniform = noise
        z = torch.where(torch.arange(3) == index, level, state.position["z"])
        proposal = init(params, {"z": z, "on": flag.bool()})
        return samplers.metropolis_hastings(state.energy - proposal.energy, uniform, proposal, state, 0)

    return ebm.Sampler(init, draw, step, torch.tensor(1.0))


class _State(NamedTuple):
    position: Any
    energy: torch.Tensor


def _integers(num):
    return {"z": torch.zeros(num, 3, dtype=torch.int64), "on": torch.zeros(num, dtype=torch.bool)}


def test_integers_and_bools_where_no_gradient_is_needed():
    run = ebm.sample(KEY, _walk(), torch.tensor(0.5), _integers(400), num_samples=3, num_burn_in=40, thin=10, jit=False)
    assert run.draws["z"].dtype == torch.int64 and run.draws["on"].dtype == torch.bool
    levels = torch.arange(5.0)
    for site in (1, 2):  # independent of the rest
        weights = torch.softmax(-0.5 * site * levels, 0)
        assert_mean(run.draws["z"][:, -1, site, None].double(), (weights * levels).sum())


@pytest.mark.parametrize("make", [samplers.mala, samplers.random_walk, samplers.nuts, samplers.elliptical_slice])
def test_integers_are_refused_where_a_sampler_needs_floats(make):
    sampler = make(lambda params, x: (x["z"] ** 2).sum() / 2.0)
    with pytest.raises(TypeError, match=r"positions must be floating point.*'z', torch.int64.*positions.float\(\)"):
        ebm.sample(KEY, sampler, (), {"z": torch.zeros(2, 3, dtype=torch.int64)}, num_samples=2, jit=False)


def test_a_sampler_of_a_part_leaves_integers_alone():
    energy = lambda params, x: ((x["x"] - x["z"]) ** 2).sum() / 2  # noqa: E731
    sampler = samplers.on("x", lambda part: samplers.hmc(part, step_size=0.5, num_leapfrog=3), energy)
    starts = {"x": torch.zeros(200, 2), "z": torch.arange(200)[:, None] % 3}
    run = ebm.sample(KEY, sampler, (), starts, num_samples=1, num_burn_in=20, jit=False)
    assert torch.equal(run.draws["z"][:, 0], starts["z"])
    assert_mean(run.draws["x"][:, 0].double() - starts["z"], 0.0)
