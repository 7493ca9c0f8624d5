"""Sliced Wasserstein distances: exact on lines, and in closed form between Gaussians."""

import math

import pytest
import torch

from funcebm import random
from funcebm.diagnostics import sliced_wasserstein


@pytest.mark.parametrize("sizes", [(7, 7), (6, 4), (5, 8), (1, 9)])
def test_in_one_dimension_it_is_the_distance_of_scipy(sizes):
    from scipy.stats import wasserstein_distance

    x = random.normal(random.key(0), sizes[:1], dtype=torch.float64)
    y = 2 * random.normal(random.key(1), sizes[1:], dtype=torch.float64) + 0.5
    value = sliced_wasserstein(random.key(2), x, y, num_projections=3, order=1)
    assert abs(float(value) - wasserstein_distance(x.numpy(), y.numpy())) < 1e-12


@pytest.mark.parametrize("sizes", [(6, 4), (5, 8)])
def test_sets_of_different_sizes_are_as_if_repeated(sizes):
    n, m = sizes
    x, y = random.normal(random.key(0), (n, 3)), random.normal(random.key(1), (m, 3)) + 1
    uneven = sliced_wasserstein(random.key(2), x, y)
    even = sliced_wasserstein(random.key(2), x.repeat_interleave(m, 0), y.repeat_interleave(n, 0))
    torch.testing.assert_close(uneven, even)


def test_an_affine_map_of_a_set_has_the_closed_form_on_every_line():
    """y = s x + m with s > 0 moves quantiles by (s - 1) q + u.m: mean square (1 - s)^2 var + (u.m)^2 for centred x."""
    x = random.normal(random.key(0), (400, 3), dtype=torch.float64)
    x = torch.cat([x, -x])
    mean, scale, num = torch.tensor([0.6, -0.3, 1.0], dtype=torch.float64), 1.7, 50
    value = sliced_wasserstein(random.key(1), x, scale * x + mean, num_projections=num)
    directions = random.normal(random.key(1), (3, num), dtype=torch.float64)
    directions = directions / directions.norm(dim=0)
    expected = (1 - scale) ** 2 * (x @ directions).square().mean(0) + (mean @ directions).square()
    torch.testing.assert_close(value.square(), expected.mean())


def test_between_gaussians_it_is_its_closed_form():
    """Mean over directions of (u.m)^2 + (1 - s)^2, that is |m|^2 / d + (1 - s)^2; independent pairs of sets."""
    repeats, n, scale = 60, 400, 1.5
    mean = torch.tensor([1.0, 0.5, -0.5], dtype=torch.float64)
    x = random.normal(random.key(2), (repeats, n, 3), dtype=torch.float64)
    y = scale * random.normal(random.key(3), (repeats, n, 3), dtype=torch.float64) + mean
    keys = random.split(random.key(4), repeats)
    squares = torch.func.vmap(lambda k, a, b: sliced_wasserstein(k, a, b, num_projections=20))(keys, x, y).square()
    # the empirical distributions are apart by chance: E W^2 of two sets of one line falls like log log n / n
    bias = 2 * (1 + scale**2) * math.log(math.log(n)) / n
    expected = float(mean.square().sum() / 3 + (1 - scale) ** 2)
    assert abs(squares.mean() - expected) < bias + 5 * squares.std() / math.sqrt(repeats)


def test_directions_are_a_function_of_the_key_and_sets_may_be_trees():
    x, y = random.normal(random.key(0), (30, 2)), random.normal(random.key(1), (20, 2))
    value = sliced_wasserstein(random.key(2), x, y)
    assert torch.equal(
        value, sliced_wasserstein(random.key(2), {"a": x[:, 0], "b": x[:, 1]}, {"a": y[:, 0], "b": y[:, 1]})
    )
    assert not torch.equal(value, sliced_wasserstein(random.key(3), x, y))
    assert sliced_wasserstein(random.key(2), x, x) == 0


@pytest.mark.parametrize(("arguments", "words"), [({"order": 0.5}, "order must"), ({"num_projections": 0}, "num_proj")])
def test_bad_numbers_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        sliced_wasserstein(random.key(0), torch.zeros(3, 1), torch.zeros(3, 1), **arguments)
