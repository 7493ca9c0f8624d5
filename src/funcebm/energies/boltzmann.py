"""Boltzmann machines: fully connected, and deep."""

from __future__ import annotations

import itertools
from typing import Callable, Protocol, Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .. import checks, graphs, random, spaces
from ..types import Key, Params, Position
from ._discrete import DiscreteEnergy, carrying, number_or, sites
from .closed_forms import Number, cast_params, to_tensor
from .exact.enumeration import log_normalizer as enumerated

__all__ = ["DeepBoltzmann", "boltzmann", "deep_boltzmann"]


def boltzmann(num_units: int, *, levels: tuple[float, float] = (0.0, 1.0)) -> DiscreteEnergy:
    r"""A Boltzmann machine, :math:`E(x) = -\tfrac12 x^\top W x - b^\top x`, every unit joined to every other.

    Only what is off the diagonal of W counts, so that training cannot give it a diagonal.

    Args:
        num_units: N.
        levels: of the units: bits by default, ``(-1.0, 1.0)`` for spins.

    Returns:
        A :class:`DiscreteEnergy` over positions ``(N,)``. ``params(weight, bias=0.0)`` makes its params, ``{"weight": (N, N),
        "bias": (N,)}``, from a symmetric matrix with a diagonal of zeros.

    Raises:
        ValueError: a bad count; from ``params``, an asymmetric matrix, or one with a diagonal; when called, a position of another
            size.

    Reference: Ackley, Hinton and Sejnowski (1985), Cognitive Science 9(1):147-169.

    >>> energy = boltzmann(3)
    >>> energy(energy.params(torch.ones(3, 3) - torch.eye(3)), torch.ones(3))
    tensor(-3.)
    """
    checks.positive_int("num_units", num_units)

    def make_params(weight: Number, bias: Number = 0.0) -> Params:
        weight = to_tensor(weight)
        shape = (num_units, num_units)
        checks.require(
            tuple(weight.shape) == shape, f"weight must be {shape}", str(tuple(weight.shape)), "One row a unit."
        )
        if checks.is_concrete(weight):
            symmetric = torch.allclose(weight, weight.mT, rtol=1e-5, atol=1e-7)
            checks.require(
                symmetric, "weight must be symmetric", "one that is not", "Use (W + W.T) / 2: each pair counts once."
            )
            empty = not bool(weight.diagonal().any())
            checks.require(
                empty, "weight must have a diagonal of zeros", "another", "Put W.diagonal() / 2 in the bias."
            )
        return {"weight": weight, "bias": number_or("bias", bias, (num_units,), weight).expand(num_units).clone()}

    def energy(params: Params, x: Position) -> Tensor:
        units = sites(x, (num_units,))
        params = cast_params(params, units)
        off_diagonal = 1 - torch.eye(num_units, dtype=units.dtype, device=units.device)
        return -(units * ((params["weight"] * off_diagonal) @ units)).sum() / 2 - (params["bias"] * units).sum()

    space = spaces.binary(num_units, levels)
    blocks = torch.eye(num_units, dtype=torch.bool)
    return carrying(energy, params=make_params, space=space, edges=graphs.complete(num_units), blocks=blocks)


class DeepBoltzmann(Protocol):
    """A deep Boltzmann machine as an energy, a plain function ``(params, x) -> ()`` of all units ``(sum(widths),)``.

    Attributes:
        params: ``(weights, biases=0.0) -> params``.
        init: ``(key, mean=None, weight_scale=0.01) -> params`` to train from; ``mean`` are means of data.
        split: ``x -> list`` of the layers, the visible one first.
        conditional: ``(params, x, block=None) -> (N,)``, the log odds of all units given the neighbouring layers.
        space: bits.
        edges: between neighbouring layers, ``(M, 2)``.
        blocks: of two colours, the layers with even and with odd numbers.
        log_normalizer: ``params -> ()``, over the smaller colour, in chunks; an error where that is too large for it.
        sample: None.
    """

    params: Callable[..., Params]
    init: Callable[..., Params]
    split: Callable[[Tensor], list[Tensor]]
    conditional: Callable[..., Tensor]
    space: spaces.Space
    edges: Tensor
    blocks: Tensor
    log_normalizer: Callable[[Params], Tensor]
    sample: None

    def __call__(self, params: Params, x: Position, /) -> Tensor:
        """The energy of one particle. ``()``."""


