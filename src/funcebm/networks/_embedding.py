"""What networks that know a time and a label share: features of times, tables of labels, normalisation without a batch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .. import checks, random
from ..types import Key, Params
from ._layers import Layer, affine_layer

__all__ = [
    "check_labels",
    "embedding",
    "embedding_params",
    "layer_norm",
    "modulated",
    "row_of",
    "time_features",
    "xavier",
    "zeros",
]

_HIGHEST = 1000.0  # of the frequencies, in radians in a unit of time


def time_features(t: Tensor, num: int) -> Tensor:
    """Cosines and sines of ``num`` frequencies, evenly spaced on a logarithm from pi/2 to 1000; ``t`` alone for none."""
    fix = "Use torch.func.vmap for many times."
    checks.require(t.numel() == 1, "the time of a network must be one number ()", f"the shape {tuple(t.shape)}", fix)
    t = t.reshape(())
    if num == 0:
        return t.reshape(1)
    spaced = torch.arange(num, dtype=t.dtype, device=t.device) / max(num - 1, 1)
    low, high = math.log(math.pi / 2), math.log(_HIGHEST)
    phases = t * torch.exp(low + (high - low) * spaced)
    return torch.cat([torch.cos(phases), torch.sin(phases)])


def xavier(key: Key, outputs: int, inputs: int, dtype: torch.dtype | None) -> Layer:
    """A weight uniform within the square root of 6 / (in + out), and no bias."""
    bound = math.sqrt(6 / (inputs + outputs))
    weight = random.uniform(key, (outputs, inputs), -bound, bound, dtype=dtype)
    return {"weight": weight, "bias": torch.zeros_like(weight[:, 0])}


def zeros(shape: tuple[int, ...], like: Tensor) -> Layer:
    """A layer that gives nothing."""
    weight = torch.zeros(shape, dtype=like.dtype, device=like.device)
    return {"weight": weight, "bias": torch.zeros(shape[0], dtype=like.dtype, device=like.device)}


def check_labels(num_labels: int | None, num_frequencies: int) -> None:
    """Counts, at the door."""
    checks.positive_int("num_labels", 1 if num_labels is None else num_labels)
    checks.positive_int("num_frequencies", num_frequencies, minimum=0)


def embedding_params(
    key: Key, width: int, num_frequencies: int, num_labels: int | None, dtype: torch.dtype | None
) -> dict[str, Any]:
    """Two layers for the time and a table for labels, normal with deviation 0.02; the last row is of no label."""
    key_first, key_second, key_table = random.split(key, 3)
    inputs = max(2 * num_frequencies, 1)
    normal = lambda key, *shape: 0.02 * random.normal(key, shape, dtype=dtype)  # noqa: E731
    first, second = normal(key_first, width, inputs), normal(key_second, width, width)
    bias = torch.zeros_like(second[0])
    params: dict[str, Any] = {
        "first": {"weight": first, "bias": bias},
        "second": {"weight": second, "bias": bias.clone()},
    }
    if num_labels is not None:
        params["table"] = normal(key_table, num_labels + 1, width)
    return params


def row_of(table: Tensor, label: Tensor) -> Tensor:
    """The row of a label: an index ``()``, or weights of the rows ``(K,)`` or of all but the last ``(K - 1,)``.

    NaN where there is no such row and nobody can look, as in a compiled program.
    """
    num = table.shape[0]
    label = torch.as_tensor(label, device=table.device)
    if label.dim() == 0:
        # one product rather than a look-up, which has no quick derivative under vmap
        is_row = torch.arange(num, device=table.device) == label
        if checks.is_concrete(label) and label.device.type == "cpu":
            got, fix = str(label.item()), f"There are {num - 1} labels from 0 on; {num - 1} itself is no label."
            checks.require(bool(is_row.any()), f"a label must be an index below {num}", got, fix)
        label = torch.where(is_row.any(), is_row.to(table.dtype), torch.nan)
    right = label.numel() in (num, num - 1)
    must = f"a label must be an index below {num} or weights ({num - 1},)"
    checks.require(right, must, f"the shape {tuple(label.shape)}", "Index it, or pass one label without a batch axis.")
    return label.to(table.dtype) @ table[: label.numel()]


def embedding(params: Params, t: Tensor, condition: tuple[Tensor, ...], num_frequencies: int, like: Tensor) -> Tensor:
    """What blocks are told: of the time, and of the label where there is one. ``(width,)``."""
    expected = int("table" in params)
    must = "this network is a function of (params, t, x, label)" if expected else "of (params, t, x), without a label"
    checks.require(len(condition) == expected, must, f"{len(condition)} labels", "See num_labels.", TypeError)
    time = torch.as_tensor(t, dtype=like.dtype, device=like.device)
    hidden = torch.nn.functional.silu(affine_layer(params["first"], time_features(time, num_frequencies)))
    told = affine_layer(params["second"], hidden)
    return told + row_of(params["table"], condition[0]) if condition else told


def layer_norm(x: Tensor) -> Tensor:
    """Each row of mean 0 and variance 1, without parameters."""
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + 1e-6)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """A normalised row, shifted and scaled by what the block is told."""
    return layer_norm(x) * (1 + scale) + shift
