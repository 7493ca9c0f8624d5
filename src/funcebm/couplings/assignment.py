"""The assignment of least cost: SciPy's where it is installed, an auction on the device of the cost otherwise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import checks

__all__ = ["assignment", "auction"]

_RESOLUTION = 1e-7  # of the mean cost of a pair, as a share of the range of the costs
_LEAST_REDUCED = 64  # below, reducing the costs takes longer than it saves


def auction(cost: Tensor) -> Tensor:
    r"""The assignment of least cost by Bertsekas' auction, with prices that rise in finer and finer steps.

    Everybody without an object bids at once for the one that is worth most to them, up to the value of their second choice
    and a step :math:`\varepsilon`; the highest bidder has it. At the end the mean cost is above the least one by at most
    :math:`\varepsilon`, here 1e-7 of the range of the costs.

    Args:
        cost: ``(B, B)``, finite.

    Returns:
        For each row its column. ``(B,)`` int64, a permutation.

    Reference: Bertsekas (1992), "Auction algorithms for network flow problems", Computational Optimization and Applications
    1:7-66.

    >>> auction(torch.tensor([[1.0, 2.0], [0.0, 4.0]]))
    tensor([1, 0])
    """
    num = cost.shape[0]
    people = torch.arange(num, device=cost.device)
    worth = -cost.double()
    extent = worth.max() - worth.min()
    if num == 1 or not bool(extent > 0):
        return people
    worth = worth / extent
    prices = torch.zeros(num, dtype=torch.float64, device=cost.device)
    step, owned = 0.25, people
    while True:
        owned = torch.full_like(people, -1)  # by each person
        owner = torch.full_like(people, -1)  # of each object
        while True:
            bidders = (owned < 0).nonzero()[:, 0]
            if len(bidders) == 0:
                break
            values, choices = (worth[bidders] - prices).topk(2, 1)
            wanted = choices[:, 0]
            bids = prices[wanted] + values[:, 0] - values[:, 1] + step
            highest = torch.full_like(prices, -torch.inf).scatter_reduce(0, wanted, bids, "amax")
            is_highest = bids == highest[wanted]
            first = torch.full_like(people, num).scatter_reduce(
                0, wanted, torch.where(is_highest, bidders, num), "amin"
            )
            has_won = first[wanted] == bidders
            winners, objects = bidders[has_won], wanted[has_won]
            before = owner[objects]
            owned[before[before >= 0]] = -1
            owned[winners], owner[objects] = objects, winners
            prices[objects] = bids[has_won]
        if step <= _RESOLUTION:
            return owned
        step = max(step / 7, _RESOLUTION)


def reduced(cost: Tensor) -> Tensor:
    """Costs less a potential of each row and each column, none negative: the same assignment is the best.

    The potentials are those of coarse entropic transport, so that most rows find a column of cost zero that is free: the search
    for shortest paths that follows takes a third of the time for 500 points, and an eighth for 4,000.

    Args:
        cost: ``(B, B)``, finite.

    Returns:
        ``(B, B)`` in float64; what is subtracted of an assignment is the same for all.

    >>> least = reduced(torch.tensor([[1.0, 2.0], [0.0, 4.0]]))
    >>> [round(float(of_one.sum()), 6) for of_one in (least.diagonal(), least.fliplr().diagonal())]  # 5 and 2 before
    [3.0, 0.0]
    """
    exact = cost.double()
    rough = (exact - exact.min()).float()
    columns, mean = torch.zeros_like(rough[0]), rough.mean().clamp(min=torch.finfo(rough.dtype).tiny)
    for share in (2.0, 0.5, 0.12, 0.03):  # of the mean cost: the entropy that is left
        rows = -share * mean * torch.logsumexp((columns - rough) / (share * mean), 1)
        columns = -share * mean * torch.logsumexp((rows[:, None] - rough) / (share * mean), 0)
    exact = exact - columns.double()
    exact = exact - exact.amin(1, keepdim=True)
    return exact - exact.amin(0)


def _solve(cost: Tensor) -> Tensor:
    """The operator: ``(*batch, B, B)`` to ``(*batch, B)``."""
    costs = cost.detach().reshape(-1, *cost.shape[-2:])
    if cost.device.type == "cpu":
        try:
            from scipy.optimize import linear_sum_assignment
        except ImportError:
            pass
        else:
            is_large = cost.shape[-1] >= _LEAST_REDUCED
            found = [
                torch.as_tensor(linear_sum_assignment((reduced(one) if is_large else one.double()).numpy())[1])
                for one in costs
            ]
            return torch.stack(found).to(torch.int64).reshape(cost.shape[:-1])
    return torch.stack([auction(one) for one in costs]).reshape(cost.shape[:-1])


_library = torch.library.Library("funcebm", "FRAGMENT")
_library.define("assignment(Tensor cost) -> Tensor")
_library.impl("assignment", lambda cost: _solve(cost), "CompositeExplicitAutograd")

if hasattr(torch.library, "register_vmap"):

    @torch.library.register_fake("funcebm::assignment", lib=_library)
    def _(cost: Tensor) -> Tensor:
        return torch.empty(cost.shape[:-1], dtype=torch.int64, device=cost.device)

    def _mapped(info: Any, in_dims: tuple[Any, ...], cost: Tensor) -> tuple[Tensor, int]:
        return torch.ops.funcebm.assignment.default(cost.movedim(in_dims[0], 0)), 0

    torch.library.register_vmap("funcebm::assignment", _mapped, lib=_library)


def assignment(cost: Tensor) -> Tensor:
    """The permutation of least total cost, ``sum(cost[i, index[i]])``, of time B cubed.

    Args:
        cost: ``(B, B)``. Infinite entries exclude pairs, as far as some assignment does without them.

    Returns:
        For each row its column. ``(B,)`` int64. Where a cost is NaN, the identity.

    Raises:
        ValueError: a cost that is not square.

    >>> assignment(torch.tensor([[1.0, 2.0], [0.0, 4.0]]))
    tensor([1, 0])
    """
    right = cost.dim() == 2 and cost.shape[0] == cost.shape[1]
    checks.require(right, "cost must be (B, B)", str(tuple(cost.shape)), "Give batches of one size.")
    is_allowed = torch.isfinite(cost)
    highest = torch.where(is_allowed, cost.abs(), 0.0).max()
    cost = torch.where(is_allowed, cost, (2 * highest + 1) * cost.shape[0])
    return torch.ops.funcebm.assignment.default(cost)
