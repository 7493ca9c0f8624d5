"""The kernel Stein discrepancy as a loss: unbiased, and what it is the distance of."""

from __future__ import annotations

import pytest
import torch
from tests.distributions import assert_mean

from funcebm import losses, random

DTYPE = torch.float64


def energy(params, x):
    return params * (x**2).sum() / 2


def _values(k, num_batches=400, size=20):
    loss = losses.kernel_stein_discrepancy(energy, length_scale=1.5)
    data = random.normal(random.key(0), (num_batches, size, 2), dtype=DTYPE)
    return torch.func.vmap(lambda x: loss.value(torch.tensor(k, dtype=DTYPE), (), x, ())[0])(data)


def test_its_mean_is_zero_where_the_energy_is_right_whatever_the_size_of_the_batch():
    assert_mean(_values(1.0), 0.0)
    assert_mean(_values(1.0, size=2, num_batches=4000), 0.0)


def test_its_mean_is_the_distance_of_the_scores_weighted_by_the_kernel():
    # the difference of the scores is (k - 1) x: the mean is (k - 1)^2 times that of x . x' k(x, x')
    x = random.normal(random.key(1), (100000, 2, 2), dtype=DTYPE)
    kernel = (1 + (x[:, 0] - x[:, 1]).square().sum(1) / 1.5**2) ** -0.5
    weight = ((x[:, 0] * x[:, 1]).sum(1) * kernel).mean()
    for k in (0.5, 2.0, 3.0):
        assert_mean(_values(k), (k - 1) ** 2 * weight, bias=0.02 * (k - 1) ** 2 * float(weight))
    assert weight > 0.05


def test_images_and_the_median_scale():
    loss = losses.kernel_stein_discrepancy(energy)
    flat = random.normal(random.key(2), (10, 6), dtype=DTYPE)
    k = torch.tensor(1.3, dtype=DTYPE)
    torch.testing.assert_close(loss.value(k, (), flat.reshape(10, 2, 3), ()), loss.value(k, (), flat, ()))
    scale = torch.nn.functional.pdist(flat).median()
    fixed = losses.kernel_stein_discrepancy(energy, length_scale=scale)
    torch.testing.assert_close(loss.value(k, (), flat, ()), fixed.value(k, (), flat, ()))


def test_bad_arguments_are_refused_at_the_door():
    with pytest.raises(ValueError, match="length_scale must be positive"):
        losses.kernel_stein_discrepancy(energy, length_scale=0.0)
    with pytest.raises(ValueError, match=r"exponent must be in \(-1, 0\)"):
        losses.kernel_stein_discrepancy(energy, exponent=-1.0)
    with pytest.raises(ValueError, match="a batch must hold at least two examples"):
        losses.kernel_stein_discrepancy(energy)(random.key(0), torch.tensor(1.0), torch.zeros(1, 2))


def test_rows_that_coincide_have_a_length_scale_too():
    data = torch.zeros(5, 2, dtype=torch.float64)
    data[0] = 1.0

    def value(length_scale):
        loss = losses.kernel_stein_discrepancy(lambda params, x: params * (x**2).sum() / 2, length_scale=length_scale)
        return torch.func.grad_and_value(lambda params: loss.value(params, (), data, ())[0])(torch.tensor(1.5).double())

    torch.testing.assert_close(value(None), value(1.0), rtol=0, atol=0)
