"""Independent bits, spins and categories: the base that a network is multiplied with, and where annealing begins."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .. import checks, spaces, tree
from ..types import Key, Params, Position, Tree
from ._discrete import DiscreteEnergy, carrying

__all__ = ["independent_sites"]


def independent_sites(space: Tree) -> DiscreteEnergy:
    r"""Independent sites, :math:`E(x) = -\sum_i l_i\,x_i`, with a known normalizer and exact draws.

    As a factor of a network, ``energies.product(network, independent_sites(space))``, it gives the density of data seen from far,
    so that the network only learns what they have beyond their means. As a reference it is where annealed importance sampling
    begins.

    Args:
        space: a tree of binary and categorical :mod:`funcebm.spaces`.

    Returns:
        A :class:`DiscreteEnergy` over positions of the space. ``params(mean=None, smoothing=0.01)`` makes its params, logits like
        a position, from means like one (of categories their frequencies), such as ``data.mean(0)``, which are kept away from the
        levels by ``smoothing``; None is uniform. ``log_normalizer(params)`` and ``sample(key, params, num)`` are exact.

    Raises:
        ValueError: real or ordinal leaves; from ``params``, means outside of the levels.

    Reference: Grathwohl, Swersky, Hashemi, Duvenaud and Maddison (2021), ICML, arXiv:2102.04509, for the base of a network.

    >>> energy = independent_sites(spaces.binary(2))
    >>> energy.log_normalizer(energy.params())
    tensor(1.3863)
    """
    parts = tree.leaves(space)
    known = all(isinstance(part, spaces.Space) and part.kind in ("binary", "categorical") for part in parts)
    checks.require(known, "independent sites are bits, spins or categories", "another space", "Use spaces.binary.")

    def make_params(mean: Position | None = None, smoothing: float = 0.01) -> Params:
        if mean is None:
            return tree.map(lambda part: torch.zeros(part.shape), space)
        spaces.start(space, mean=mean)  # checks the mean

        def logits(part: spaces.Space, leaf: Tensor) -> Tensor:
            low, high = part.levels
            share = (leaf - low) / (high - low)
            if part.kind == "categorical":
                sizes = torch.tensor(part.sizes, device=leaf.device).reshape(*part.sites, 1)
                return torch.log(share * (1 - smoothing) + smoothing / sizes)
            return torch.logit(share * (1 - smoothing) + smoothing / 2) / (high - low)

        return tree.map(logits, space, mean)

    def energy(params: Params, x: Position) -> Tensor:
        return -tree.dot(tree.map(lambda leaf, at: leaf.to(at.dtype), params, x), x)

    def log_normalizer(params: Params) -> Tensor:
        total = []
        for part, leaf in zip(parts, tree.leaves(params), strict=True):
            if part.kind == "categorical":
                total.append(torch.logsumexp(_masked(part, leaf), -1).sum())
            else:
                low, high = part.levels
                total.append((low * leaf + softplus((high - low) * leaf)).sum())
        return torch.stack(total).sum()

    def sample(key: Key, params: Params, num: int) -> Position:
        def mean(part: spaces.Space, leaf: Tensor) -> Tensor:
            if part.kind == "categorical":
                return torch.softmax(_masked(part, leaf), -1)
            low, high = part.levels
            return low + (high - low) * torch.sigmoid((high - low) * leaf)

        return spaces.sample(key, space, num, mean=tree.map(mean, space, params), dtype=tree.first(params).dtype)

    return carrying(energy, params=make_params, space=space, log_normalizer=log_normalizer, sample=sample)


def _masked(space: spaces.Space, logits: Tensor) -> Tensor:
    sizes = torch.tensor(space.sizes, device=logits.device).reshape(*space.sites, 1)
    return torch.where(torch.arange(space.shape[-1], device=logits.device) < sizes, logits, -torch.inf)
