"""Symplectic integrators of ``H(x, p) = E(x) + p . M^-1 p / 2``."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

from torch import Tensor

from .. import metrics, tree
from ..types import Position, Tree

__all__ = ["PhasePoint", "leapfrog"]


class PhasePoint(NamedTuple):
    """A point in phase space, with the gradient of the energy at its position."""

    position: Position
    momentum: Tree
    gradient: Tree


def leapfrog(
    field: Callable[[Position], tuple[Any, Tree]], metric: Any, step_size: Tensor, point: PhasePoint
) -> tuple[PhasePoint, Any]:
    r"""One velocity Verlet step: half kick, drift, half kick.

    .. math:: p_{1/2} = p - \tfrac h2 \nabla E(x), \quad x' = x + h M^{-1} p_{1/2}, \quad
              p' = p_{1/2} - \tfrac h2 \nabla E(x')

    Of second order, reversible, volume preserving. The gradient of the start comes with the point, so ``L`` steps cost
    ``L`` gradients.

    Args:
        field: ``position -> (aux, gradient)``, the gradient of the energy with whatever else was computed.
        metric: see :mod:`funcebm.metrics`.
        step_size: :math:`h`, of either sign, in units of time. ``()``.
        point: where to start.

    Returns:
        The next point, and ``aux`` there.

    Reference: Hairer, Lubich and Wanner (2003), Acta Numerica 12:399-450, eq. 1.5.
    """
    momentum = tree.add_scaled(point.momentum, -0.5 * step_size, point.gradient)
    position = tree.add_scaled(point.position, step_size, metrics.velocity(metric, momentum))
    aux, gradient = field(position)
    momentum = tree.add_scaled(momentum, -0.5 * step_size, gradient)
    return PhasePoint(position, momentum, gradient), aux
