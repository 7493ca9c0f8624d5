"""Score matching by finite differences: sliced score matching from values of the energy alone."""

from __future__ import annotations

from torch import Tensor
from torch.func import vmap

from .. import checks, tree
from ..fields import require_scalar
from ..types import Batch, Energy, Key, Loss, LossAux, Params, Position, Tree
from ._constrained import of_positions
from ._probes import check_probes, draw_probes
from ._staged import without_memory

__all__ = ["finite_difference_score_matching"]


@of_positions
def finite_difference_score_matching(
    energy: Energy, *, step_size: float | Tensor = 0.1, num_probes: int = 1, probe: str = "rademacher"
) -> Loss[tuple[()]]:
    r"""Finite-difference sliced score matching: no derivative in ``x`` at all.

    With random directions :math:`v`, :math:`E[v v^\top] = I`, and :math:`E_\pm = E_\theta(x \pm \epsilon v)`,

    .. math:: L = \overline{\frac{(E_+ - E_-)^2}{8 \epsilon^2} - \frac{E_+ - 2 E_\theta(x) + E_-}{\epsilon^2}},

    which is :func:`sliced_score_matching` (without variance reduction) up to :math:`O(\epsilon^2)`, and exactly it where
    the energy is quadratic. Three values of the energy for a direction, and one backward pass for the parameters.

    Rounding puts a floor under :math:`\epsilon`: the second difference is off by about
    :math:`4 u |E| / \epsilon^2`, with :math:`u` = 6e-8 in float32 and 1e-16 in float64. Balanced against the truncation,
    :math:`\epsilon` of 0.05 to 0.2 times the smallest scale of the data over :math:`\sqrt d` suits float32; half
    precision has no room at all. A large constant in the energy costs digits: keep :math:`|E|` small.

    Args:
        energy: ``(params, x) -> ()``; smooth, though only its values are used.
        step_size: :math:`\epsilon > 0`, in units of ``x``; a position moves by :math:`\epsilon |v| \approx
            \epsilon \sqrt d`. ``()``.
        num_probes: directions for each example, static.
        probe: ``"normal"``, ``"rademacher"`` or ``"sphere"``.

    Returns:
        A :class:`~funcebm.types.Loss` over batches ``(B, *event)``, with the metrics ``squared_score`` and ``laplacian``,
        as estimated.

    Raises:
        ValueError: a step size that is not positive, a bad count or an unknown kind of direction; when called, an energy
            that is not a scalar.

    Reference: Pang, Xu, Li, Song, Ermon and Zhu (2020), NeurIPS, arXiv:2007.03317; there :math:`\epsilon` is
    :math:`|v|`, which here is :math:`\epsilon \sqrt d`.

    >>> import torch
    >>> from funcebm import random
    >>> loss = finite_difference_score_matching(lambda params, x: params * (x**2).sum() / 2)
    >>> round(float(loss(random.key(0), torch.tensor(1.0), torch.zeros(4, 2))[0]), 3)  # -d at the origin
    -2.0
    """
    checks.positive("step_size", step_size, "Try 0.1 for data of unit scale in a few dimensions.")
    check_probes(num_probes, probe)
    number = tree.number(step_size)

    def draw(key: Key, batch: Batch) -> Tree:
        return draw_probes(key, batch, num_probes, probe)

    def one(params: Params, position: Position, probes: Tree) -> tuple[Tensor, Tensor]:
        here = require_scalar(energy(params, position), position)
        h, square = tree.cast_like((number, number**2), tree.first(position))

        def along(probe: Position) -> tuple[Tensor, Tensor]:
            ahead = energy(params, tree.add_scaled(position, h, probe)) - here
            behind = energy(params, tree.add_scaled(position, -h, probe)) - here
            return ((ahead - behind) / (2 * h)).square(), (ahead + behind) / square

        squared, curvature = vmap(along)(probes)
        return squared.mean(), curvature.mean()

    def value(params: Params, memory: Tree, batch: Batch, noise: Tree) -> tuple[Tensor, LossAux]:
        squared, curvature = vmap(one, (None, 0, 0))(params, batch, noise)
        metrics = {"squared_score": squared.mean().detach(), "laplacian": curvature.mean().detach()}
        return (squared / 2 - curvature).mean(), LossAux((), metrics)

    return Loss(without_memory, draw, value)
