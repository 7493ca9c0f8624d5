"""How well a score tells examples of one distribution from those of another: the metrics of out-of-distribution detection.

Everywhere a high score means "out", as the energy does, and ``scores_in``, ``scores_out`` are ``(n,)`` and ``(m,)``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..checks import is_concrete, require

__all__ = ["auroc", "average_precision", "fpr_at_tpr"]


def auroc(scores_in: Tensor, scores_out: Tensor) -> Tensor:
    r"""The area under the receiver operating characteristic: how well a score tells two sets apart.

    .. math:: P(\text{out} > \text{in}) + \tfrac12 P(\text{out} = \text{in})

    over all pairs: 1 where every score of ``scores_out`` is the larger, 1/2 where the two have the same distribution. The
    energy is such a score: data should have a low one, anything else a high one. It is ``sklearn.metrics.roc_auc_score`` with
    label 1 for ``scores_out``.

    Args:
        scores_in: ``(n,)``, for example energies of held-out data.
        scores_out: ``(m,)``, for example energies of corrupted data.

    Returns:
        ``()`` in float64.

    Raises:
        ValueError: a set is empty, not one-dimensional, or holds NaN (infinite scores are fine).

    Reference: Mann and Whitney (1947), Annals of Mathematical Statistics 18(1):50-60; Hanley and McNeil (1982).

    >>> auroc(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 3.0]))
    tensor(0.8750, dtype=torch.float64)
    """
    _check(scores_in, scores_out)
    ordered, queries = scores_in.double().sort().values, scores_out.double().contiguous()
    below = torch.searchsorted(ordered, queries, right=False)
    not_above = torch.searchsorted(ordered, queries, right=True)
    return (below + not_above).double().mean() / (2 * scores_in.shape[0])


def average_precision(scores_in: Tensor, scores_out: Tensor) -> Tensor:
    r"""The area under the precision-recall curve, with ``scores_out`` as the positives.

    .. math:: \sum_t (R_t - R_{t-1}) P_t

    over the thresholds :math:`t`, from the highest score down, with precision and recall of "out means at least
    :math:`t`". No interpolation. A score that says nothing has the share of positives, :math:`m / (n + m)`, not 1/2: compare
    values only between sets of the same sizes. It is ``sklearn.metrics.average_precision_score`` with label 1 for
    ``scores_out``; with the data as the positives it is ``average_precision(-scores_out, -scores_in)``.

    Args:
        scores_in: ``(n,)``, for example energies of held-out data.
        scores_out: ``(m,)``, for example energies of corrupted data.

    Returns:
        ``()`` in float64.

    Raises:
        ValueError: a set is empty, not one-dimensional, or holds NaN (infinite scores are fine).

    Reference: Davis and Goadrich (2006), "The relationship between precision-recall and ROC curves", ICML.

    >>> average_precision(torch.tensor([1.0, 2.0]), torch.tensor([1.5, 3.0]))  # 1/2 * 1 + 1/2 * 2/3
    tensor(0.8333, dtype=torch.float64)
    """
    _check(scores_in, scores_out)
    low, high = scores_in.double().sort().values, scores_out.double().sort().values
    # each positive adds 1/m times the precision at its own score; ties count at once
    false = low.numel() - torch.searchsorted(low, high, right=False)
    true = high.numel() - torch.searchsorted(high, high, right=False)
    return (true / (true + false).double()).mean()


def fpr_at_tpr(scores_in: Tensor, scores_out: Tensor, tpr: float = 0.95) -> Tensor:
    r"""The share of ``scores_out`` that is let in when the share ``tpr`` of ``scores_in`` is: FPR95.

    .. math:: P(\text{out} \le t),\quad t = \min \{ t : P(\text{in} \le t) \ge \text{tpr} \}

    Zero is best, ``tpr`` is chance. The data are the positives, as in the papers on detection; to take ``scores_out``
    as positives write ``fpr_at_tpr(-scores_out, -scores_in)``.

    Args:
        scores_in: ``(n,)``, for example energies of held-out data.
        scores_out: ``(m,)``, for example energies of corrupted data.
        tpr: in (0, 1].

    Returns:
        ``()`` in float64.

    Raises:
        ValueError: a set is empty, not one-dimensional, or holds NaN (infinite scores are fine); a ``tpr`` out of range.

    Reference: Liang, Li and Srikant (2018), "Enhancing the reliability of out-of-distribution image detection in neural
    networks", ICLR, on its metrics.

    >>> fpr_at_tpr(torch.arange(20.0), torch.tensor([5.0, 18.0, 19.0, 30.0]))  # 19 of 20 are at most 18
    tensor(0.5000, dtype=torch.float64)
    """
    _check(scores_in, scores_out)
    require(0 < tpr <= 1, "tpr must be in (0, 1]", tpr, "The usual one is 0.95.")
    num = scores_in.shape[0]
    count = math.ceil(tpr * num)
    if (count - 1) / num >= tpr:  # the product was rounded up
        count -= 1
    threshold = scores_in.double().sort().values[count - 1]
    return (scores_out.double() <= threshold).double().mean()


def _check(scores_in: Tensor, scores_out: Tensor) -> None:
    for name, scores in (("scores_in", scores_in), ("scores_out", scores_out)):
        flat = isinstance(scores, Tensor) and scores.ndim == 1 and scores.numel() > 0
        got = f"the shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        require(flat, f"{name} must be a tensor of shape (n,) with n >= 1", got, "Flatten it, or score more examples.")
        whole = not is_concrete(scores) or not bool(scores.isnan().any())
        require(whole, f"{name} must not hold NaN", "NaN", "Look at the examples that give it.")
