"""Bijections between free numbers and positions that obey constraints, with inverse and log determinant.

===========================================  =====================  ==========================================
bijection                                    from                   to
===========================================  =====================  ==========================================
``identity``                                 any tree               the same
``positive``, ``lower(bound)``,              any tree               above a bound, below one, between two
``upper(bound)``, ``interval(low, high)``
``affine(shift, factor)``                    any tree, or D         shifted and scaled, or by a matrix
``simplex``                                  K - 1                  K positive numbers that sum to one
``ordered``                                  K                      K increasing numbers
``zero_sum``                                 K - 1                  K numbers that sum to zero
``unit_vector``                              K                      K numbers of length one
``correlation_cholesky``, ``correlation``    K (K - 1) / 2          (K, K)
``covariance_cholesky``, ``covariance``      K (K + 1) / 2          (K, K)
``from_torch(transform)``                    of the transform       of the transform
===========================================  =====================  ==========================================

Trees of them act on trees of positions; :func:`compose`, :func:`inverted`, :func:`with_log_det` make others.
:func:`constrained` gives an energy whose samplers take and give positions that obey the constraints. Where a bijection adds
or drops coordinates, densities are over the coordinates that its docstring names.
"""

from .bijection import Bijection, as_bijection, compose, inverted, joint, with_log_det
from .constrained import Constrained, constrained
from .elementwise import affine, identity, interval, lower, positive, upper
from .from_torch import from_torch
from .matrices import correlation, correlation_cholesky, covariance, covariance_cholesky
from .vectors import ordered, simplex, unit_vector, zero_sum

__all__ = [
    "Bijection",
    "Constrained",
    "affine",
    "as_bijection",
    "compose",
    "constrained",
    "correlation",
    "correlation_cholesky",
    "covariance",
    "covariance_cholesky",
    "from_torch",
    "identity",
    "interval",
    "inverted",
    "joint",
    "lower",
    "ordered",
    "positive",
    "simplex",
    "unit_vector",
    "upper",
    "with_log_det",
    "zero_sum",
]
