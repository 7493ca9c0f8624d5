"""Energy discrepancy: compare the energy of data with that of their neighbours, without gradients in x and without chains."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, random, tree
from ..fields import require_scalar
from ..types import Batch, Energy, Key, Loss, LossAux, Params, Position, Tree
from ._constrained import of_positions
from ._staged import without_memory

__all__ = ["DiscrepancyNoise", "energy_discrepancy"]


class DiscrepancyNoise(NamedTuple):
    """Standard normals: one for each example ``(B, *event)``, and one for each of its negatives ``(B, M, *event)``."""

    away: Tree
    back: Tree


@of_positions
def energy_discrepancy(
    energy: Energy, noise_scale: float | Tensor, *, num_negatives: int = 16, stabiliser: float | Tensor = 1.0
) -> Loss[tuple[()]]:
    r"""Energy discrepancy.

    Each example is moved, :math:`y = x + \sqrt t\,\xi`, and M negatives are drawn around where it landed,
    :math:`\tilde x_j = y + \sqrt t\,\xi_j`:

    .. math:: L = \overline{\log\Big(\frac{w}{M} + \frac1M \sum_{j=1}^M
        e^{E_\theta(x) - E_\theta(\tilde x_j)}\Big)}.

    Without :math:`w` and as :math:`M \to \infty` it is
    :math:`D_t = \overline{E(x)} + \overline{\log \int e^{-E(x')} N(x'; y, t)\,dx'}`, which is least where :math:`e^{-E}` is
    the density of the data up to a constant, for every :math:`t`: between score matching (:math:`t \to 0`,
    :math:`D_t / t`) and maximum likelihood (:math:`t \to \infty`). On Gaussian data of variance :math:`s^2` and
    :math:`E = k x^2 / 2` it is :math:`\tfrac12 [k s^2 - \log(1 + k t) - k (s^2 + t) / (1 + k t)]` a dimension, plus what
    does not depend on :math:`k`. With finite M it is biased by :math:`O(1/M)`; the :math:`w` keeps the logarithm from
    falling without bound where all negatives have a high energy.

    Args:
        energy: ``(params, x) -> ()``; only its values are used.
        noise_scale: :math:`\sqrt t > 0`, in units of ``x``. ``()``.
        num_negatives: :math:`M`, static.
        stabiliser: :math:`w \ge 0`. ``()``.

    Returns:
        A :class:`~funcebm.types.Loss` over batches ``(B, *event)``, with the metrics ``positive_energy``,
        ``negative_energy`` and ``energy_gap`` (negative minus positive).

    Raises:
        ValueError: a number out of its range or a bad count; when called, an energy that is not a scalar.

    Reference: Schroeder, Ou, Lim, Li, Vollmer and Duncan (2023), NeurIPS, arXiv:2307.06431, definition 1.

    >>> energy = lambda params, x: params * (x**2).sum() / 2
    >>> loss = energy_discrepancy(energy, 0.5, num_negatives=4)
    >>> loss(random.key(0), torch.tensor(0.0), torch.zeros(3, 2))[0]  # a flat energy: log(w / M + 1)
    tensor(0.2231)
    """
    checks.positive("noise_scale", noise_scale, "Try the scale of the smallest feature of the data.")
    checks.positive_int("num_negatives", num_negatives)
    if not isinstance(stabiliser, Tensor):
        must = "stabiliser must not be negative"
        checks.require(0 <= stabiliser < float("inf"), must, stabiliser, "Try 1.0.")
    numbers = tree.number(noise_scale), tree.number(stabiliser)

    def draw(key: Key, batch: Batch) -> DiscrepancyNoise:
        key_away, key_back = random.split(key)
        num = tree.batch_size(batch)
        repeated = tree.map(lambda leaf: leaf[:, None].expand(num, num_negatives, *leaf.shape[1:]), batch)
        return DiscrepancyNoise(tree.normal_like(key_away, batch), tree.normal_like(key_back, repeated))

    def value(params: Params, memory: Tree, batch: Batch, noise: DiscrepancyNoise) -> tuple[Tensor, LossAux]:
        def value_at(x: Position) -> Tensor:
            return require_scalar(energy(params, x), x)

        scale, weight = tree.cast_like(numbers, tree.first(batch))
        moved = tree.add_scaled(batch, scale, noise.away)
        negatives = tree.map(lambda y, z: y[:, None] + scale * z, moved, noise.back)
        here, there = vmap(value_at)(batch), vmap(vmap(value_at))(negatives)
        extra = weight.to(here).log().expand(len(here), 1)
        contrast = torch.logsumexp(torch.cat([here[:, None] - there, extra], 1), 1)
        loss = contrast.mean() - math.log(num_negatives)
        metrics = {"positive_energy": here.mean().detach(), "negative_energy": there.mean().detach()}
        return loss, LossAux((), {**metrics, "energy_gap": metrics["negative_energy"] - metrics["positive_energy"]})

    return Loss(without_memory, draw, value)
