"""What the losses over discrete states share: ratios of densities of a state and its neighbours."""

from __future__ import annotations

from typing import Callable, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, random, spaces, tree
from ..fields import require_scalar
from ..types import Batch, Energy, Key, Loss, LossAux, Params, Position, Tree
from ._buffer import choose_slots
from ._staged import without_memory

__all__ = ["Ratios", "check_batch", "neighbour_loss"]


class Ratios(NamedTuple):
    """The logs of the density of neighbours over that of the state, one row for each site, one entry for each other value.

    Attributes:
        log_ratios: :math:`E(x) - E(n)`. ``(S, K - 1)``.
        is_neighbour: False where a site has fewer values than others have. ``(S, K - 1)`` bool.
    """

    log_ratios: Tensor
    is_neighbour: Tensor


def check_batch(space: Tree | None, batch: Batch) -> None:
    """Data must hold the levels of the space, if there is one."""
    if space is None:
        return
    spaces.check(space, batch, "the batch")
    fix = "Use a batch of one or more, (B, *event)."
    checks.require(tree.batch_size(batch) > 0, "the batch must hold an example", "none", fix)


def neighbour_loss(
    energy: Energy,
    space: Tree,
    num_sites: int | None,
    of_ratios: Callable[[Ratios], tuple[Tensor, dict[str, Tensor]]],
) -> Loss:
    """A loss that is a sum over sites of a function of the ratios there; or over some sites, chosen again, times S / m.

    Args:
        energy: ``(params, x) -> ()``.
        space: a tree of discrete spaces.
        num_sites: m, None for all.
        of_ratios: the terms of each site ``(S,)`` and metrics ``()``, of one state.
    """
    sizes = spaces.site_sizes(space)
    total, most = len(sizes), int(sizes.max())
    if num_sites is not None:
        checks.positive_int("num_sites", num_sites)
        fix = "Give None for all of them."
        checks.require(num_sites <= total, f"num_sites must be at most {total}", num_sites, fix)

    def draw(key: Key, batch: Batch) -> Tree:
        check_batch(space, batch)
        if num_sites is None:
            return ()
        return vmap(lambda k: choose_slots(k, total, num_sites))(random.split(key, tree.batch_size(batch)))

    def ratios(params: Params, x: Position, sites: Tensor) -> Ratios:
        def value_at(x: Position) -> Tensor:
            return require_scalar(energy(params, x), x)

        steps = torch.arange(1, most, device=sites.device)

        def at(site: Tensor, by: Tensor) -> Tensor:
            return value_at(spaces.neighbour(space, x, site, by))

        there = vmap(vmap(at, (None, 0)), (0, None))(sites, steps)
        return Ratios(value_at(x) - there, steps < sizes.to(sites.device)[sites][:, None])

    def value(params: Params, memory: Tree, batch: Batch, noise: Tree) -> tuple[Tensor, LossAux]:
        check_batch(space, batch)
        everywhere = torch.arange(total, device=tree.first(batch).device)

        def one(x: Position, sites: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            terms, metrics = of_ratios(ratios(params, x, sites))
            return terms.mean() * total, metrics

        where = everywhere if num_sites is None else noise
        values, metrics = vmap(one, (0, None if num_sites is None else 0))(batch, where)
        return values.mean(), LossAux((), tree.map(lambda metric: metric.detach().mean(), metrics))

    return Loss(without_memory, draw, value)
