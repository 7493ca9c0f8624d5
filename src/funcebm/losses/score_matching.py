"""Score matching: fit the gradient of the log density, without samples and without the normalizer."""

from __future__ import annotations

from torch import Tensor
from torch.func import vmap

from .. import checks, fields, tree
from ..types import Batch, Energy, Key, Loss, LossAux, Params, Position, Tree
from ._constrained import of_positions
from ._probes import draw_probes, slope_and_curvatures
from ._staged import without_memory

__all__ = ["score_matching"]


@of_positions
def score_matching(energy: Energy, trace: str = "exact", *, num_probes: int = 1) -> Loss[tuple[()]]:
    r"""Score matching of Hyvarinen.

    .. math:: L = \overline{\tfrac12 |\nabla_x E_\theta(x)|^2 - \mathrm{tr}\,\nabla_x^2 E_\theta(x)}

    is half the mean squared distance of the model's score from the data's, up to a constant. On :math:`N(0, I)` data with
    :math:`E = |x|^2/2` its expectation is :math:`-d/2`. The trace is exact (d backward passes), or Hutchinson's unbiased
    estimate :math:`v^\top \nabla^2 E\,v` with :math:`v_i = \pm 1`, averaged over probes: then the loss is the
    variance-reduced form of :func:`sliced_score_matching` with ``probe="rademacher"``.

    Args:
        energy: ``(params, x) -> ()``, twice differentiable in ``x`` (SiLU or softplus, not ReLU).
        trace: ``"exact"`` or ``"hutchinson"``.
        num_probes: probes for each example, static; for ``"hutchinson"``.

    Returns:
        A :class:`~funcebm.types.Loss` over batches ``(B, *event)``, with the metrics ``squared_score`` and ``laplacian``,
        means over the batch.

    Raises:
        ValueError: an unknown trace or a bad count; when called, an energy that is not a scalar.

    Reference: Hyvarinen (2005), JMLR 6:695-709, theorem 1; for the probes, Song, Garg, Shi and Ermon (2019), UAI.

    >>> import torch
    >>> from funcebm import random
    >>> loss = score_matching(lambda params, x: params * (x**2).sum() / 2)
    >>> value, aux = loss(random.key(0), torch.tensor(1.0), torch.ones(4, 2))
    >>> value
    tensor(-1.)
    """
    fix = 'Use "exact" for few dimensions, "hutchinson" for many.'
    checks.require(trace in ("exact", "hutchinson"), 'trace must be "exact" or "hutchinson"', trace, fix)
    checks.positive_int("num_probes", num_probes)
    gradient = fields.gradient(energy)
    laplacian = fields.laplacian(energy)
    along = slope_and_curvatures(energy)

    def draw(key: Key, batch: Batch) -> Tree:
        return () if trace == "exact" else draw_probes(key, batch, num_probes, "rademacher")

    def one(params: Params, position: Position, probes: Tree) -> tuple[Tensor, Tensor]:
        if trace == "exact":
            return tree.squared_norm(gradient(params, position)), laplacian(params, position)
        slope, curvatures = along(params, position, probes)
        return tree.squared_norm(slope), curvatures.mean()

    def value(params: Params, memory: Tree, batch: Batch, noise: Tree) -> tuple[Tensor, LossAux]:
        squared, curvature = vmap(one, (None, 0, 0))(params, batch, noise)
        metrics = {"squared_score": squared.mean().detach(), "laplacian": curvature.mean().detach()}
        return (squared / 2 - curvature).mean(), LossAux((), metrics)

    return Loss(without_memory, draw, value)
