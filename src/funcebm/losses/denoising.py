"""Denoising score matching: the score of data with noise is the way back to the data."""

from __future__ import annotations

from torch import Tensor
from torch.func import vmap

from .. import checks, fields, tree
from ..types import Batch, Energy, Key, Loss, LossAux, Params, Position, Tree
from ._constrained import of_positions
from ._staged import without_memory

__all__ = ["denoising_score_matching"]


@of_positions
def denoising_score_matching(energy: Energy, noise_scale: float | Tensor) -> Loss[tuple[()]]:
    r"""Denoising score matching at one noise scale.

    With :math:`\tilde x = x + \sigma\xi` and :math:`\xi \sim N(0, I)`,

    .. math:: L = \tfrac12\,\overline{|\nabla_x E_\theta(\tilde x) - \xi/\sigma|^2},

    whose minimiser has the score :math:`-\nabla E` of the data *with noise*: on :math:`N(0, I)` data,
    :math:`E = |x|^2 / (2 (1 + \sigma^2))`. One gradient in ``x``, no second derivatives.

    Args:
        energy: ``(params, x) -> ()``.
        noise_scale: :math:`\sigma > 0`, in units of ``x``. ``()``.

    Returns:
        A :class:`~funcebm.types.Loss` over batches ``(B, *event)``, with the metric ``squared_score``, the mean of
        :math:`|\nabla E(\tilde x)|^2`.

    Raises:
        ValueError: a noise scale that is not positive; when called, an energy that is not a scalar.

    Reference: Vincent (2011), Neural Computation 23(7):1661-1674.

    >>> import torch
    >>> from funcebm import random
    >>> loss = denoising_score_matching(lambda params, x: params * (x**2).sum() / 2, 0.5)
    >>> noise = torch.tensor([[1.0, 0.0]])
    >>> loss.value(torch.tensor(2.0), (), torch.zeros(1, 2), noise)[0]  # |2 * 0.5 - 1 / 0.5|^2 / 2
    tensor(0.5000)
    """
    checks.positive("noise_scale", noise_scale, "Try a tenth of the standard deviation of the data.")
    gradient, number = fields.gradient(energy), tree.number(noise_scale)

    def draw(key: Key, batch: Batch) -> Tree:
        return tree.normal_like(key, batch)

    def one(params: Params, position: Position, noise: Tree) -> tuple[Tensor, Tensor]:
        scale = tree.cast_like(number, tree.first(position))
        uphill = gradient(params, tree.add_scaled(position, scale, noise))
        residual = tree.map(lambda g, z: g - z / scale, uphill, noise)
        return tree.squared_norm(residual) / 2, tree.squared_norm(uphill)

    def value(params: Params, memory: Tree, batch: Batch, noise: Tree) -> tuple[Tensor, LossAux]:
        distance, squared = vmap(one, (None, 0, 0))(params, batch, noise)
        return distance.mean(), LossAux((), {"squared_score": squared.mean().detach()})

    return Loss(without_memory, draw, value)
