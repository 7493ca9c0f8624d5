"""The multilayer perceptron."""

from __future__ import annotations

import math
from typing import Callable, Sequence

import torch
from torch import Tensor

from .. import random
from ..types import Key, Params, Position
from ._layers import (
    Activation,
    Network,
    dense_layers,
    network_of,
    outputs_of,
    shaped,
    stack_widths,
    widths_of,
)

__all__ = ["mlp"]


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
) -> tuple[Network, Params]:
    r"""A multilayer perceptron as a function, :math:`f(x) = W_n\,a(\dots a(W_1 x + b_1) \dots) + b_n`.

    Args:
        key: for the first parameters, which live on its device. ``(2,)``.
        size: the event: the number of its numbers, or its shape (it is flattened).
        hidden: the widths of the hidden layers.
        activation: elementwise; smooth ones make smooth forces.
        embed: what the network sees in place of ``x``, a function of a position of shape ``size``, such as
            :func:`funcebm.energies.fourier_features`.
        condition_size: if given, the network is ``(params, x, condition) -> outputs`` with a condition of so many numbers (a
            noise scale, a label as one-hot vector, the known part of an image), which goes into the first layer beside
            ``x``. Fix it with :func:`funcebm.energies.given`.
        num_outputs: how many; without it as many as ``x`` has numbers, in the shape of ``x``: a vector field.
        spectral_bound: if given, the spectral norm of each weight, set by :func:`~funcebm.networks.spectral_normalised`
            at each call.
        dtype: of the parameters, by default the default dtype. Positions must have the same.

    Returns:
        ``(network, params)``; params are a tuple of layers ``{"weight": (out, in), "bias": (out,)}``. ``network.features``
        gives the activations of the last hidden layer.

    Raises:
        ValueError: sizes that are not positive; when called, a position or a condition of another size.

    >>> network, params = mlp(random.key(0), 2, hidden=(16,))
    >>> torch.func.vmap(network, in_dims=(None, 0))(params, torch.zeros(5, 2)).shape
    torch.Size([5, 2])
    >>> network.features(params, torch.zeros(2)).shape
    torch.Size([16])
    """
    shape = widths_of("size", size)
    random.check_key(key)
    seen = torch.zeros(shape, device=key.device, dtype=dtype)
    inputs = (seen if embed is None else embed(seen)).numel()
    outputs = outputs_of(num_outputs, math.prod(shape))
    widths = (inputs + (condition_size or 0), *widths_of("hidden", hidden), outputs)
    params = stack_widths(random.split(key, len(widths) - 1), widths, dtype)

    def features(params: Params, x: Position, condition: Tensor | None) -> Tensor:
        seen = shaped(x, shape)
        seen = seen.reshape(-1) if embed is None else embed(seen).reshape(-1)
        if condition is not None:
            seen = torch.cat([seen, condition])
        return dense_layers(params[:-1], activation, seen)

    network = network_of(
        features,
        lambda params: params[-1],
        condition_size=condition_size,
        is_like_input=num_outputs is None,
        spectral_bound=spectral_bound,
    )
    return network, params
