"""AUROC and MMD against scikit-learn and closed forms."""

import math

import pytest
import torch

from funcebm import random
from funcebm.diagnostics import auroc, mmd


@pytest.mark.parametrize("levels", [None, 5, 50])
def test_auroc_is_that_of_scikit_learn(levels):
    from sklearn.metrics import roc_auc_score

    low, high = random.normal(random.key(0), (300,)), random.normal(random.key(1), (170,)) + 0.7
    if levels is not None:  # ties
        low, high = (low * levels / 4).round(), (high * levels / 4).round()
    expected = roc_auc_score([0] * 300 + [1] * 170, torch.cat([low, high]).numpy())
    assert abs(float(auroc(low, high)) - expected) < 1e-12


def test_auroc_of_two_gaussians_has_its_closed_form():
    """P(y > x) = Phi(shift / sqrt 2) for unit normals; the standard error is below 1 / (2 sqrt n)."""
    n, shift = 20_000, 1.0
    value = auroc(random.normal(random.key(2), (n,)), random.normal(random.key(3), (n,)) + shift)
    assert abs(float(value) - 0.5 * (1 + math.erf(shift / 2))) < 5 * 0.5 / math.sqrt(n)


def test_auroc_symmetry_extremes_and_vmap():
    a, b = random.normal(random.key(4), (4, 30)), random.normal(random.key(5), (4, 20))
    assert abs(float(auroc(a[0], b[0]) + auroc(b[0], a[0])) - 1) < 1e-12
    assert float(auroc(a[0], a[0])) == 0.5
    assert float(auroc(a[0], b[0] + 100)) == 1
    assert float(auroc(torch.zeros(2), torch.full((3,), math.inf))) == 1
    each = torch.stack([auroc(x, y) for x, y in zip(a, b, strict=True)])
    assert torch.equal(torch.func.vmap(auroc)(a, b), each)


def test_auroc_refuses_bad_scores():
    with pytest.raises(ValueError, match="scores_in must be a tensor of shape"):
        auroc(torch.zeros(3, 1), torch.zeros(3))
    with pytest.raises(ValueError, match="scores_out must be a tensor of shape"):
        auroc(torch.zeros(3), torch.zeros(0))
    with pytest.raises(ValueError, match="scores_out must not hold NaN"):
        auroc(torch.zeros(3), torch.tensor([math.nan]))


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
