"""MMD and energy distance against double sums and closed forms; the test is exact under equal distributions and sees others."""

import math

import pytest
import torch

from funcebm import random
from funcebm.diagnostics import energy_distance, mmd, mmd_test


def test_mmd_is_its_double_sum():
    x = {"a": random.normal(random.key(0), (7, 2)), "b": random.normal(random.key(1), (7,))}
    y = {"a": random.normal(random.key(2), (5, 2)) + 1, "b": random.normal(random.key(3), (5,))}
    rows = [[torch.cat([s["a"][i], s["b"][i : i + 1]]).double() for i in range(len(s["b"]))] for s in (x, y)]

    def mean(first, second, same):
        pairs = [(i, j) for i in range(len(first)) for j in range(len(second)) if not (same and i == j)]
        return sum(math.exp(-float((first[i] - second[j]).square().sum()) / (2 * 1.3**2)) for i, j in pairs) / len(
            pairs
        )

    expected = mean(rows[0], rows[0], True) + mean(rows[1], rows[1], True) - 2 * mean(rows[0], rows[1], False)
    assert abs(float(mmd(x, y, bandwidth=1.3)) - expected) < 1e-12


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_mmd_of_gaussians_is_unbiased(shift):
    """E k = (l^2 / (l^2 + 2))^(d/2) exp(-m^2 / 2 (l^2 + 2)) for unit Gaussians of dimension d at distance m."""
    repeats, n, dim, bandwidth = 300, 30, 2, 1.0
    x = random.normal(random.key(6), (repeats, n, dim), dtype=torch.float64)
    y = random.normal(random.key(7), (repeats, n + 10, dim), dtype=torch.float64)
    y = torch.cat([y[..., :1] + shift, y[..., 1:]], -1)
    values = torch.func.vmap(lambda a, b: mmd(a, b, bandwidth=bandwidth))(x, y)
    spread = bandwidth**2 + 2
    expected = 2 * (bandwidth**2 / spread) ** (dim / 2) * (1 - math.exp(-(shift**2) / (2 * spread)))
    assert abs(values.mean() - expected) < 5 * values.std() / math.sqrt(repeats)


def test_mmd_default_bandwidth_is_the_median_distance():
    x, y = random.normal(random.key(8), (20, 3)), random.normal(random.key(9), (21, 3))
    median = torch.pdist(torch.cat([x, y]).double()).median()
    torch.testing.assert_close(mmd(x, y), mmd(x, y, bandwidth=median))
    torch.testing.assert_close(mmd(x * 7, y * 7), mmd(x, y), rtol=1e-6, atol=1e-9)


def test_mmd_refuses_bad_sets():
    with pytest.raises(ValueError, match="same structure"):
        mmd(torch.zeros(3, 2), {"a": torch.zeros(3, 2)})
    with pytest.raises(ValueError, match=r"\(n, \*event\)"):
        mmd(torch.zeros(3, 2), torch.zeros(3, 3))
    with pytest.raises(ValueError, match="at least 2"):
        mmd(torch.zeros(1, 2), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="bandwidth must be positive"):
        mmd(torch.zeros(3, 2), torch.zeros(3, 2), bandwidth=0.0)


def _pairs(repeats, n, m, dim=1, shift=0.0, scale=1.0):
    x = random.normal(random.key(20), (repeats, n, dim), dtype=torch.float64)
    y = random.normal(random.key(21), (repeats, m, dim), dtype=torch.float64)
    return x, scale * y + shift


def test_mmds_under_equal_laws_scatter_by_the_standard_error():
    """A wrong weight of one of the three terms changes the mean square by a fifth or more; chance by a sixth at most."""
    repeats = 3000
    x, y = _pairs(repeats, 25, 40, 3)
    keys = random.split(random.key(22), repeats)
    test = torch.func.vmap(lambda k, a, b: mmd_test(k, a, b, bandwidth=0.7, num_permutations=1), chunk_size=500)
    value, error, _ = test(keys, x, y)
    squares = (value / error).square()
    assert squares.std() < 2.2
    assert abs(squares.mean() - 1) < 5 * squares.std() / math.sqrt(repeats)
    assert abs(value.mean()) < 5 * value.std() / math.sqrt(repeats)


