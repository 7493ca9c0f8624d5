"""Bijections of the transforms of ``torch.distributions``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints, transforms

from .. import checks, tree
from .bijection import Bijection, compose, inverted
from .elementwise import affine, identity, interval, positive
from .matrices import correlation_cholesky, covariance, covariance_cholesky

__all__ = ["from_torch"]

_OF_CONSTRAINTS = {constraints.positive_definite: covariance, constraints.lower_cholesky: covariance_cholesky}


def from_torch(transform: Any) -> Bijection:
    r"""A bijection from a transform of ``torch.distributions``, or from a constraint of it.

    Where funcebm has the same map, that one is used, which compiles; others run torch's own code, without its argument checks,
    and compile where that can be traced.

    Args:
        transform: a bijective ``torch.distributions.transforms.Transform``; or a constraint, such as
            ``constraints.simplex``, for which ``torch.distributions.biject_to`` chooses one.

    Returns:
        A :class:`Bijection` of one particle; its log determinant is the sum over all of its axes.

    Raises:
        ValueError: a transform that is not bijective, a constraint for which torch has none.
        TypeError: something else.

    >>> from torch.distributions import transforms
    >>> from_torch(transforms.ExpTransform())(torch.tensor([0.0, 1.0]))
    (tensor([1.0000, 2.7183]), tensor(1.))
    """
    if isinstance(transform, constraints.Constraint):
        if transform in _OF_CONSTRAINTS:  # for which torch has no bijection
            return _OF_CONSTRAINTS[transform]
        try:
            transform = torch.distributions.biject_to(transform)
        except NotImplementedError as error:
            must = "torch.distributions must have a bijection to the constraint"
            fix = "Use one of funcebm.bijections; discrete positions need none, but samplers such as samplers.gibbs."
            raise ValueError(checks.message(must, f"{transform}, for which it has none", fix)) from error
    fix = "Give one of torch.distributions.transforms, or build Bijection(apply, inverse)."
    right = isinstance(transform, transforms.Transform)
    checks.require(right, "from_torch takes a transform of torch.distributions", transform, fix, TypeError)
    known = _known(transform)
    if known is not None:
        return known
    others = (transforms.LowerCholeskyTransform, transforms.PositiveDefiniteTransform)
    fix = "Use funcebm.bijections.covariance_cholesky or covariance." if isinstance(transform, others) else fix
    checks.require(transform.bijective, "a transform must be bijective", transform, fix)
    return Bijection(lambda y: _apply(transform, y), lambda x: _inverse(transform, x))


def _apply(transform: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    x = transform._call(y)
    return x, transform.log_abs_det_jacobian(y, x).sum()


def _inverse(transform: Any, x: Tensor) -> Tensor:
    is_inside = transform.codomain.check(x).all()
    if checks.is_concrete(is_inside):
        got, fix = str(x.tolist()), "Start inside of the range of the transform."
        checks.require(bool(is_inside), f"x must be in {transform.codomain}", got, fix)
    return torch.where(is_inside, transform._inverse(x), torch.nan)


def _known(transform: Any) -> Bijection | None:
    """The same map, where funcebm has it."""
    if isinstance(transform, transforms._InverseTransform):
        return inverted(from_torch(transform.inv))
    if isinstance(transform, transforms.ComposeTransform):
        return compose(*map(from_torch, transform.parts)) if transform.parts else identity
    if isinstance(transform, transforms.IndependentTransform):
        return from_torch(transform.base_transform)
    if isinstance(transform, transforms.ExpTransform):
        return positive
    if isinstance(transform, transforms.SigmoidTransform):
        return interval(0.0, 1.0)
    if isinstance(transform, transforms.AffineTransform):
        return _elementwise_affine(transform.loc, transform.scale)
    if isinstance(transform, transforms.CorrCholeskyTransform):
        return correlation_cholesky
    return None


def _elementwise_affine(shift: Any, factor: Any) -> Bijection:
    shift, factor = torch.broadcast_tensors(tree.number(shift), tree.number(factor))
    return affine(shift, factor)
