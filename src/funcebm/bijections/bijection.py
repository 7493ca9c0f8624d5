"""What a bijection is, and how bijections make other ones: trees, compositions, inverses."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor

from .. import checks, tree
from ..types import Position, Tree

__all__ = ["Bijection", "as_bijection", "compose", "floating", "inverted", "joint", "within", "with_log_det"]


class Bijection(NamedTuple):
    r"""An invertible map from free numbers ``y`` to a position ``x`` that obeys constraints, as pure functions of one particle.

    Calling it is ``apply``, so that it goes wherever a function ``y -> (x, log_det)`` is asked for, such as
    :func:`funcebm.energies.pullback`.

    Attributes:
        apply: ``y -> (x, log_det)``, with :math:`\log |\det \partial x / \partial y|`, ``()``.
        inverse: ``x -> y``. An ``x`` outside of the range is an error, and NaN where numbers cannot be looked at.

    >>> double = Bijection(lambda y: (2 * y, y.numel() * torch.log(torch.tensor(2.0))), lambda x: x / 2)
    >>> double.forward(torch.ones(2)), double.inverse(torch.ones(2)), double.log_det(torch.ones(2))
    (tensor([2., 2.]), tensor([0.5000, 0.5000]), tensor(1.3863))
    """

    apply: Callable[[Position], tuple[Position, Tensor]]
    inverse: Callable[[Position], Position]

    def __call__(self, y: Position) -> tuple[Position, Tensor]:
        """``y -> (x, log_det)``."""
        return self.apply(y)

    def forward(self, y: Position) -> Position:
        """``y -> x``."""
        return self.apply(y)[0]

    def log_det(self, y: Position) -> Tensor:
        """``y -> log |det dx/dy|``. ``()``."""
        return self.apply(y)[1]


def within(is_inside: Tensor, value: Tensor, must: str, x: Tensor, fix: str) -> Tensor:
    """``value`` where the 0-d condition holds; elsewhere an error, or NaN where numbers cannot be looked at."""
    if checks.is_concrete(is_inside):
        checks.require(bool(is_inside), must, str(x.tolist()), fix)
    return torch.where(is_inside, value, torch.nan)


def floating(x: Tensor) -> None:
    """An error about numbers that a bijection cannot map."""
    right = not isinstance(x, Tensor) or x.is_floating_point()
    checks.require(
        right, "a bijection maps floating-point numbers", str(getattr(x, "dtype", "")), "Use x.float().", TypeError
    )


# -- from bijections ----------------------------------------------------------------------------------------------


def as_bijection(bijection: Any) -> Bijection:
    """A :class:`Bijection` of what stands for one: itself, a tree, a transform or a constraint of ``torch.distributions``.

    Args:
        bijection: one of these.

    Returns:
        A :class:`Bijection`.

    Raises:
        TypeError: something else.

    >>> from funcebm import bijections
    >>> as_bijection({"a": bijections.positive}).forward({"a": torch.zeros(2)})
    {'a': tensor([1., 1.])}
    """
    if isinstance(bijection, Bijection):
        return bijection
    if isinstance(bijection, (torch.distributions.Transform, torch.distributions.constraints.Constraint)):
        from .from_torch import from_torch

        return from_torch(bijection)
    if isinstance(bijection, (dict, list, tuple)) and len(bijection) > 0:
        return joint(bijection)
    fix = 'Use those of funcebm.bijections, such as {"mu": identity, "sigma": positive}, or Bijection(apply, inverse).'
    if callable(bijection) and getattr(bijection, "__module__", "").startswith(f"{__package__}."):
        fix = f"Call it: {bijection.__name__}(...)."
    elif isinstance(bijection, torch.distributions.Distribution):
        fix = "Use its support: from_torch(distribution.support)."
    raise TypeError(checks.message("bijection must be a Bijection or a tree of them", repr(bijection), fix))


def joint(bijections: Tree) -> Bijection:
    """A bijection of trees, from a tree of bijections: each acts on its leaf, or on the subtree in its place.

    Args:
        bijections: dicts, lists, tuples or NamedTuples of bijections.

    Returns:
        A :class:`Bijection` whose log determinant is the sum of theirs.

    Raises:
        ValueError: (on calls) a position that has not the containers of ``bijections``.
        TypeError: a leaf that is not a bijection.

    >>> from funcebm.bijections import identity, positive
    >>> both = joint({"mu": identity, "sigma": positive})
    >>> both({"mu": torch.tensor(1.0), "sigma": torch.tensor(0.0)})
    ({'mu': tensor(1.), 'sigma': tensor(1.)}, tensor(0.))
    """
    parts = {name: as_bijection(part) for name, part in _items(bijections)}

    def apply(y: Position) -> tuple[Position, Tensor]:
        results = {name: parts[name].apply(child) for name, child in _matched(bijections, y)}
        log_dets = [log_det for _, log_det in results.values()]
        return _rebuilt(y, {name: x for name, (x, _) in results.items()}), sum(log_dets[1:], log_dets[0])

    def inverse(x: Position) -> Position:
        return _rebuilt(x, {name: parts[name].inverse(child) for name, child in _matched(bijections, x)})

    return Bijection(apply, inverse)


def _items(node: Tree) -> list[tuple[Any, Any]]:
    if isinstance(node, dict):
        return [(name, node[name]) for name in sorted(node)]
    return list(zip(getattr(node, "_fields", range(len(node))), node, strict=True))


def _matched(bijections: Tree, value: Tree) -> list[tuple[Any, Any]]:
    wanted = [name for name, _ in _items(bijections)]
    is_container = isinstance(value, (dict, list, tuple))
    right = is_container and isinstance(value, dict) == isinstance(bijections, dict)
    right = right and [name for name, _ in _items(value)] == wanted
    got = [name for name, _ in _items(value)] if is_container else f"a {type(value).__name__}"
    fix = "Name every part; funcebm.bijections.identity is for those without a constraint."
    checks.require(right, f"a position must have the parts {wanted}, as the bijections have", got, fix)
    return _items(value)


def _rebuilt(like: Tree, parts: dict[Any, Any]) -> Tree:
    if isinstance(like, dict):
        return type(like)((name, parts[name]) for name in like)
    return type(like)(*parts.values()) if hasattr(like, "_fields") else type(like)(parts.values())


def compose(*bijections: Any) -> Bijection:
    r"""One bijection after another: the first is applied first, :math:`x = f_M(\dots f_2(f_1(y)))`.

    Args:
        bijections: one or more; trees of bijections as well.

    Returns:
        A :class:`Bijection` whose log determinant is the sum of theirs.

    Raises:
        ValueError: no bijection.
        TypeError: something that is not one.

    >>> from funcebm.bijections import affine, positive
    >>> compose(affine(0.0, 2.0), positive)(torch.tensor([0.5]))
    (tensor([2.7183]), tensor(1.6931))
    """
    checks.require(len(bijections) > 0, "compose takes one bijection or more", "none", "Give bijections.")
    parts = [as_bijection(part) for part in bijections]

    def apply(y: Position) -> tuple[Position, Tensor]:
        value, total = parts[0].apply(y)
        for part in parts[1:]:
            value, log_det = part.apply(value)
            total = total + log_det
        return value, total

    def inverse(x: Position) -> Position:
        for part in reversed(parts):
            x = part.inverse(x)
        return x

    return Bijection(apply, inverse)


def inverted(bijection: Any) -> Bijection:
    """The bijection the other way round.

    Args:
        bijection: a :class:`Bijection`, or what stands for one.

    Returns:
        A :class:`Bijection` from positions to free numbers.

    >>> from funcebm.bijections import positive
    >>> inverted(positive)(torch.tensor([1.0]))
    (tensor([0.]), tensor(-0.))
    """
    forward = as_bijection(bijection)

    def apply(x: Position) -> tuple[Position, Tensor]:
        y = forward.inverse(x)
        return y, -forward.log_det(y)

    return Bijection(apply, forward.forward)


def with_log_det(
    function: Callable[[Position], Position], inverse: Callable[[Position], Position] | None = None
) -> Bijection:
    r"""Adds the log determinant to any invertible differentiable function, from its Jacobian.

    Args:
        function: ``y -> x``, with as many numbers in ``x`` as in ``y``; D backward passes and a D x D determinant.
        inverse: ``x -> y``; needed where a bijection is asked for its inverse, as :func:`constrained` does for the starts.

    Returns:
        A :class:`Bijection`.

    Raises:
        ValueError: (on calls of ``inverse``) where none was given.

    >>> position, log_det = with_log_det(torch.exp)(torch.tensor([0.0, 1.0]))
    >>> position, round(float(log_det), 5)
    (tensor([1.0000, 2.7183]), 1.0)
    """

    def apply(y: Position) -> tuple[Position, Tensor]:
        vector, back = tree.ravel(y)
        jacobian = torch.func.jacrev(lambda flat: tree.ravel(function(back(flat)))[0])(vector)
        return function(y), torch.linalg.slogdet(jacobian).logabsdet

    def missing(x: Position) -> Position:
        fix = "Give it: with_log_det(function, inverse)."
        raise ValueError(checks.message("a bijection must know its inverse here", "with_log_det without one", fix))

    return Bijection(apply, missing if inverse is None else inverse)
