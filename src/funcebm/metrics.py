"""Metrics: the inverse mass of Hamiltonian samplers and the preconditioner of Langevin ones, identity, diagonal or dense.

A metric is a tree of numbers, so it lives in a sampler's tuning and is traced. It is the scale ``M^-1 = A A^T`` on which
positions vary: the covariance of the target is a good one. With ``x = A y`` a momentum ``p`` (or a gradient) is ``A^T p``
to ``y``. Momenta have the distribution ``N(0, M)``, displacements ``N(0, M^-1)``; the kinetic energy is ``p . M^-1 p / 2``, the
velocity ``M^-1 p``.
"""

from __future__ import annotations

from typing import Callable, NamedTuple

import torch
from torch import Tensor

from . import checks, loops, tree
from ._torch.tracing import is_mapped, plain
from .distributed.mesh import tree_sum
from .types import Position, Tree

__all__ = [
    "Dense",
    "Diagonal",
    "check_shape",
    "dense",
    "diagonal",
    "displacement",
    "is_scalar",
    "kinetic_energy",
    "momentum",
    "of",
    "shape_check",
    "velocity",
    "whiten",
]

_SMALL = 16  # coordinates


class Diagonal(NamedTuple):
    """A diagonal inverse mass: a tree like the position, or one 0-d tensor for all coordinates."""

    inverse_mass: Tree


class Dense(NamedTuple):
    """A dense inverse mass over the ravelled position, with roots: ``M = R R^T``, ``M^-1 = A A^T``. All ``(D, D)``.

    The roots belong together, ``R = A^-T``; :func:`dense` makes both from one Cholesky factor.
    """

    inverse_mass: Tensor
    mass_root: Tensor
    inverse_root: Tensor


def diagonal(inverse_mass: Tree, *, name: str = "inverse_mass") -> Diagonal:
    """The metric of a diagonal inverse mass, in squared units of the position; ``name`` is what messages call it.

    Raises:
        TypeError: leaves that are no tensors.
        ValueError: no leaves, or variances that are not positive and finite.

    >>> diagonal(torch.ones(3)).inverse_mass
    tensor([1., 1., 1.])
    """
    fix = "Variances of the target, coordinate by coordinate, are a good choice."
    checks.require(bool(tree.leaves(inverse_mass)), f"{name} must hold a tensor", "an empty tree", fix)
    for leaf in tree.leaves(inverse_mass):
        checks.require(isinstance(leaf, Tensor), f"{name} must hold tensors", leaf, fix, TypeError)
        checks.positive(name, leaf, fix)
    return Diagonal(inverse_mass)


def dense(inverse_mass: Tensor, *, name: str = "inverse_mass") -> Dense:
    """The metric of a symmetric positive definite inverse mass ``(D, D)``; ``name`` is what messages call it.

    Raises:
        ValueError: a matrix that is not square, finite, symmetric and positive definite.

    >>> metric = dense(4 * torch.eye(2))
    >>> metric.mass_root.diagonal(), metric.inverse_root.diagonal()
    (tensor([0.5000, 0.5000]), tensor([2., 2.]))
    """
    square = inverse_mass.ndim == 2 and inverse_mass.shape[0] == inverse_mass.shape[1]
    shape = f"shape {tuple(inverse_mass.shape)}"
    fix = "The covariance of the target is a good choice; for a diagonal use funcebm.metrics.diagonal."
    checks.require(square, f"a dense {name} must have the shape (D, D)", shape, fix)
    checks.positive_definite(name, inverse_mass, fix)
    factor = torch.linalg.cholesky_ex(inverse_mass)[0]
    eye = torch.eye(inverse_mass.shape[0], dtype=inverse_mass.dtype, device=inverse_mass.device)
    mass_root = torch.linalg.solve_triangular(factor, eye, upper=False).mT.contiguous()
    return Dense(inverse_mass, mass_root, factor)


def of(inverse_mass: float | Tree | Diagonal | Dense | None, *, name: str = "inverse_mass") -> Diagonal | Dense:
    """The metric that a user means: None is the identity, a matrix is dense, anything else diagonal.

    >>> of(None).inverse_mass, type(of(torch.eye(2))).__name__
    (tensor(1.), 'Dense')
    """
    if isinstance(inverse_mass, (Diagonal, Dense)):
        return inverse_mass
    if inverse_mass is None:
        return Diagonal(torch.ones(()))
    if isinstance(inverse_mass, (int, float)):
        inverse_mass = torch.tensor(float(inverse_mass))
    if isinstance(inverse_mass, Tensor) and inverse_mass.ndim == 2:
        return dense(inverse_mass, name=name)
    return diagonal(inverse_mass, name=name)


def is_scalar(metric: Diagonal | Dense) -> bool:
    """Whether the metric is one number for all coordinates."""
    return isinstance(metric.inverse_mass, Tensor) and metric.inverse_mass.ndim == 0


