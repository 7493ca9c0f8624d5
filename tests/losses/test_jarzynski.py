"""Walkers whose weights keep up with the params: unbiased for any path of them and any step size."""

from __future__ import annotations

import math

import pytest
import torch
from tests.distributions import SIGMAS, assert_mean

from funcebm import energies, losses, random

NUM = 4000
BATCH = torch.zeros(2, 1, dtype=torch.float64)


def energy(params, x):
    """A Gaussian around params[1], of precision params[0]."""
    return params[0] * ((x - params[1]) ** 2).sum() / 2


def _loss(**options):
    reference = energies.gaussian.params(torch.zeros(1, dtype=torch.float64), [[1.0]])
    options = {"num_walkers": NUM, "num_temperatures": 10, "step_size": 0.3, "resample_below": 0.0, **options}
    return losses.jarzynski_maximum_likelihood(
        energy, reference=energies.gaussian, reference_params=reference, **options
    )


def _along(loss, num=6):
    """The params go from (1, 0) to (2.5, 0.6) in a few steps, faster than the walkers can follow."""
    path = torch.stack([torch.linspace(1.0, 2.5, num + 1), torch.linspace(0.0, 0.6, num + 1)], 1).double()
    memory, metrics = loss.init(random.key(0), path[0], BATCH), {}
    for key, params in zip(random.split(random.key(1), num), path[1:], strict=True):
        _, (memory, metrics) = loss(key, params, BATCH, memory)
    return path[-1], memory, metrics


@pytest.mark.parametrize("num_steps", [1, 3])
def test_weights_are_unbiased_along_any_path(num_steps):
    params, memory, metrics = _along(_loss(num_steps=num_steps))
    log_normalizer = 0.5 * math.log(2 * math.pi / float(params[0]))
    weights = torch.exp(memory.log_weights - log_normalizer)
    x = memory.positions[:, 0]
    assert_mean(weights, 1.0)
    assert_mean(weights * x, float(params[1]))
    assert_mean(weights * (x - params[1]) ** 2, 1 / float(params[0]))
    # and they do something: unadjusted steps of this size have another variance
    assert abs(float(x.var()) * float(params[0]) - 1) > 0.15
    torch.testing.assert_close(metrics["log_normalizer"], weights.mean().log() + log_normalizer)
    assert torch.equal(memory.params, params)


def test_resampling_keeps_the_law_and_evens_the_weights():
    params, memory, metrics = _along(_loss(resample_below=1.0))
    assert float(metrics["resampled"]) == 1
    torch.testing.assert_close(memory.log_weights, metrics["log_normalizer"].expand(NUM))
    log_normalizer = 0.5 * math.log(2 * math.pi / float(params[0]))
    error = (6 / float(metrics["effective_sample_size"])) ** 0.5  # six resamplings at most of this size each
    assert abs(float(metrics["log_normalizer"]) - log_normalizer) < SIGMAS * error
    x = memory.positions[:, 0]
    assert abs(float(x.mean() - params[1])) < SIGMAS * error / float(params[0]) ** 0.5
    assert abs(float(x.var() * params[0]) - 1) < SIGMAS * error * 2**0.5


def test_the_start_is_that_of_annealed_importance_sampling():
    params = torch.tensor([3.0, 0.2], dtype=torch.float64)
    memory = _loss().init(random.key(3), params, BATCH)
    assert_mean(torch.exp(memory.log_weights), math.sqrt(2 * math.pi / 3))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_steps": 0}, "num_steps must be an integer of at least 1"),
        ({"step_size": -1.0}, "step_size must be positive"),
        ({"resample_below": 2.0}, "resample_below must be in"),
        ({"num_walkers": 1}, "num_particles must be an integer of at least 2"),
    ],
)
def test_bad_arguments_are_refused_at_the_door(options, words):
    with pytest.raises(ValueError, match=words):
        _loss(**options)
