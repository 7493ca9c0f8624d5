"""Noise models: distributions with a known density and exact draws, from which a ratio-based loss tells the data."""

from __future__ import annotations

import math
from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, random, tree
from ..energies.exact import ExactEnergy
from ..types import Batch, Key, Params, Position, Tree

__all__ = ["NoiseModel", "exact_noise", "fitted_gaussian_noise", "gaussian_noise"]


class NoiseModel(NamedTuple):
    """A distribution that one can draw from and whose density one can write down.

    Attributes:
        log_density: ``x -> ()``, of one position, normalized.
        sample: ``(key, num) -> (num, *event)``, independent draws; a tree where positions are trees.
        space: of discrete positions (:mod:`funcebm.spaces`), whose levels data must hold; None for real ones.
    """

    log_density: Callable[[Position], Tensor]
    sample: Callable[[Key, int], Tree]
    space: Tree | None = None


def exact_noise(energy: ExactEnergy, params: Params, shape: tuple[int, ...] | None = None) -> NoiseModel:
    r"""The distribution :math:`e^{-E} / Z` of an energy with a known normalizer and exact draws, such as
    :func:`funcebm.energies.gaussian_mixture`.

    Args:
        energy: one with ``log_normalizer`` and ``sample``.
        params: of that energy.
        shape: of one position, where the params do not fix it.

    Returns:
        A :class:`NoiseModel`.

    Raises:
        ValueError: an energy without a normalizer or draws.

    >>> from funcebm import energies
    >>> noise = exact_noise(energies.harmonic, energies.harmonic.params(), shape=(2,))
    >>> noise.log_density(torch.zeros(2))  # -log(2 pi)
    tensor(-1.8379)
    """
    known = getattr(energy, "log_normalizer", None) is not None and getattr(energy, "sample", None) is not None
    fix = "Use one such as energies.gaussian or energies.gaussian_mixture, or write a NoiseModel(log_density, sample)."
    got = getattr(energy, "__name__", type(energy).__name__)
    checks.require(known, "energy must have a log_normalizer and a sample", got, fix)
    log_normalizer = energy.log_normalizer(params, shape).detach()

    def log_density(x: Position) -> Tensor:
        return -energy(params, x) - log_normalizer

    def sample(key: Key, num: int) -> Tree:
        return energy.sample(key, params, num, shape)

    return NoiseModel(log_density, sample)


def gaussian_noise(mean: Tree, covariance: Any = 1.0) -> NoiseModel:
    r"""The normal distribution :math:`N(\mu, \Sigma)` over positions of any shape.

    Args:
        mean: :math:`\mu`, a tensor ``(*event)`` or a tree, like one position.
        covariance: :math:`\Sigma`: a number, variances in a tree like ``mean``, or a matrix ``(D, D)`` over the numbers of a
            position in the order of :func:`funcebm.tree.ravel`.

    Returns:
        A :class:`NoiseModel`.

    Raises:
        ValueError: a covariance of another shape, or one that is not symmetric and positive definite.

    >>> noise = gaussian_noise(torch.zeros(2), 4.0)
    >>> noise.log_density(torch.zeros(2)), noise.sample(random.key(0), 5).shape
    (tensor(-3.2242), torch.Size([5, 2]))
    """
    centre, back = tree.ravel(mean)
    size = len(centre)
    is_matrix = isinstance(covariance, Tensor) and covariance.shape == (size, size)
    if is_matrix and not (isinstance(mean, Tensor) and mean.shape == (size, size)):
        wide = _cholesky(covariance.double())
        identity = torch.eye(size, dtype=wide.dtype, device=wide.device)
        root, inverse_root = wide.to(centre), torch.linalg.solve_triangular(wide, identity, upper=False).to(centre)
        log_volume = wide.diagonal().log().sum()
    else:
        root = _variances(covariance, mean, centre).sqrt()
        inverse_root, log_volume = 1 / root, root.log().sum()
    constant = log_volume + size * math.log(2 * math.pi) / 2

    def scaled(scale: Tensor, vector: Tensor) -> Tensor:
        return scale @ vector if scale.dim() == 2 else scale * vector

    def log_density(x: Position) -> Tensor:
        vector = tree.ravel(x)[0]
        whitened = scaled(inverse_root.to(vector), vector - centre.to(vector))
        return -whitened.square().sum() / 2 - constant.to(vector)

    def sample(key: Key, num: int) -> Tree:
        normal = random.normal(key, (num, size), dtype=centre.dtype)
        return vmap(lambda z: back(centre + scaled(root, z)))(normal)

    return NoiseModel(log_density, sample)


