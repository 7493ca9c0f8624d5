"""Energies of one encoding of discrete states as energies of another."""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor

from .. import checks, spaces
from ..types import Energy, Params, Position

__all__ = ["on_bits", "on_integers", "on_one_hot", "on_spins"]


def on_bits(energy: Energy) -> Energy:
    """An energy of spins, -1 and 1, as one of bits, 0 and 1.

    Args:
        energy: ``(params, spins) -> ()``.

    Returns:
        ``(params, bits) -> ()``.

    >>> on_bits(lambda params, s: s.sum())((), torch.tensor([0.0, 0.0, 1.0]))
    tensor(-1.)
    """
    return _over(spaces.binary, "binary", lambda params, x: energy(params, 2 * x - 1), energy)


def on_spins(energy: Energy) -> Energy:
    """An energy of bits, 0 and 1, as one of spins, -1 and 1.

    Args:
        energy: ``(params, bits) -> ()``.

    Returns:
        ``(params, spins) -> ()``.

    >>> on_spins(lambda params, x: x.sum())((), torch.tensor([-1.0, -1.0, 1.0]))
    tensor(1.)
    """
    return _over(spaces.spins, "binary", lambda params, s: energy(params, (s + 1) / 2), energy)


def on_one_hot(energy: Energy) -> Energy:
    """An energy of levels ``0 .. K - 1`` (ordinals) as one of one-hot rows, with a gradient with respect to them.

    Args:
        energy: ``(params, levels) -> ()``, of floats ``(*sites)``.

    Returns:
        ``(params, rows) -> ()``, of ``(*sites, K)``.

    >>> on_one_hot(lambda params, x: x.sum())((), torch.eye(3))
    tensor(3.)
    """

    def of_rows(params: Params, x: Position) -> Tensor:
        return energy(params, x @ torch.arange(x.shape[-1], dtype=x.dtype, device=x.device))

    space = getattr(energy, "space", None)
    num = space.num_values if isinstance(space, spaces.Space) else 0
    return _over(lambda shape: spaces.categorical(shape, num), "ordinal", of_rows, energy)


def on_integers(energy: Energy, num_values: int) -> Energy:
    """An energy of one-hot rows as one of numbers of values, as data and labels come.

    Args:
        energy: ``(params, rows) -> ()``, of ``(*sites, K)``.
        num_values: K.

    Returns:
        ``(params, x) -> ()``, of whole numbers ``(*sites)``, integers or floats; where the energy has a categorical space, with
        an ordinal one of as many levels.

    Raises:
        ValueError: a number of values below 1.

    >>> on_integers(lambda params, x: (params * x).sum(), 3)(torch.arange(6.0).reshape(2, 3), torch.tensor([2, 0]))
    tensor(5.)
    """
    checks.positive_int("num_values", num_values)

    def of_integers(params: Params, x: Position) -> Tensor:
        dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        return energy(params, (x[..., None] == torch.arange(num_values, device=x.device)).to(dtype))

    space = getattr(energy, "space", None)
    if isinstance(space, spaces.Space) and space.kind == "categorical" and set(space.sizes) == {num_values}:
        of_integers.space = spaces.ordinal(space.sites, num_values)  # type: ignore[attr-defined]
    return of_integers


def _over(make: Callable[[tuple[int, ...]], spaces.Space], kind: str, encoded: Energy, energy: Energy) -> Energy:
    """The encoded energy with its space, where the other one has a space of a kind."""
    space = getattr(energy, "space", None)
    if isinstance(space, spaces.Space) and space.kind == kind:
        encoded.space = make(space.shape)  # type: ignore[attr-defined]
    return encoded
