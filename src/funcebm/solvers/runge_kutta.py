"""Explicit Runge-Kutta methods, with error estimates and dense output where they have them."""

from __future__ import annotations

from typing import Sequence

from torch import Tensor

from .. import checks, tree
from ..types import Key, Params, Position, Tree
from .integrator import Attempt, Field, Integrator, SolverInfo, SolverState, SolverTuning, evaluate, finished_step
from .tableaux import (
    BOGACKI_SHAMPINE,
    DORMAND_PRINCE,
    EULER,
    HEUN,
    MIDPOINT,
    RALSTON,
    RK4,
    TSITOURAS,
    Tableau,
)

__all__ = ["bosh3", "dopri5", "euler", "heun", "midpoint", "ralston", "rk4", "runge_kutta", "tsit5"]


def runge_kutta(tableau: Tableau) -> Integrator:
    r"""The explicit Runge-Kutta method of a tableau.

    .. math:: k_i = u\Bigl(t + c_i h,\; x + h \sum_{j < i} a_{ij} k_j\Bigr), \qquad x' = x + h \sum_i b_i k_i

    Where the last stage is the field at the new position, :func:`~funcebm.solvers.solve` and
    :func:`~funcebm.solvers.solve_adaptive` use it as the first stage of the next step.

    Args:
        tableau: the coefficients.

    Returns:
        An :class:`Integrator`, without noise and without parameters of its own.

    Reference: Hairer, Norsett and Wanner (1993), Solving Ordinary Differential Equations I, chapter II.

    >>> import torch
    >>> sampler = runge_kutta(RK4)(lambda params, t, x: -x, step_size=0.1)
    >>> state, info = sampler.step((), sampler.tuning, sampler.init((), torch.ones(1)), ())
    >>> state.position, int(info.num_gradients)
    (tensor([0.9048]), 4)
    """
    checks.instance("tableau", tableau, Tableau, "solvers.rk4() and others have theirs.")
    reuses = tableau.is_fsal

    def stages(field: Field, params: Params, t: Tensor, h: Tensor, x: Position, slope: Tree) -> list[Tree]:
        slopes = [slope if tree.leaves(slope) else evaluate(field, params, t, x)]
        for node, row in zip(tableau.nodes[1:], tableau.matrix, strict=True):
            slopes.append(evaluate(field, params, t + node * h, _moved(x, h, row, slopes)))
        return slopes

    def init(field: Field, params: Params, t: Tensor, x: Position) -> SolverState:
        return SolverState(x, t, ())

    def draw(key: Key, x: Position) -> Tree:
        return ()

    def attempt(field: Field, params: Params, t: Tensor, h: Tensor, x: Position, slope: Tree) -> Attempt:
        slopes = stages(field, params, t, h, x, slope)
        # the last row of a method that reuses its last stage holds its weights: there the field was asked
        position = _moved(x, h, tableau.weights, slopes)
        error = _combined(h, tableau.error, slopes)
        return Attempt(position, error, tuple(slopes), slopes[-1] if reuses else ())

    def step(
        field: Field, params: Params, tuning: SolverTuning, state: SolverState, noise: Tree
    ) -> tuple[SolverState, SolverInfo]:
        h = tuning.step_size.to(state.time)
        slopes = stages(field, params, state.time, h, state.position, state.memory)
        is_kept = bool(tree.leaves(state.memory))
        memory = slopes[-1] if is_kept else ()
        position = _moved(state.position, h, tableau.weights, slopes)
        return finished_step(position, state.time + h, memory, len(slopes) - is_kept)

    def interpolate(attempt: Attempt, x: Position, h: Tensor, theta: Tensor) -> Position:
        weights = [_horner(row, theta) for row in tableau.dense]
        return _moved(x, h, weights, attempt.slopes)

    has_error = bool(tableau.error)
    return Integrator(
        init,
        draw,
        step,
        order=tableau.order,
        error_order=tableau.error_order,
        attempt=attempt if has_error else None,
        interpolate=interpolate if has_error else None,
        num_evaluations=len(tableau.nodes) - reuses,
        reuses_slope=reuses,
    )


