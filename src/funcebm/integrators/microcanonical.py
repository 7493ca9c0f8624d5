"""Splitting integrators of the isokinetic (microcanonical) dynamics, whose velocity has length one."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor

from .. import checks, metrics, tree
from ..types import Position, Tree

__all__ = ["MicrocanonicalPoint", "isokinetic_kick", "microcanonical_step", "normalise", "num_stages"]

_MINIMAL_NORM = 0.1931833275037836
_COEFFICIENTS = {  # kicks, which are one more, and drifts between them
    "leapfrog": ((0.5, 0.5), (1.0,)),
    "mclachlan": ((_MINIMAL_NORM, 1 - 2 * _MINIMAL_NORM, _MINIMAL_NORM), (0.5, 0.5)),
}


class MicrocanonicalPoint(NamedTuple):
    """A position, a velocity of length one over the whole tree, and the gradient of the energy at the position."""

    position: Position
    velocity: Tree
    gradient: Tree


def normalise(vector: Tree) -> Tree:
    """``v / |v|``, with the norm over all leaves; NaN where that is zero."""
    return tree.scale(tree.squared_norm(vector).rsqrt(), vector)


def num_stages(integrator: str) -> int:
    """How many gradients a step costs: 1 for ``"leapfrog"``, 2 for ``"mclachlan"``."""
    fix = "Take 'mclachlan' (two gradients a step, and more than twice the step) or 'leapfrog'."
    checks.require(integrator in _COEFFICIENTS, "integrator must be 'mclachlan' or 'leapfrog'", integrator, fix)
    return len(_COEFFICIENTS[integrator][1])


def isokinetic_kick(time: Tensor, velocity: Tree, gradient: Tree) -> tuple[Tree, Tensor]:
    r"""The exact flow of :math:`\dot u = -(I - u u^\top)\, g / (d - 1)` for a constant gradient :math:`g`.

    With :math:`e = -g / |g|`, :math:`q = u \cdot e`, :math:`a = t |g| / (d - 1)` and :math:`\zeta = e^{-a}`,

    .. math:: u' \propto e\,(1 - \zeta)(1 + \zeta + q (1 - \zeta)) + 2 \zeta u, \qquad
              \Delta K = (d - 1) \log(\cosh a + q \sinh a).

    On the unit sphere the map has the Jacobian determinant :math:`e^{-\Delta K}`, and :math:`\Delta K` is the change of the
    kinetic energy. It is computed as :math:`a + \log(1 + (1 - q)(e^{-2a} - 1) / 2)`, which keeps its digits at small
    :math:`a`.

    Args:
        time: :math:`t`. ``()``.
        velocity: :math:`u`, of length one over all leaves, :math:`d \ge 2` numbers in all.
        gradient: :math:`g`, of the same shapes. Where it is zero nothing changes.

    Returns:
        The new velocity, and :math:`\Delta K` ``()``.

    Reference: Ver Steeg and Galstyan (2021), NeurIPS 34; Robnik, De Luca, Silverstein and Seljak (2023), JMLR 24(311).
    """
    degrees = tree.size(velocity) - 1
    square = tree.squared_norm(gradient)
    norm = torch.where(square > 0, square, 1).sqrt()  # a square root of zero has no derivative
    downhill = tree.scale(-1 / norm, gradient)
    overlap = tree.dot(velocity, downhill)
    angle = time * torch.where(square > 0, norm, 0) / degrees
    decay = torch.exp(-angle)
    along = (1 - decay) * (1 + decay + overlap * (1 - decay))
    turned = tree.map(lambda e, u: along * e + 2 * decay * u, downhill, velocity)
    change = degrees * (angle + torch.log1p((1 - overlap) * torch.expm1(-2 * angle) / 2))
    return normalise(turned), change


def microcanonical_step(
    field: Callable[[Position], tuple[Any, Tree]],
    metric: Any,
    step_size: Tensor,
    point: MicrocanonicalPoint,
    integrator: str = "mclachlan",
) -> tuple[MicrocanonicalPoint, Tensor, Any]:
    r"""One palindrome of kicks :math:`B` and drifts :math:`A(t): x' = x + t A u`, with :math:`M^{-1} = A A^\top`.

    ``"leapfrog"`` is :math:`B(h/2) A(h) B(h/2)`, ``"mclachlan"`` is
    :math:`B(bh) A(h/2) B((1 - 2b)h) A(h/2) B(bh)` with :math:`b = 0.193`, the smallest error constant of its kind.
    Kicks are :func:`isokinetic_kick` with :math:`g = A^\top \nabla E`. Of second order, and reversible: a step from
    :math:`(x', -u')` ends at :math:`(x, -u)`. The gradient of the start comes with the point.

    Args:
        field: ``position -> (aux, gradient)``.
        metric: see :mod:`funcebm.metrics`; it gives the coordinates their scales.
        step_size: :math:`h`, a length. ``()``.
        point: where to start.
        integrator: ``"mclachlan"`` or ``"leapfrog"``; static.

    Returns:
        The next point, :math:`\sum \Delta K` of the kicks ``()``, and ``aux`` at the end.

    Reference: McLachlan (1995), SIAM Journal on Scientific Computing 16(1):151-168; Omelyan, Mryglod and Folk (2003),
    Computer Physics Communications 151:272-314.
    """
    kicks, drifts = _COEFFICIENTS[integrator]
    position, velocity, gradient = point
    velocity, total = isokinetic_kick(kicks[0] * step_size, velocity, metrics.whiten(metric, gradient))
    aux = None
    for drift, kick in zip(drifts, kicks[1:], strict=True):
        position = tree.add_scaled(position, drift * step_size, metrics.displacement(metric, velocity))
        aux, gradient = field(position)
        velocity, change = isokinetic_kick(kick * step_size, velocity, metrics.whiten(metric, gradient))
        total = total + change
    return MicrocanonicalPoint(position, velocity, gradient), total, aux
