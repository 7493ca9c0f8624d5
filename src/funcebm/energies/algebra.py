"""Energies from energies: products, mixtures, tempering, conditioning, change of variables."""

from __future__ import annotations

from typing import Any, Callable, Sequence

import torch
from torch import Tensor

from .. import checks, loops, tree
from ..bijections import Constrained
from ..types import Energy, Params, Position, Sampler, Tree
from ._carried import with_space_of, with_space_of_mask, with_space_of_part

__all__ = ["conditioned", "confined", "fill_in", "mixture", "product", "pullback", "tempered"]


def _some(name: str, given: tuple[Any, ...]) -> tuple[Energy, ...]:
    energies = checks.given_parts(given)
    others = (torch.nn.Module, Sampler)  # which can be called, but not so
    right = len(energies) > 0 and all(callable(energy) and not isinstance(energy, others) for energy in energies)
    fix = f"Write {name}(first, second) or {name}([first, second]); params are given when it is called."
    checks.require(right, f"{name} takes one energy or more, functions (params, x) -> ()", energies, fix)
    for energy in energies:
        _of_positions(name, energy)
    return energies


def _of_positions(name: str, energy: Any) -> None:
    """A constrained energy is a function of the free numbers: what is made of it would not know its constraints."""
    fix = f"Constrain the result: bijections.constrained({name}(energy, ...), bijection)."
    checks.require(
        not isinstance(energy, Constrained), f"{name} takes an energy of positions", "a constrained one", fix
    )


def _match(name: str, params: Params, energies: tuple[Energy, ...]) -> None:
    if len(params) != len(energies):
        must = f"the params of a {name} must be a tuple, one entry for each energy"
        raise ValueError(checks.message(must, f"{len(params)} for {len(energies)}", "Use () for one without params."))


def product(*energies: Energy | Sequence[Energy]) -> Energy:
    r"""The product of densities, the sum of energies: :math:`E(x) = \sum_i E_i(\theta_i, x)`.

    Args:
        energies: each ``(params, x) -> ()``, one by one or in a list.

    Returns:
        An energy whose params are a tuple, one entry for each factor.

    Reference: Hinton (2002), "Training products of experts", Neural Computation 14(8):1771-1800.

    >>> square = lambda params, x: params * (x**2).sum()
    >>> both = product(square, square)
    >>> both((torch.tensor(1.0), torch.tensor(2.0)), torch.ones(2))
    tensor(6.)
    """
    parts = _some("product", energies)

    def energy(params: Params, x: Position) -> Tensor:
        _match("product", params, parts)
        terms = [one(own, x) for one, own in zip(parts, params, strict=True)]
        return sum(terms[1:], terms[0])

    return with_space_of(energy, *parts)


def mixture(*energies: Energy | Sequence[Energy]) -> Energy:
    r"""The weighted sum of densities, :math:`E(x) = -\log \sum_i e^{l_i - E_i(\theta_i, x)}`.

    Args:
        energies: each ``(params, x) -> ()``, one by one or in a list.

    Returns:
        An energy whose params are ``{"logits": (K,), "components": (params_1, ..., params_K)}``. Component i has the
        weight :math:`w_i \propto e^{l_i} Z_i`: for given weights put :math:`l_i = \log w_i - \log Z_i`.

    >>> square = lambda params, x: params * (x**2).sum()
    >>> either = mixture(square, square)
    >>> params = {"logits": torch.log(torch.tensor([0.5, 0.5])), "components": (torch.tensor(1.0), torch.tensor(1.0))}
    >>> either(params, torch.ones(2))
    tensor(2.)
    """
    parts = _some("mixture", energies)

    def energy(params: Params, x: Position) -> Tensor:
        _match("mixture", params["components"], parts)
        terms = torch.stack([one(own, x) for one, own in zip(parts, params["components"], strict=True)])
        return -torch.logsumexp(params["logits"].to(terms.dtype) - terms, 0)

    return with_space_of(energy, *parts)


