r"""Symplectic integrators of ``H(x, p) = E(x) + p . M^-1 p / 2``.

Each is a symmetric composition of kicks :math:`p \leftarrow p - b h \nabla E(x)` and drifts
:math:`x \leftarrow x + a h M^{-1} p`: reversible, volume preserving, and of even order.

==================  =====  ===================  ==============================
integrator          order  gradients each step  for
==================  =====  ===================  ==============================
leapfrog            2      1                    the default
position_leapfrog   2      1                    schemes that end on a drift
mclachlan           2      2                    high acceptance, many dimensions
yoshida             4      3                    very small errors
==================  =====  ===================  ==============================
"""

from __future__ import annotations

import math
from typing import Any, Callable, NamedTuple

from torch import Tensor

from .. import checks, metrics, tree
from ..types import Position, Tree

__all__ = ["Integrator", "PhasePoint", "leapfrog", "mclachlan", "position_leapfrog", "splitting", "yoshida"]

ValueAndGradient = Callable[[Position], tuple[Any, Tree]]


class PhasePoint(NamedTuple):
    """A point in phase space, with the gradient of the energy at its position."""

    position: Position
    momentum: Tree
    gradient: Tree


class Integrator(NamedTuple):
    """One step of an integrator, and what it costs.

    Attributes:
        step: ``(field, metric, step_size, point) -> (point, aux)``. ``field`` is ``position -> (aux, gradient)``, the gradient
            of the energy with whatever else was computed; ``metric`` is one of :mod:`funcebm.metrics`; ``step_size`` is
            :math:`h`, of either sign, in units of time, ``()``.
        num_gradients: how often a step calls ``field``.
        ends_on_kick: whether the last call was at the new position. Then ``aux`` and the gradient of the new point belong
            there, and the next step starts with that gradient. If not, the gradient of a point is not used.
    """

    step: Callable[[ValueAndGradient, Any, Tensor, PhasePoint], tuple[PhasePoint, Any]]
    num_gradients: int
    ends_on_kick: bool

    def __call__(
        self, field: ValueAndGradient, metric: Any, step_size: Tensor, point: PhasePoint
    ) -> tuple[PhasePoint, Any]:
        """One step: ``(point, aux)``."""
        return self.step(field, metric, step_size, point)


def _check(name: str, coefficients: tuple[float, ...]) -> None:
    fix = "For leapfrog write kicks=(0.5, 0.5), drifts=(1.0,)."
    checks.require(math.isclose(sum(coefficients), 1), f"{name} must add up to 1", coefficients, fix)
    is_symmetric = all(map(math.isclose, coefficients, reversed(coefficients)))
    checks.require(is_symmetric, f"{name} must read the same backwards", coefficients, fix)


