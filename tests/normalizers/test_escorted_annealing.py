"""Escorted annealing: unbiased for any control and any step, without variance at the right control."""

from __future__ import annotations

import math

import pytest
import torch

from funcebm import energies, normalizers, random

from ..distributions import assert_mean

REFERENCE = {"reference": energies.gaussian, "reference_params": energies.gaussian.params(torch.zeros(1).double())}


def _wells(params, x):
    """Two wells of different depth; log Z by quadrature."""
    return (x**4).sum() / 4 - (x**2).sum() + params * x.sum()


def _log_z(params: float) -> float:
    x = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
    return float(torch.log(torch.trapezoid(torch.exp(-(x**4) / 4 + x**2 - params * x), x)))


def _twist(params, t, x):
    """A control that has nothing to do with the problem."""
    return params * torch.sin(3 * x + t) + 0.5


@pytest.mark.parametrize("num_steps", [2, 12])
@pytest.mark.parametrize("control", [None, _twist])
def test_unbiased_for_any_control_and_step(num_steps, control):
    """The mean of the weights is Z / Z_0 exactly, however coarse the path."""
    params = torch.tensor(0.3, dtype=torch.float64)
    result = normalizers.escorted_annealing(
        random.key(0),
        _wells,
        params,
        **REFERENCE,
        control=control,
        control_params=torch.tensor(0.4, dtype=torch.float64),
        diffusion=0.5,
        num_particles=20_000,
        num_steps=num_steps,
        jit=False,
    )
    log_z0 = math.log(2 * math.pi) / 2
    assert_mean(result.log_weights.exp()[:, None], math.exp(_log_z(0.3) - log_z0))
    assert abs(float(result.log_normalizer) - _log_z(0.3)) < 5 * float(result.standard_error)


def test_no_variance_at_the_right_control():
    """A Gaussian moved by a constant control: every weight is Z / Z_0 as the steps go to zero."""
    energy = lambda params, x: ((x - 2) ** 2).sum() / 2  # noqa: E731
    spread = []
    for num_steps in (10, 40, 160):
        result = normalizers.escorted_annealing(
            random.key(0),
            energy,
            (),
            **REFERENCE,
            control=lambda params, t, x: 2 + 0 * x,
            num_particles=200,
            num_steps=num_steps,
            jit=False,
        )
        spread.append(float(result.log_weights.std()))
    lost = normalizers.escorted_annealing(
        random.key(0), energy, (), **REFERENCE, num_particles=200, num_steps=40, jit=False
    )
    assert spread[0] / spread[1] > 1.7 and spread[1] / spread[2] > 1.7, spread
    assert spread[2] < 0.05 < 0.2 < float(lost.log_weights.std())


def test_weighted_draws_are_those_of_the_target():
    params = torch.tensor(0.5, dtype=torch.float64)
    result = normalizers.escorted_annealing(
        random.key(1), _wells, params, **REFERENCE, num_particles=5000, num_steps=60, diffusion=2.0, jit=False
    )
    x = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
    density = torch.exp(-_wells_of(x, 0.5))
    mean = float(torch.trapezoid(x * density, x) / torch.trapezoid(density, x))
    weights = torch.softmax(result.log_weights, 0)
    estimate = (weights * result.positions[:, 0]).sum()
    error = ((weights * (result.positions[:, 0] - estimate)) ** 2).sum().sqrt()
    assert abs(float(estimate) - mean) < 5 * float(error)


def _wells_of(x, tilt):
    return x**4 / 4 - x**2 + tilt * x


def test_error_bars_are_calibrated():
    """Of 40 repetitions the squared errors over the squared error bars are one on average."""
    params, ratios = torch.tensor(0.3, dtype=torch.float64), []
    for i in range(40):
        result = normalizers.escorted_annealing(
            random.key(i), _wells, params, **REFERENCE, num_particles=400, num_steps=12, jit=False
        )
        ratios.append(float((result.log_normalizer - _log_z(0.3)) / result.standard_error) ** 2)
    # chi-squared with 40 degrees of freedom
    assert abs(sum(ratios) / 40 - 1) < 5 * math.sqrt(2 / 40), sum(ratios) / 40


@pytest.mark.compiled
def test_compiled_is_eager():
    params = torch.tensor(0.3, dtype=torch.float64)
    runs = [
        normalizers.escorted_annealing(
            random.key(0),
            _wells,
            params,
            **REFERENCE,
            control=_twist,
            control_params=params,
            num_particles=64,
            num_steps=9,
            jit=jit,
        )
        for jit in (False, True)
    ]
    torch.testing.assert_close(runs[0].log_weights, runs[1].log_weights, rtol=0, atol=1e-12)


def test_bad_input():
    for change, match in (
        ({"diffusion": 0.0}, "diffusion must be positive"),
        ({"num_particles": 1}, "num_particles"),
        ({"schedule": [0.0, 0.5]}, "schedule must increase"),
        ({"control": lambda params, t, x: {"a": x}}, "the output of a control"),
    ):
        with pytest.raises(ValueError, match=match):
            normalizers.escorted_annealing(
                random.key(0), _wells, torch.tensor(0.3).double(), **REFERENCE, jit=False, **change
            )
