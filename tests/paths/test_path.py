"""Paths: their ends, derivatives against finite differences, stability, and the points that they make."""

from __future__ import annotations

import math

import pytest
import torch
from tests.paths.paths_table import AFFINE, ALL, EXACT_ENDS, LATENT

import funcebm as ebm
from funcebm import paths

INSIDE = torch.linspace(0.02, 0.98, 49, dtype=torch.float64)
ENDS = torch.tensor([0.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("name", ALL)
def test_derivatives_are_those_of_finite_differences(name):
    path, h = ALL[name], 1e-6
    inside = INSIDE[(INSIDE - 0.5).abs() > 0.01]
    c, after, before = (paths.at(path, inside + shift) for shift in (0.0, h, -h))
    for slope, values in (
        (c.d_alpha, (after.alpha, before.alpha)),
        (c.d_sigma, (after.sigma, before.sigma)),
        (c.sigma_d_sigma, (after.sigma**2 / 2, before.sigma**2 / 2)),
        (c.gamma_d_gamma, (after.gamma**2 / 2, before.gamma**2 / 2)),
    ):
        torch.testing.assert_close(slope, (values[0] - values[1]) / (2 * h), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(c.wronskian, c.d_alpha * c.sigma - c.alpha * c.d_sigma, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(c.sigma_wronskian, c.sigma * c.wronskian, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ALL)
def test_coefficients_of_one_time_have_its_dtype(name, dtype):
    """Those of a scalar too, whose derivatives torch makes float64."""
    coefficients = paths.at(ALL[name], torch.tensor(0.3, dtype=dtype))
    assert {value.dtype for value in coefficients} == {dtype}


@pytest.mark.parametrize("name", AFFINE)
def test_the_log_ratio_grows_at_the_rate_of_the_wronskian(name):
    path, h = AFFINE[name], 1e-6
    c = paths.at(path, INSIDE)
    rate = (paths.at(path, INSIDE + h).log_snr - paths.at(path, INSIDE - h).log_snr) / (2 * h)
    torch.testing.assert_close(rate, c.wronskian / (c.alpha * c.sigma), rtol=1e-5, atol=1e-7)
    assert (c.wronskian > 0).all()
    torch.testing.assert_close(paths.time_of(path, c.log_snr), INSIDE, rtol=1e-7, atol=1e-9)


def test_without_a_closed_form_the_time_is_found_by_bisection():
    c = paths.at(paths.variance_preserving(), INSIDE)
    without = paths.variance_preserving()._replace(inverse_log_snr=None)
    torch.testing.assert_close(paths.time_of(without, c.log_snr), INSIDE, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", EXACT_ENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ends_are_exact(name, dtype):
    c = paths.at(ALL[name], ENDS.to(dtype))
    ends = [
        (alpha, sigma, gamma)
        for alpha, sigma, gamma in zip(*(part.tolist() for part in (c.alpha, c.sigma, c.gamma)), strict=True)
    ]
    torch.testing.assert_close(torch.tensor(ends), torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]), rtol=0, atol=1e-7)
    assert ends[1][:2] == (1.0, 0.0)


def test_ends_that_are_not_exact_are_those_of_the_literature():
    c = paths.at(paths.variance_preserving(), ENDS)
    torch.testing.assert_close(c.alpha, torch.tensor([math.exp(-5.025), 1.0]).double())
    assert c.sigma[1] == 0 and c.d_sigma[1] == -math.inf
    torch.testing.assert_close(c.sigma_d_sigma, torch.tensor([-20 * math.exp(-10.05) / 2, -0.05]).double())
    torch.testing.assert_close(c.sigma_wronskian[1], torch.tensor(0.05).double())
    torch.testing.assert_close(paths.at(paths.sub_variance_preserving(), ENDS).d_sigma[1], torch.tensor(-0.1).double())
    torch.testing.assert_close(paths.at(AFFINE["variance_exploding"], ENDS).sigma, torch.tensor([8.0, 0.05]).double())
    torch.testing.assert_close(paths.at(AFFINE["lipman"], ENDS).sigma, torch.tensor([1.0, 0.01]).double())


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_is_nan_in_the_closed_interval(name, dtype):
    times = torch.cat([ENDS, INSIDE, torch.tensor([1e-3, 1e-7, 1 - 1e-7, 1 - 1e-3])]).to(dtype)
    c = paths.at(ALL[name], times)
    for field in c._fields:
        value = getattr(c, field)
        assert value.dtype == dtype and value.shape == times.shape
        if field == "log_snr":  # of the encoder and decoder nothing is left at 1/2
            value = value[times != 0.5]
        assert not value.isnan().any(), field
    for field in ("alpha", "sigma", "gamma", "d_alpha", "gamma_d_gamma", "sigma_d_sigma", "sigma_wronskian"):
        assert getattr(c, field).isfinite().all(), field


def test_a_brownian_bridge_has_the_slope_that_its_noise_has_not():
    c = paths.at(paths.brownian_bridge(2.0), torch.tensor([0.0, 0.25, 0.5, 1.0]).double())
    torch.testing.assert_close(c.gamma_d_gamma, torch.tensor([2.0, 1.0, 0.0, -2.0]).double())
    torch.testing.assert_close(c.gamma**2, torch.tensor([0.0, 0.75, 1.0, 0.0]).double())


@pytest.mark.parametrize("name", ALL)
def test_a_point_of_a_path_moves_with_its_velocity(name):
    path, h = ALL[name], torch.tensor(1e-6).double()
    x0, x1, z = ({"a": torch.tensor([v, 2 * v]).double(), "b": torch.tensor(3 * v).double()} for v in (0.3, -1.1, 0.8))
    z = z if name in LATENT else ()
    for t in (0.1, 0.45, 0.8):
        t = torch.tensor(t).double()
        now, after, before = (paths.sample_path(path, at, x0, x1, z) for at in (t, t + h, t - h))
        for leaf in ("a", "b"):
            slope = (after.position[leaf] - before.position[leaf]) / (2 * h)
            torch.testing.assert_close(now.velocity[leaf], slope, rtol=1e-6, atol=1e-7)


def test_of_a_bridge_the_velocity_is_the_drift_of_its_ends():
    t, x0, x1 = (torch.tensor(v).double() for v in (0.3, 0.2, 1.5))
    here = paths.sample_path(paths.brownian_bridge(0.5), t, x0, x1, torch.tensor(-0.7).double())
    middle = (1 - t) * x0 + t * x1
    expected = x1 - x0 + (1 - 2 * t) / (2 * t * (1 - t)) * (here.position - middle)
    torch.testing.assert_close(here.velocity, expected)


def test_numbers_of_paths_may_be_traced():
    def variance(beta, sigma_max, power):
        t = torch.tensor(0.3)
        parts = paths.variance_preserving(0.1, beta), paths.variance_exploding(0.1, sigma_max), paths.polynomial(power)
        return torch.stack([paths.at(path, t).sigma for path in parts])

    arguments = torch.tensor([10.0, 20.0]), torch.tensor([3.0, 5.0]), torch.tensor([1.0, 2.0])
    mapped = torch.func.vmap(variance)(*arguments)
    torch.testing.assert_close(mapped[1], variance(*(argument[1] for argument in arguments)))
    assert torch.func.grad(lambda beta: variance(beta, *(a[0] for a in arguments[1:])).sum())(torch.tensor(10.0)) > 0


@pytest.mark.compiled
def test_compiled_is_eager():
    times = torch.linspace(0, 1, 11, dtype=torch.float64)

    def all_of(t):
        names = ("trigonometric", "variance_preserving", "variance_exploding", "brownian_bridge")
        return tuple(paths.at(ALL[name], t) for name in names)

    for eager, compiled in zip(all_of(times), ebm.jit(all_of)(times), strict=True):
        torch.testing.assert_close(tuple(compiled), tuple(eager), rtol=1e-12, atol=1e-12, equal_nan=True)


def test_bad_arguments_are_refused_at_the_door():
    with pytest.raises(TypeError, match="alpha must be a function of t"):
        paths.path(0.5, lambda t: 1 - t)
    with pytest.raises(ValueError, match="sigma_max must be positive"):
        paths.variance_exploding(0.1, -1.0)
    with pytest.raises(ValueError, match="a path with further noise needs z"):
        paths.sample_path(paths.brownian_bridge(), torch.tensor(0.5), torch.zeros(2), torch.ones(2))
