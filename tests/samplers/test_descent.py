"""Mode seeking, in closed form on a quadratic."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import funcebm as ebm
from funcebm import random, samplers, tree

STIFFNESS = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
START = torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.1, -1.0]], dtype=torch.float64)


def _quadratic(stiffness, x):
    return (stiffness * x**2).sum() / 2


def _run(sampler, num=25):
    sampler = sampler._replace(tuning=tree.map(torch.Tensor.double, sampler.tuning))
    return ebm.sample(random.key(0), sampler, STIFFNESS, START, num_samples=num, jit=False)


def test_gradient_descent_contracts_by_one_minus_h_k():
    samples = _run(samplers.gradient_descent(_quadratic, step_size=0.25))
    powers = torch.arange(1, 26)[:, None]
    torch.testing.assert_close(samples.draws, START[:, None] * (1 - 0.25 * STIFFNESS) ** powers)
    assert samples.info.acceptance_rate.min() == 1


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.75])
def test_nesterov_is_a_linear_recursion(momentum):
    """``(x, v)`` is multiplied by a matrix of each coordinate: ``v' = mu (1 - h k) v - h k x``, ``x' = x + v'``."""
    samples = _run(samplers.nesterov(_quadratic, step_size=0.25, momentum=momentum))
    for d, k in enumerate(STIFFNESS.tolist()):
        velocity = np.array([-0.25 * k, momentum * (1 - 0.25 * k)])
        matrix = np.array([[1.0, 0.0] + velocity, velocity])
        for n in range(25):
            x, _ = np.linalg.matrix_power(matrix, n + 1) @ np.stack([START[:, d].numpy(), np.zeros(2)])
            np.testing.assert_allclose(samples.draws[:, n, d], x, rtol=1e-10, atol=1e-12)


def test_nesterov_without_momentum_is_gradient_descent():
    draws = [
        _run(sampler).draws
        for sampler in (
            samplers.nesterov(_quadratic, step_size=0.25, momentum=0.0),
            samplers.gradient_descent(_quadratic, step_size=0.25),
        )
    ]
    torch.testing.assert_close(*draws)


def test_momentum_speeds_up_a_stiff_valley():
    """The best rates at condition number 100: ``1 - 2 / 101`` for descent, ``1 - 1 / 10`` for Nesterov."""
    stiffness = torch.tensor([0.01, 1.0, 1.0]).double()
    ends = []
    for sampler in (
        samplers.gradient_descent(_quadratic, step_size=1.0),
        samplers.nesterov(_quadratic, step_size=1.0, momentum=0.8),
    ):
        run = ebm.sample(random.key(0), sampler, stiffness, START, num_samples=1, thin=100, jit=False)
        ends.append(float(run.info.energy.max()))
    assert ends[1] < 1e-3 * ends[0]


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        (samplers.gradient_descent, {"step_size": 0.0}, "step_size must be positive"),
        (samplers.nesterov, {"step_size": -1.0}, "step_size must be positive"),
        (samplers.nesterov, {"momentum": 1.0}, "momentum must be in"),
        (samplers.nesterov, {"momentum": -0.1}, "momentum must be in"),
    ],
)
def test_numbers_that_make_no_sense_are_errors(factory, options, message):
    with pytest.raises(ValueError, match=message):
        factory(_quadratic, **options)