def euler() -> Integrator:
    """Euler's method: order 1, one evaluation a step.

    Returns:
        An :class:`Integrator`.

    >>> euler().order, euler().num_evaluations
    (1, 1)
    """
    return runge_kutta(EULER)


def midpoint() -> Integrator:
    """The explicit midpoint rule: order 2, two evaluations.

    Returns:
        An :class:`Integrator`.

    >>> midpoint().order, midpoint().num_evaluations
    (2, 2)
    """
    return runge_kutta(MIDPOINT)


def heun() -> Integrator:
    """Heun's method (the explicit trapezoidal rule): order 2, two evaluations, with an error estimate of order 1.

    Returns:
        An :class:`Integrator`.

    >>> heun().order, heun().num_evaluations
    (2, 2)
    """
    return runge_kutta(HEUN)


def ralston() -> Integrator:
    """Ralston's method: order 2 with the least bound on its error, two evaluations.

    Returns:
        An :class:`Integrator`.

    Reference: Ralston (1962), Mathematics of Computation 16(80):431-437.

    >>> ralston().order, ralston().num_evaluations
    (2, 2)
    """
    return runge_kutta(RALSTON)


def bosh3() -> Integrator:
    """Bogacki and Shampine's 3(2) pair: order 3, three evaluations a step after the first; dense output of order 3.

    Returns:
        An :class:`Integrator`.

    Reference: Bogacki and Shampine (1989), Applied Mathematics Letters 2(4):321-325.

    >>> bosh3().order, bosh3().num_evaluations
    (3, 3)
    """
    return runge_kutta(BOGACKI_SHAMPINE)


def rk4() -> Integrator:
    """The classical Runge-Kutta method: order 4, four evaluations.

    Returns:
        An :class:`Integrator`.

    >>> rk4().order, rk4().num_evaluations
    (4, 4)
    """
    return runge_kutta(RK4)


def dopri5() -> Integrator:
    """Dormand and Prince's 5(4) pair: order 5, six evaluations a step after the first; dense output of order 4.

    Returns:
        An :class:`Integrator`.

    Reference: Dormand and Prince (1980), Journal of Computational and Applied Mathematics 6(1):19-26.

    >>> dopri5().order, dopri5().num_evaluations
    (5, 6)
    """
    return runge_kutta(DORMAND_PRINCE)


def tsit5() -> Integrator:
    """Tsitouras' 5(4) pair: as :func:`dopri5`, with smaller errors for the same work; dense output of order 4.

    Returns:
        An :class:`Integrator`.

    Reference: Tsitouras (2011), Computers and Mathematics with Applications 62(2):770-775.

    >>> tsit5().order, tsit5().num_evaluations
    (5, 6)
    """
    return runge_kutta(TSITOURAS)


def _combined(h: Tensor, weights: Sequence[float | Tensor], slopes: Sequence[Tree]) -> Tree:
    """``h sum_i w_i k_i``; weights that are zero cost nothing."""
    terms = [(w, k) for w, k in zip(weights, slopes) if isinstance(w, Tensor) or w != 0]  # noqa: B905

    def leaf(*ks: Tensor) -> Tensor:
        total = terms[0][0] * ks[0]
        for (weight, _), k in zip(terms[1:], ks[1:], strict=True):
            total = total + weight * k
        return h * total

    return tree.map(leaf, *[k for _, k in terms])


def _moved(x: Position, h: Tensor, weights: Sequence[float | Tensor], slopes: Sequence[Tree]) -> Position:
    return tree.add(x, _combined(h, weights, slopes))


def _horner(coefficients: Sequence[float], theta: Tensor) -> Tensor:
    """``sum_k c_k theta^k``, from k = 1 on."""
    total = coefficients[-1] * theta
    for coefficient in coefficients[-2::-1]:
        total = (total + coefficient) * theta
    return total
