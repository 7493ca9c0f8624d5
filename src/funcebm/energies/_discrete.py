"""What the discrete energies share: what they carry beside themselves, and checks of their positions and parameters."""

from __future__ import annotations

import math
from typing import Any, Callable, Protocol, Sequence, cast

import torch
from torch import Tensor

from .. import checks
from ..types import Params, Position, Tree
from .closed_forms import Number, to_tensor

__all__ = ["DiscreteEnergy", "carrying", "number_or", "sites"]


class DiscreteEnergy(Protocol):
    """An energy ``(params, x) -> ()`` of discrete states, a plain function.

    Attributes:
        params: makes the parameter tree from numbers, with defaults; checks them.
        space: of its positions, see :mod:`funcebm.spaces`.
        edges: which sites interact, ``(M, 2)`` over the flattened sites, or None; see :mod:`funcebm.graphs`.
        blocks: masks ``(B, *event)`` of sites that do not interact, for block Gibbs, or None.
        log_normalizer: ``params -> ()`` where there is a faster way than to enumerate, or None.
        sample: ``(key, params, num) -> (num, *event)``, exact draws, or None.
    """

    params: Callable[..., Params]
    space: Tree
    edges: Tensor | None
    blocks: Tensor | None
    log_normalizer: Callable[[Params], Tensor] | None
    sample: Callable[..., Position] | None

    def __call__(self, params: Params, x: Position, /) -> Tensor:
        """The energy of one particle. ``()``."""


def carrying(energy: Callable[..., Tensor], **what: Any) -> Any:
    """An energy with its attributes; those of :class:`DiscreteEnergy` that are not given are None."""
    for name in ("params", "space", "edges", "blocks", "log_normalizer", "sample"):
        setattr(energy, name, None)
    for name, value in what.items():
        setattr(energy, name, value)
    return cast(DiscreteEnergy, energy)


def sites(x: Any, shape: Sequence[int]) -> Tensor:
    """A position of as many numbers as ``shape`` has, in that shape; or an error."""
    if isinstance(x, Tensor) and x.numel() == math.prod(shape):
        return x.reshape(tuple(shape))
    got = f"the shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
    fix = "Pass one state without a batch axis: torch.func.vmap adds it."
    raise ValueError(checks.message(f"a state of this energy must have the shape {tuple(shape)}", got, fix))


def number_or(name: str, value: Number, shape: Sequence[int], like: Tensor | None = None) -> Tensor:
    """A 0-d tensor or one of a shape, finite; or an error."""
    tensor = to_tensor(value, like)
    right = tensor.ndim == 0 or tuple(tensor.shape) == tuple(shape)
    checks.require(
        right, f"{name} must be a number or have the shape {tuple(shape)}", str(tuple(tensor.shape)), "See there."
    )
    if checks.is_concrete(tensor):
        finite = bool(torch.isfinite(tensor).all())
        checks.require(finite, f"{name} must be finite", "NaN or infinity", "Look for NaN and infinity in it.")
    return tensor
