"""Neural energies as pure functions: ``mlp`` and ``conv`` make an energy and its first parameters."""

from __future__ import annotations

import math
from typing import Any, Callable, Sequence

import torch
from torch import Tensor

from .. import checks, random
from ..types import Energy, Key, Params, Position

__all__ = ["conv", "mlp"]

Activation = Callable[[Tensor], Tensor]


def _layer(key: Key, shape: tuple[int, ...], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """A weight ``(out, in, ...)`` of variance ``1 / fan_in``, and a bias uniform within its standard deviation."""
    key_weight, key_bias = random.split(key)
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    weight = bound * random.normal(key_weight, shape, dtype=dtype)
    return {"weight": weight, "bias": random.uniform(key_bias, shape[0], -bound, bound, dtype=dtype)}


def _dense(layers: Sequence[dict[str, Tensor]], activation: Activation, features: Tensor) -> Tensor:
    """Fully connected layers to one number. ``(D,) -> ()``. Written so that a compiler fuses bias and activation."""
    for layer in layers[:-1]:
        features = activation(features @ layer["weight"].t() + layer["bias"])
    return (features * layers[-1]["weight"].squeeze(0)).sum() + layers[-1]["bias"].squeeze(0)


def _widths(name: str, widths: Sequence[int]) -> tuple[int, ...]:
    widths = (widths,) if isinstance(widths, int) else tuple(widths)
    for width in widths:
        checks.positive_int(f"each of {name}", width)
    return widths


def mlp(
    key: Key,
    size: int | Sequence[int],
    hidden: Sequence[int] = (128, 128),
    *,
    activation: Activation = torch.nn.functional.silu,
    dtype: torch.dtype | None = None,
) -> tuple[Energy, Params]:
    r"""A multilayer perceptron as an energy, :math:`E(x) = W_n\,a(\dots a(W_1 x + b_1) \dots) + b_n`.

    Args:
        key: for the first parameters, which live on its device. ``(2,)``.
        size: the event: the number of its numbers, or its shape (it is flattened).
        hidden: the widths of the hidden layers.
        activation: elementwise; smooth ones make smooth forces.
        dtype: of the parameters, by default the default dtype. Positions must have the same.

    Returns:
        ``(energy, params)``; params are a tuple of layers ``{"weight": (out, in), "bias": (out,)}``.

    The energy may fall without bound far from the data, where it has no normalizer: add ``harmonic`` to it with
    :func:`funcebm.energies.product` to confine it.

    >>> energy, params = mlp(random.key(0), 2, hidden=(16,))
    >>> torch.func.vmap(energy, in_dims=(None, 0))(params, torch.zeros(5, 2)).shape
    torch.Size([5])
    """
    shape = _widths("size", size)  # type: ignore[arg-type]
    widths = (math.prod(shape), *_widths("hidden", hidden), 1)
    keys = random.split(key, len(widths) - 1)
    params = tuple(_layer(keys[i], (widths[i + 1], widths[i]), dtype) for i in range(len(widths) - 1))

    def energy(params: Params, x: Position) -> Tensor:
        return _dense(params, activation, x.reshape(-1))

    return energy, params


def conv(
    key: Key,
    shape: Sequence[int] = (1, 8, 8),
    channels: Sequence[int] = (32, 64),
    hidden: Sequence[int] = (128,),
    *,
    activation: Activation = torch.nn.functional.silu,
    dtype: torch.dtype | None = None,
) -> tuple[Energy, Params]:
    """A small convolutional network as an energy of images.

    The first convolution is 3 x 3 and keeps the size; each further one is 4 x 4 and halves it; then come fully
    connected layers. There is no normalization layer: an energy is of one particle, and must not know its batch.

    Args:
        key: for the first parameters, which live on its device. ``(2,)``.
        shape: of an image, ``(C, H, W)`` or ``(H, W)``.
        channels: of the convolutions; ``H`` and ``W`` must divide by two to the power ``len(channels) - 1``.
        hidden: the widths of the fully connected layers between the convolutions and the energy.
        activation: elementwise; smooth ones make smooth forces.
        dtype: of the parameters, by default the default dtype. Positions must have the same.

    Returns:
        ``(energy, params)``; params are ``{"conv": layers, "dense": layers}``, tuples of
        ``{"weight": (out, in, ...), "bias": (out,)}``.

    >>> energy, params = conv(random.key(0), (8, 8), channels=(4, 8))
    >>> torch.func.vmap(energy, in_dims=(None, 0))(params, torch.zeros(5, 8, 8)).shape
    torch.Size([5])
    """
    shape, channels, hidden = tuple(shape), _widths("channels", channels), _widths("hidden", hidden)
    checks.require(len(shape) in (2, 3), "shape must be (C, H, W) or (H, W)", shape, "Give the shape of one image.")
    checks.require(len(channels) > 0, "channels must name one convolution or more", channels, "Try (32, 64).")
    planes, height, width = (1, *shape)[-3:]
    shrink = 2 ** (len(channels) - 1)
    right = height % shrink == 0 and width % shrink == 0 and min(planes, height, width) > 0
    checks.require(right, f"height and width must divide by {shrink}", shape, "Use fewer channels, or pad the images.")
    flat = channels[-1] * (height // shrink) * (width // shrink)

    sizes = [3] + [4] * (len(channels) - 1)
    inputs = (planes, *channels)
    widths = (flat, *hidden, 1)
    keys = random.split(key, len(channels) + len(widths) - 1)
    params = {
        "conv": tuple(
            _layer(keys[i], (channels[i], inputs[i], sizes[i], sizes[i]), dtype) for i in range(len(channels))
        ),
        "dense": tuple(
            _layer(keys[len(channels) + i], (widths[i + 1], widths[i]), dtype) for i in range(len(widths) - 1)
        ),
    }

    def energy(params: Params, x: Position) -> Tensor:
        features: Any = x.reshape(1, planes, height, width)
        for i, layer in enumerate(params["conv"]):
            stride = 1 if i == 0 else 2
            convolved = torch.nn.functional.conv2d(features, layer["weight"], layer["bias"], stride=stride, padding=1)
            features = activation(convolved)
        return _dense(params["dense"], activation, features.reshape(-1))

    return energy, params
