"""The classifier two-sample test: can a classifier tell two sets of samples apart? Needs scikit-learn."""

from __future__ import annotations

import importlib
import math
from typing import Any, NamedTuple

from .. import checks, random
from ..types import Key, Tree
from .discrepancy import two_sets

__all__ = ["ClassifierTest", "classifier_two_sample"]


class ClassifierTest(NamedTuple):
    """What a classifier makes of two sets of samples.

    Attributes:
        accuracy: on samples that it was not fitted to, the mean of both sets' shares: 1/2 where the distributions are equal.
        standard_error: of the accuracy, for held-out samples that are independent.
        p_value: how often an accuracy of 1/2 would come out so high, by a normal approximation.
    """

    accuracy: float
    standard_error: float
    p_value: float


def classifier_two_sample(key: Key, x: Tree, y: Tree, *, classifier: Any = None, num_folds: int = 5) -> ClassifierTest:
    r"""The cross-validated accuracy of a classifier between two sets of samples, C2ST.

    Each fold is judged by a classifier fitted to the others; the accuracy is :math:`(a_x + a_y) / 2`, the mean of the
    shares of ``x`` and of ``y`` that are classified correctly, and each classifier is fitted to as many of the one as of the
    other, so that it cannot win, or give up, by guessing the larger set. The standard error is
    :math:`\tfrac12 \sqrt{a_x (1 - a_x) / n + a_y (1 - a_y) / m}`. No classifier can pass :math:`\tfrac12 (1 +
    \mathrm{TV})`, with the total variation of the two distributions; a weak one sees less than there is.

    Args:
        key: for the folds, and for the classifier's own randomness (``random_state``). ``(2,)``.
        x: a tree of ``(n, *event)`` of independent samples, ``n >= num_folds``.
        y: a tree of the same structure of ``(m, *event)``, ``m >= num_folds``.
        classifier: anything with scikit-learn's ``fit`` and ``predict``; it is cloned, never changed. By default columns of
            unit variance and a network with two hidden layers (``MLPClassifier``). For large sets of many columns
            ``HistGradientBoostingClassifier`` or ``LogisticRegression`` are quicker.
        num_folds: at least 2.

    Returns:
        A :class:`ClassifierTest` of floats.

    Raises:
        ImportError: scikit-learn is not there.
        ValueError: sets of different structure or event, or fewer samples than folds.

    Reference: Lopez-Paz and Oquab (2017), "Revisiting classifier two-sample tests", ICLR, section 3; Friedman (2003). We
    use all samples by cross-validation where they split them once.

    >>> from sklearn.linear_model import LogisticRegression
    >>> x = random.normal(random.key(0), (200, 2))
    >>> test = classifier_two_sample(random.key(1), x, x + 10, classifier=LogisticRegression())
    >>> test.accuracy
    1.0
    """
    base = _scikit_learn("sklearn.base")
    checks.require(num_folds >= 2, "num_folds must be at least 2", num_folds, "The usual one is 5.")
    a, b = two_sets(x, y, num_folds)
    key_x, key_y, key_state = random.split(key, 3)
    state = int(random.randint(key_state, (), 0, 2**31 - 1))
    model = _network(state) if classifier is None else base.clone(classifier)
    if "random_state" in model.get_params():
        model.set_params(random_state=state)
    left = a.cpu()[random.permutation(key_x, len(a)).cpu()].numpy()
    right = b.cpu()[random.permutation(key_y, len(b)).cpu()].numpy()

    told_x = told_y = 0
    for fold in range(num_folds):
        train, held = zip(*(_split(rows, fold, num_folds) for rows in (left, right)), strict=True)
        size = min(len(rows) for rows in train)
        fitted = base.clone(model)
        fitted.fit(*_labelled(train[0][:size], train[1][:size]))
        told_x += int((fitted.predict(held[0]) == 0).sum())
        told_y += int((fitted.predict(held[1]) == 1).sum())
    share_x, share_y = told_x / len(left), told_y / len(right)
    accuracy = (share_x + share_y) / 2
    error = math.sqrt(share_x * (1 - share_x) / len(left) + share_y * (1 - share_y) / len(right)) / 2
    null_error = math.sqrt(1 / len(left) + 1 / len(right)) / 4
    return ClassifierTest(accuracy, error, math.erfc((accuracy - 0.5) / null_error / math.sqrt(2)) / 2)


def _split(rows: Any, fold: int, num_folds: int) -> tuple[Any, Any]:
    """The rows to fit to, and the held-out ones."""
    held = importlib.import_module("numpy").arange(len(rows)) % num_folds == fold
    return rows[~held], rows[held]


def _labelled(left: Any, right: Any) -> tuple[Any, Any]:
    numpy = importlib.import_module("numpy")
    return numpy.concatenate([left, right]), numpy.repeat([0, 1], [len(left), len(right)])


def _network(state: int) -> Any:
    pipeline, preprocessing = _scikit_learn("sklearn.pipeline"), _scikit_learn("sklearn.preprocessing")
    network = _scikit_learn("sklearn.neural_network").MLPClassifier((64, 64), early_stopping=True, random_state=state)
    return pipeline.make_pipeline(preprocessing.StandardScaler(), network)


def _scikit_learn(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        must = "classifier_two_sample needs scikit-learn"
        raise ImportError(checks.message(must, str(error), 'Run pip install "scikit-learn".')) from error