def shape_check(metric: Diagonal | Dense, *, name: str = "inverse_mass") -> Callable[[Position], None]:
    """A function of one position that raises unless the metric fits it; ``name`` is what messages call the metric.

    It remembers the shapes of the metric and not its numbers, which would tie a compiled sampler to one metric.

    Raises:
        ValueError: (on calls) a metric of other shapes than the position.

    >>> shape_check(diagonal(torch.ones(3)))(torch.zeros(2))
    Traceback (most recent call last):
    ValueError: inverse_mass must have the shapes [(2,)]. Got [(3,)]. Give ...
    """
    is_dense, is_free = isinstance(metric, Dense), is_scalar(metric)
    matrix = tuple(metric.inverse_mass.shape) if is_dense else ()
    frame = tree.map(lambda leaf: str(tuple(leaf.shape)), metric.inverse_mass)  # a tree of strings: tuples are trees
    fix = "Give funcebm.metrics.diagonal(a tree like one position) or funcebm.metrics.dense(a (D, D) matrix)."

    def check(position: Position) -> None:
        if is_dense:
            size = tree.size(position)
            checks.require(matrix[-2:] == (size, size), f"{name} must be ({size}, {size})", f"shape {matrix}", fix)
        elif not is_free:
            checks.one_structure(name, frame, "one position", position)
            shapes = [tuple(leaf.shape) for leaf in tree.leaves(position)]
            right = tree.leaves(frame) == [str(shape) for shape in shapes]
            got = f"[{', '.join(tree.leaves(frame))}]"
            checks.require(right, f"{name} must have the shapes {shapes}", got, fix)

    return check


def check_shape(metric: Diagonal | Dense, position: Position, *, name: str = "inverse_mass") -> None:
    """Raises unless the metric fits one position.

    >>> check_shape(of(torch.ones(3)), torch.zeros(3))
    """
    shape_check(metric, name=name)(position)


def _times(
    metric: Diagonal | Dense, matrix: Callable[[Dense], Tensor], scale: Callable[[Tensor], Tensor], value: Tree
) -> Tree:
    """A matrix of a dense metric, or a function of each number of a diagonal one, times a tree like the position."""
    if isinstance(metric, Dense):
        vector, back = tree.ravel(value)
        return back(_product(matrix(metric), vector))
    if is_scalar(metric):
        return tree.scale(scale(metric.inverse_mass), value)
    return tree.map(lambda inverse, leaf: scale(inverse) * leaf, metric.inverse_mass, value)


def _product(matrix: Tensor, vector: Tensor) -> Tensor:
    """``matrix @ vector``, whose bits do not depend on how many chains there are.

    A product of matrices goes by their shapes, so eagerly small ones are added up in a fixed tree; large ones are left to the
    library, which has a way of its own for a single chain, and keep the layout of the vector, by whose strides later sums go.
    """
    if loops.is_compiling() or not is_mapped(vector):
        return matrix @ vector
    if len(vector) <= _SMALL:
        return tree_sum(matrix.mT * vector[:, None])
    is_alone = not is_mapped(matrix) and plain(vector).numel() == vector.numel()
    product = (matrix @ torch.stack([vector, vector], 1))[:, 0] if is_alone else matrix @ vector
    return torch.zeros_like(vector) + product


def velocity(metric: Diagonal | Dense, momentum: Tree) -> Tree:
    """``M^-1 p``, a tree like the position; of a gradient, the preconditioned one.

    >>> velocity(of(4.0), torch.ones(2))
    tensor([4., 4.])
    """
    return _times(metric, lambda dense: dense.inverse_mass, lambda inverse: inverse, momentum)


def momentum(metric: Diagonal | Dense, noise: Tree) -> Tree:
    """A momentum with the distribution ``N(0, M)`` from standard normal noise: ``A^-T z``.

    >>> momentum(of(4.0), torch.ones(2))
    tensor([0.5000, 0.5000])
    """
    return _times(metric, lambda dense: dense.mass_root, torch.rsqrt, noise)


def displacement(metric: Diagonal | Dense, noise: Tree) -> Tree:
    """A displacement with the distribution ``N(0, M^-1)`` from standard normal noise: ``A z``.

    >>> displacement(of(4.0), torch.ones(2))
    tensor([2., 2.])
    """
    return _times(metric, lambda dense: dense.inverse_root, torch.sqrt, noise)


def whiten(metric: Diagonal | Dense, momentum: Tree) -> Tree:
    """``A^T p``, the momentum (or gradient) in coordinates of unit scale: the inverse of :func:`momentum`.

    >>> metric = dense(torch.tensor([[2.0, 0.5], [0.5, 1.0]]))
    >>> whiten(metric, momentum(metric, torch.ones(2)))
    tensor([1., 1.])
    """
    return _times(metric, lambda dense: dense.inverse_root.transpose(-2, -1), torch.sqrt, momentum)


def kinetic_energy(metric: Diagonal | Dense, momentum: Tree) -> Tensor:
    """``p . M^-1 p / 2``. ``()``.

    >>> kinetic_energy(of(4.0), torch.ones(2))
    tensor(4.)
    """
    return 0.5 * tree.dot(momentum, velocity(metric, momentum))
