"""Metrics of detection against scikit-learn and closed forms."""

import math

import pytest
import torch

from funcebm import random
from funcebm.diagnostics import auroc, average_precision, fpr_at_tpr


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


def _scores(levels, numbers=(300, 170)):
    low, high = random.normal(random.key(0), numbers[:1]), random.normal(random.key(1), numbers[1:]) + 0.7
    if levels is not None:  # ties
        low, high = (low * levels / 4).round(), (high * levels / 4).round()
    return low, high


@pytest.mark.parametrize("levels", [None, 5, 50])
@pytest.mark.parametrize("numbers", [(300, 170), (1, 3), (40, 1), (20, 20)])
def test_average_precision_is_that_of_scikit_learn(levels, numbers):
    from sklearn.metrics import average_precision_score

    low, high = _scores(levels, numbers)
    labels = [0] * len(low) + [1] * len(high)
    expected = average_precision_score(labels, torch.cat([low, high]).numpy())
    assert abs(float(average_precision(low, high)) - expected) < 1e-12
    other = average_precision_score([1 - label for label in labels], -torch.cat([low, high]).numpy())
    assert abs(float(average_precision(-high, -low)) - other) < 1e-12


@pytest.mark.parametrize("levels", [None, 5, 50])
@pytest.mark.parametrize("numbers", [(300, 170), (1, 3), (40, 1), (20, 20)])
@pytest.mark.parametrize("tpr", [0.95, 0.8, 0.07, 1.0])
def test_fpr_at_tpr_is_that_of_the_curve_of_scikit_learn(levels, numbers, tpr):
    from sklearn.metrics import roc_curve

    low, high = _scores(levels, numbers)
    labels = [1] * len(low) + [0] * len(high)
    false, true, _ = roc_curve(labels, -torch.cat([low, high]).numpy(), drop_intermediate=False)
    assert abs(float(fpr_at_tpr(low, high, tpr)) - false[(true >= tpr).argmax()]) < 1e-12


def test_fpr_of_two_gaussians_has_its_closed_form():
    """P(out <= q) = Phi(z - shift) with z = 1.6449; the threshold adds its own error, density ratio times sqrt(p (1 - p) / n)."""
    n, shift = 40_000, 1.0
    normal = torch.distributions.Normal(0.0, 1.0)
    quantile = normal.icdf(torch.tensor(0.95))
    expected = normal.cdf(quantile - shift)
    ratio = torch.exp(normal.log_prob(quantile - shift) - normal.log_prob(quantile))
    error = torch.sqrt((expected * (1 - expected) + ratio**2 * 0.95 * 0.05) / n)
    value = fpr_at_tpr(random.normal(random.key(2), (n,)), random.normal(random.key(3), (n,)) + shift)
    assert abs(value - expected) < 5 * error


def test_extremes_of_detection_and_vmap():
    a, b = random.normal(random.key(4), (4, 30)), random.normal(random.key(5), (4, 20))
    assert float(average_precision(a[0], b[0] + 100)) == 1
    assert float(fpr_at_tpr(a[0], b[0] + 100)) == 0
    assert float(fpr_at_tpr(a[0], b[0] - 100)) == 1
    assert float(average_precision(torch.zeros(2), torch.full((3,), math.inf))) == 1
    for metric in (average_precision, fpr_at_tpr):
        each = torch.stack([metric(x, y) for x, y in zip(a, b, strict=True)])
        assert torch.equal(torch.func.vmap(metric)(a, b), each)


def test_metrics_of_detection_refuse_bad_scores():
    for metric in (average_precision, fpr_at_tpr):
        with pytest.raises(ValueError, match="scores_in must be a tensor of shape"):
            metric(torch.zeros(3, 1), torch.zeros(3))
        with pytest.raises(ValueError, match="scores_out must not hold NaN"):
            metric(torch.zeros(3), torch.tensor([math.nan]))
    with pytest.raises(ValueError, match="tpr must be"):
        fpr_at_tpr(torch.zeros(3), torch.zeros(3), 0.0)


@pytest.mark.parametrize(("tpr", "num", "count"), [(0.95, 20, 19), (0.07, 300, 21), (0.951, 20, 20), (0.29, 100, 29)])
def test_fpr_counts_scores_up_to_the_threshold_and_none_above(tpr, num, count):
    """0.07 * 300 and 0.29 * 100 are rounded, and must not cost or win a score."""
    scores = torch.arange(num, dtype=torch.float64)
    assert abs(float(fpr_at_tpr(scores, scores, tpr)) - count / num) < 1e-12
    assert abs(float(fpr_at_tpr(scores, scores + 1e-9, tpr)) - (count - 1) / num) < 1e-12
