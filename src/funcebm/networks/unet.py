"""A U-Net for small images."""

from __future__ import annotations

import math
from typing import Any, Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d, silu

from .. import checks, random
from ..types import Key, Params
from ._embedding import check_labels, embedding, embedding_params, xavier, zeros
from ._layers import Layer, affine_layer, first_layer, image_shape, shaped, widths_of

__all__ = ["unet"]


def _group_norm(params: Layer, x: Tensor, num_groups: int) -> Tensor:
    """Groups of planes of one image of mean 0 and variance 1, then scaled and shifted."""
    # planes keep their shape: a compiler writes plain loops
    grouped = x.reshape(num_groups, -1, *x.shape[1:])
    centred = grouped - grouped.mean((1, 2, 3), keepdim=True)
    unit = centred * torch.rsqrt(centred.square().mean((1, 2, 3), keepdim=True) + 1e-5)
    weight, bias = (params[name].reshape(num_groups, -1, 1, 1) for name in ("weight", "bias"))
    return (unit * weight + bias).reshape(x.shape)


def _norm(channels: int, like: Tensor) -> Layer:
    return {**zeros((channels,), like), "weight": torch.ones(channels, dtype=like.dtype, device=like.device)}


def _convolved(layer: Layer, x: Tensor, stride: int = 1) -> Tensor:
    size = layer["weight"].shape[-1]
    return conv2d(x[None], layer["weight"], layer["bias"], stride=stride, padding=size // 2)[0]


def unet(
    key: Key,
    shape: Sequence[int] = (1, 8, 8),
    channels: Sequence[int] = (32, 64),
    *,
    num_blocks: int = 2,
    num_groups: int = 8,
    num_heads: int = 4,
    attention: bool = True,
    num_frequencies: int = 64,
    num_labels: int | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Callable[..., Tensor], Params]:
    r"""A U-Net, told the time and a label in every block: a vector field of small images.

    Going down, each level has ``num_blocks`` residual blocks (group normalisation, SiLU, 3 x 3 convolution, twice; the time and
    the label scale and shift the second normalisation) and a convolution that halves the size; in the middle are two blocks
    with attention between them; going up, the levels see what they were on the way down. Groups are of one image: no image
    knows its batch. The second convolution of each block and the last of all start at zero, and with them the field.

    Args:
        key: for the first parameters, which live on its device. ``(2,)``.
        shape: of an image, ``(C, H, W)`` or ``(H, W)``.
        channels: of the levels; ``H`` and ``W`` must divide by two to the power ``len(channels) - 1``.
        num_blocks: in each level.
        num_groups: of the normalisation, which divides all channels.
        num_heads: of the attention, which divides the last of the channels.
        attention: whether the smallest level has it.
        num_frequencies: of the features of the time.
        num_labels: K, if the network takes a label: then it is ``(params, t, x, label)``, with an index ``()`` up to K
            (K itself: no label, for guidance), or weights ``(K,)``.
        dtype: of the parameters, by default the default dtype. Positions must have the same.

    Returns:
        ``(network, params)``; the network is ``(params, t, x) -> like x``.

    Raises:
        ValueError: sizes that do not fit; when called, a position or a label of another size.
        TypeError: when called, a label too many or too few.

    Reference: Ronneberger, Fischer and Brox (2015), MICCAI, arXiv:1505.04597; Ho, Jain and Abbeel (2020), NeurIPS,
    arXiv:2006.11239; Dhariwal and Nichol (2021), NeurIPS, arXiv:2105.05233, for scales and shifts.

    >>> network, params = unet(random.key(0), (8, 8), channels=(8, 16), num_blocks=1)
    >>> network(params, torch.tensor(0.5), torch.ones(8, 8)).abs().max()
    tensor(0.)
    """
    channels = widths_of("channels", channels)
    checks.require(len(channels) > 0, "channels must name one level or more", channels, "Try (32, 64).")
    for name, count in (("num_blocks", num_blocks), ("num_groups", num_groups), ("num_heads", num_heads)):
        checks.positive_int(name, count)
    right = all(count % num_groups == 0 for count in channels)
    checks.require(right, "num_groups must divide all channels", f"{num_groups} and {channels}", "Try 8.")
    right = channels[-1] % num_heads == 0
    checks.require(right, "num_heads must divide the last of the channels", f"{num_heads} and {channels}", "Try 4.")
    check_labels(num_labels, num_frequencies)
    planes, height, breadth = image_shape(shape, len(channels) - 1)
    told_width = 4 * channels[0]
    levels = range(len(channels))
    keys = iter(random.split(key, 8 + len(channels) * (2 * num_blocks + 4)).unbind(0))

    def block(inputs: int, outputs: int) -> Params:
        key_first, key_told, key_skip = random.split(next(keys), 3)
        first = first_layer(key_first, (outputs, inputs, 3, 3), dtype)
        like = first["weight"]
        made = {
            "norm_first": _norm(inputs, like),
            "first": first,
            "told": xavier(key_told, 2 * outputs, told_width, dtype),
            "norm_second": _norm(outputs, like),
            "second": zeros((outputs, outputs, 3, 3), like),
        }
        if inputs != outputs:
            made["skip"] = first_layer(key_skip, (outputs, inputs, 1, 1), dtype)
        return made

    enter = first_layer(next(keys), (channels[0], planes, 3, 3), dtype)
    like = enter["weight"]
    params: dict[str, Any] = {"embedding": embedding_params(next(keys), told_width, num_frequencies, num_labels, dtype)}
    params["enter"] = enter
    seen, now = [channels[0]], channels[0]
    down = []
    for i in levels:
        blocks = []
        for _ in range(num_blocks):
            blocks.append(block(now, channels[i]))
            now = channels[i]
            seen.append(now)
        part: dict[str, Any] = {"blocks": tuple(blocks)}
        if i < len(channels) - 1:
            part["halve"] = first_layer(next(keys), (now, now, 3, 3), dtype)
            seen.append(now)
        down.append(part)
    params["down"] = tuple(down)
    params["middle"] = (block(now, now), block(now, now))
    if attention:
        params["attention"] = {
            "norm": _norm(now, like),
            "qkv": xavier(next(keys), 3 * now, now, dtype),
            "out": zeros((now, now), like),
        }
    up = []
    for i in reversed(levels):
        blocks = []
        for _ in range(num_blocks + 1):
            blocks.append(block(now + seen.pop(), channels[i]))
            now = channels[i]
        part = {"blocks": tuple(blocks)}
        if i > 0:
            part["double"] = first_layer(next(keys), (now, now, 3, 3), dtype)
        up.append(part)
    params["up"] = tuple(up)
    params["leave"] = {"norm": _norm(now, like), "conv": zeros((planes, now, 3, 3), like)}

    def residual(part: Params, x: Tensor, told: Tensor) -> Tensor:
        h = _convolved(part["first"], silu(_group_norm(part["norm_first"], x, num_groups)))
        scale, shift = affine_layer(part["told"], told).reshape(2, -1, 1, 1)
        h = silu(_group_norm(part["norm_second"], h, num_groups) * (1 + scale) + shift)
        return (_convolved(part["skip"], x) if "skip" in part else x) + _convolved(part["second"], h)

    def attended(part: Params, x: Tensor) -> Tensor:
        tokens = _group_norm(part["norm"], x, num_groups).flatten(1).T
        query, key, value = affine_layer(part["qkv"], tokens).reshape(len(tokens), 3, num_heads, -1).permute(1, 2, 0, 3)
        weights = torch.softmax(query @ key.mT / math.sqrt(query.shape[-1]), -1)
        mixed = (weights @ value).transpose(0, 1).reshape(len(tokens), -1)
        return x + affine_layer(part["out"], mixed).T.reshape(x.shape)

    def network(params: Params, t: Tensor, x: Tensor, *label: Tensor) -> Tensor:
        told = silu(embedding(params["embedding"], t, label, num_frequencies, x))
        h = _convolved(params["enter"], shaped(x, (planes, height, breadth)))
        passed = [h]
        for level in params["down"]:
            for part in level["blocks"]:
                h = residual(part, h, told)
                passed.append(h)
            if "halve" in level:
                h = _convolved(level["halve"], h, stride=2)
                passed.append(h)
        h = residual(params["middle"][0], h, told)
        if attention:
            h = attended(params["attention"], h)
        h = residual(params["middle"][1], h, told)
        for level in params["up"]:
            for part in level["blocks"]:
                h = residual(part, torch.cat([h, passed.pop()]), told)
            if "double" in level:
                planes_now, rows, columns = h.shape
                doubled = h[:, :, None, :, None].expand(planes_now, rows, 2, columns, 2)
                h = _convolved(level["double"], doubled.reshape(planes_now, 2 * rows, 2 * columns))
        h = silu(_group_norm(params["leave"]["norm"], h, num_groups))
        return _convolved(params["leave"]["conv"], h).reshape(x.shape)

    return network, params
