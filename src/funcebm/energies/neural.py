"""Neural energies as pure functions: ``mlp`` and ``conv`` make an energy and its first parameters."""

from __future__ import annotations

from typing import Any, Callable, Sequence

import torch
from torch import Tensor

from .. import checks, random
from ..types import Key, Params, Position
from ._layers import (
    Activation,
    NeuralEnergy,
    affine,
    dense,
    event,
    first_layer,
    image_shape,
    neural,
    stack_widths,
    widths_of,
)

__all__ = ["conv", "mlp"]


def mlp(
    key: Key,
    size: int | Sequence[int],
    hidden: Sequence[int] = (128, 128),
    *,
    activation: Activation = torch.nn.functional.silu,
    embed: Callable[[Tensor], Tensor] | None = None,
    condition_size: int | None = None,
    num_outputs: int | None = None,
    spectral_bound: float | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[NeuralEnergy, Params]:
    r"""A multilayer perceptron as an energy, :math:`E(x) = W_n\,a(\dots a(W_1 x + b_1) \dots) + b_n`.

    Args:
        key: for the first parameters, which live on its device. ``(2,)``.
        size: the event: the number of its numbers, or its shape (it is flattened).
        hidden: the widths of the hidden layers.
        activation: elementwise; smooth ones make smooth forces.
        embed: what the network sees in place of ``x``, a function of a position of shape ``size``, such as
            :func:`fourier_features`.
        condition_size: if given, the energy is ``(params, x, condition) -> ()`` with a condition of so many numbers (a
            noise scale, a label as one-hot vector, the known part of an image), which goes into the first layer beside
            ``x``. Fix it with :func:`given`.
        num_outputs: if given, the function returns ``(num_outputs,)`` in place of a scalar: the logits of a classifier.
        spectral_bound: if given, the spectral norm of each weight, set by :func:`spectral_normalised` at each call.
        dtype: of the parameters, by default the default dtype. Positions must have the same.

    Returns:
        ``(energy, params)``; params are a tuple of layers ``{"weight": (out, in), "bias": (out,)}``. ``energy.features``
        gives the activations of the last hidden layer.

    Raises:
        ValueError: sizes that are not positive; when called, a position or a condition of another size.

    The energy may fall without bound far from the data, where it has no normalizer: :func:`confined` adds a wall.

    >>> energy, params = mlp(random.key(0), 2, hidden=(16,))
    >>> torch.func.vmap(energy, in_dims=(None, 0))(params, torch.zeros(5, 2)).shape
    torch.Size([5])
    >>> energy.features(params, torch.zeros(2)).shape
    torch.Size([16])
    """
    shape = widths_of("size", size)
    random.check_key(key)
    seen = torch.zeros(shape, device=key.device, dtype=dtype)
    inputs = (seen if embed is None else embed(seen)).numel()
    outputs = _outputs(num_outputs)
    widths = (inputs + (condition_size or 0), *widths_of("hidden", hidden), outputs)
    params = stack_widths(random.split(key, len(widths) - 1), widths, dtype)

    def features(params: Params, x: Position, condition: Tensor | None) -> Tensor:
        seen = event(x, shape)
        seen = seen.reshape(-1) if embed is None else embed(seen).reshape(-1)
        if condition is not None:
            seen = torch.cat([seen, condition])
        return dense(params[:-1], activation, seen)

    energy = neural(
        features,
        lambda params: params[-1],
        condition_size=condition_size,
        num_outputs=num_outputs,
        spectral_bound=spectral_bound,
    )
    return energy, params


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
) -> tuple[NeuralEnergy, Params]:
    r"""A small convolutional network as an energy of images.

    The first convolution is 3 x 3 and keeps the size; each further one is 4 x 4 and halves it; then come fully
    connected layers. There is no normalization layer: an energy is of one particle, and must not know its batch.

    Args:
        key: for the first parameters, which live on its device. ``(2,)``.
        shape: of an image, ``(C, H, W)`` or ``(H, W)``.
        channels: of the convolutions; ``H`` and ``W`` must divide by two to the power ``len(channels) - 1``.
        hidden: the widths of the fully connected layers between the convolutions and the energy.
        activation: elementwise; smooth ones make smooth forces.
        condition_size: if given, the energy is ``(params, x, condition) -> ()`` with a condition of so many numbers. Each
            convolution's output ``h`` becomes ``(1 + g) h + s``, gain and shift of each channel affine in the condition.
        num_outputs: if given, the function returns ``(num_outputs,)`` in place of a scalar: the logits of a classifier.
        spectral_bound: if given, the spectral norm of each weight, set by :func:`spectral_normalised` at each call.
        dtype: of the parameters, by default the default dtype. Positions must have the same.

    Returns:
        ``(energy, params)``; params are ``{"conv": layers, "dense": layers}``, tuples of
        ``{"weight": (out, in, ...), "bias": (out,)}``, and ``"condition"`` where there is one. ``energy.features`` gives
        the activations of the last hidden layer.

    Raises:
        ValueError: sizes that do not fit; when called, a position or a condition of another size.

    Reference: Perez et al. (2018), "FiLM: Visual reasoning with a general conditioning layer", AAAI, for the condition.

    >>> energy, params = conv(random.key(0), (8, 8), channels=(4, 8))
    >>> torch.func.vmap(energy, in_dims=(None, 0))(params, torch.zeros(5, 8, 8)).shape
    torch.Size([5])
    """
    channels, hidden = widths_of("channels", channels), widths_of("hidden", hidden)
    checks.require(len(channels) > 0, "channels must name one convolution or more", channels, "Try (32, 64).")
    planes, height, width = image_shape(shape, len(channels) - 1)
    random.check_key(key)
    shrink = 2 ** (len(channels) - 1)
    flat = channels[-1] * (height // shrink) * (width // shrink)

    sizes = [3] + [4] * (len(channels) - 1)
    inputs = (planes, *channels)
    widths = (flat, *hidden, _outputs(num_outputs))
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
        planes_now: Any = event(x, (1, planes, height, width))
        for i, layer in enumerate(params["conv"]):
            stride = 1 if i == 0 else 2
            planes_now = torch.nn.functional.conv2d(
                planes_now, layer["weight"], layer["bias"], stride=stride, padding=1
            )
            if condition is not None:
                gain, shift = affine(params["condition"][i], condition).reshape(2, -1, 1, 1)
                planes_now = (1 + gain) * planes_now + shift
            planes_now = activation(planes_now)
        return dense(params["dense"][:-1], activation, planes_now.reshape(-1))

    energy = neural(
        features,
        lambda params: params["dense"][-1],
        condition_size=condition_size,
        num_outputs=num_outputs,
        spectral_bound=spectral_bound,
    )
    return energy, params


def _outputs(num_outputs: int | None) -> int:
    if num_outputs is not None:
        checks.positive_int("num_outputs", num_outputs)
    return num_outputs or 1
