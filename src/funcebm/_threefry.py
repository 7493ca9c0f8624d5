"""The generator under :mod:`funcebm.random`: Threefry-2x32-20, over grids of keys and counters.

All draws go through one custom operator over a grid of keys and counters. Large draws run a compiled kernel, small ones
(and all where there is no compiler) plain tensor operations; the random words are the same bit for bit.

Reference: Salmon, Moraes, Dror and Shaw (2011), "Parallel random numbers: as easy as 1, 2, 3", SC11.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Callable

import torch
from torch import Tensor

from ._torch import threefry_kernels
from ._torch.recorder import real_arange
from ._torch.tracing import is_mapped, is_tracing
from .types import Key

__all__ = [
    "BITS",
    "FOLD",
    "NORMAL32",
    "NORMAL64",
    "SPLIT",
    "WORDS",
    "blocks",
    "numbered_blocks",
    "open_uniform32",
    "open_uniform64",
    "plain_blocks",
    "threefry",
]

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
BITS, SPLIT, FOLD = 0, 1, 2  # the high counter word keeps the three uses of a key apart
WORDS, NORMAL32, NORMAL64 = 0, 1, 2  # what the operator makes of a block
_LANES = 16  # lanes; a shorter axis is no good as the innermost one

# -- the generator ------------------------------------------------------------------------------------------------


def _rotate_left(word: Tensor, distance: int) -> Tensor:
    return (word << distance) | ((word >> (32 - distance)) & ((1 << distance) - 1))


def _block(key0: Tensor, key1: Tensor, high: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
    """One Threefry-2x32-20 block, elementwise on int32 words."""
    schedule = (key0, key1, key0 ^ key1 ^ _PARITY)
    x0, x1 = high + key0, low + key1
    for group in range(5):
        for distance in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = _rotate_left(x1, distance) ^ x0
        x0 = x0 + schedule[(group + 1) % 3]
        x1 = x1 + schedule[(group + 2) % 3] + (group + 1)
    return x0, x1


def threefry(key: Tensor, counter: Tensor) -> Tensor:
    """The Threefry-2x32-20 block function. ``(..., 2), (..., 2) -> (..., 2)`` int32 words; plain tensor operations.

    >>> words = threefry(torch.zeros(2, dtype=torch.int32), torch.zeros(2, dtype=torch.int32))
    >>> [f"{int(word) % 2**32:08x}" for word in words]
    ['6b200159', '99ba4efe']
    """
    return torch.stack(_block(key[..., 0], key[..., 1], counter[..., 0], counter[..., 1]), -1)


def _box_muller(radius_uniform: Tensor, turns: Tensor) -> tuple[Tensor, Tensor]:
    """Two standard normals from ``u`` in (0, 1] and an angle in half turns, in [-1, 1)."""
    radius = torch.sqrt(-2 * torch.log(radius_uniform))
    angle = turns * math.pi
    return radius * torch.cos(angle), radius * torch.sin(angle)


def open_uniform64(word0: Tensor, word1: Tensor) -> Tensor:
    """A 53-bit uniform in (0, 1) from two words."""
    high = (word0.double() + 2.0**31) * 2.0**-32
    return high + (((word1 >> 11) & 0x1FFFFF).double() + 0.5) * 2.0**-53


def open_uniform32(word: Tensor) -> Tensor:
    """A uniform in (0, 1] from one word, of 31 bits near zero."""
    return (((word >> 1) & 0x7FFFFFFF).float() + 0.5) * 2.0**-31


def _outputs(key0: Tensor, key1: Tensor, high: Tensor, low: Tensor, kind: int) -> tuple[Tensor, Tensor]:
    """The two outputs of a block (of two blocks for float64 normals), elementwise."""
    if kind == NORMAL64:
        first = _block(key0, key1, high, 2 * low)
        second = _block(key0, key1, high, 2 * low + 1)
        return _box_muller(open_uniform64(*first), 2 * open_uniform64(*second) - 1)
    word0, word1 = _block(key0, key1, high, low)
    if kind == NORMAL32:
        return _box_muller(open_uniform32(word0), word1.float() * 2.0**-31)
    return word0, word1


def _grid_over_counters(key0: Tensor, key1: Tensor, counter: Tensor, high: Tensor, kind: int) -> Tensor:
    """Words of keys ``(K, 1)`` and counters ``(R, m)``, ``R`` 1 or ``K``, to ``(K, 2, m)``: counters are the innermost axis."""
    return torch.stack(_outputs(key0, key1, high, counter, kind), 1)


def _grid_over_keys(key0: Tensor, key1: Tensor, counter: Tensor, high: Tensor, kind: int) -> Tensor:
    """The transposed grid, ``(K,), (m, R) -> (2, m, K)``: keys are the innermost axis."""
    return torch.stack(_outputs(key0, key1, high, counter, kind), 0)


# -- the operator -------------------------------------------------------------------------------------------------


def plain_blocks(key: Tensor, counter: Tensor, domain: int, kind: int) -> Tensor:
    """The operator as plain tensor operations: keys ``(K, 2)``, counters ``(R, m)``, ``R`` 1 or ``K``, to ``(K, 2, m)``."""
    high = torch.full((), domain, dtype=torch.int32, device=key.device)
    num_keys, num_counters = key.shape[0], counter.shape[1]
    if _has_planes(num_counters) and num_keys > 1:
        return _grid_over_keys(key[:, 0], key[:, 1], counter.t(), high, kind).permute(2, 0, 1)
    return _grid_over_counters(key[:, :1], key[:, 1:], counter, high, kind)


def _has_planes(num_counters: int) -> bool:
    """Whether the result lies in memory as ``(2, m, K)``.

    ``K`` has no say in it: the strides of a run's noise, and its rounding, must not depend on how the run is cut.
    """
    return num_counters < _LANES


def _like(key: Tensor, counter: Tensor, kind: int) -> Tensor:
    """Memory for the result."""
    dtype = (torch.int32, torch.float32, torch.float64)[kind]
    num_keys, num_counters = key.shape[0], counter.shape[1]
    if _has_planes(num_counters) and num_keys > 1:
        return torch.empty(2, num_counters, num_keys, dtype=dtype, device=key.device).permute(2, 0, 1)
    return torch.empty(num_keys, 2, num_counters, dtype=dtype, device=key.device)


def _draw_blocks(key: Tensor, counter: Tensor, domain: int, kind: int) -> Tensor:
    """The operator: keys ``(K, 2)``, counters ``(R, m)`` with ``R`` 1 or ``K``, to ``(K, 2, m)``."""
    if key.device.type == "cpu":
        out = _like(key, counter, kind)
        if threefry_kernels.draw_blocks(key, counter, domain, kind, out):
            return out
    with torch.no_grad():
        drawn = _like(key, counter, kind)
        return drawn.copy_(_compiled_blocks(key.device)(key, counter, domain, kind))


@functools.cache
def _compiled_blocks(device: torch.device) -> Callable[..., Tensor]:
    """On CUDA the plain operations are 150 launches: there they are one kernel, compiled once a process."""
    if device.type != "cuda" or not hasattr(torch, "compile"):
        return plain_blocks
    before = torch.distributions.Distribution._validate_args
    compiled = torch.compile(plain_blocks, dynamic=True)
    torch.distributions.Distribution.set_default_validate_args(before)  # torch.compile switches it off for everybody
    return compiled


if hasattr(torch.library, "custom_op") and hasattr(torch.library, "register_vmap"):
    # not torch.library.custom_op, whose first call imports torch's compiler
    _library = torch.library.Library("funcebm", "DEF")
    _library.define("draw_blocks(Tensor key, Tensor counter, int domain, int kind) -> Tensor")
    _library.impl("draw_blocks", lambda *arguments: _draw_blocks(*arguments), "CompositeExplicitAutograd")
    _operator: Callable[..., Tensor] = torch.ops.funcebm.draw_blocks.default

    @torch.library.register_fake("funcebm::draw_blocks", lib=_library)
    def _(key: Tensor, counter: Tensor, domain: int, kind: int) -> Tensor:
        return _like(key, counter, kind)

    def _batched_draw(info: Any, in_dims: tuple[Any, ...], key: Tensor, counter: Tensor, domain: int, kind: int) -> Any:
        key_dim, counter_dim = in_dims[0], in_dims[1]
        size = info.batch_size
        if key_dim is None and counter.shape[0 if counter_dim else 1] == 1:
            counter = counter.movedim(counter_dim, 1)  # (1, size, m): more counters for the same keys
            blocks = _operator(key, counter.reshape(1, -1), domain, kind)
            return blocks.unflatten(2, (size, counter.shape[2])), 2
        key = key.movedim(key_dim, 0) if key_dim is not None else key.expand(size, *key.shape)
        num_keys = key.shape[1]
        if counter_dim is not None:
            counter = counter.movedim(counter_dim, 0).expand(size, num_keys, -1).flatten(0, 1)
        elif counter.shape[0] != 1:
            counter = counter.expand(size, num_keys, -1).flatten(0, 1)
        blocks = _operator(key.flatten(0, 1), counter, domain, kind)
        return blocks.unflatten(0, (size, num_keys)), 0

    torch.library.register_vmap("funcebm::draw_blocks", _batched_draw, lib=_library)
else:  # an older torch: plain operations, which vmap knows

    def _operator(key: Tensor, counter: Tensor, domain: int, kind: int) -> Tensor:
        is_plain = not (is_mapped(key) or is_mapped(counter))
        return (_draw_blocks if is_plain else plain_blocks)(key, counter, domain, kind)


def blocks(key: Key, counter: Tensor, domain: int, kind: int) -> Tensor:
    """Blocks ``(2, m)`` of one key at the counters ``(m,)``."""
    return _operator(key.unsqueeze(0), counter.unsqueeze(0), domain, kind)[0]


def numbered_blocks(key: Key, num: int, domain: int, kind: int, start: int = 0) -> Tensor:
    """The ``num`` blocks of one key from ``start`` on. ``(2, num)``."""
    counters = _counters(num, key.device)
    return blocks(key, counters + start if start else counters, domain, kind)


_COUNTERS_KEPT = 1 << 16  # numbers


def _counters(num: int, device: torch.device) -> Tensor:
    """``0 .. num - 1``; in a trace short ones are constants that are made once."""
    if num > _COUNTERS_KEPT or not is_tracing() or device.type == "meta":
        return torch.arange(num, dtype=torch.int32, device=device)
    return _kept_counters(num, device)


@functools.lru_cache(maxsize=64)
def _kept_counters(num: int, device: torch.device) -> Tensor:
    return real_arange(num, device)