def tempered(energy: Energy, beta: float | Tensor) -> Energy:
    r"""The density to a power, :math:`p^\beta`: :math:`\beta E(\theta, x)`.

    Args:
        energy: ``(params, x) -> ()``.
        beta: :math:`\beta > 0`, the inverse temperature. ``()``; may be traced.

    To change the temperature from step to step, use the sampler's own ``temperature`` instead.

    Returns:
        An energy ``(params, x) -> ()``.

    Raises:
        ValueError: an inverse temperature that is not positive, an energy that :func:`~funcebm.bijections.constrained` made.

    >>> tempered(lambda params, x: (x**2).sum(), 0.5)((), torch.ones(2))
    tensor(1.)
    """
    checks.positive("beta", beta)
    _of_positions("tempered", energy)
    return with_space_of(lambda params, x: beta * energy(params, x), energy)


def confined(energy: Energy, scale: float | Tensor = 1.0, *, low: float = 0.0, high: float = 0.0) -> Energy:
    r"""An energy with a wall around a box, :math:`E(\theta, x) + d(x)^2 / 2 s^2`.

    :math:`d(x)` is the distance of ``x`` from the box ``[low, high]`` in every coordinate: inside of it the energy is as it
    was. With the default ``low = high = 0`` the wall is everywhere, a Gaussian base density of standard deviation
    :math:`s`. A network whose growth is at most linear, such as ``mlp``, has a normalizer only so.

    Args:
        energy: ``(params, x) -> ()``.
        scale: :math:`s > 0`, the width of the wall, in units of ``x``. ``()``.
        low: the lower side of the box, for all coordinates.
        high: the upper side, at least ``low``.

    Returns:
        An energy of the same params; with ``features``, where the energy has them.

    Raises:
        ValueError: a scale that is not positive, ``high`` below ``low``, or a constrained energy.

    >>> flat = lambda params, x: 0 * x.sum()
    >>> confined(flat, 0.5, low=-1.0, high=1.0)((), torch.tensor([0.3, 2.0]))
    tensor(2.)
    """
    checks.positive("scale", scale)
    _of_positions("confined", energy)
    checks.require(low <= high, "low must not be above high", f"{low} and {high}", "Swap them.")

    def outside(leaf: Tensor) -> Tensor:
        # where there is no inside the distance is smooth, but a clamp would not be
        return leaf - low if low == high else leaf - leaf.clamp(low, high)

    def walled(params: Params, x: Position) -> Tensor:
        return energy(params, x) + tree.squared_norm(tree.map(outside, x)) / (2 * scale**2)

    if hasattr(energy, "features"):
        walled.features = energy.features  # type: ignore[attr-defined]
    return with_space_of(walled, energy)


def fill_in(observed: Tree, free: Tensor | None = None) -> Callable[[Position], Position]:
    """How :func:`conditioned` completes a position: a function from the free part to the whole.

    Args:
        observed: a dict of the entries that are known; or, with ``free``, a whole position ``(*event,)``.
        free: which numbers of it are free, ``(*event,)`` bool, or which of its first axes; with F true entries.

    Returns:
        For dicts, ``rest -> {**rest, **observed}``; for a tensor, from ``whole[free]`` to ``(*event,)``, free numbers in order,
        which may keep last axes of the position, as one-hot rows ``(F, K)`` do.

    Raises:
        ValueError: a mask that is not boolean, does not fit or leaves nothing free; when called, a part of another shape.

    >>> fill_in(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([False, True, False]))(torch.tensor([9.0]))
    tensor([1., 9., 3.])
    """
    if free is None:
        right = isinstance(observed, dict)
        fix = "Pass free, a bool tensor that is true where the position may move."
        checks.require(right, "observed must be a dict where free is not given", type(observed).__name__, fix)
        return lambda rest: {**rest, **observed}

    tensors = isinstance(observed, Tensor) and isinstance(free, Tensor)
    checks.require(
        tensors,
        "observed and free must be tensors",
        type(observed).__name__,
        "Or give a dict as observed.",
    )
    right = free.dtype == torch.bool and free.ndim > 0 and free.shape == observed.shape[: free.ndim]
    must = f"free must be a bool tensor of the shape of observed, {tuple(observed.shape)}, or of its first axes"
    checks.require(right, must, f"{free.dtype} of shape {tuple(free.shape)}", "Compare with something: mask > 0.")
    shape, known = observed.shape, observed.detach().reshape(-1)
    flat = free.reshape(*free.shape, *(1,) * (observed.ndim - free.ndim)).expand(shape).reshape(-1)
    places = (flat.cumsum(0) - 1).clamp(min=0)  # of each free number in the part; no shape depends on the mask
    count = None
    if not loops.is_compiling() and checks.is_concrete(free):
        count = int(flat.sum())
        checks.require(count > 0, "free must leave something free", "no true entry", "Set some entries to True.")

    def complete(part: Tensor) -> Tensor:
        is_like = 1 <= part.dim() <= len(shape) and part.shape[1:] == shape[len(shape) - part.dim() + 1 :]
        if not is_like or (count is not None and part.numel() != count):
            must = "the free part must have one number for each true entry of free"
            of = "" if count is None else f" for {count}"
            raise ValueError(checks.message(must, f"{tuple(part.shape)}{of}", "Use whole[free]."))
        spread = part.reshape(-1)[places.to(part.device)]
        return torch.where(flat.to(part.device), spread, known.to(part)).reshape(shape)

    return complete