def deep_boltzmann(widths: Sequence[int]) -> DeepBoltzmann:
    r"""A deep Boltzmann machine: layers of bits, each joined to the next.

    .. math:: E(x) = -\sum_l x_l^\top W_l\,x_{l+1} - \sum_l b_l^\top x_l

    The layers have two colours, even and odd: given one, the other is independent. With two layers it is an RBM.

    Args:
        widths: how many units each layer has, the visible one first.

    Returns:
        A :class:`DeepBoltzmann`. Its params are ``{"weights": ((n0, n1), ...), "biases": ((n0,), ...)}``, tuples of tensors.

    Raises:
        ValueError: fewer than two layers, a bad width; when called, a position of another size.

    Reference: Salakhutdinov and Hinton (2009), AISTATS, PMLR 5:448-455.

    >>> energy = deep_boltzmann([3, 2, 2])
    >>> params = energy.params([torch.zeros(3, 2), torch.zeros(2, 2)])
    >>> energy.log_normalizer(params)  # 7 log(2)
    tensor(4.8520)
    """
    widths = tuple(widths)
    checks.require(len(widths) >= 2, "there must be two layers or more", str(widths), "Give [visible, hidden, ...].")
    edges, total = graphs.layers(widths), sum(widths)
    shapes = list(itertools.pairwise(widths))

    def make_params(weights: Sequence[Number], biases: Sequence[Number] | float = 0.0) -> Params:
        matrices = tuple(to_tensor(weight) for weight in weights)
        got = [tuple(weight.shape) for weight in matrices]
        checks.require(
            got == shapes, f"weights must have the shapes {shapes}", str(got), "One matrix between two layers."
        )
        each = [biases] * len(widths) if isinstance(biases, (int, float)) else list(biases)
        checks.require(len(each) == len(widths), f"there must be {len(widths)} biases", len(each), "One a layer.")
        pairs = zip(each, widths, strict=True)
        made = tuple(number_or("each bias", b, (n,), matrices[0]).expand(n).clone() for b, n in pairs)
        return {"weights": matrices, "biases": made}

    def init(key: Key, mean: Tensor | None = None, weight_scale: float = 0.01) -> Params:
        dtype = torch.get_default_dtype() if mean is None else mean.dtype
        keys = random.split(key, len(shapes))
        weights = [weight_scale * random.normal(k, shape, dtype=dtype) for k, shape in zip(keys, shapes, strict=True)]
        first = 0.0 if mean is None else torch.logit(mean.reshape(-1), 0.01)
        return make_params(weights, [first, *[0.0] * (len(widths) - 1)])

    def split(x: Tensor) -> list[Tensor]:
        return list(sites(x, (total,)).split(widths))

    def cast(params: Params, x: Tensor) -> Params:
        return {name: tuple(leaf.to(x.dtype) for leaf in leaves) for name, leaves in params.items()}

    def energy(params: Params, x: Position) -> Tensor:
        layers, params = split(x), cast(params, x)
        bonds = [(a @ w * b).sum() for a, w, b in zip(layers, params["weights"], layers[1:], strict=False)]
        own = [(layer * bias).sum() for layer, bias in zip(layers, params["biases"], strict=True)]
        return -torch.stack([*bonds, *own]).sum()

    def conditional(params: Params, x: Tensor, block: Tensor | None = None) -> Tensor:
        layers, params = split(x), cast(params, x)
        logits = list(params["biases"])
        for i, weight in enumerate(params["weights"]):
            logits[i] = logits[i] + weight @ layers[i + 1]
            logits[i + 1] = logits[i + 1] + layers[i] @ weight
        return torch.cat(logits)

    number = torch.cat([torch.full((n,), i) for i, n in enumerate(widths)])
    odd = number % 2 == 1
    blocks = torch.stack([~odd, odd])
    is_kept = odd if int(odd.sum()) <= int((~odd).sum()) else ~odd
    places = torch.nonzero(is_kept).flatten()

    def summed(params: Params, kept: Position) -> Tensor:
        """The energy of one colour with the other summed out."""
        x = kept.new_zeros(total).index_copy(0, places.to(kept.device), kept)
        logits = conditional(params, x)
        own = -(torch.cat(cast(params, x)["biases"]) * x).sum()
        return own - torch.where(is_kept.to(x.device), 0.0, softplus(logits)).sum()

    chunk_size = max(1, 2**21 // total)

    def log_normalizer(params: Params) -> Tensor:
        return enumerated(summed, spaces.binary(len(places)), chunk_size=chunk_size)(params)

    return carrying(
        energy,
        params=make_params,
        init=init,
        split=split,
        conditional=conditional,
        space=spaces.binary(total),
        edges=edges,
        blocks=blocks,
        log_normalizer=log_normalizer,
    )
