"""Neural energies as pure functions: ``mlp``, ``conv`` and ``resnet`` make an energy and its first parameters.

Each is a network of :mod:`funcebm.networks` with one output.
"""

from __future__ import annotations

from typing import Any, Callable, Protocol, Sequence, cast

import torch
from torch import Tensor

from .. import networks
from ..types import Key, Params, Position

__all__ = ["NeuralEnergy", "conv", "mlp", "resnet"]

Activation = Callable[[Tensor], Tensor]


class NeuralEnergy(Protocol):
    """A network as an energy, a plain function ``(params, x) -> ()``, or ``(params, x, condition) -> ()``.

    Attributes:
        features: with the same arguments, the activations of the last hidden layer ``(F,)``: the energy is one affine
            function of them. A linear probe on them says what a trained energy has learned.
    """

    features: Callable[..., Tensor]

    def __call__(self, params: Params, x: Position, /, *condition: Any) -> Tensor:
        """The energy of one particle. ``()``."""


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

    >>> from funcebm import random
    >>> energy, params = mlp(random.key(0), 2, hidden=(16,))
    >>> torch.func.vmap(energy, in_dims=(None, 0))(params, torch.zeros(5, 2)).shape
    torch.Size([5])
    >>> energy.features(params, torch.zeros(2)).shape
    torch.Size([16])
    """
    network, params = networks.mlp(
        key,
        size,
        hidden,
        activation=activation,
        embed=embed,
        condition_size=condition_size,
        num_outputs=1 if num_outputs is None else num_outputs,
        spectral_bound=spectral_bound,
        dtype=dtype,
    )
    return _energy(network, num_outputs), params


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

    >>> from funcebm import random
    >>> energy, params = conv(random.key(0), (8, 8), channels=(4, 8))
    >>> torch.func.vmap(energy, in_dims=(None, 0))(params, torch.zeros(5, 8, 8)).shape
    torch.Size([5])
    """
    network, params = networks.conv(
        key,
        shape,
        channels,
        hidden,
        activation=activation,
        condition_size=condition_size,
        num_outputs=1 if num_outputs is None else num_outputs,
        spectral_bound=spectral_bound,
        dtype=dtype,
    )
    return _energy(network, num_outputs), params


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
) -> tuple[NeuralEnergy, Params]:
    r"""A residual convolutional network as an energy of images.

    A 3 x 3 convolution, then stages of ``num_blocks`` pre-activation blocks

    .. math:: h \leftarrow h + W_2 * a(W_1 * a(h)),

    with 3 x 3 kernels, and between the stages average pooling over 2 x 2 pixels and a 1 x 1 convolution to the next number
    of channels. The last planes go through the activation and fully connected layers to one number. There is no
    normalization layer: an energy is of one particle, and must not know its batch.

    Args:
        key: for the first parameters, which live on its device. ``(2,)``.
        shape: of an image, ``(C, H, W)`` or ``(H, W)``.
        channels: of the stages; ``H`` and ``W`` must divide by two to the power ``len(channels) - 1``.
        hidden: the widths of the fully connected layers between the stages and the energy.
        num_blocks: in each stage.
        activation: elementwise; smooth ones make smooth forces.
        condition_size: if given, the energy is ``(params, x, condition) -> ()`` with a condition of so many numbers. In each
            block :math:`W_1 * a(h)` becomes ``(1 + g) (W_1 * a(h)) + s``, with gain and shift of each channel affine in it.
        num_outputs: if given, the function returns ``(num_outputs,)`` in place of a scalar: the logits of a classifier.
        spectral_bound: if given, the spectral norm of each weight, set by :func:`spectral_normalised` at each call.
        dtype: of the parameters, by default the default dtype. Positions must have the same.

    Returns:
        ``(energy, params)``; params are ``{"enter": layers, "blocks": stages, "dense": layers}``: ``enter`` holds the
        convolution before each stage, ``blocks`` for each stage a tuple of ``{"first", "second"}`` (and ``"condition"``).
        ``energy.features`` gives the activations of the last hidden layer.

    Raises:
        ValueError: sizes that do not fit; when called, a position or a condition of another size.

    Reference: He et al. (2016), "Identity mappings in deep residual networks", ECCV, figure 4e; Du and
    Mordatch (2019), "Implicit generation and modeling with energy-based models", NeurIPS, for residual energies.

    >>> from funcebm import random
    >>> energy, params = resnet(random.key(0), (8, 8), channels=(4, 8), hidden=(16,))
    >>> torch.func.vmap(energy, in_dims=(None, 0))(params, torch.zeros(5, 8, 8)).shape
    torch.Size([5])
    """
    network, params = networks.resnet(
        key,
        shape,
        channels,
        hidden,
        num_blocks=num_blocks,
        activation=activation,
        condition_size=condition_size,
        num_outputs=1 if num_outputs is None else num_outputs,
        spectral_bound=spectral_bound,
        dtype=dtype,
    )
    return _energy(network, num_outputs), params


def _energy(network: networks.Network, num_outputs: int | None) -> NeuralEnergy:
    """The one output as a scalar; with ``num_outputs`` the network itself."""
    if num_outputs is not None:
        return network

    def energy(params: Params, x: Position, *condition: Any) -> Tensor:
        hidden, layer = network.parts(params, x, *condition)
        return (hidden * layer["weight"].squeeze(0)).sum() + layer["bias"].squeeze(0)

    energy.features = network.features  # type: ignore[attr-defined]
    return cast(NeuralEnergy, energy)
