"""The kernel Stein discrepancy as a loss: how far the data are from the distribution whose score the energy gives."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, fields, pairwise, tree
from ..types import Batch, Energy, Key, Loss, LossAux, Tree
from ._constrained import of_positions
from ._staged import without_memory

__all__ = ["kernel_stein_discrepancy"]


@of_positions
def kernel_stein_discrepancy(
    energy: Energy, *, length_scale: float | Tensor | None = None, exponent: float = -0.5
) -> Loss:
    r"""The squared kernel Stein discrepancy of the data from :math:`e^{-E_\theta} / Z`, without bias.

    .. math:: L = \frac{1}{B (B - 1)} \sum_{i \ne j} k_p(x_i, x_j)

    with the Stein kernel :func:`funcebm.pairwise.stein_kernel` of the scores :math:`-\nabla E_\theta(x_i)` and the inverse
    multiquadric :math:`(1 + |x - y|^2 / \ell^2)^\beta`. Its mean is
    :math:`E[\delta(x)^\top \delta(x')\,k(x, x')]` with the difference :math:`\delta` of the scores of data and model: zero
    where they agree, positive elsewhere; single values may be negative. It is a quadratic function of the score, needs no
    second derivative, and weighs the score by how many data are near: like score
    matching it cannot detect wrong relative weights of well-separated modes.

    Args:
        energy: ``(params, x) -> ()``.
        length_scale: :math:`\ell > 0`, in units of ``x`` ``()``; None is the median distance in each batch, or 1 where
            most of its rows coincide. Fix it to compare values.
        exponent: :math:`\beta` in (-1, 0).

    Returns:
        A :class:`~funcebm.types.Loss` over batches ``(B, *event)``, ``B >= 2``, with the metric ``squared_score``, the mean
        of :math:`|\nabla E|^2`. Time and memory grow with :math:`B^2`.

    Raises:
        ValueError: a number out of its range, a batch of one; when called, an energy that is not a scalar.

    Reference: Liu, Lee and Jordan (2016), ICML, section 4, for the estimate; Gorham and Mackey (2017), ICML, theorem 8, for
    the kernel; as a loss, Barp, Briol, Duncan, Girolami and Mackey (2019), NeurIPS.

    >>> import torch
    >>> loss = kernel_stein_discrepancy(lambda params, x: params * (x**2).sum() / 2, length_scale=1.0)
    >>> data = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    >>> loss.value(torch.tensor(0.0), (), data, ())[0]  # only the trace is left: 2 / 2**1.5 - 3 / 2**2.5
    tensor(0.1768)
    """
    checks.positive("length_scale", length_scale, "Give None for the median distance.")
    checks.require(-1 < exponent < 0, "exponent must be in (-1, 0)", exponent, "Try -0.5.")
    given = None if length_scale is None else tree.number(length_scale)
    slopes = vmap(fields.gradient(energy), (None, 0))

    def draw(key: Key, batch: Batch) -> tuple[()]:
        num = tree.batch_size(batch)
        checks.require(num >= 2, "a batch must hold at least two examples", num, "Make batch_size larger.")
        return ()

    def value(params: Tree, memory: Tree, batch: Batch, noise: tuple[()]) -> tuple[Tensor, LossAux]:
        points, gradients = tree.rows(batch), tree.rows(slopes(params, batch))
        scale = given
        if scale is None:
            median = pairwise.median_distance(points)
            scale = torch.where(median > 0, median, 1)
        kernel = pairwise.stein_kernel(points, -gradients, scale, exponent)
        return pairwise.off_diagonal_mean(kernel), LossAux(
            (), {"squared_score": gradients.square().sum(1).mean().detach()}
        )

    return Loss(without_memory, draw, value)