def conditioned(energy: Energy, observed: Tree, free: Tensor | None = None) -> Energy:
    r"""The conditional density: part of the position clamped, :math:`E(\theta, (x_{\mathrm{free}}, x_{\mathrm{obs}}))`.

    Args:
        energy: ``(params, x) -> ()`` of whole positions.
        observed: a dict of the entries that are known; or, with ``free``, a whole position ``(*event,)``.
        free: which numbers of it are free, ``(*event,)`` bool, or which of its first axes, such as the sites ``(*sites,)`` of
            one-hot rows; with F true entries.

    Returns:
        An energy of the rest: of a dict without the observed entries, or of ``whole[free]``, ``(F,)`` or ``(F, *rest)``.
        :func:`fill_in` gives the whole position back: inpainting is sampling from the one and filling in by the other. The
        ``space`` of a discrete energy is that of the free sites (of categories one-hot rows ``(F, K)``, F of sites).

    Raises:
        ValueError: what :func:`fill_in` refuses, a constrained energy, a mask that frees a part of a one-hot row.

    >>> joint = lambda params, x: ((x["a"] - x["b"]) ** 2).sum()
    >>> conditioned(joint, {"b": torch.ones(2)})((), {"a": torch.zeros(2)})
    tensor(2.)
    """
    _of_positions("conditioned", energy)
    complete = fill_in(observed, free)

    def rest(params: Params, x: Position) -> Tensor:
        return energy(params, complete(x))

    if free is not None:
        return with_space_of_mask(rest, energy, free)
    found = (getattr(energy, name, None) for name in ("joint_space", "space"))
    entries: Any = next((space for space in found if isinstance(space, dict)), {})
    names = tuple(name for name in entries if name not in observed)
    return with_space_of_part(rest, energy, names, is_one=False)


def pullback(energy: Energy, bijection: Callable[[Position], tuple[Position, Tensor]]) -> Energy:
    r"""Change of variables: the energy of :math:`y` when :math:`x = f(y)` has the given energy.

    :math:`E'(\theta, y) = E(\theta, f(y)) - \log |\det \partial f / \partial y|`, so that :math:`f` maps draws of the
    new density to draws of the old one. It takes the borders off a bounded domain, and reshapes hard densities.

    Args:
        energy: ``(params, x) -> ()``.
        bijection: ``y -> (x, log_det)``, with ``log_det`` the ``()`` log of the absolute Jacobian determinant;
            :mod:`funcebm.bijections` has some, and :func:`~funcebm.bijections.constrained` for sampling.

    Returns:
        An energy ``(params, y) -> ()``.

    >>> halved = lambda y: (y / 2, y.numel() * -torch.log(torch.tensor(2.0)))
    >>> pullback(lambda params, x: (x**2).sum(), halved)((), torch.tensor([2.0]))
    tensor(1.6931)
    """

    def pulled(params: Params, y: Position) -> Tensor:
        x, log_det = _pair(bijection(y))
        return energy(params, x) - log_det

    return pulled


def _pair(result: Any) -> tuple[Position, Tensor]:
    right = isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Tensor) and result[1].dim() == 0
    if not right:
        got = ", ".join(str(tuple(leaf.shape)) for leaf in tree.leaves(result) if isinstance(leaf, Tensor))
        must = "a bijection must return (x, log_det) with a 0-d log_det"
        raise ValueError(checks.message(must, f"shapes {got}", "Sum the log of the slopes over all axes."))
    return result
