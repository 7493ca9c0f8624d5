"""Sliced score matching: the score along random directions, at the cost of one more gradient."""

from __future__ import annotations

from torch import Tensor
from torch.func import vmap

from .. import tree
from ..types import Batch, Energy, Key, Loss, LossAux, Params, Position, Tree
from ._constrained import of_positions
from ._probes import check_probes, draw_probes, slope_and_curvatures
from ._staged import without_memory

__all__ = ["sliced_score_matching"]


@of_positions
def sliced_score_matching(
    energy: Energy, *, num_probes: int = 1, variance_reduction: bool = True, probe: str = "rademacher"
) -> Loss[tuple[()]]:
    r"""Sliced score matching.

    With random directions :math:`v`, :math:`E[v v^\top] = I`,

    .. math:: L = \overline{\tfrac12 (v \cdot \nabla_x E_\theta(x))^2 - v^\top \nabla_x^2 E_\theta(x)\, v},

    whose expectation over :math:`v` is the loss of :func:`score_matching`. With ``variance_reduction`` the first term is
    its own expectation, :math:`\tfrac12 |\nabla E|^2`. A direction runs over all numbers of a position, whatever its axes
    and leaves: products are summed over all of them.

    Args:
        energy: ``(params, x) -> ()``, twice differentiable in ``x`` (SiLU or softplus, not ReLU).
        num_probes: directions for each example, static.
        variance_reduction: whether to integrate the first term exactly, at no cost. With signs or spheres the rest has no
            variance where the Hessian is a multiple of the identity.
        probe: ``"normal"``, ``"rademacher"`` (signs; exact where the Hessian is diagonal) or ``"sphere"`` (radius
            :math:`\sqrt d`).

    Returns:
        A :class:`~funcebm.types.Loss` over batches ``(B, *event)``, with the metrics ``squared_score``, the mean of what
        stands in for :math:`|\nabla E|^2`, and ``laplacian``.

    Raises:
        ValueError: a bad count or an unknown kind of direction; when called, an energy that is not a scalar.

    Reference: Song, Garg, Shi and Ermon (2019), UAI, arXiv:1905.07088; ``variance_reduction`` is their SSM-VR.

    >>> import torch
    >>> from funcebm import random
    >>> loss = sliced_score_matching(lambda params, x: params * (x**2).sum() / 2)
    >>> loss(random.key(0), torch.tensor(1.0), torch.ones(4, 3, 2))[0]  # |x|^2 / 2 - 6
    tensor(-3.)
    """
    check_probes(num_probes, probe)
    along = slope_and_curvatures(energy)

    def draw(key: Key, batch: Batch) -> Tree:
        return draw_probes(key, batch, num_probes, probe)

    def one(params: Params, position: Position, probes: Tree) -> tuple[Tensor, Tensor]:
        slope, curvatures = along(params, position, probes)
        if variance_reduction:
            return tree.squared_norm(slope), curvatures.mean()
        return vmap(tree.dot, (None, 0))(slope, probes).square().mean(), curvatures.mean()

    def value(params: Params, memory: Tree, batch: Batch, noise: Tree) -> tuple[Tensor, LossAux]:
        squared, curvature = vmap(one, (None, 0, 0))(params, batch, noise)
        metrics = {"squared_score": squared.mean().detach(), "laplacian": curvature.mean().detach()}
        return (squared / 2 - curvature).mean(), LossAux((), metrics)

    return Loss(without_memory, draw, value)
