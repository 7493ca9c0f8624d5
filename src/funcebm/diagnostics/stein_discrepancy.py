"""The kernel Stein discrepancy: how far samples are from a distribution of which only the score is known."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import checks, random, tree
from ..pairwise import median_distance, off_diagonal_mean, stein_kernel
from ..types import Key, Tree
from .discrepancy import DiscrepancyTest, p_value

__all__ = ["kernel_stein_discrepancy", "stein_test"]


def kernel_stein_discrepancy(
    x: Tree,
    scores: Tree,
    *,
    length_scale: float | Tensor | None = None,
    exponent: float = -0.5,
    unbiased: bool = True,
) -> Tensor:
    r"""The squared kernel Stein discrepancy of samples from :math:`p = e^{-E} / Z`; no normalizer, no data.

    .. math:: \frac{1}{n (n-1)} \sum_{i \ne j} k_p(x_i, x_j)

    with the Stein kernel :math:`k_p` of the inverse multiquadric, :func:`funcebm.pairwise.stein_kernel`. Its mean is zero where
    the samples are of :math:`p` and positive otherwise. It hardly sees the weights of modes that are far apart: the score
    does not know them. The cost is ``n^2`` in time and memory.

    Args:
        x: a tree of ``(n, *event)`` of samples, ``n >= 2``.
        scores: a tree like ``x``, :math:`-\nabla E` at each: ``vmap(fields.score(energy), (None, 0))(params, x)``.
        length_scale: :math:`\ell > 0` of the kernel, in units of ``x``; by default the median distance of the samples.
            Fix it to compare several values.
        exponent: :math:`\beta` of the kernel, in (-1, 0).
        unbiased: the U-statistic above, which may be negative; else the V-statistic, the mean over all pairs, which is the
            discrepancy of the empirical distribution and never negative.

    Returns:
        ``()`` in float64, in units of the squared score.

    Raises:
        ValueError: trees of different structures or shapes, fewer than two samples, numbers out of range.

    Reference: Liu, Lee and Jordan (2016), ICML, theorem 3.6; Gorham and Mackey (2017), "Measuring sample quality with
    kernels", ICML, for the kernel.

    >>> x = random.normal(random.key(0), (500, 2))
    >>> value = kernel_stein_discrepancy(x, -x, length_scale=1.0)  # a standard Gaussian
    >>> shifted = kernel_stein_discrepancy(x + 1, -(x + 1), length_scale=1.0)
    >>> bool(value.abs() < 0.02), bool(shifted > 0.3)
    (True, True)
    """
    kernel = _kernel(x, scores, length_scale, exponent)
    return off_diagonal_mean(kernel) if unbiased else kernel.mean()


def stein_test(
    key: Key,
    x: Tree,
    scores: Tree,
    *,
    length_scale: float | Tensor | None = None,
    exponent: float = -0.5,
    num_flips: int = 200,
) -> DiscrepancyTest:
    r"""Whether independent samples are of :math:`p = e^{-E} / Z`, by the kernel Stein discrepancy.

    Where they are, the value has mean zero and the variance :math:`2\,E\,k_p(x, x')^2 / n (n-1)`, and its distribution is that of
    :math:`\sum_{i \ne j} \epsilon_i \epsilon_j k_p(x_i, x_j) / n (n-1)` with independent random signs, which gives the
    p-value.

    Args:
        key: for the signs. ``(2,)``.
        x: a tree of ``(n, *event)`` of independent samples, ``n >= 2``. Draws of one chain are not: thin them by their
            autocorrelation first.
        scores: a tree like ``x``, :math:`-\nabla E` at each.
        length_scale: as for :func:`kernel_stein_discrepancy`.
        exponent: as there.
        num_flips: how many times the signs are drawn, ``P``; the p-value is at least ``1 / (1 + P)``.

    Returns:
        A :class:`DiscrepancyTest` in float64.

    Raises:
        ValueError: as :func:`kernel_stein_discrepancy`; or a number of flips below one.

    Reference: Liu, Lee and Jordan (2016), ICML, section 4; Chwialkowski, Strathmann and Gretton (2016), ICML, for the
    signs.

    >>> x = random.normal(random.key(0), (200, 2))
    >>> bool(stein_test(random.key(1), x, -2 * x).p_value < 0.01)  # the scores of N(0, 1/2)
    True
    """
    checks.positive_int("num_flips", num_flips)
    kernel = _kernel(x, scores, length_scale, exponent)
    num = kernel.shape[0]
    value = off_diagonal_mean(kernel)
    error = torch.sqrt(2 * off_diagonal_mean(kernel.square()) / (num * (num - 1)))
    signs = random.rademacher(key.to(kernel.device), (num, num_flips), dtype=kernel.dtype)
    # the signs of the diagonal cancel
    by_chance = ((signs * (kernel @ signs)).sum(0) - kernel.diagonal().sum()) / (num * (num - 1))
    return DiscrepancyTest(value, error, p_value(value, by_chance))


def _kernel(x: Tree, scores: Tree, length_scale: float | Tensor | None, exponent: float) -> Tensor:
    checks.one_structure("scores", scores, "x", x)
    for leaf, score in zip(tree.leaves(x), tree.leaves(scores), strict=True):
        right = leaf.shape == score.shape and leaf.ndim >= 1 and leaf.shape[0] >= 2
        must = "x and scores must both be (n, *event) with n at least 2"
        fix = "Write torch.func.vmap(fields.score(energy), (None, 0))(params, x)."
        checks.require(right, must, f"{tuple(leaf.shape)} and {tuple(score.shape)}", fix)
    checks.positive("length_scale", length_scale)
    checks.require(-1 < exponent < 0, "exponent must be in (-1, 0)", exponent, "The usual one is -0.5.")
    points = tree.rows(x).double()
    scale = median_distance(points) if length_scale is None else length_scale
    return stein_kernel(points, tree.rows(scores).double(), scale, exponent)
