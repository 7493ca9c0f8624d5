"""A transformer of image patches in the manner of DiT."""

from __future__ import annotations

import math
from typing import Any, Callable, Sequence

import torch
from torch import Tensor

from .. import checks, random
from ..types import Key, Params
from ._embedding import check_labels, embedding, embedding_params, layer_norm, modulated, xavier, zeros
from ._layers import affine_layer, shaped, widths_of

__all__ = ["transformer"]

_POSITIONS = ("sine", "rotary")


def _sine_table(rows: int, columns: int, width: int) -> Tensor:
    """Fixed two-dimensional cosines and sines: half of the width tells the row, half the column. ``(N, width)``."""
    quarter = width // 4
    rates = torch.exp(-math.log(10000.0) * torch.arange(quarter, dtype=torch.float64) / quarter)
    parts = []
    for count, shape in ((rows, (rows, 1)), (columns, (1, columns))):
        phases = torch.arange(count, dtype=torch.float64)[:, None] * rates
        waves = torch.cat([torch.sin(phases), torch.cos(phases)], 1)
        parts.append(waves.reshape(*shape, -1).expand(rows, columns, -1))
    return torch.cat(parts, -1).reshape(rows * columns, -1)


def _angles(rows: int, columns: int, size: int) -> Tensor:
    """The angles of rotary positions: half of the pairs of a head turn with the row, half with the column. ``(N, size / 2)``."""
    quarter = size // 4
    rates = torch.exp(-math.log(100.0) * torch.arange(quarter, dtype=torch.float64) / quarter)
    row = torch.arange(rows, dtype=torch.float64)[:, None, None] * rates
    column = torch.arange(columns, dtype=torch.float64)[None, :, None] * rates
    both = [row.expand(rows, columns, quarter), column.expand(rows, columns, quarter)]
    return torch.cat(both, -1).reshape(rows * columns, -1)


def _rotated(x: Tensor, angles: Tensor) -> Tensor:
    """Pairs of numbers ``(heads, N, size)``, turned."""
    first, second = x.chunk(2, -1)
    cos, sin = torch.cos(angles), torch.sin(angles)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


def _attention(params: Params, x: Tensor, num_heads: int, angles: Tensor | None) -> Tensor:
    """Softmax attention in plain operations, which can be differentiated as often as one likes. ``(N, width)``."""
    num = x.shape[0]
    query, key, value = affine_layer(params["qkv"], x).reshape(num, 3, num_heads, -1).permute(1, 2, 0, 3)
    if angles is not None:
        query, key = _rotated(query, angles), _rotated(key, angles)
    weights = torch.softmax(query @ key.mT / math.sqrt(query.shape[-1]), -1)
    return affine_layer(params["out"], (weights @ value).transpose(0, 1).reshape(num, -1))


