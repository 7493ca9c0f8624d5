"""Energy discrepancy of discrete states: the energy of data against that of the same data, changed and changed again."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, random, spaces, tree
from ..fields import require_scalar
from ..types import Batch, Energy, Key, Loss, LossAux, Params, Position, Tree
from ._constrained import of_positions
from ._neighbours import check_batch
from ._staged import without_memory

__all__ = ["BitDiscrepancyNoise", "bit_energy_discrepancy"]


class BitDiscrepancyNoise(NamedTuple):
    """Shifts (:func:`funcebm.spaces.shift`) of each example ``(B, *sites)``, and of its negatives ``(B, M, *sites)``."""

    away: Tree
    back: Tree


@of_positions
def bit_energy_discrepancy(
    energy: Energy,
    space: Tree,
    *,
    kernel: str = "bernoulli",
    probability: float | Tensor = 0.1,
    num_negatives: int = 32,
    stabiliser: float | Tensor = 1.0,
) -> Loss:
    r"""Energy discrepancy of discrete states: without gradients in x and without chains.

    Each example is changed at random, :math:`y \sim q(\cdot \mid x)`, and M negatives are drawn around where it landed,
    :math:`\tilde x_j \sim q(\cdot \mid y)`:

    .. math:: L = \overline{\log\Big(\frac{w}{M} + \frac1M \sum_{j=1}^M e^{E_\theta(x) - E_\theta(\tilde x_j)}\Big)} .

    *Bernoulli*: each site changes by itself with a probability, to any of its other values (for the heat kernel of K values at a
    time t, :math:`(1 - e^{-K t})(K - 1) / K`). *Grid*: exactly one site changes; with an even number of bits this kernel has a
    blind spot, functions of parity that it averages to zero, so that the minimum is not unique there. Both are symmetric, as the
    loss needs. With finite M it is biased by :math:`O(1/M)`, and upwards by :math:`w`, which keeps it stable.

    Args:
        energy: ``(params, x) -> ()``; only its values are used.
        space: a tree of discrete :mod:`funcebm.spaces`.
        kernel: ``"bernoulli"`` or ``"grid"``. Static.
        probability: of a change of each site, in (0, 1], for ``"bernoulli"``. ``()``.
        num_negatives: :math:`M`, static.
        stabiliser: :math:`w \ge 0`. ``()``.

    Returns:
        A :class:`~funcebm.types.Loss` over batches ``(B, *event)``, with the metrics ``positive_energy``, ``negative_energy`` and
        ``energy_gap`` (negative minus positive).

    Raises:
        ValueError: a number out of its range, a bad count or kernel, or real leaves; when called, data off the levels
            of the space, or an energy that is not a scalar.

    Reference: Schroeder, Ou, Li and Duncan (2023), arXiv:2307.07595; Schroeder, Ou, Li and Duncan (2024), arXiv:2412.01019,
    for categories.

    >>> loss = bit_energy_discrepancy(lambda params, x: -params * x.sum(), spaces.binary(3), num_negatives=4)
    >>> loss(random.key(0), torch.tensor(0.0), torch.ones(4, 3))[0]  # a flat energy: log(w / M + 1)
    tensor(0.2231)
    """
    must = 'kernel must be "bernoulli" or "grid"'
    checks.require(kernel in ("bernoulli", "grid"), must, kernel, 'Write kernel="bernoulli".')
    if not isinstance(probability, Tensor):
        checks.require(0 < probability <= 1, "probability must be in (0, 1]", probability, "Try 0.1.")
    checks.positive_int("num_negatives", num_negatives)
    if not isinstance(stabiliser, Tensor):
        must = "stabiliser must not be negative"
        checks.require(0 <= stabiliser < float("inf"), must, stabiliser, "Try 1.0.")
    sizes = spaces.site_sizes(space)

    def changes(key: Key) -> Tree:
        if kernel == "bernoulli":
            return spaces.changes(key, space, probability)
        key_site, key_by = random.split(key)
        site = random.randint(key_site, (), 0, len(sizes))
        others = sizes.to(key.device)[site] - 1
        by = 1 + torch.floor(random.uniform(key_by, (), dtype=torch.float64) * others).long()
        parts, structure = tree.flatten(space)
        shifts = torch.where(torch.arange(len(sizes), device=key.device) == site, by, 0)
        pieces = shifts.split([part.num_sites for part in parts])
        return tree.unflatten(structure, [p.reshape(part.sites) for p, part in zip(pieces, parts, strict=True)])

    def draw(key: Key, batch: Batch) -> BitDiscrepancyNoise:
        check_batch(space, batch)
        key_away, key_back = random.split(key)
        num = tree.batch_size(batch)
        keys = random.split(key_back, num * num_negatives).reshape(num, num_negatives, 2)
        return BitDiscrepancyNoise(vmap(changes)(random.split(key_away, num)), vmap(vmap(changes))(keys))

    def value(params: Params, memory: Tree, batch: Batch, noise: BitDiscrepancyNoise) -> tuple[Tensor, LossAux]:
        check_batch(space, batch)

        def value_at(x: Position) -> Tensor:
            return require_scalar(energy(params, x), x)

        def one(x: Position, away: Tree, back: Tree) -> tuple[Tensor, Tensor]:
            moved = spaces.shift(space, x, away)
            return value_at(x), vmap(lambda shifts: value_at(spaces.shift(space, moved, shifts)))(back)

        here, there = vmap(one)(batch, noise.away, noise.back)
        extra = torch.as_tensor(stabiliser, dtype=here.dtype, device=here.device).log().expand(len(here), 1)
        contrast = torch.logsumexp(torch.cat([here[:, None] - there, extra], 1), 1)
        loss = contrast.mean() - math.log(there.shape[1])
        metrics = {"positive_energy": here.mean().detach(), "negative_energy": there.mean().detach()}
        return loss, LossAux((), {**metrics, "energy_gap": metrics["negative_energy"] - metrics["positive_energy"]})

    return Loss(without_memory, draw, value)
