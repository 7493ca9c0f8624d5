r"""All pairs of points: distances, their median, the mean over pairs, and Stein kernels.

A Stein kernel says how far points are from a distribution of which only the score is known. For a
kernel :math:`k` and the score :math:`s = \nabla \log p = -\nabla E` the Stein kernel

.. math:: k_p(x, y) = s(x) \cdot s(y)\,k + s(x) \cdot \nabla_y k + s(y) \cdot \nabla_x k + \nabla_x \cdot \nabla_y k

has mean zero over :math:`x \sim p` for every :math:`y`. The functions here take points and scores as rows of numbers and
are differentiable in both; :func:`funcebm.tree.rows` makes rows of a tree.

Reference: Liu, Lee and Jordan (2016), ICML, theorem 3.6; Gorham and Mackey (2017), ICML, section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["median_distance", "off_diagonal_mean", "squared_distances", "stein_kernel"]


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """All :math:`|x_i - y_j|^2` of rows ``(n, D)`` and ``(m, D)``. ``(n, m)``.

    By one matrix product of the points about their common centre, so that rounding is of the size of their spread.

    >>> squared_distances(torch.tensor([[0.0], [3.0]]), torch.tensor([[4.0]]))
    tensor([[16.],
            [ 1.]])
    """
    centre = (x.mean(0) + y.mean(0)) / 2
    x, y = x - centre, y - centre
    return (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).clamp(min=0)


def median_distance(points: Tensor) -> Tensor:
    """The median distance between two different rows of ``(n, D)``, the usual length scale of a kernel. ``()``.

    >>> median_distance(torch.tensor([[0.0], [1.0], [3.0]]))
    tensor(2.)
    """
    upper = torch.triu_indices(points.shape[0], points.shape[0], 1, device=points.device)
    return squared_distances(points, points)[upper[0], upper[1]].median().sqrt()


def stein_kernel(
    points: Tensor, scores: Tensor, length_scale: float | Tensor, exponent: float | Tensor = -0.5
) -> Tensor:
    r"""The Stein kernel of all pairs, for the inverse multiquadric :math:`k(x, y) = (1 + |x - y|^2 / \ell^2)^\beta`.

    With :math:`r = x - y` and :math:`u = 1 + |r|^2 / \ell^2`,

    .. math:: k_p = u^\beta\, s_x \cdot s_y - \frac{2 \beta}{\ell^2} u^{\beta - 1} (s_x - s_y) \cdot r
        - \frac{2 \beta d}{\ell^2} u^{\beta - 1} - \frac{4 \beta (\beta - 1)}{\ell^4} u^{\beta - 2} |r|^2.

    Args:
        points: rows. ``(n, D)``.
        scores: :math:`-\nabla E` at the points. ``(n, D)``.
        length_scale: :math:`\ell > 0`, in units of the points. ``()``.
        exponent: :math:`\beta` in (-1, 0): then the discrepancy sees every departure from the distribution and mass that
            escapes, which a Gaussian kernel misses from three dimensions on. ``()``.

    Returns:
        ``(n, n)``, symmetric.

    >>> stein_kernel(torch.zeros(1, 2), torch.tensor([[2.0, 0.0]]), 1.0)  # |s|^2 - 2 beta d / l^2
    tensor([[6.]])
    """
    inverse_square = 1 / torch.as_tensor(length_scale, dtype=points.dtype, device=points.device) ** 2
    points = points - points.mean(0)
    square = squared_distances(points, points)
    u = 1 + inverse_square * square
    along = scores @ points.T  # s_x . y
    own = along.diagonal()
    difference = own[:, None] + own - along - along.T  # (s_x - s_y) . (x - y)
    power = u**exponent
    slope = 2 * exponent * inverse_square * power / u
    bend = 4 * exponent * (exponent - 1) * inverse_square**2 * power / u**2
    return power * (scores @ scores.T) - slope * (difference + points.shape[1]) - bend * square


def off_diagonal_mean(kernel: Tensor) -> Tensor:
    """The mean over pairs of different points, an unbiased U-statistic. ``(n, n) -> ()``.

    >>> off_diagonal_mean(torch.tensor([[9.0, 1.0], [3.0, 9.0]]))
    tensor(2.)
    """
    num = kernel.shape[0]
    return (kernel.sum() - kernel.diagonal().sum()) / (num * (num - 1))
