"""How far two sets of numbers or of samples are apart."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import checks, tree
from ..checks import is_concrete, require
from ..types import Tree

__all__ = ["auroc", "mmd"]


def auroc(scores_in: Tensor, scores_out: Tensor) -> Tensor:
    r"""The area under the receiver operating characteristic: how well a score tells two sets apart.

    .. math:: P(\text{out} > \text{in}) + \tfrac12 P(\text{out} = \text{in})

    over all pairs: 1 where every score of ``scores_out`` is the larger, 1/2 where the two have one law. The energy is
    such a score: data should have a low one, anything else a high one. It is ``sklearn.metrics.roc_auc_score`` with
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
    for name, scores in (("scores_in", scores_in), ("scores_out", scores_out)):
        flat = isinstance(scores, Tensor) and scores.ndim == 1 and scores.numel() > 0
        got = f"the shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        require(flat, f"{name} must be a tensor of shape (n,) with n >= 1", got, "Flatten it, or score more examples.")
        whole = not is_concrete(scores) or not bool(scores.isnan().any())
        require(whole, f"{name} must not hold NaN", "NaN", "Look at the examples that give it.")
    ordered, queries = scores_in.double().sort().values, scores_out.double().contiguous()
    below = torch.searchsorted(ordered, queries, right=False)
    not_above = torch.searchsorted(ordered, queries, right=True)
    return (below + not_above).double().mean() / (2 * scores_in.shape[0])


def mmd(x: Tree, y: Tree, *, bandwidth: float | Tensor | None = None) -> Tensor:
    r"""The squared maximum mean discrepancy of two sets of samples, without bias.

    With the kernel :math:`k(a, b) = \exp(-|a - b|^2 / 2\ell^2)`,

    .. math:: \frac{\sum_{i \ne j} k(x_i, x_j)}{n (n-1)} + \frac{\sum_{i \ne j} k(y_i, y_j)}{m (m-1)}
        - \frac{2 \sum_{i, j} k(x_i, y_j)}{n m}.

    Its mean is zero where the two laws are one and positive otherwise; single values may be negative. The samples of
    each set must be independent. The cost is ``(n + m)^2`` in time and memory.

    Args:
        x: a tree of ``(n, *event)``, ``n >= 2``.
        y: a tree of the same structure of ``(m, *event)``, ``m >= 2``.
        bandwidth: :math:`\ell > 0`, in units of ``x``; by default the median distance between the points of both sets.
            Fix it to compare several values.

    Returns:
        ``()`` in float64.

    Raises:
        ValueError: sets of different structure or event, or with fewer than two samples; a bandwidth that is not
            positive.

    Reference: Gretton et al. (2012), Journal of Machine Learning Research 13:723-773, equation 3.

    >>> from funcebm import random
    >>> x = random.normal(random.key(0), (500, 2))
    >>> bool(mmd(x, x + 1) > 0.1)
    True
    """
    checks.one_structure("y", y, "x", x)
    checks.positive("bandwidth", bandwidth)
    for name, leaf, other in zip(tree.paths(x), tree.leaves(x), tree.leaves(y), strict=True):
        got = f"{tuple(leaf.shape)} and {tuple(other.shape)}" + (f" at {name}" if name else "")
        right = leaf.ndim >= 1 and leaf.shape[1:] == other.shape[1:] and leaf.shape[0] >= 2 and other.shape[0] >= 2
        require(right, "x and y must be (n, *event) and (m, *event), n and m at least 2", got, "Put samples first.")
    a, b = _rows(x), _rows(y)
    n, m = a.shape[0], b.shape[0]
    points = torch.cat([a, b])
    points = points - points.mean(0)
    norms = points.square().sum(1)
    squares = (norms[:, None] + norms - 2 * points @ points.T).clamp(min=0)
    if bandwidth is None:
        upper = torch.triu_indices(n + m, n + m, 1, device=a.device)
        scale = squares[upper[0], upper[1]].median()
    else:
        scale = torch.as_tensor(bandwidth, dtype=a.dtype, device=a.device).square()
    kernel = torch.exp(-squares / (2 * scale))
    inside_x = (kernel[:n, :n].sum() - kernel[:n, :n].diagonal().sum()) / (n * (n - 1))
    inside_y = (kernel[n:, n:].sum() - kernel[n:, n:].diagonal().sum()) / (m * (m - 1))
    return inside_x + inside_y - 2 * kernel[:n, n:].mean()


def _rows(samples: Tree) -> Tensor:
    """A tree of ``(n, *event)`` as one matrix ``(n, D)`` in float64."""
    return torch.cat([leaf.double().reshape(leaf.shape[0], -1) for leaf in tree.leaves(samples)], 1)
