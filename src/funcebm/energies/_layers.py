"""What the neural energies share: layers and their first parameters, and an energy made of hidden features and a head."""

from __future__ import annotations

import math
from typing import Any, Callable, Protocol, Sequence, cast

import torch
from torch import Tensor

from .. import checks, random
from ..types import Key, Params, Position
from .spectral import spectral_normalised

__all__ = [
    "Activation",
    "Layer",
    "NeuralEnergy",
    "affine",
    "dense",
    "event",
    "first_layer",
    "image_shape",
    "neural",
    "stack_widths",
    "whole",
    "widths_of",
]

Activation = Callable[[Tensor], Tensor]
Layer = dict[str, Tensor]


class NeuralEnergy(Protocol):
    """A network as an energy, a plain function ``(params, x) -> ()``, or ``(params, x, condition) -> ()``.

    Attributes:
        features: with the same arguments, the activations of the last hidden layer ``(F,)``: the energy is one affine
            function of them. A linear probe on them says what a trained energy has learned.
    """

    features: Callable[..., Tensor]

    def __call__(self, params: Params, x: Position, /, *condition: Any) -> Tensor:
        """The energy of one particle. ``()``."""


def first_layer(key: Key, shape: tuple[int, ...], dtype: torch.dtype | None) -> Layer:
    """A weight ``(out, in, ...)`` of variance ``1 / fan_in``, and a bias uniform within its standard deviation."""
    key_weight, key_bias = random.split(key)
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    weight = bound * random.normal(key_weight, shape, dtype=dtype)
    return {"weight": weight, "bias": random.uniform(key_bias, shape[0], -bound, bound, dtype=dtype)}


def stack_widths(keys: Tensor, widths: Sequence[int], dtype: torch.dtype | None) -> tuple[Layer, ...]:
    """The fully connected layers between consecutive widths."""
    return tuple(first_layer(keys[i], (widths[i + 1], widths[i]), dtype) for i in range(len(widths) - 1))


def affine(layer: Layer, features: Tensor) -> Tensor:
    """``(in,) -> (out,)``. Written so that a compiler fuses the bias and what comes after it."""
    return features @ layer["weight"].t() + layer["bias"]


def dense(layers: Sequence[Layer], activation: Activation, features: Tensor) -> Tensor:
    """Fully connected layers, each with its activation. ``(D,) -> (F,)``."""
    for layer in layers:
        features = activation(affine(layer, features))
    return features


def neural(
    features: Callable[[Params, Position, Tensor | None], Tensor],
    head: Callable[[Params], Layer],
    *,
    condition_size: int | None,
    num_outputs: int | None,
    spectral_bound: float | None,
) -> NeuralEnergy:
    """The energy of a network.

    Args:
        features: ``(params, x, condition) -> (F,)``, all layers but the last; ``condition`` is ``(K,)`` or None.
        head: where the last layer is in the params.
        condition_size: ``K``, or None for an energy without a condition.
        num_outputs: None for a scalar, else the length of the output.
        spectral_bound: the spectral norm of each weight, or None to leave them as they are.
    """
    if condition_size is not None:
        checks.positive_int("condition_size", condition_size)
    checks.positive("spectral_bound", spectral_bound)

    def weights(params: Params) -> Params:
        return params if spectral_bound is None else spectral_normalised(params, spectral_bound)

    def output(params: Params, hidden: Tensor) -> Tensor:
        layer = head(params)
        if num_outputs is not None:
            return affine(layer, hidden)
        return (hidden * layer["weight"].squeeze(0)).sum() + layer["bias"].squeeze(0)

    if condition_size is None:

        def energy(params: Params, x: Position) -> Tensor:
            params = weights(params)
            return output(params, features(params, x, None))

        energy.features = lambda params, x: features(weights(params), x, None)  # type: ignore[attr-defined]
        return cast(NeuralEnergy, energy)

    def conditional(params: Params, x: Position, condition: Tensor) -> Tensor:
        params, given = weights(params), whole("the condition", condition, condition_size).to(x.dtype)
        return output(params, features(params, x, given))

    conditional.features = lambda params, x, condition: features(  # type: ignore[attr-defined]
        weights(params), x, whole("the condition", condition, condition_size).to(x.dtype)
    )
    return cast(NeuralEnergy, conditional)


def whole(name: str, value: Any, size: int) -> Tensor:
    """A tensor of ``size`` numbers, flattened; or an error."""
    if isinstance(value, Tensor) and value.numel() == size:
        return value.reshape(-1)
    got = f"the shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    fix = "Pass one particle without a batch axis: torch.func.vmap adds it."
    raise ValueError(checks.message(f"{name} must be a tensor of {size} numbers for this network", got, fix))


def event(x: Any, shape: Sequence[int]) -> Tensor:
    """A position of as many numbers as ``shape`` has, in that shape; or an error."""
    return whole("a position", x, math.prod(shape)).reshape(tuple(shape))


def widths_of(name: str, widths: int | Sequence[int]) -> tuple[int, ...]:
    """Positive integers, as a tuple; or an error."""
    widths = (widths,) if isinstance(widths, int) else tuple(widths)
    for width in widths:
        checks.positive_int(f"each of {name}", width)
    return widths


def image_shape(shape: Sequence[int], halvings: int) -> tuple[int, int, int]:
    """``(C, H, W)`` of an image ``(C, H, W)`` or ``(H, W)`` that can be halved so often; or an error."""
    shape = tuple(shape)
    checks.require(len(shape) in (2, 3), "shape must be (C, H, W) or (H, W)", shape, "Give the shape of one image.")
    planes, height, width = widths_of("shape", (1, *shape)[-3:])
    shrink = 2**halvings
    right = height % shrink == 0 and width % shrink == 0
    checks.require(right, f"height and width must divide by {shrink}", shape, "Use fewer channels, or pad the images.")
    return planes, height, width
