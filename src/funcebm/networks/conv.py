"""A small convolutional network."""

from __future__ import annotations

from typing import Any, Sequence

import torch
from torch import Tensor

from .. import checks, random
from ..types import Key, Params, Position
from ._layers import (
    Activation,
    Network,
    affine_layer,
    dense_layers,
    first_layer,
    image_shape,
    network_of,
    outputs_of,
    shaped,
    stack_widths,
    widths_of,
)

__all__ = ["conv"]


def conv(
    key: Key,
    shape: Sequence[int] = (1, 8, 8),
    channels: Sequence[int] = (32, 64),
    hidden: Sequence[int] = (128,),
    *,
    activation: Activation = torch.nn.functional.silu,
    condition_size: int | None = None,
    num_outputs: int | None = None,
    spectral_bound: float | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Network, Params]:
    r"""A small convolutional network of images.

    The first convolution is 3 x 3 and keeps the size; each further one is 4 x 4 and halves it; then come fully
    connected layers. There is no normalization layer: a network is a function of one particle, and must not know its batch.

    Args:
        key: for the first parameters, which live on its device. ``(2,)``.
        shape: of an image, ``(C, H, W)`` or ``(H, W)``.
        channels: of the convolutions; ``H`` and ``W`` must divide by two to the power ``len(channels) - 1``.
        hidden: the widths of the fully connected layers between the convolutions and the outputs.
        activation: elementwise; smooth ones make smooth forces.
        condition_size: if given, the network is ``(params, x, condition) -> outputs`` with a condition of so many numbers. Each
            convolution's output ``h`` becomes ``(1 + g) h + s``, gain and shift of each channel affine in the condition.
        num_outputs: how many; without it as many as ``x`` has numbers, in the shape of ``x``: a vector field.
        spectral_bound: if given, the spectral norm of each weight, set by :func:`~funcebm.networks.spectral_normalised`
            at each call.
        dtype: of the parameters, by default the default dtype. Positions must have the same.

    Returns:
        ``(network, params)``; params are ``{"conv": layers, "dense": layers}``, tuples of
        ``{"weight": (out, in, ...), "bias": (out,)}``, and ``"condition"`` where there is one. ``network.features`` gives
        the activations of the last hidden layer.

    Raises:
        ValueError: sizes that do not fit; when called, a position or a condition of another size.

    Reference: Perez et al. (2018), "FiLM: Visual reasoning with a general conditioning layer", AAAI, for the condition.

    >>> network, params = conv(random.key(0), (8, 8), channels=(4, 8), num_outputs=10)
    >>> torch.func.vmap(network, in_dims=(None, 0))(params, torch.zeros(5, 8, 8)).shape
    torch.Size([5, 10])
    """
    channels, hidden = widths_of("channels", channels), widths_of("hidden", hidden)
    checks.require(len(channels) > 0, "channels must name one convolution or more", channels, "Try (32, 64).")
    planes, height, width = image_shape(shape, len(channels) - 1)
    random.check_key(key)
    shrink = 2 ** (len(channels) - 1)
    flat = channels[-1] * (height // shrink) * (width // shrink)

    sizes = [3] + [4] * (len(channels) - 1)
    inputs = (planes, *channels)
    widths = (flat, *hidden, outputs_of(num_outputs, planes * height * width))
    layers = len(channels) + len(widths) - 1
    keys = random.split(key, layers + len(channels))
    params: dict[str, Any] = {
        "conv": tuple(
            first_layer(keys[i], (channels[i], inputs[i], sizes[i], sizes[i]), dtype) for i in range(len(channels))
        ),
        "dense": stack_widths(keys[len(channels) : layers], widths, dtype),
    }
    if condition_size is not None:
        params["condition"] = tuple(
            first_layer(keys[layers + i], (2 * channels[i], condition_size), dtype) for i in range(len(channels))
        )

    def features(params: Params, x: Position, condition: Tensor | None) -> Tensor:
        planes_now: Any = shaped(x, (1, planes, height, width))
        for i, layer in enumerate(params["conv"]):
            stride = 1 if i == 0 else 2
            planes_now = torch.nn.functional.conv2d(
                planes_now, layer["weight"], layer["bias"], stride=stride, padding=1
            )
            if condition is not None:
                gain, shift = affine_layer(params["condition"][i], condition).reshape(2, -1, 1, 1)
                planes_now = (1 + gain) * planes_now + shift
            planes_now = activation(planes_now)
        return dense_layers(params["dense"][:-1], activation, planes_now.reshape(-1))

    network = network_of(
        features,
        lambda params: params["dense"][-1],
        condition_size=condition_size,
        is_like_input=num_outputs is None,
        spectral_bound=spectral_bound,
    )
    return network, params