def _cholesky(covariance: Tensor) -> Tensor:
    root, info = torch.linalg.cholesky_ex(covariance)
    symmetric = torch.allclose(covariance, covariance.T, rtol=1e-4, atol=0)
    must = "covariance must be symmetric and positive definite"
    fix = "Add a small number to its diagonal, or give variances only."
    checks.require(symmetric and int(info) == 0, must, "one that is not", fix)
    return root


def _variances(covariance: Any, mean: Tree, centre: Tensor) -> Tensor:
    size = len(centre)
    if isinstance(covariance, (int, float)) or (isinstance(covariance, Tensor) and covariance.dim() == 0):
        variances = torch.as_tensor(covariance, dtype=centre.dtype, device=centre.device).expand(size)
    else:
        shapes = [tuple(leaf.shape) for leaf in tree.leaves(covariance)]
        right = shapes == [tuple(leaf.shape) for leaf in tree.leaves(mean)]
        must = f"covariance must be a number, variances like mean, or a matrix {(size, size)}"
        checks.require(right, must, f"shapes {shapes}", "Give one variance for each number of the mean.")
        variances = tree.ravel(covariance)[0].to(centre)
    checks.positive("covariance", variances)
    return variances


def fitted_gaussian_noise(
    data: Batch, *, inflation: float = 1.0, floor: float = 0.0, is_diagonal: bool = False
) -> NoiseModel:
    r"""The normal distribution with the mean and covariance of data: the usual first noise model.

    Args:
        data: a tree of ``(N, *event)``.
        inflation: the covariance is multiplied by this number, above zero; 1 to 2 is usual. Noise that is wider than the
            data is a safe choice, narrower noise is not: :math:`q` must be positive wherever the data are.
        floor: added to all variances, in squared units of ``x``; needed where a number hardly varies over the data.
        is_diagonal: whether to keep variances only, as for images with few examples.

    Returns:
        A :class:`NoiseModel`.

    Raises:
        ValueError: a bad number, fewer than two examples, or a covariance that is singular.

    Reference: Gutmann and Hyvarinen (2012), JMLR 13:307-361 (on the choice of the noise).

    >>> data = random.normal(random.key(0), (1000, 2))
    >>> fitted_gaussian_noise(data, inflation=2.0).sample(random.key(1), 5).shape
    torch.Size([5, 2])
    """
    checks.positive("inflation", inflation, "Try 1.0.")
    checks.require(0 <= floor < float("inf"), "floor must not be negative", floor, "Give 0 for none.")
    num = tree.batch_size(data)
    checks.require(num >= 2, "data must hold at least two examples", num, "Give all of the training data.")
    mean = tree.map(lambda leaf: leaf.detach().double().mean(0).to(leaf.dtype), data)
    if is_diagonal:
        spread = tree.map(lambda leaf: inflation * leaf.detach().double().var(0) + floor, data)
    else:
        spread = inflation * torch.cov(tree.rows(data).detach().double().T).reshape(-1, tree.rows(data).shape[1])
        spread = spread + floor * torch.eye(len(spread), dtype=spread.dtype, device=spread.device)
    try:
        return gaussian_noise(mean, spread)
    except ValueError as error:
        fix = "Give a floor, such as 0.01 of the mean variance, or is_diagonal=True."
        raise ValueError(checks.message("data must vary in every direction", "a singular covariance", fix)) from error
