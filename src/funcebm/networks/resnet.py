"""A small residual network."""

from __future__ import annotations

from typing import Any, Sequence

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d

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

__all__ = ["resnet"]


def resnet(
    key: Key,
    shape: Sequence[int] = (1, 8, 8),
    channels: Sequence[int] = (32, 64),
    hidden: Sequence[int] = (128,),
    *,
    num_blocks: int = 1,
    activation: Activation = torch.nn.functional.silu,
    condition_size: int | None = None,
    num_outputs: int | None = None,
    spectral_bound: float | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Network, Params]:
    r"""A residual convolutional network of images.

    A 3 x 3 convolution, then stages of ``num_blocks`` pre-activation blocks

    .. math:: h \leftarrow h + W_2 * a(W_1 * a(h)),

    with 3 x 3 kernels, and between the stages average pooling over 2 x 2 pixels and a 1 x 1 convolution to the next number
    of channels. The last planes go through the activation and fully connected layers to the outputs. There is no
    normalization layer: a network is a function of one particle, and must not know its batch.

    Args:
        key: for the first parameters, which live on its device. ``(2,)``.
        shape: of an image, ``(C, H, W)`` or ``(H, W)``.
        channels: of the stages; ``H`` and ``W`` must divide by two to the power ``len(channels) - 1``.
        hidden: the widths of the fully connected layers between the stages and the outputs.
        num_blocks: in each stage.
        activation: elementwise; smooth ones make smooth forces.
        condition_size: if given, the network is ``(params, x, condition) -> outputs`` with a condition of so many numbers. In
            each block :math:`W_1 * a(h)` becomes ``(1 + g) (W_1 * a(h)) + s``, with gain and shift of each channel affine in it.
        num_outputs: how many; without it as many as ``x`` has numbers, in the shape of ``x``: a vector field.
        spectral_bound: if given, the spectral norm of each weight, set by :func:`~funcebm.networks.spectral_normalised`
            at each call.
        dtype: of the parameters, by default the default dtype. Positions must have the same.

    Returns:
        ``(network, params)``; params are ``{"enter": layers, "blocks": stages, "dense": layers}``: ``enter`` holds the
        convolution before each stage, ``blocks`` for each stage a tuple of ``{"first", "second"}`` (and ``"condition"``).
        ``network.features`` gives the activations of the last hidden layer.

    Raises:
        ValueError: sizes that do not fit; when called, a position or a condition of another size.

    Reference: He et al. (2016), "Identity mappings in deep residual networks", ECCV, figure 4e; Du and
    Mordatch (2019), "Implicit generation and modeling with energy-based models", NeurIPS, for residual energies.

    >>> network, params = resnet(random.key(0), (8, 8), channels=(4, 8), hidden=(16,), num_outputs=10)
    >>> torch.func.vmap(network, in_dims=(None, 0))(params, torch.zeros(5, 8, 8)).shape
    torch.Size([5, 10])
    """
    channels, hidden = widths_of("channels", channels), widths_of("hidden", hidden)
    checks.require(len(channels) > 0, "channels must name one stage or more", channels, "Try (32, 64).")
    checks.positive_int("num_blocks", num_blocks)
    planes, height, width = image_shape(shape, len(channels) - 1)
    key_enter, key_blocks, key_dense = random.split(key, 3)
    shrink = 2 ** (len(channels) - 1)
    widths = (
        channels[-1] * (height // shrink) * (width // shrink),
        *hidden,
        outputs_of(num_outputs, planes * height * width),
    )
    params: dict[str, Any] = {
        "enter": _enter(key_enter, (planes, *channels), dtype),
        "blocks": tuple(
            tuple(_block(key, wide, condition_size, dtype) for key in random.split(key_stage, num_blocks))
            for key_stage, wide in zip(random.split(key_blocks, len(channels)), channels, strict=True)
        ),
        "dense": stack_widths(random.split(key_dense, len(widths) - 1), widths, dtype),
    }

    def features(params: Params, x: Position, condition: Tensor | None) -> Tensor:
        h = shaped(x, (1, planes, height, width))
        for i, (enter, blocks) in enumerate(zip(params["enter"], params["blocks"], strict=True)):
            h = conv2d(h if i == 0 else avg_pool2d(h, 2), enter["weight"], enter["bias"], padding=1 if i == 0 else 0)
            for block in blocks:
                h = h + _residual(block, activation, h, condition)
        return dense_layers(params["dense"][:-1], activation, activation(h).reshape(-1))

    network = network_of(
        features,
        lambda params: params["dense"][-1],
        condition_size=condition_size,
        is_like_input=num_outputs is None,
        spectral_bound=spectral_bound,
    )
    return network, params


def _enter(key: Key, channels: Sequence[int], dtype: torch.dtype | None) -> tuple[dict[str, Tensor], ...]:
    """The convolution before each stage: 3 x 3 on the image, 1 x 1 between stages."""
    keys = random.split(key, len(channels) - 1)
    sizes = [3] + [1] * (len(channels) - 2)
    return tuple(
        first_layer(keys[i], (channels[i + 1], channels[i], size, size), dtype) for i, size in enumerate(sizes)
    )


def _block(key: Key, wide: int, condition_size: int | None, dtype: torch.dtype | None) -> dict[str, Any]:
    key_first, key_second, key_condition = random.split(key, 3)
    block = {
        "first": first_layer(key_first, (wide, wide, 3, 3), dtype),
        "second": first_layer(key_second, (wide, wide, 3, 3), dtype),
    }
    if condition_size is not None:
        block["condition"] = first_layer(key_condition, (2 * wide, condition_size), dtype)
    return block


def _residual(block: dict[str, Any], activation: Activation, h: Tensor, condition: Tensor | None) -> Tensor:
    inner = conv2d(activation(h), block["first"]["weight"], block["first"]["bias"], padding=1)
    if condition is not None:
        gain, shift = affine_layer(block["condition"], condition).reshape(2, -1, 1, 1)
        inner = (1 + gain) * inner + shift
    return conv2d(activation(inner), block["second"]["weight"], block["second"]["bias"], padding=1)
