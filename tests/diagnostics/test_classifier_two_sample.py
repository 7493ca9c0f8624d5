"""The classifier two-sample test: chance under equal distributions, the accuracy of Bayes between shifted Gaussians."""

import math
import sys

import pytest
import torch

from funcebm import random
from funcebm.diagnostics import classifier_two_sample

sklearn = pytest.importorskip("sklearn")
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis  # noqa: E402


def _sets(n, m, shift, seed=0):
    x, y = random.normal(random.key(seed), (n, 2)), random.normal(random.key(seed + 1000), (m, 2))
    return x, y + torch.tensor([shift, 0.0])


def test_under_equal_laws_the_accuracy_is_a_half_and_scatters_by_its_error():
    """Folds share their training sets, so the errors are a little dependent: a fifth is allowed."""
    repeats = 120
    tests = [
        classifier_two_sample(
            random.key(seed), *_sets(60, 90, 0.0, seed), classifier=LinearDiscriminantAnalysis(), num_folds=3
        )
        for seed in range(repeats)
    ]
    deviates = torch.tensor([(test.accuracy - 0.5) / test.standard_error for test in tests])
    assert abs(deviates.mean()) < 5 / math.sqrt(repeats)
    assert abs(deviates.square().mean() - 1) < 0.2 + 5 * math.sqrt(2 / repeats)
    low = sum(test.p_value < 0.5 for test in tests) / repeats
    assert abs(low - 0.5) < 5 * math.sqrt(0.25 / repeats)


def test_between_shifted_gaussians_it_is_the_accuracy_of_bayes():
    """Phi(d / 2), which linear discriminants reach but for a loss of order 1 / n."""
    x, y = _sets(3000, 2000, 1.5)
    test = classifier_two_sample(random.key(0), x, y, classifier=LinearDiscriminantAnalysis())
    bayes = 0.5 * (1 + math.erf(0.75 / math.sqrt(2)))
    assert abs(test.accuracy - bayes) < 5 * test.standard_error
    assert test.standard_error == pytest.approx(math.sqrt(bayes * (1 - bayes) * (1 / 3000 + 1 / 2000)) / 2, rel=0.02)
    assert test.p_value < 1e-6


def test_the_default_network_sees_what_no_line_sees_and_the_key_decides():
    ring = torch.nn.functional.normalize(_sets(400, 400, 0.0)[0], dim=1) * 1.5
    x = {"a": ring[:, 0], "b": ring[:, 1:]}
    y = {"a": _sets(400, 400, 0.0)[1][:, 0], "b": _sets(400, 400, 0.0)[1][:, 1:]}
    first, again = (classifier_two_sample(random.key(3), x, y, num_folds=2) for _ in range(2))
    assert first == again
    assert first.accuracy > 0.5 + 5 * first.standard_error


def test_bad_sets_and_a_missing_library_are_refused(monkeypatch):
    x, y = _sets(10, 4, 0.0)
    with pytest.raises(ValueError, match="n and m at least 5"):
        classifier_two_sample(random.key(0), x, y)
    with pytest.raises(ValueError, match="num_folds must be at least 2"):
        classifier_two_sample(random.key(0), x, y, num_folds=1)
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    with pytest.raises(ImportError, match="needs scikit-learn"):
        classifier_two_sample(random.key(0), x, y)
