"""The generalised leapfrog of ``H(x, p) = E(x) + log det G(x) / 2 + p . G(x)^-1 p / 2``, whose equations are implicit."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor
from torch.func import vjp

from .. import loops, tree
from ..types import Position, Tree
from .symplectic import PhasePoint

__all__ = [
    "Solution",
    "fixed_point",
    "generalised_leapfrog",
    "kinetic_energy",
    "kinetic_gradient",
    "metric_root",
    "one_chain",
]

Metric = Callable[[Position], Tensor]
"""``position -> (D, D)``, symmetric and positive definite over the ravelled position."""

OverChains = Callable[[Callable[..., Any]], Callable[..., Any]]
"""``vmap``, or :func:`one_chain`: how a loop that is outside of ``vmap`` calls what is inside."""


class Solution(NamedTuple):
    """Where a fixed-point iteration ended: the value, its last change ``()``, the iterations ``()``, what was given."""

    value: Tree
    error: Tensor
    num_iterations: Tensor
    given: Tree


def one_chain(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as it is: the place of ``vmap`` where there is no chain axis."""
    return function


def distance(new: Tree, old: Tree) -> Tensor:
    """The largest difference of two trees, against one plus the largest number. ``()``."""
    (a, _), (b, _) = tree.ravel(new), tree.ravel(old)
    return (a - b).abs().amax() / (1 + a.abs().amax())


def metric_root(matrix: Tensor) -> Tensor:
    """The Cholesky factor of a metric; NaN where it is not symmetric and positive definite. ``(D, D)``.

    >>> metric_root(4 * torch.eye(2)), metric_root(-torch.eye(2))
    (tensor([[2., 0.],
            [0., 2.]]), tensor([[nan, nan],
            [nan, nan]]))
    """
    root, failed = torch.linalg.cholesky_ex(matrix)
    scale = matrix.diagonal().abs().sqrt()  # each entry on the scale of its own two coordinates
    is_symmetric = ((matrix - matrix.mT).abs() <= 1e-4 * scale[:, None] * scale).all()
    return torch.where((failed == 0) & is_symmetric, root, torch.nan)


def kinetic_energy(matrix: Tensor, momentum: Tree) -> Tensor:
    """``log det G / 2 + p . G^-1 p / 2``, minus the log density of ``N(0, G)`` up to a constant. ``()``."""
    root = metric_root(matrix)
    white = torch.linalg.solve_triangular(root, tree.ravel(momentum)[0][:, None], upper=False)
    return root.diagonal().log().sum() + 0.5 * (white**2).sum()


def kinetic_gradient(metric: Metric, position: Position, momentum: Tree) -> Tree:
    r"""The gradient of the kinetic energy by position, :math:`\tfrac12 (G^{-1} - v v^\top) : \nabla G`, :math:`v = G^{-1} p`.

    One backward pass through the metric; no derivative of a factorisation is taken.
    """
    matrix, pull = vjp(metric, position)  # type: ignore[misc]  # there is no aux
    inverse = torch.cholesky_inverse(metric_root(matrix))
    velocity = inverse @ tree.ravel(momentum)[0]
    return pull(0.5 * (inverse - torch.outer(velocity, velocity)))[0]


def _velocity(metric: Metric, position: Position, momentum: Tree) -> Tree:
    vector, back = tree.ravel(momentum)
    return back(torch.cholesky_solve(vector[:, None], metric_root(metric(position)))[:, 0])


