r"""Couplings by optimal transport between two batches: exact, entropic, unbalanced."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .. import checks, loops, random, tree
from ..types import Key, Tree
from .assignment import assignment
from .coupling import Coupling, Pairing, from_cost

__all__ = ["optimal_transport", "sinkhorn", "unbalanced"]


def optimal_transport() -> Coupling:
    r"""Optimal transport between the two batches: the permutation of least :math:`\sum_i |x_{0i} - x_{1j(i)}|^2`.

    Every row is used once. Paths cross less, so that the velocity varies less and flows are straighter. The noise of a pair
    tells of its data: the velocity is no longer that of the independent coupling, and score, noise and energy do not follow from
    it. The coupling of batches is biased, with the right marginals, and tends to optimal transport as B grows, slowly in many
    dimensions. For labelled data wrap it by :func:`within_labels`.

    Returns:
        A :class:`Coupling`.

    Raises:
        ValueError: when called, batches of unequal size, or labels that do not fit.

    Reference: Tong et al. (2024), TMLR, arXiv:2302.00482; Pooladian et al. (2023), ICML, arXiv:2304.14772.

    >>> coupling = optimal_transport()
    >>> coupling(random.key(0), torch.tensor([[0.0], [3.0]]), torch.tensor([[4.0], [1.0]])).index
    tensor([1, 0])
    """

    def solve(cost: Tensor, noise: Tree) -> Pairing:
        one = torch.ones_like(cost[:, 0])
        return Pairing(assignment(cost), one, torch.zeros_like(cost[0, 0]))

    return from_cost(lambda key, num: (), solve)


def sinkhorn(
    regularisation: float | Tensor, *, max_iterations: int = 1000, tolerance: float | Tensor = 1e-3
) -> Coupling:
    r"""Entropic optimal transport between the two batches, by Sinkhorn's iterations on logarithms.

    The plan :math:`P_{ij} = e^{(f_i + g_j - C_{ij})/\varepsilon}/B^2`, with :math:`C_{ij} = |x_{0i} - x_{1j}|^2`, has even
    marginals; for row i a column is drawn from it. So every row of noise is used once, and rows of data once on average. As
    :math:`\varepsilon` falls it tends to optimal transport, as it grows to independence.

    For a Brownian bridge of scale c the plan of the Schroedinger bridge has :math:`\varepsilon = 2 c^2` with this cost.

    Args:
        regularisation: :math:`\varepsilon > 0`, in units of the cost, the squared distance. ``()``.
        max_iterations: at most so many; :math:`\varepsilon` comes down from the largest cost by halves.
        tolerance: of the marginal of a row, as a share of it. ``()``.

    Returns:
        A :class:`Coupling`; ``residual`` of its pairings is the largest error of a row, as a share.

    Raises:
        ValueError: numbers that are not positive; when called, batches of unequal size, or labels that do not fit.

    Reference: Cuturi (2013), NeurIPS, arXiv:1306.0895; Schmitzer (2019), arXiv:1610.06519, for logarithms and annealing.

    >>> coupling = sinkhorn(0.01)
    >>> coupling(random.key(0), torch.tensor([[0.0], [3.0]]), torch.tensor([[4.0], [1.0]])).index
    tensor([1, 0])
    """
    return _entropic(regularisation, None, max_iterations, tolerance)


def unbalanced(
    regularisation: float | Tensor,
    marginal_penalty: float | Tensor,
    *,
    max_iterations: int = 1000,
    tolerance: float | Tensor = 1e-3,
) -> Coupling:
    r"""Entropic transport that may leave outliers behind, at the price :math:`\rho\,\mathrm{KL}` for each marginal.

    As :func:`sinkhorn`, with both potentials damped by :math:`\rho/(\rho + \varepsilon)`; a column is drawn for each row, and the
    mass of the row is the weight of the pair.

    Args:
        regularisation: :math:`\varepsilon > 0`, in units of the cost, the squared distance. ``()``.
        marginal_penalty: :math:`\rho > 0`, in units of the cost: transport over more than about :math:`2\rho` is not worth
            its price. ``()``.
        max_iterations: at most so many.
        tolerance: of the change of the mass of a row in one iteration, as a share. ``()``.

    Returns:
        A :class:`Coupling`, whose weights have mean one.

    Raises:
        ValueError: numbers that are not positive; when called, batches of unequal size, or labels that do not fit.

    Reference: Chizat, Peyre, Schmitzer and Vialard (2018), Mathematics of Computation 87:2563-2609.

    >>> coupling = unbalanced(0.1, 1.0)
    >>> far = torch.tensor([[0.0], [50.0]])
    >>> coupling(random.key(0), far, torch.tensor([[0.1], [0.0]])).weight[1] < 1e-6
    tensor(True)
    """
    checks.positive("marginal_penalty", marginal_penalty, "Try 1.0.")
    return _entropic(regularisation, marginal_penalty, max_iterations, tolerance)


def _entropic(
    regularisation: float | Tensor, penalty: float | Tensor | None, max_iterations: int, tolerance: float | Tensor
) -> Coupling:
    checks.positive("regularisation", regularisation, "Try 2 c^2 for a bridge of scale c.")
    checks.positive("tolerance", tolerance, "Try 1e-3.")
    checks.positive_int("max_iterations", max_iterations)

    def draw(key: Key, num: int) -> Tensor:
        return random.gumbel(key, (num, num))

    def solve(cost: Tensor, noise: Tensor) -> Pairing:
        num = cost.shape[0]
        epsilon = tree.number(regularisation).to(cost)
        limit = tree.number(tolerance).to(cost)
        largest = torch.where(torch.isfinite(cost), cost, 0.0).max()
        damp = torch.ones_like(epsilon)
        if penalty is not None:
            weight = tree.number(penalty).to(cost)
            damp = weight / (weight + epsilon)

        def rows(f: Tensor, g: Tensor, at: Tensor) -> Tensor:
            """The logarithm of B times the mass of each row."""
            return torch.logsumexp((f[:, None] + g - cost) / at, 1) - math.log(num)

        def body(carry: Any) -> Any:
            f, g, at, index, before, _ = carry
            is_last = at <= epsilon
            f = -damp * at * (torch.logsumexp((g - cost) / at, 1) - math.log(num))
            g = -damp * at * (torch.logsumexp((f[:, None] - cost) / at, 0) - math.log(num))
            mass = rows(f, g, at)
            change = mass if penalty is None else mass - before
            error = torch.where(is_last, torch.expm1(change).abs().max(), torch.inf)
            return f, g, torch.maximum(at / 2, epsilon), index + 1, mass, error

        def goes_on(carry: Any) -> Tensor:
            index, error = carry[3], carry[5]
            return (error > limit) & (index < max_iterations)

        zero = torch.zeros_like(cost[:, 0])
        start = (
            zero,
            torch.zeros_like(cost[0]),
            torch.maximum(largest, epsilon),
            torch.zeros_like(cost[0, 0]),
            torch.zeros_like(zero),
            torch.full_like(cost[0, 0], torch.inf),
        )
        _, g, at, _, mass, error = loops.while_loop(goes_on, body, start)
        index = ((g - cost) / at + noise.to(cost)).argmax(1)
        weight = torch.ones_like(mass) if penalty is None else num * torch.softmax(mass, 0)
        return Pairing(index, weight, error)

    return from_cost(draw, solve)
