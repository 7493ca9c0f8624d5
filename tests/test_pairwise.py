"""Stein kernels against derivatives of the kernel, and their mean zero under the distribution."""

from __future__ import annotations

import pytest
import torch

from funcebm import pairwise, random
from tests.distributions import assert_mean


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_the_closed_form_is_that_of_the_derivatives(dim):
    key_x, key_s = random.split(random.key(0))
    x, s = random.normal(key_x, (6, dim), dtype=torch.float64), random.normal(key_s, (6, dim), dtype=torch.float64)
    length_scale, exponent = 1.3, -0.4

    def kernel(a, b):
        return (1 + (a - b).square().sum() / length_scale**2) ** exponent

    def pair(a, b, s_a, s_b):
        k = kernel(a, b)
        by_a, by_b = torch.func.grad(kernel, 0)(a, b), torch.func.grad(kernel, 1)(a, b)
        mixed = torch.func.jacrev(torch.func.grad(kernel, 1), 0)(a, b).trace()
        return (s_a * s_b).sum() * k + s_a @ by_b + s_b @ by_a + mixed

    expected = torch.stack([torch.stack([pair(x[i], x[j], s[i], s[j]) for j in range(6)]) for i in range(6)])
    torch.testing.assert_close(pairwise.stein_kernel(x, s, length_scale, exponent), expected, rtol=1e-10, atol=1e-10)


def test_its_mean_is_zero_under_the_law_and_only_there():
    # pairs are independent, so each row of the table (the mean over partners of one half) is one draw
    x = random.normal(random.key(1), (4000, 3), dtype=torch.float64)
    pairs = lambda s: torch.func.vmap(lambda a, b: pairwise.stein_kernel(a, b, 1.0)[0, 1])(  # noqa: E731
        x.reshape(2000, 2, 3), s.reshape(2000, 2, 3)
    )
    assert_mean(pairs(-x), 0.0)
    wrong = pairs(1 - x)  # the difference of scores is 1: the mean is 3 times that of the kernel
    assert wrong.mean() > 5 * wrong.std() / 2000**0.5


def test_far_from_the_origin_float32_keeps_its_digits():
    x, s = random.normal(random.key(2), (50, 3)), random.normal(random.key(3), (50, 3))
    exact = pairwise.stein_kernel(x.double(), s.double(), 1.0)
    torch.testing.assert_close(pairwise.stein_kernel(x + 1000, s, 1.0).double(), exact, rtol=1e-3, atol=2e-3)


def test_median_and_means_of_pairs():
    x = random.normal(random.key(4), (9, 2), dtype=torch.float64)
    distances = torch.nn.functional.pdist(x)
    torch.testing.assert_close(pairwise.median_distance(x), distances.median())
    kernel = random.normal(random.key(5), (9, 9), dtype=torch.float64)
    mask = ~torch.eye(9, dtype=torch.bool)
    torch.testing.assert_close(pairwise.off_diagonal_mean(kernel), kernel[mask].mean())
    y = random.normal(random.key(6), (4, 2), dtype=torch.float64)
    torch.testing.assert_close(pairwise.squared_distances(x, y), torch.cdist(x, y).square())
