"""A classifier as an energy."""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor

from .. import checks
from ..types import Energy, Params, Position

__all__ = ["Classifier", "energy_of_logits", "require_logits"]

Classifier = Callable[[Params, Position], Tensor]
"""``(params, x) -> (K,)``, the logits of K classes for one particle."""


def energy_of_logits(classifier: Classifier) -> Energy:
    r"""The energy that a classifier has of its inputs, :math:`E(x) = -\log \sum_k e^{f_k(x)}`.

    The logits :math:`f` then define a joint density, :math:`p(x, k) \propto e^{f_k(x)}`, whose conditional
    :math:`p(k \mid x)` is the classifier's softmax and whose marginal is :math:`e^{-E(x)} / Z`.

    Args:
        classifier: ``(params, x) -> (K,)``, of one particle.

    Returns:
        ``(params, x) -> ()``.

    Raises:
        ValueError: when called, if the classifier does not return a vector.

    Reference: Grathwohl et al. (2020), arXiv:1912.03263, the section "What your classifier is hiding".

    >>> energy = energy_of_logits(lambda params, x: torch.stack([x.sum(), -x.sum()]))
    >>> energy((), torch.zeros(2))
    tensor(-0.6931)
    """

    def energy(params: Params, x: Position) -> Tensor:
        return -torch.logsumexp(require_logits(classifier(params, x)), -1)

    return energy


def require_logits(logits: Tensor) -> Tensor:
    """The logits, if they are a vector; looks at shapes only."""
    right = isinstance(logits, Tensor) and logits.ndim == 1
    got = f"the shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
    fix = "Return one number for each class, and write no batch axis: torch.func.vmap adds it."
    checks.require(right, "a classifier must return a vector of logits for one particle", got, fix)
    return logits
