"""What the transport losses share: batches with noise and labels, what is drawn for them, pairs, fields with conditions."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import couplings, random, tree
from ..couplings import Coupling
from ..types import Batch, Key, Position, Tree
from .times import Times

__all__ = [
    "Ends",
    "Source",
    "TransportBatch",
    "TransportNoise",
    "as_transport",
    "draw_ends",
    "halves",
    "map_field",
    "no_time",
    "pair_ends",
    "paired",
    "per_row",
    "scaled_norms",
]

Source = Callable[[Key], Position]


class TransportBatch(NamedTuple):
    """Data with what comes with them; a plain batch of data is one without the rest.

    Attributes:
        data: ``x1``. ``(B, *event)``, or a tree.
        source: the other ends ``x0``, like the data, where they are given and not drawn; else ``()``.
        label: what the field is told beside time and position, a tree with the leading axis B; or ``()``.
    """

    data: Position
    source: Position = ()
    label: Tree = ()


class TransportNoise(NamedTuple):
    """The random numbers of a transport loss: times ``(B,)``, ``x0``, further noise ``z``, and those of the coupling, or the
    :class:`Ends` that it has made already."""

    time: Tensor
    source: Tree
    latent: Tree
    coupling: Tree


class Ends(NamedTuple):
    """Pairs, over the leading axis B."""

    source: Position
    data: Position
    label: Tree
    weight: Tensor


def as_transport(batch: Batch) -> TransportBatch:
    """Any batch with its parts."""
    return batch if isinstance(batch, TransportBatch) else TransportBatch(batch)


def draw_ends(
    key: Key, batch: Batch, times: Times, coupling: Coupling, source: Source | None, is_latent: bool = False
) -> TransportNoise:
    """All random numbers of one evaluation."""
    key_time, key_source, key_latent, key_coupling = random.split(key, 4)
    data, given, _ = as_transport(batch)
    num, like = tree.batch_size(data), tree.first(data)
    first: Tree = ()
    if not tree.leaves(given):
        first = tree.normal_like(key_source, data) if source is None else vmap(source)(random.split(key_source, num))
    latent = tree.normal_like(key_latent, data) if is_latent else ()
    return TransportNoise(times(key_time, num, like.dtype), first, latent, coupling.draw(key_coupling, num))


def paired(coupling: Coupling) -> Callable[[Batch, TransportNoise], TransportNoise]:
    """Pairs noise and data of a whole batch, so that each row stands for itself then."""
    return lambda batch, noise: noise._replace(source=(), coupling=pair_ends(coupling, batch, noise))


def pair_ends(coupling: Coupling, batch: Batch, noise: TransportNoise) -> Ends:
    """Noise and data in pairs."""
    if isinstance(noise.coupling, Ends):
        return noise.coupling
    data, given, label = as_transport(batch)
    source = given if tree.leaves(given) else noise.source
    pairing = coupling.pair(source, data, label, noise.coupling)
    data, label = couplings.take(pairing, data, label)
    return Ends(source, data, label, pairing.weight)


def map_field(function: Callable[..., Tree], params: Tree, *batched: Any, label: Tree = ()) -> Tree:
    """A function of one particle over leading axes, told the label where there is one."""
    condition = (label,) if tree.leaves(label) else ()
    return vmap(function, (None, *(0 for _ in (*batched, *condition))))(params, *batched, *condition)


def halves(error: Tensor, time: Tensor) -> dict[str, Tensor]:
    """Metrics: the mean error at early and at late times, 0 where there are none."""
    is_late = (time >= 0.5).to(error.dtype)
    parts = {"early": 1 - is_late, "late": is_late}
    return {name: ((error * part).sum() / part.sum().clamp(min=1)).detach() for name, part in parts.items()}


def scaled_norms(weight: Tensor, residual: Tree) -> Tensor:
    """Weighted squared norms over leading axes. ``(B,)``."""
    return weight * vmap(tree.squared_norm)(residual)


def per_row(factor: Tensor, batch: Tree) -> Tree:
    """``factor (B,)`` times the rows of every leaf."""
    return tree.map(lambda leaf: factor.reshape(-1, *[1] * (leaf.ndim - 1)) * leaf, batch)


def no_time(weight: Callable[[Tensor], Tensor] | None, time: Tensor) -> Tensor:
    """The weights of times, one where there is no function."""
    return torch.ones_like(time) if weight is None else weight(time)
