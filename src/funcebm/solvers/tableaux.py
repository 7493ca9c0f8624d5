"""Coefficients of explicit Runge-Kutta methods, and of the polynomials that give positions between their steps."""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "BOGACKI_SHAMPINE",
    "DORMAND_PRINCE",
    "EULER",
    "HEUN",
    "MIDPOINT",
    "RALSTON",
    "RK4",
    "TSITOURAS",
    "Tableau",
]


class Tableau(NamedTuple):
    r"""A method :math:`k_i = u(t + c_i h, x + h \sum_j a_{ij} k_j)`, :math:`x' = x + h \sum_i b_i k_i`.

    Attributes:
        order: of the method.
        nodes: :math:`c_i`.
        matrix: :math:`a_{ij}`, the rows below the first one.
        weights: :math:`b_i`.
        error: :math:`b_i - \hat b_i`, the weights of the local error; empty without an embedded method.
        error_order: that of the embedded method plus one.
        is_fsal: whether the last stage is the field at the new position.
        dense: of :math:`x(t + \theta h) = x + h \sum_i b_i(\theta) k_i`, the coefficients of :math:`\theta, \dots, \theta^4`
            in each :math:`b_i(\theta)`; empty where there is no error estimate.
    """

    order: int
    nodes: tuple[float, ...]
    matrix: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]
    error: tuple[float, ...] = ()
    error_order: int | None = None
    is_fsal: bool = False
    dense: tuple[tuple[float, ...], ...] = ()


def _unit(index: int, num: int) -> tuple[float, ...]:
    return tuple(float(i == index) for i in range(num))


def _hermite(weights: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
    """The cubic through both ends with the slopes of the first and the last stage, which is that at the new position."""
    num = len(weights)
    first, last = _unit(0, num), _unit(num - 1, num)
    return tuple((s, 3 * b - 2 * s - e, s + e - 2 * b, 0.0) for b, s, e in zip(weights, first, last, strict=True))


def _quartic(weights: tuple[float, ...], bulge: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
    """That cubic plus ``theta^2 (1 - theta)^2`` times a combination of the stages."""
    cubic = _hermite(weights)
    return tuple((a, b + d, c - 2 * d, d) for (a, b, c, _), d in zip(cubic, bulge, strict=True))


EULER = Tableau(1, (0.0,), (), (1.0,))
MIDPOINT = Tableau(2, (0.0, 1 / 2), ((1 / 2,),), (0.0, 1.0))
HEUN = Tableau(
    2,
    (0.0, 1.0),
    ((1.0,),),
    (1 / 2, 1 / 2),
    (-1 / 2, 1 / 2),
    2,
    False,
    ((1.0, -1 / 2, 0.0, 0.0), (0.0, 1 / 2, 0.0, 0.0)),
)
RALSTON = Tableau(2, (0.0, 2 / 3), ((2 / 3,),), (1 / 4, 3 / 4))
RK4 = Tableau(
    4,
    (0.0, 1 / 2, 1 / 2, 1.0),
    ((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
    (1 / 6, 1 / 3, 1 / 3, 1 / 6),
)
BOGACKI_SHAMPINE = Tableau(
    3,
    (0.0, 1 / 2, 3 / 4, 1.0),
    ((1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    (2 / 9, 1 / 3, 4 / 9, 0.0),
    (-5 / 72, 1 / 12, 1 / 9, -1 / 8),
    3,
    True,
    _hermite((2 / 9, 1 / 3, 4 / 9, 0.0)),
)
_DORMAND_PRINCE_WEIGHTS = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0)
_DORMAND_PRINCE_BULGE = (
    -12715105075 / 11282082432,
    0.0,
    87487479700 / 32700410799,
    -10690763975 / 1880347072,
    701980252875 / 199316789632,
    -1453857185 / 822651844,
    69997945 / 29380423,
)
DORMAND_PRINCE = Tableau(
    5,
    (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    (
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        _DORMAND_PRINCE_WEIGHTS[:-1],
    ),
    _DORMAND_PRINCE_WEIGHTS,
    (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
    5,
    True,
    _quartic(_DORMAND_PRINCE_WEIGHTS, _DORMAND_PRINCE_BULGE),
)
_TSITOURAS_WEIGHTS = (
    0.09646076681806523,
    0.01,
    0.4798896504144996,
    1.379008574103742,
    -3.290069515436081,
    2.324710524099774,
    0.0,
)
TSITOURAS = Tableau(
    5,
    (0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0),
    (
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
        (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.028269050394068383),
        _TSITOURAS_WEIGHTS[:-1],
    ),
    _TSITOURAS_WEIGHTS,
    (
        0.0017800110522257773,
        0.0008164344596567463,
        -0.007880878010261994,
        0.1447110071732629,
        -0.5823571654525552,
        0.45808210592918686,
        -1 / 66,
    ),
    5,
    True,
    (
        (0.9999999999999999, -2.763706197274826, 2.9132554618219126, -1.0530884977290216),
        (0.0, 0.13169999999999998, -0.2234, 0.1017),
        (0.0, 3.930296236894751, -5.941033872131505, 2.490627285651253),
        (-0.0, -12.411077166933676, 30.33818863028232, -16.548102889244902),
        (0.0, 37.50931341651104, -88.1789048947664, 47.37952196281928),
        (-0.0, -27.896526289197286, 65.09189467479368, -34.87065786149661),
        (0.0, 1.5, -4.0, 2.5),
    ),
)
