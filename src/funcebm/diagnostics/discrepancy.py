"""How far two sets of samples are apart: kernels and distances of all pairs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import checks, random, tree
from ..checks import require
from ..pairwise import median_distance, off_diagonal_mean, squared_distances
from ..types import Key, Tree

__all__ = ["DiscrepancyTest", "energy_distance", "mmd", "mmd_test", "two_sets"]


class DiscrepancyTest(NamedTuple):
    """A discrepancy, and whether chance explains it.

    Attributes:
        value: without bias: its mean is zero where the distributions are equal. ``()``.
        standard_error: the standard deviation of ``value`` where the distributions are equal. ``()``.
        p_value: the share of values at least as large where the distributions are equal, in ``[1 / (1 + P), 1]`` for ``P``
            permutations or sign flips. ``()``.
    """

    value: Tensor
    standard_error: Tensor
    p_value: Tensor


def mmd(x: Tree, y: Tree, *, bandwidth: float | Tensor | None = None) -> Tensor:
    r"""The squared maximum mean discrepancy of two sets of samples, without bias.

    With the kernel :math:`k(a, b) = \exp(-|a - b|^2 / 2\ell^2)`,

    .. math:: \frac{\sum_{i \ne j} k(x_i, x_j)}{n (n-1)} + \frac{\sum_{i \ne j} k(y_i, y_j)}{m (m-1)}
        - \frac{2 \sum_{i, j} k(x_i, y_j)}{n m}.

    Its mean is zero where the two distributions are equal and positive otherwise; single values may be negative. The samples of
    each set must be independent. The cost is ``(n + m)^2`` in time and memory. :func:`mmd_test` says how large a value
    chance explains.

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

    >>> x = random.normal(random.key(0), (500, 2))
    >>> bool(mmd(x, x + 1) > 0.1)
    True
    """
    a, b = two_sets(x, y)
    return _between(_gaussian_kernel(a, b, bandwidth), a.shape[0])


def mmd_test(
    key: Key, x: Tree, y: Tree, *, bandwidth: float | Tensor | None = None, num_permutations: int = 200
) -> DiscrepancyTest:
    r"""The squared maximum mean discrepancy with its standard error and p-value under equal distributions.

    Where the distributions are equal, the value has mean zero and exactly the variance

    .. math:: \left( \frac{2}{n (n-1)} + \frac{2}{m (m-1)} + \frac{4}{n m} \right) E\,\tilde k(z, z')^2,

    with :math:`\tilde k` the kernel centred at the distribution, estimated from the Gram matrix of both sets together. The
    distribution of the value is a weighted sum of chi-squared ones, skewed to the right (three standard errors are passed by
    chance about once in a hundred times): the p-value, from permutations of both sets together, is exact for any number.

    Args:
        key: for the permutations. ``(2,)``.
        x: a tree of ``(n, *event)`` of independent samples, ``n >= 2``.
        y: a tree of the same structure of ``(m, *event)``, ``m >= 2``, independent of ``x``.
        bandwidth: as for :func:`mmd`.
        num_permutations: ``P``; the p-value is at least ``1 / (1 + P)``. The cost is ``P (n + m)^2``.

    Returns:
        A :class:`DiscrepancyTest` in float64.

    Raises:
        ValueError: as :func:`mmd`; or a number of permutations below one.

    Reference: Gretton et al. (2012), Journal of Machine Learning Research 13:723-773, equation 3 and section 5;
    Phipson and Smyth (2010) for the p-value.

    >>> x = random.normal(random.key(0), (200, 2))
    >>> test = mmd_test(random.key(1), x, 1 + random.normal(random.key(2), (200, 2)))
    >>> bool(test.value > 5 * test.standard_error), bool(test.p_value < 0.01)
    (True, True)
    """
    checks.positive_int("num_permutations", num_permutations)
    a, b = two_sets(x, y)
    n, m = a.shape[0], b.shape[0]
    kernel = _gaussian_kernel(a, b, bandwidth)
    value = _between(kernel, n)
    means = kernel.mean(0)
    centred = kernel - means[:, None] - means + means.mean()
    spread = off_diagonal_mean(centred.square())
    error = torch.sqrt(spread * (2 / (n * (n - 1)) + 2 / (m * (m - 1)) + 4 / (n * m)))

    orders = torch.func.vmap(lambda key: random.permutation(key, n + m))(
        random.split(key.to(kernel.device), num_permutations)
    )
    chosen = (orders < n).to(kernel).T  # (n + m, P): who plays x
    kernel = kernel - torch.diag(kernel.diagonal())
    inside = (chosen * (kernel @ chosen)).sum(0)
    touching = kernel.sum(0) @ chosen
    rest = kernel.sum() - 2 * touching + inside
    by_chance = inside / (n * (n - 1)) + rest / (m * (m - 1)) - 2 * (touching - inside) / (n * m)
    return DiscrepancyTest(value, error, p_value(value, by_chance))


def energy_distance(x: Tree, y: Tree) -> Tensor:
    r"""The squared energy distance of two sets of samples, without bias.

    .. math:: 2\,\overline{|x_i - y_j|} - \overline{|x_i - x_j|}_{i \ne j} - \overline{|y_i - y_j|}_{i \ne j}

    Its mean is :math:`2 E|X-Y| - E|X-X'| - E|Y-Y'|`, zero where the two distributions are equal and positive otherwise; single
    values may be negative. It has no bandwidth, and is in units of ``x``. In one dimension it is
    :math:`2 \int (F - G)^2`. The cost is ``(n + m)^2`` in time and memory.

    Args:
        x: a tree of ``(n, *event)`` of independent samples, ``n >= 2``.
        y: a tree of the same structure of ``(m, *event)``, ``m >= 2``.

    Returns:
        ``()`` in float64.

    Raises:
        ValueError: sets of different structure or event, or with fewer than two samples.

    Reference: Székely and Rizzo (2013), Journal of Statistical Planning and Inference 143(8):1249-1272; Sejdinovic et
    al. (2013), Annals of Statistics 41(5):2263-2291: it is an MMD, of the kernel :math:`-|a - b|`.

    >>> x = torch.tensor([[0.0], [1.0]])
    >>> energy_distance(x, x + 3)  # 2 * 3 - 1 - 1
    tensor(4., dtype=torch.float64)
    """
    a, b = two_sets(x, y)
    points = torch.cat([a, b])
    return _between(-squared_distances(points, points).sqrt(), a.shape[0])


def two_sets(x: Tree, y: Tree, minimum: int = 2) -> tuple[Tensor, Tensor]:
    """Two trees of ``(n, *event)`` and ``(m, *event)`` as matrices ``(n, D)``, ``(m, D)`` in float64; or an error."""
    checks.one_structure("y", y, "x", x)
    for name, leaf, other in zip(tree.paths(x), tree.leaves(x), tree.leaves(y), strict=True):
        got = f"{tuple(leaf.shape)} and {tuple(other.shape)}" + (f" at {name}" if name else "")
        right = leaf.ndim >= 1 and leaf.shape[1:] == other.shape[1:] and min(leaf.shape[0], other.shape[0]) >= minimum
        must = f"x and y must be (n, *event) and (m, *event), n and m at least {minimum}"
        require(right, must, got, "Put samples first.")
    return tree.rows(x).double(), tree.rows(y).double()


def p_value(value: Tensor, by_chance: Tensor) -> Tensor:
    """The share of values at least as large, the value itself among them."""
    slack = 1e-12 * value.abs()  # of rounding: a permutation may be the sets themselves
    return (1 + (by_chance >= value - slack).double().sum()) / (1 + by_chance.shape[0])


def _gaussian_kernel(a: Tensor, b: Tensor, bandwidth: float | Tensor | None) -> Tensor:
    checks.positive("bandwidth", bandwidth)
    points = torch.cat([a, b])
    scale = median_distance(points) if bandwidth is None else torch.as_tensor(bandwidth, dtype=a.dtype, device=a.device)
    return torch.exp(-squared_distances(points, points) / (2 * scale.square()))


def _between(kernel: Tensor, n: int) -> Tensor:
    """``E k(x, x') + E k(y, y') - 2 E k(x, y)`` from the kernel of both sets together, the first ``n`` points being x."""
    return off_diagonal_mean(kernel[:n, :n]) + off_diagonal_mean(kernel[n:, n:]) - 2 * kernel[:n, n:].mean()