def fixed_point(
    update: Callable[[Tree, Tree], Tree],
    start: Tree,
    given: Tree,
    *,
    tolerance: float | Tensor,
    max_iterations: int,
    over_chains: OverChains = one_chain,
) -> Solution:
    """Iterates ``value <- update(value, given)`` until no number changes by more than the tolerance.

    The change is measured against one plus the largest number. A change that is NaN ends the iteration, and is not below
    any tolerance. With ``over_chains=vmap`` all trees lead with a chain axis, and chains go on in lock step.

    >>> solution = fixed_point(lambda x, given: torch.cos(x), torch.tensor(1.0), (), tolerance=1e-6, max_iterations=100)
    >>> solution.value
    tensor(0.7391)
    """

    def begin(start: Tree, given: Tree) -> Solution:
        zero = torch.zeros_like(tree.first(start).sum())
        return Solution(start, zero + torch.inf, zero.to(torch.int32), given)

    def iterate(now: Solution) -> Solution:
        value = update(now.value, now.given)
        return Solution(value, distance(value, now.value), now.num_iterations + 1, now.given)

    return loops.while_loop(
        lambda now: (now.error > tolerance) & (now.num_iterations < max_iterations),
        over_chains(iterate),
        over_chains(begin)(start, given),
    )


def generalised_leapfrog(
    field: Callable[[Position], tuple[Any, Tree]],
    metric: Metric,
    step_size: Tensor,
    point: PhasePoint,
    *,
    tolerance: float | Tensor,
    max_iterations: int,
    over_chains: OverChains = one_chain,
) -> tuple[PhasePoint, Any, Tensor, Tensor]:
    r"""One step of the generalised leapfrog: half a step of the momentum, a step of the position, half a step again.

    .. math:: p_{1/2} = p - \tfrac h2 \partial_x H(x, p_{1/2}), \quad
              x' = x + \tfrac h2 \bigl(G(x)^{-1} + G(x')^{-1}\bigr) p_{1/2}, \quad
              p' = p_{1/2} - \tfrac h2 \partial_x H(x', p_{1/2})

    Of second order, reversible and symplectic, to the tolerance of its first two equations, which are implicit and solved
    by :func:`fixed_point`. With a constant metric it is leapfrog, and they are solved at once.

    Args:
        field: ``position -> (aux, gradient)``, the gradient of the energy :math:`E` alone.
        metric: ``position -> (D, D)``, :math:`G`.
        step_size: :math:`h`, of either sign. ``()``.
        point: where to start, with the gradient of :math:`E` there.
        tolerance: when an equation counts as solved.
        max_iterations: how many iterations each equation may take.
        over_chains: ``vmap`` for a point, and results, that lead with a chain axis.

    Returns:
        The next point, ``aux`` there, whether both equations were solved ``()`` bool, and the iterations of both ``()``.

    Reference: Girolami and Calderhead (2011), Journal of the Royal Statistical Society B 73(2):123-214;
    Leimkuhler and Reich (2004), Simulating Hamiltonian Dynamics.
    """
    half = 0.5 * step_size
    limits: dict[str, Any] = {"tolerance": tolerance, "max_iterations": max_iterations, "over_chains": over_chains}

    def kick(momentum: Tree, at: PhasePoint) -> Tree:
        slope = tree.add(at.gradient, kinetic_gradient(metric, at.position, momentum))
        return tree.add_scaled(at.momentum, -half, slope)

    def drift(position: Position, given: Any) -> Position:
        start, velocity, momentum = given
        return tree.add_scaled(start, half, tree.add(velocity, _velocity(metric, position, momentum)))

    def finish(position: Position, momentum: Tree) -> tuple[PhasePoint, Any]:
        aux, gradient = field(position)
        end = PhasePoint(position, momentum, gradient)
        return end._replace(momentum=kick(momentum, end)), aux

    momentum, kick_error, num_kicks, _ = fixed_point(kick, point.momentum, point, **limits)
    velocity = over_chains(lambda position, momentum: _velocity(metric, position, momentum))
    given = (point.position, velocity(point.position, momentum), momentum)
    position, drift_error, num_drifts, _ = fixed_point(drift, point.position, given, **limits)
    end, aux = over_chains(finish)(position, momentum)
    is_converged = (kick_error <= tolerance) & (drift_error <= tolerance)
    return end, aux, is_converged, num_kicks + num_drifts
