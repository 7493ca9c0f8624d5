"""What networks share: layers and their first parameters, and a network made of hidden features and a last layer."""

from __future__ import annotations

import math
from typing import Any, Callable, Iterable, Protocol, Sequence, cast

import torch
from torch import Tensor

from .. import checks, random
from ..types import Key, Params, Position
from .spectral import spectral_normalised

__all__ = [
    "Activation",
    "Layer",
    "Network",
    "affine_layer",
    "dense_layers",
    "first_layer",
    "flat_of_size",
    "image_shape",
    "network_of",
    "outputs_of",
    "shaped",
    "stack_widths",
    "widths_of",
]

Activation = Callable[[Tensor], Tensor]
Layer = dict[str, Tensor]


class Network(Protocol):
    """A network as a plain function ``(params, x) -> outputs``, or ``(params, x, condition) -> outputs``.

    Attributes:
        features: with the same arguments, the activations of the last hidden layer ``(F,)``: the outputs are an affine
            function of them.
        parts: with the same arguments, these features and the weights of the last layer.
    """

    features: Callable[..., Tensor]
    parts: Callable[..., tuple[Tensor, Layer]]

    def __call__(self, params: Params, x: Position, /, *condition: Any) -> Tensor:
        """The outputs for one particle."""


def first_layer(key: Key, shape: tuple[int, ...], dtype: torch.dtype | None) -> Layer:
    """A weight ``(out, in, ...)`` of variance ``1 / fan_in``, and a bias uniform within its standard deviation."""
    key_weight, key_bias = random.split(key)
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    weight = bound * random.normal(key_weight, shape, dtype=dtype)
    return {"weight": weight, "bias": random.uniform(key_bias, shape[0], -bound, bound, dtype=dtype)}


def stack_widths(keys: Tensor, widths: Sequence[int], dtype: torch.dtype | None) -> tuple[Layer, ...]:
    """The fully connected layers between consecutive widths."""
    return tuple(first_layer(keys[i], (widths[i + 1], widths[i]), dtype) for i in range(len(widths) - 1))


def affine_layer(layer: Layer, features: Tensor) -> Tensor:
    """``(in,) -> (out,)``. Written so that a compiler fuses the bias and what comes after it."""
    return features @ layer["weight"].t() + layer["bias"]


def dense_layers(layers: Sequence[Layer], activation: Activation, features: Tensor) -> Tensor:
    """Fully connected layers, each with its activation. ``(D,) -> (F,)``."""
    for layer in layers:
        features = activation(affine_layer(layer, features))
    return features


def network_of(
    features: Callable[[Params, Position, Tensor | None], Tensor],
    head: Callable[[Params], Layer],
    *,
    condition_size: int | None,
    is_like_input: bool,
    spectral_bound: float | None,
) -> Network:
    """A network from its hidden features and its last layer.

    Args:
        features: ``(params, x, condition) -> (F,)``, all layers but the last; ``condition`` is ``(K,)`` or None.
        head: where the last layer is in the params.
        condition_size: ``K``, or None for a network without a condition.
        is_like_input: whether the outputs take the shape of ``x``.
        spectral_bound: the spectral norm of each weight, or None to leave them as they are.
    """
    if condition_size is not None:
        checks.positive_int("condition_size", condition_size)
    checks.positive("spectral_bound", spectral_bound)

    def parts(params: Params, x: Position, *condition: Tensor) -> tuple[Tensor, Layer]:
        if len(condition) != (condition_size is not None):
            takes = "(params, x)" if condition_size is None else "(params, x, condition)"
            raise TypeError(f"this network is a function of {takes}, and was given {2 + len(condition)} arguments")
        weights = params if spectral_bound is None else spectral_normalised(params, spectral_bound)
        if condition_size is None:
            return features(weights, x, None), head(weights)
        return features(weights, x, flat_of_size("the condition", condition[0], condition_size).to(x.dtype)), head(
            weights
        )

    def network(params: Params, x: Position, *condition: Tensor) -> Tensor:
        hidden, layer = parts(params, x, *condition)
        outputs = affine_layer(layer, hidden)
        return outputs.reshape(x.shape) if is_like_input else outputs

    network.parts = parts  # type: ignore[attr-defined]
    network.features = lambda params, x, *condition: parts(params, x, *condition)[0]  # type: ignore[attr-defined]
    return cast(Network, network)


def outputs_of(num_outputs: int | None, size: int) -> int:
    """How many outputs the last layer has: ``num_outputs``, or as many as a position has numbers."""
    if num_outputs is not None:
        checks.positive_int("num_outputs", num_outputs)
    return size if num_outputs is None else num_outputs


def flat_of_size(name: str, value: Any, size: int) -> Tensor:
    """A tensor of ``size`` numbers, flattened; or an error."""
    if isinstance(value, Tensor) and value.numel() == size:
        return value.reshape(-1)
    got = f"the shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    fix = "Pass one particle without a batch axis: torch.func.vmap adds it."
    raise ValueError(checks.message(f"{name} must be a tensor of {size} numbers for this network", got, fix))


def shaped(x: Any, shape: Sequence[int]) -> Tensor:
    """A position of as many numbers as ``shape`` has, in that shape; or an error."""
    return flat_of_size("a position", x, math.prod(shape)).reshape(tuple(shape))


def widths_of(name: str, widths: int | Sequence[int]) -> tuple[int, ...]:
    """Positive integers, as a tuple; or an error."""
    widths = tuple(widths) if isinstance(widths, Iterable) else (widths,)
    for width in widths:
        checks.positive_int(f"each of {name}", width)
    return widths


def image_shape(shape: Sequence[int], halvings: int) -> tuple[int, int, int]:
    """``(C, H, W)`` of an image ``(C, H, W)`` or ``(H, W)`` that can be halved so often; or an error."""
    shape = tuple(shape) if isinstance(shape, Iterable) else (shape,)
    checks.require(len(shape) in (2, 3), "shape must be (C, H, W) or (H, W)", shape, "Give the shape of one image.")
    planes, height, width = widths_of("shape", (1, *shape)[-3:])
    shrink = 2**halvings
    right = height % shrink == 0 and width % shrink == 0
    checks.require(right, f"height and width must divide by {shrink}", shape, "Use fewer channels, or pad the images.")
    return planes, height, width
