"""The SoftAbs metric and its derivative, also where eigenvalues coincide or are zero."""

from __future__ import annotations

import pytest
import torch
from torch.func import jacrev, vmap

from funcebm import random, samplers
from funcebm.samplers.softabs import _divided_differences, _lifted, _slope

DTYPE = torch.float64


def _energy(params, x):
    return (x**2).sum() / 2 + 0.3 * torch.sin(2 * x[0] + x[1]) - x[1] ** 2 + 0.2 * x[0] * x[2] ** 2 + 0.1 * x[2] ** 4


def _coinciding(params, x):
    """At zero the Hessian is the identity, and its derivative is not zero."""
    return (x**2).sum() / 2 + x[0] ** 3 / 6 + 0.4 * x[0] * x[1] * x[2] + 0.3 * x[1] * x[2] ** 2


def _flat(params, x):
    """At zero the Hessian is zero, and its derivative is not."""
    return _coinciding(params, x) - (x**2).sum() / 2


def _differences(function, x, h):
    shifts = h * torch.eye(x.numel(), dtype=x.dtype)
    return torch.stack([(function(x + e) - function(x - e)) / (2 * h) for e in shifts], -1)


def test_a_large_alpha_makes_the_absolute_value_of_the_hessian():
    x = random.normal(random.key(0), (3,), dtype=DTYPE)
    values, vectors = torch.linalg.eigh(jacrev(jacrev(lambda x: _energy((), x)))(x))
    assert float(values.min()) < 0 < float(values.max())
    expected = vectors @ torch.diag(values.abs()) @ vectors.mT
    torch.testing.assert_close(samplers.softabs(_energy)((), x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
def test_it_is_the_matrix_function_of_the_hessian(alpha):
    x = random.normal(random.key(0), (3,), dtype=DTYPE)
    values, vectors = torch.linalg.eigh(jacrev(jacrev(lambda x: _energy((), x)))(x))
    expected = vectors @ torch.diag(values / torch.tanh(alpha * values)) @ vectors.mT
    torch.testing.assert_close(samplers.softabs(_energy, alpha=alpha)((), x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
@pytest.mark.parametrize(
    ("energy", "x"),
    [(_energy, [0.3, -1.0, 0.5]), (_coinciding, [0.0] * 3), (_flat, [0.0] * 3), (_flat, [0.02, 0.0, 0.0])],
)
def test_its_derivative_is_that_of_finite_differences_everywhere(energy, x, alpha):
    metric = samplers.softabs(energy, alpha=alpha)
    x = torch.tensor(x, dtype=DTYPE)
    got = jacrev(lambda x: metric((), x))(x)
    assert torch.isfinite(got).all()
    torch.testing.assert_close(got, _differences(lambda x: metric((), x), x, 1e-5), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, DTYPE])
@pytest.mark.parametrize("alpha", [1.0, 1e6])
def test_on_an_isotropic_gaussian_it_is_a_number_times_the_identity_and_does_not_vary(alpha, dtype):
    metric = samplers.softabs(lambda params, x: params * (x**2).sum() / 2, alpha=alpha)
    k, x = torch.tensor(3.0, dtype=dtype), torch.tensor([0.3, -1.0, 0.5, 2.0], dtype=dtype)
    expected = k / torch.tanh(alpha * k) * torch.eye(4, dtype=dtype)
    torch.testing.assert_close(metric(k, x), expected)
    assert float(jacrev(lambda x: metric(k, x))(x).abs().max()) == 0
    by_params = jacrev(lambda k: metric(k, x))(k)  # a derivative that is not zero, all eigenvalues equal
    slope = jacrev(lambda k: k / torch.tanh(alpha * k))(k)
    torch.testing.assert_close(by_params, slope * torch.eye(4, dtype=dtype), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("alpha", [1.0, 1e6])
def test_eigenvalues_of_zero_become_one_over_alpha(alpha):
    metric = samplers.softabs(lambda params, x: x[0] ** 2 + 0 * x.sum(), alpha=alpha)
    expected = torch.diag(torch.tensor([2 / torch.tanh(torch.tensor(2.0 * alpha)), 1 / alpha]))
    torch.testing.assert_close(metric((), torch.ones(2)), expected)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 100.0])
def test_the_scalar_function_and_its_slope_are_smooth_across_the_series(alpha):
    z = torch.cat([torch.logspace(-7, 3, 200, dtype=DTYPE), torch.tensor([1e-4, 0.1, 40.0], dtype=DTYPE)])
    z = torch.cat([z, -z, torch.zeros(1, dtype=DTYPE), z * (1 + 1e-12)])
    x = z / alpha
    safe = torch.where(z == 0, 1, z)
    torch.testing.assert_close(
        _lifted(x, alpha), torch.where(z == 0, 1, safe / torch.tanh(safe)) / alpha, rtol=1e-13, atol=0
    )
    h = 1e-5 * (x.abs() + 1 / alpha)
    differences = (_lifted(x + h, alpha) - _lifted(x - h, alpha)) / (2 * h)
    torch.testing.assert_close(_slope(x, alpha), differences, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 100.0])
def test_the_slope_is_exact_to_rounding(alpha):
    """``coth z - z / sinh^2 z = (sinh(2 z) / 2 - z) / sinh^2 z``, whose numerator is a series of positive terms."""
    z = torch.cat([torch.logspace(-6, 0.5, 200, dtype=DTYPE), torch.tensor([0.0999999, 0.1], dtype=DTYPE)])
    numerator, term = torch.zeros_like(z), z
    for n in range(1, 40):
        term = term * (2 * z) ** 2 / (2 * n * (2 * n + 1))
        numerator = numerator + term
    expected = numerator / torch.sinh(z) ** 2
    torch.testing.assert_close(_slope(z / alpha, alpha), expected, rtol=5e-12, atol=0)
    assert _slope(torch.tensor([1e35, -1e35]), 1e6 * alpha).tolist() == [1, -1]  # z is infinite


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
def test_divided_differences_of_near_eigenvalues_lose_a_third_of_the_digits_at_most(alpha):
    gaps = torch.logspace(-7, 0, 60, dtype=torch.float32)
    for middle in (0.0, 0.3, -1.0, 3.0):
        values = torch.cat([torch.zeros(1), gaps, -gaps]).add(middle) / alpha
        exact = _divided_differences(values.double(), alpha)
        error = (_divided_differences(values, alpha) - exact).abs().max()
        # both values are of the size of z and right to about eps; the smallest gap that divides them is eps^(1/3)
        size = 1 + float((alpha * values).abs().max())
        assert float(error) < size * torch.finfo(torch.float32).eps ** (2 / 3)


def test_it_is_symmetric_bit_for_bit():
    x = random.normal(random.key(0), (50, 3), dtype=DTYPE)
    matrix = vmap(samplers.softabs(_energy, alpha=1.0), (None, 0))((), x)
    assert torch.equal(matrix, matrix.mT)


def test_alpha_must_be_positive():
    with pytest.raises(ValueError, match="alpha must be positive"):
        samplers.softabs(_energy, alpha=0.0)
