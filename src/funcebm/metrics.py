"""Kinetic energies: the inverse mass matrix of Hamiltonian samplers, identity, diagonal or dense.

A metric is a tree of numbers, so it lives in a sampler's tuning and is traced. The momentum has the law ``N(0, M)``, the
kinetic energy is ``p . M^-1 p / 2`` and the velocity ``M^-1 p``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import checks, tree
from .types import Position, Tree

__all__ = ["Dense", "Diagonal", "check_shape", "dense", "diagonal", "kinetic_energy", "momentum", "of", "velocity"]


class Diagonal(NamedTuple):
    """A diagonal inverse mass: a tree like the position, or one 0-d tensor for all coordinates."""

    inverse_mass: Tree


class Dense(NamedTuple):
    """A dense inverse mass over the ravelled position, and a square root ``A`` of the mass, ``M = A A^T``. Both ``(D, D)``."""

    inverse_mass: Tensor
    mass_root: Tensor


def diagonal(inverse_mass: Tree) -> Diagonal:
    """The metric of a diagonal inverse mass, in squared units of the position.

    >>> diagonal(torch.ones(3)).inverse_mass
    tensor([1., 1., 1.])
    """
    for leaf in tree.leaves(inverse_mass):
        checks.positive("inverse_mass", leaf, "Variances of the target, coordinate by coordinate, are a good choice.")
    return Diagonal(inverse_mass)


def dense(inverse_mass: Tensor) -> Dense:
    """The metric of a symmetric positive definite inverse mass. ``(D, D)``.

    >>> dense(4 * torch.eye(2)).mass_root.diagonal()
    tensor([0.5000, 0.5000])
    """
    square = inverse_mass.ndim == 2 and inverse_mass.shape[0] == inverse_mass.shape[1]
    shape = f"shape {tuple(inverse_mass.shape)}"
    fix = "The covariance of the target is a good choice; for a diagonal use funcebm.metrics.diagonal."
    checks.require(square, "a dense inverse_mass must have the shape (D, D)", shape, fix)
    factor, failed = torch.linalg.cholesky_ex(inverse_mass)
    if checks.is_concrete(inverse_mass):
        symmetric = torch.allclose(inverse_mass, inverse_mass.mT, rtol=1e-4, atol=1e-6)
        checks.require(symmetric, "inverse_mass must be symmetric", "a matrix that is not", fix)
        checks.require(int(failed) == 0, "inverse_mass must be positive definite", "a matrix that is not", fix)
    eye = torch.eye(inverse_mass.shape[0], dtype=inverse_mass.dtype, device=inverse_mass.device)
    return Dense(inverse_mass, torch.linalg.solve_triangular(factor, eye, upper=False).mT.contiguous())


def of(inverse_mass: float | Tree | Diagonal | Dense | None) -> Diagonal | Dense:
    """The metric that a user means: None is the identity, a matrix is dense, anything else diagonal."""
    if isinstance(inverse_mass, (Diagonal, Dense)):
        return inverse_mass
    if inverse_mass is None:
        return Diagonal(torch.ones(()))
    if isinstance(inverse_mass, (int, float)):
        inverse_mass = torch.tensor(float(inverse_mass))
    if isinstance(inverse_mass, Tensor) and inverse_mass.ndim == 2:
        return dense(inverse_mass)
    return diagonal(inverse_mass)


def _is_scalar(inverse_mass: Tree) -> bool:
    return isinstance(inverse_mass, Tensor) and inverse_mass.ndim == 0


def check_shape(metric: Diagonal | Dense, position: Position) -> None:
    """Raises unless the metric fits one position."""
    shapes = [tuple(leaf.shape) for leaf in tree.leaves(position)]
    fix = "Give funcebm.metrics.diagonal(a tree like one position) or funcebm.metrics.dense(a (D, D) matrix)."
    if isinstance(metric, Dense):
        size = sum(leaf.numel() for leaf in tree.leaves(position))
        got = f"shape {tuple(metric.inverse_mass.shape)}"
        checks.require(
            metric.inverse_mass.shape[-2:] == (size, size), f"inverse_mass must be ({size}, {size})", got, fix
        )
    elif not _is_scalar(metric.inverse_mass):
        checks.one_structure("inverse_mass", metric.inverse_mass, "one position", position)
        got_shapes = [tuple(leaf.shape) for leaf in tree.leaves(metric.inverse_mass)]
        checks.require(got_shapes == shapes, f"inverse_mass must have the shapes {shapes}", str(got_shapes), fix)


def velocity(metric: Diagonal | Dense, momentum: Tree) -> Tree:
    """``M^-1 p``, a tree like the position."""
    if isinstance(metric, Dense):
        vector, back = tree.ravel(momentum)
        return back(metric.inverse_mass @ vector)
    if _is_scalar(metric.inverse_mass):
        return tree.scale(metric.inverse_mass, momentum)
    return tree.mul(metric.inverse_mass, momentum)


def momentum(metric: Diagonal | Dense, noise: Tree) -> Tree:
    """A momentum with the law ``N(0, M)`` from standard normal noise.

    With ``M = A A^T`` it is ``A z``, and ``z / sqrt(M^-1)`` where that is diagonal.
    """
    if isinstance(metric, Dense):
        vector, back = tree.ravel(noise)
        return back(metric.mass_root @ vector)
    if _is_scalar(metric.inverse_mass):
        return tree.scale(metric.inverse_mass.rsqrt(), noise)
    return tree.map(lambda inverse, z: z * inverse.rsqrt(), metric.inverse_mass, noise)


def kinetic_energy(metric: Diagonal | Dense, momentum: Tree) -> Tensor:
    """``p . M^-1 p / 2``. ``()``."""
    return 0.5 * tree.dot(momentum, velocity(metric, momentum))
