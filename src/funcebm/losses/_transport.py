"""What the transport losses share: batches with noise and labels, what is drawn for them, pairs, fields with conditions."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, couplings, random, tree
from ..couplings import Coupling
from ..types import Batch, Key, Position, Tree
from .times import Times

__all__ = [
    "Ends",
    "Source",
    "TransportBatch",
    "TransportNoise",
    "as_transport",
    "check_parts",
    "draw_ends",
    "halves",
    "like_x",
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


def check_parts(
    field: Any, coupling: Any, source: Any = None, time: Any = None, weight: Any = None, name: str = "field"
) -> None:
    """What a transport loss is made of; None is a default."""
    checks.function(name, field, "Write lambda params, t, x: ...")
    if coupling is not None:
        checks.instance("coupling", coupling, Coupling, "Call its factory: couplings.optimal_transport(), say.")
    if source is not None:
        checks.function("source", source, "Write lambda key: random.normal(key, (2,)), one x0 for each key.")
    if time is not None:
        checks.function("time", time, "Call its factory: losses.uniform_times(), say.")
    if weight is not None:
        checks.function("weight", weight, "Write lambda t: 1 - t, or losses.constant_weight(2.0), say.")


def like_x(field: Callable[..., Tree]) -> Callable[..., Tree]:
    """The same field ``(params, t, x, ...)``, whose output must be like ``x``."""

    def looked_at(params: Tree, t: Tensor, x: Position, *condition: Tree) -> Position:
        value = field(params, t, x, *condition)
        checks.like_position("a field", value, x)
        return value

    return looked_at


def as_transport(batch: Batch) -> TransportBatch:
    """Any batch with its parts."""
    return batch if isinstance(batch, TransportBatch) else TransportBatch(batch)


def draw_ends(
    key: Key, batch: Batch, times: Times, coupling: Coupling, source: Source | None, is_latent: bool = False
) -> TransportNoise:
    """All random numbers of one evaluation."""
    key_time, key_source, key_latent, key_coupling = random.split(key, 4)
    data, given, _ = as_transport(batch)
    leaves = tree.leaves(data)
    right = bool(leaves) and all(isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) > 0 for leaf in leaves)
    got = f"{[tuple(getattr(leaf, 'shape', ())) for leaf in leaves]}"
    checks.require(right, "data must be batches (B, *event) of one row or more", got, "Write x[None] for one point.")
    right = all(leaf.is_floating_point() for leaf in leaves)
    fix = "Convert them, images by images.float() / 255; labels go in TransportBatch(data, label=labels)."
    checks.require(right, "data must be floating point", f"{[leaf.dtype for leaf in leaves]}", fix)
    num, like = tree.batch_size(data), tree.first(data)
    first: Tree = ()
    if not tree.leaves(given):
        first = tree.normal_like(key_source, data) if source is None else vmap(source)(random.split(key_source, num))
    latent = tree.normal_like(key_latent, data) if is_latent else ()
    time = times(key_time, num, like.dtype)
    got, fix = f"the shape {tuple(time.shape)}", "See losses.uniform_times."
    checks.require(tuple(time.shape) == (num,), f"time must make {num} times", got, fix)
    if checks.is_concrete(time) and time.device.type == "cpu":
        got = f"{float(time.min())} to {float(time.max())}"
        checks.require(bool(((time >= 0) & (time <= 1)).all()), "times must be in [0, 1]", got, fix)
    return TransportNoise(time, first, latent, coupling.draw(key_coupling, num))


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
    if weight is None:
        return torch.ones_like(time)
    value = weight(time)
    right = isinstance(value, Tensor) and tuple(value.shape) in ((), tuple(time.shape))
    got = f"the shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
    checks.require(
        right, f"weight must make a number for each of {len(time)} times", got, "Write lambda t: 1 - t, say."
    )
    return value.expand_as(time)
