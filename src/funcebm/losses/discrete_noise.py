"""Noise for the contrastive estimates of discrete states: independent sites, and flips."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import checks, spaces, tree
from ..types import Batch, Key, Position, Tree
from .conditional_noise_contrastive import ConditionalNoise
from .noise_models import NoiseModel

__all__ = ["fitted_independent_noise", "flip_noise", "independent_noise"]


def flip_noise(space: Tree, probability: float | Tensor = 0.1) -> ConditionalNoise:
    """Each site changes by itself with a probability, to any of its other values: noise for conditional NCE.

    The moves are symmetric, so that no density enters.

    Args:
        space: a tree of discrete :mod:`funcebm.spaces`.
        probability: of a change, in (0, 1]. ``()``.

    Returns:
        A :class:`ConditionalNoise` for :func:`conditional_noise_contrastive_estimation`.

    Raises:
        ValueError: a probability out of its range.

    >>> from funcebm import losses, random
    >>> energy = lambda params, x: -params * x.sum()
    >>> loss = losses.conditional_noise_contrastive_estimation(energy, flip_noise(spaces.binary(3)))
    >>> loss(random.key(0), torch.tensor(0.0), torch.ones(4, 3))[0]  # 2 log(2)
    tensor(1.3863)
    """
    if not isinstance(probability, Tensor):
        checks.require(0 < probability <= 1, "probability must be in (0, 1]", probability, "Try 0.1.")

    def log_density(y: Position, x: Position) -> Tensor:
        return tree.first(x).new_zeros(())

    def sample(key: Key, x: Position) -> Position:
        return spaces.shift(space, x, spaces.changes(key, space, probability))

    return ConditionalNoise(log_density, sample, space)


def independent_noise(space: Tree, mean: Tree) -> NoiseModel:
    r"""Independent sites with given means: noise for NCE over bits, spins and categories.

    Args:
        space: a tree of binary and categorical :mod:`funcebm.spaces`.
        mean: like a position, strictly within the levels; of categories their probabilities.

    Returns:
        A :class:`NoiseModel` for :func:`noise_contrastive_estimation`.

    Raises:
        ValueError: a mean that is not within the levels, or a space of another kind.

    >>> from funcebm import random
    >>> noise = independent_noise(spaces.binary(2), torch.tensor([0.5, 0.5]))
    >>> noise.log_density(torch.ones(2)), noise.sample(random.key(0), 5).shape
    (tensor(-1.3863), torch.Size([5, 2]))
    """
    spaces.start(space, mean=mean)  # checks the mean
    parts, means = tree.leaves(space), tree.leaves(mean)
    for part, leaf in zip(parts, means, strict=True):
        known = part.kind in ("binary", "categorical")
        fix = "Write a NoiseModel(log_density, sample)."
        checks.require(known, "independent noise is of bits and categories", part.kind, fix)
        if checks.is_concrete(leaf) and part.kind == "binary":
            inside = bool(((leaf > part.levels[0]) & (leaf < part.levels[1])).all())
            fix = "Use losses.fitted_independent_noise(space, data), which smooths."
            checks.require(inside, "a mean must be strictly within the levels", "one at a level", fix)

    def log_density(x: Position) -> Tensor:
        total = tree.first(x).new_zeros(())
        for part, leaf, centre in zip(parts, tree.leaves(x), means, strict=True):
            centre = centre.to(leaf)
            if part.kind == "categorical":
                total = total + torch.special.xlogy(leaf, centre).sum()
            else:
                low, high = part.levels
                chance = (centre - low) / (high - low)
                total = total + torch.where(leaf > (low + high) / 2, chance.log(), torch.log1p(-chance)).sum()
        return total

    def sample(key: Key, num: int) -> Tree:
        drawn = spaces.sample(key, space, num, mean=mean)
        return tree.map(lambda leaf, centre: leaf.to(centre.dtype), drawn, mean)

    return NoiseModel(log_density, sample, space)


def fitted_independent_noise(space: Tree, data: Batch, *, smoothing: float = 1.0) -> NoiseModel:
    r"""Independent sites with the means of data, as if each value had been seen ``smoothing`` times more.

    Args:
        space: a tree of binary and categorical :mod:`funcebm.spaces`.
        data: leaves ``(N, *event)``.
        smoothing: above zero, so that no value is impossible.

    Returns:
        A :class:`NoiseModel` for :func:`noise_contrastive_estimation`.

    Raises:
        ValueError: data off the levels, or a smoothing that is not positive.

    >>> noise = fitted_independent_noise(spaces.binary(2), torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    >>> noise.log_density(torch.ones(2)).exp()  # 3/4 times 1/2
    tensor(0.3750)
    """
    checks.positive("smoothing", smoothing, "Try 1.0.")
    spaces.check(space, data, "data")
    num = tree.batch_size(data)

    def mean(part: spaces.Space, leaf: Tensor) -> Tensor:
        if part.kind == "categorical":
            sizes = torch.tensor(part.sizes, device=leaf.device).reshape(*part.sites, 1)
            is_value = torch.arange(part.shape[-1], device=leaf.device) < sizes
            return (leaf.sum(0) + smoothing * is_value) / (num + smoothing * sizes)
        return (leaf.sum(0) + smoothing * sum(part.levels)) / (num + 2 * smoothing)

    return independent_noise(space, tree.map(mean, space, data))