def test_p_values_of_the_mmd_test_are_uniform_under_equal_laws():
    """On multiples of 1 / (1 + P), exactly."""
    repeats, num = 400, 39
    x, y = _pairs(repeats, 25, 40, 2)
    keys = random.split(random.key(22), repeats)
    test = torch.func.vmap(lambda k, a, b: mmd_test(k, a, b, bandwidth=1.0, num_permutations=num))(keys, x, y)
    for level in (0.1, 0.25, 0.5, 0.75):
        share = (test.p_value <= level + 1e-9).double().mean()
        assert abs(share - level) < 5 * math.sqrt(level * (1 - level) / repeats)


def test_permuted_values_are_mmds_of_permuted_sets():
    """With three points there are three splits: the p-value is that of the counts by hand."""
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.3], [2.0]])
    points = torch.cat([x, y])
    values = [
        mmd(points[[i, j]], points[[k for k in range(4) if k not in (i, j)]], bandwidth=1.0)
        for i in range(4)
        for j in range(i + 1, 4)
    ]
    larger = sum(value >= values[0] - 1e-12 for value in values) / len(values)
    test = mmd_test(random.key(0), x, y, bandwidth=1.0, num_permutations=4000)
    assert abs(test.p_value - larger) < 5 * math.sqrt(0.25 / 4000)
    assert test.value == mmd(x, y, bandwidth=1.0)


def test_mmd_test_sees_a_shift_at_two_thousand_points():
    x, y = (s[0] for s in _pairs(1, 2000, 2000, 2))
    other = mmd_test(random.key(1), x, y + 0.2, num_permutations=39)
    assert other.value > 10 * other.standard_error
    assert other.p_value == 1 / 40


def test_energy_distance_is_its_double_sum():
    x = {"a": random.normal(random.key(0), (7, 2)), "b": random.normal(random.key(1), (7,))}
    y = {"a": random.normal(random.key(2), (5, 2)) + 1, "b": random.normal(random.key(3), (5,))}
    p, q = (torch.cat([s["a"], s["b"][:, None]], 1).double() for s in (x, y))
    inside = [torch.pdist(z).mean() for z in (p, q)]
    torch.testing.assert_close(energy_distance(x, y), 2 * torch.cdist(p, q).mean() - inside[0] - inside[1])


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.7, 1.0), (0.0, 2.0), (-0.5, 0.5)])
def test_energy_distance_of_gaussians_is_unbiased(shift, scale):
    """E|Z| for Z of mean m and deviation s is s sqrt(2 / pi) exp(-m^2 / 2 s^2) + m erf(m / s sqrt 2)."""

    def absolute(m, s):
        return s * math.sqrt(2 / math.pi) * math.exp(-(m**2) / (2 * s**2)) + m * math.erf(m / (s * math.sqrt(2)))

    repeats = 400
    values = torch.func.vmap(energy_distance)(*_pairs(repeats, 20, 30, 1, shift, scale))
    root = math.sqrt(2)
    expected = 2 * absolute(shift, math.sqrt(1 + scale**2)) - absolute(0, root) - absolute(0, root * scale)
    assert abs(values.mean() - expected) < 5 * values.std() / math.sqrt(repeats)


def test_discrepancies_refuse_bad_sets():
    with pytest.raises(ValueError, match=r"\(n, \*event\)"):
        energy_distance(torch.zeros(3, 2), torch.zeros(3, 3))
    with pytest.raises(ValueError, match="num_permutations must be"):
        mmd_test(random.key(0), torch.zeros(3, 2), torch.zeros(3, 2), num_permutations=0)
