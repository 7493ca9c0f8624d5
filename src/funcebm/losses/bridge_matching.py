r"""Bridge matching: the drift of a diffusion between two distributions, from Brownian bridges between pairs."""

from __future__ import annotations

from typing import Callable, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, couplings, loops, paths, tree
from ..couplings import Coupling
from ..paths import Field
from ..types import Batch, Key, Loss, LossAux, Params, Position, Tree
from ._staged import staged, without_memory
from ._transport import (
    Source,
    TransportNoise,
    check_parts,
    draw_ends,
    halves,
    like_x,
    map_field,
    no_time,
    pair_ends,
    paired,
    per_row,
    scaled_norms,
)
from .times import Times, uniform_times

__all__ = ["bridge_matching", "simulate_bridge"]

_DIRECTIONS = ("forward", "backward")


class _Prepared(NamedTuple):
    time: Tensor
    position: Position
    target: Position
    weight: Tensor
    label: Tree


def _check(scale: float | Tensor, direction: str) -> None:
    checks.positive("scale", scale, "Try the standard deviation of the data.")
    fix = "The forward drift goes from t = 0 to 1."
    checks.require(direction in _DIRECTIONS, 'direction must be "forward" or "backward"', direction, fix)


def bridge_matching(
    field: Field,
    scale: float | Tensor = 1.0,
    direction: str = "forward",
    *,
    coupling: Coupling | None = None,
    source: Source | None = None,
    time: Times | None = None,
    weight: Callable[[Tensor], Tensor] | None = None,
) -> Loss:
    r"""Bridge matching: regresses a drift on where the ends of Brownian bridges lie.

    On :math:`x_t = (1-t) x_0 + t x_1 + c\sqrt{t(1-t)}\,z` the forward target is :math:`(x_1 - x_t)/(1-t)` and the backward one
    :math:`(x_0 - x_t)/t`, and the minimisers are the drifts of the Markov process with the marginals of the bridges:
    :math:`dx = b\,dt + c\,dW`, and backwards in the time that is left :math:`dx = b^-\,ds + c\,dW`.

    - *One shot*: with ``couplings.sinkhorn(2 * scale**2)`` the pairs are those of the Schroedinger bridge between batches, and
      so, but for the bias of batches, is the process.
    - *DSBM*, iterated Markovian fitting: train forward on any pairs, make new pairs by :func:`simulate_bridge`, train backward on
      them, and so on. Each round of pairs keeps one end exactly, and they tend to those of the bridge.

    Args:
        field: ``(params, t, x) -> like x``, or ``(params, t, x, label)``.
        scale: :math:`c > 0`. ``()``.
        direction: ``"forward"`` or ``"backward"``.
        coupling: of the pairs, by default as the batch brings them.
        source: ``key -> x0``; by default what the batch brings, or standard normal.
        time: by default uniform on [0.001, 0.999]; the targets have infinite variance at one of the ends.
        weight: a function of times; by default 1.

    Returns:
        A :class:`~funcebm.types.Loss` over :class:`~funcebm.losses.TransportBatch`, or batches of data; metrics as for
        :func:`~funcebm.losses.flow_matching`.

    Raises:
        ValueError: an unknown direction, a scale that is not positive; when called, ends or labels that do not fit, a field that
            is not like ``x``.
        TypeError: a field, a coupling, times, a weight or a source that is none.

    Reference: Shi, De Bortoli, Campbell and Doucet (2023), NeurIPS, arXiv:2303.16852; Peluchetti (2023), JMLR 24(374);
    Tong et al. (2024), AISTATS, arXiv:2307.03672, for the one-shot form.

    >>> from funcebm import random
    >>> loss = bridge_matching(lambda params, t, x: params - x, 0.5)
    >>> loss(random.key(0), torch.zeros(2), torch.ones(8, 2))[0].shape
    torch.Size([])
    """
    check_parts(field, coupling, source, time, weight)
    _check(scale, direction)
    pairs = couplings.independent() if coupling is None else coupling
    times = uniform_times(0.001, 0.999) if time is None else time
    path = paths.brownian_bridge(scale)

    def draw(key: Key, batch: Batch) -> TransportNoise:
        return draw_ends(key, batch, times, pairs, source, True)

    def prepare(params: Params, memory: Tree, batch: Batch, noise: TransportNoise) -> _Prepared:
        ends = pair_ends(pairs, batch, noise)
        make = lambda t, x0, x1, z: paths.sample_path(path, t, x0, x1, z).position  # noqa: E731
        position = vmap(make)(noise.time, ends.source, ends.data, noise.latent)
        end, left = (ends.data, 1 - noise.time) if direction == "forward" else (ends.source, noise.time)
        target = per_row(1 / left, tree.sub(end, position))
        return _Prepared(noise.time, position, target, ends.weight * no_time(weight, noise.time), ends.label)

    def objective(params: Params, prepared: _Prepared) -> tuple[Tensor, LossAux]:
        predicted = map_field(like_x(field), params, prepared.time, prepared.position, label=prepared.label)
        error = scaled_norms(prepared.weight, tree.sub(predicted, prepared.target))
        return error.mean(), LossAux((), halves(error, prepared.time))

    return staged(without_memory, draw, prepare, objective, paired(pairs))


def simulate_bridge(
    key: Key,
    field: Field,
    params: Params,
    start: Position,
    scale: float | Tensor = 1.0,
    direction: str = "forward",
    *,
    num_steps: int = 100,
) -> Position:
    r"""Where a learned bridge ends: Euler's method for :math:`dx = b\,dt + c\,dW`, in equal steps.

    Args:
        key: ``(2,)``.
        field: the drift, as trained by :func:`bridge_matching` in the same direction.
        params: of the drift.
        start: ``x0`` forward, ``x1`` backward. ``(B, *event)``, or a tree.
        scale: :math:`c > 0`. ``()``.
        direction: ``"forward"`` from t = 0 to 1, ``"backward"`` from 1 to 0.
        num_steps: how many.

    Returns:
        Like ``start``: the other ends, in the order of ``start``.

    Raises:
        ValueError: an unknown direction, a scale or a count that is not positive.

    >>> from funcebm import random
    >>> simulate_bridge(random.key(0), lambda params, t, x: 0 * x, (), torch.zeros(5, 2)).shape
    torch.Size([5, 2])
    """
    _check(scale, direction)
    checks.positive_int("num_steps", num_steps)
    like = tree.first(start)
    begins = torch.arange(num_steps, dtype=like.dtype, device=like.device) / num_steps
    times = begins if direction == "forward" else 1 - begins
    noise = tree.normal_like(key, tree.broadcast(start, num_steps))
    spread = scale / num_steps**0.5

    def body(x: Position, step: tuple[Tensor, Tree]) -> Position:
        t, normal = step
        drift = vmap(like_x(field), (None, None, 0))(params, t, x)
        return tree.map(lambda at, b, z: at + b / num_steps + spread * z, x, drift, normal)

    return loops.fold(body, start, (times, noise))