def transformer(
    key: Key,
    shape: Sequence[int] = (1, 8, 8),
    patch_size: int = 2,
    width: int = 128,
    depth: int = 4,
    num_heads: int = 4,
    *,
    ratio: int = 4,
    num_frequencies: int = 64,
    num_labels: int | None = None,
    positions: str = "sine",
    dtype: torch.dtype | None = None,
) -> tuple[Callable[..., Tensor], Params]:
    r"""A transformer of patches, told the time and a label by its normalisations (adaLN-zero): a vector field of images.

    Each block is :math:`h \leftarrow h + g_1 \cdot A((1 + s_1) N(h) + b_1)` with attention A, then the same with a two-layer
    network (tanh GELU); shifts b, scales s and gates g are affine in what the time and the label say. The gates and the last
    layer start at zero, so that at first blocks are the identity and the field is zero.

    Args:
        key: for the first parameters, which live on its device. ``(2,)``.
        shape: of an image, ``(C, H, W)`` or ``(H, W)``, square or not.
        patch_size: of the patches, which divides H and W.
        width: of a patch's vector, which 4 and ``num_heads`` divide.
        depth: how many blocks.
        num_heads: of the attention.
        ratio: of the inner width of the two-layer network.
        num_frequencies: of the features of the time.
        num_labels: K, if the network takes a label: then it is ``(params, t, x, label)``, with an index ``()`` up to K
            (K itself: no label, for guidance), or weights ``(K,)``.
        positions: ``"sine"``, a fixed table that is added at the start, or ``"rotary"``, turned into queries and keys, for
            which 4 divides the size of a head.
        dtype: of the parameters, by default the default dtype. Positions must have the same.

    Returns:
        ``(network, params)``; the network is ``(params, t, x) -> like x``. The sizes of the paper (depth, width, heads): S 12,
        384, 6; B 12, 768, 12; L 24, 1024, 16; XL 28, 1152, 16.

    Raises:
        ValueError: sizes that do not fit; when called, a position or a label of another size.
        TypeError: when called, a label too many or too few.

    Reference: Peebles and Xie (2023), "Scalable diffusion models with transformers", ICCV, arXiv:2212.09748; Su et al. (2021),
    arXiv:2104.09864, for rotary positions.

    >>> network, params = transformer(random.key(0), (8, 8), width=16, depth=1, num_heads=2)
    >>> network(params, torch.tensor(0.5), torch.ones(8, 8)).abs().max()
    tensor(0.)
    """
    shape = widths_of("shape", shape)
    for name, count in (
        ("patch_size", patch_size),
        ("width", width),
        ("depth", depth),
        ("num_heads", num_heads),
        ("ratio", ratio),
    ):
        checks.positive_int(name, count)
    checks.require(len(shape) in (2, 3), "shape must be (C, H, W) or (H, W)", shape, "Give the shape of one image.")
    planes, height, breadth = (1, *shape)[-3:]
    right = height % patch_size == 0 and breadth % patch_size == 0
    checks.require(right, f"height and width must divide by {patch_size}", shape, "Choose another patch_size.")
    right = width % (4 if positions == "sine" else 1) == 0 and width % num_heads == 0
    checks.require(right, "4 and num_heads must divide the width", width, "Try a width of 32 for each head.")
    checks.require(positions in _POSITIONS, 'positions must be "sine" or "rotary"', positions, 'Try "sine".')
    right = positions == "sine" or (width // num_heads) % 4 == 0
    checks.require(right, "for rotary positions 4 must divide the size of a head", width // num_heads, "Widen it.")
    check_labels(num_labels, num_frequencies)
    rows, columns, of_patch = height // patch_size, breadth // patch_size, planes * patch_size**2

    key_embed, key_enter, key_blocks = random.split(key, 3)

    def block(key: Key) -> Params:
        key_qkv, key_out, key_up, key_down = random.split(key, 4)
        up = xavier(key_up, ratio * width, width, dtype)
        return {
            "qkv": xavier(key_qkv, 3 * width, width, dtype),
            "out": xavier(key_out, width, width, dtype),
            "up": up,
            "down": xavier(key_down, width, ratio * width, dtype),
            "modulation": zeros((6 * width, width), up["weight"]),
        }

    enter = xavier(key_enter, width, of_patch, dtype)
    params: dict[str, Any] = {
        "embedding": embedding_params(key_embed, width, num_frequencies, num_labels, dtype),
        "enter": enter,
        "blocks": tuple(block(k) for k in random.split(key_blocks, depth)),
        "modulation": zeros((2 * width, width), enter["weight"]),
        "leave": zeros((of_patch, width), enter["weight"]),
    }
    is_sine = positions == "sine"
    table = _sine_table(rows, columns, width) if is_sine else _angles(rows, columns, width // num_heads)

    def network(params: Params, t: Tensor, x: Tensor, *label: Tensor) -> Tensor:
        image = shaped(x, (planes, rows, patch_size, columns, patch_size))
        patches = image.permute(1, 3, 2, 4, 0).reshape(rows * columns, of_patch)
        told = torch.nn.functional.silu(embedding(params["embedding"], t, label, num_frequencies, x))
        where = table.to(x)
        h = affine_layer(params["enter"], patches)
        h = h + where if is_sine else h
        for part in params["blocks"]:
            numbers = affine_layer(part["modulation"], told).chunk(6)
            inside = modulated(h, numbers[0], numbers[1])
            h = h + numbers[2] * _attention(part, inside, num_heads, None if is_sine else where)
            inside = torch.nn.functional.gelu(
                affine_layer(part["up"], modulated(h, numbers[3], numbers[4])), approximate="tanh"
            )
            h = h + numbers[5] * affine_layer(part["down"], inside)
        shift, scale = affine_layer(params["modulation"], told).chunk(2)
        out = affine_layer(params["leave"], layer_norm(h) * (1 + scale) + shift)
        image = out.reshape(rows, columns, patch_size, patch_size, planes).permute(4, 0, 2, 1, 3)
        return image.reshape(x.shape)

    return network, params