def splitting(kicks: tuple[float, ...], drifts: tuple[float, ...]) -> Integrator:
    r"""The integrator that alternates kicks and drifts of these parts of a step.

    .. math:: p \leftarrow p - b_i h \nabla E(x), \qquad x \leftarrow x + a_i h M^{-1} p

    Every such map keeps volume and is symplectic. Both lists must read the same backwards, which makes it reversible, and
    add up to 1, which with that makes it of second order at least.

    Args:
        kicks: :math:`b_i`. One more than drifts: the step starts and ends on a kick, and reuses the gradient.
        drifts: :math:`a_i`. One more than kicks: it starts and ends on a drift.

    Returns:
        An :class:`Integrator`.

    Raises:
        ValueError: lists whose lengths do not differ by one, that do not add up to 1, or are not symmetric.

    Reference: McLachlan and Quispel (2002), Acta Numerica 11:341-434.

    >>> splitting(kicks=(0.5, 0.5), drifts=(1.0,)).num_gradients
    1
    """
    lengths = f"{len(kicks)} kicks and {len(drifts)} drifts"
    checks.require(
        abs(len(kicks) - len(drifts)) == 1,
        "the numbers of kicks and drifts must differ by one",
        lengths,
        "A step starts and ends on the same kind.",
    )
    _check("kicks", kicks)
    _check("drifts", drifts)
    starts_on_kick = len(kicks) > len(drifts)

    def drift(metric: Any, step_size: Tensor, part: float, position: Position, momentum: Tree) -> Position:
        time = step_size if part == 1 else part * step_size
        return tree.add_scaled(position, time, metrics.velocity(metric, momentum))

    def step(field: ValueAndGradient, metric: Any, step_size: Tensor, point: PhasePoint) -> tuple[PhasePoint, Any]:
        position, momentum, gradient = point
        aux = None
        if starts_on_kick:
            momentum = tree.add_scaled(momentum, -kicks[0] * step_size, gradient)
        for part, kick in zip(drifts, kicks[1:] if starts_on_kick else kicks, strict=False):
            position = drift(metric, step_size, part, position, momentum)
            aux, gradient = field(position)
            momentum = tree.add_scaled(momentum, -kick * step_size, gradient)
        if not starts_on_kick:
            position = drift(metric, step_size, drifts[-1], position, momentum)
        return PhasePoint(position, momentum, gradient), aux

    return Integrator(step, len(kicks) - starts_on_kick, starts_on_kick)


leapfrog = splitting(kicks=(0.5, 0.5), drifts=(1.0,))
r"""Leapfrog in velocity form (velocity Verlet): half kick, drift, half kick. Order 2.

.. math:: p_{1/2} = p - \tfrac h2 \nabla E(x), \quad x' = x + h M^{-1} p_{1/2}, \quad
          p' = p_{1/2} - \tfrac h2 \nabla E(x')

The gradient of the start comes with the point, so ``L`` steps cost ``L`` gradients.

Reference: Hairer, Lubich and Wanner (2003), Acta Numerica 12:399-450, section 1.
"""

position_leapfrog = splitting(kicks=(1.0,), drifts=(0.5, 0.5))
r"""Leapfrog in position form: half drift, kick, half drift. Order 2.

.. math:: x_{1/2} = x + \tfrac h2 M^{-1} p, \quad p' = p - h \nabla E(x_{1/2}), \quad x' = x_{1/2} + \tfrac h2 M^{-1} p'

The gradient and ``aux`` that it returns belong to :math:`x_{1/2}`.

Reference: Hairer, Lubich and Wanner (2003), Acta Numerica 12:399-450, section 1.
"""

_B = 0.1931833275037836
mclachlan = splitting(kicks=(_B, 1 - 2 * _B, _B), drifts=(0.5, 0.5))
r"""The two-stage scheme of minimum error norm, in velocity form. Order 2.

Kicks :math:`b, 1 - 2b, b` around two drifts of a half, with :math:`b = 0.1931833275037836`, which makes the norm of the
leading error 0.37 times that of leapfrog at the same number of gradients. Two gradients a step; stable to
:math:`h \omega < 2.55`, against 4 for two leapfrog steps.

Reference: McLachlan (1995), SIAM Journal on Scientific Computing 16(1):151-168; the number as in Omelyan, Mryglod and Folk
(2003), Computer Physics Communications 151:272-314.
"""

_W = 1 / (2 - 2 ** (1 / 3))
yoshida = splitting(kicks=(_W / 2, (1 - _W) / 2, (1 - _W) / 2, _W / 2), drifts=(_W, 1 - 2 * _W, _W))
r"""Yoshida's triple jump: leapfrog steps of :math:`w h`, :math:`(1 - 2w) h` and :math:`w h`. Order 4.

With :math:`w = 1 / (2 - 2^{1/3}) \approx 1.35` the middle one goes backwards. Three gradients a step; stable to about
:math:`h \omega < 1.57`, against 2 for leapfrog.

Reference: Yoshida (1990), Physics Letters A 150(5-7):262-268.
"""
