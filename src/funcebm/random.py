"""Keys and draws: counter-based random numbers, the only source of randomness of the library.

A key is two 32-bit words, held in an ``int32`` tensor of shape ``(2,)``. The generator is Threefry-2x32 with 20 rounds
(Salmon et al. 2011): block ``i`` of a key is a pure function of the key and of ``i``, so equal keys give equal numbers on
any device, eager or compiled, under any ``vmap``, and in any order. Use a key once; make more with :func:`split`
(siblings) and :func:`fold_in` (loop indices).

All draws go through one custom operator over a grid of keys and counters. Large draws run a compiled kernel, small ones
(and all where there is no compiler) plain tensor operations; the random words are the same bit for bit.

Reference: Salmon, Moraes, Dror and Shaw (2011), "Parallel random numbers: as easy as 1, 2, 3", SC11.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any, Callable, Iterator

import torch
from torch import Tensor

from .types import Key

__all__ = [
    "bernoulli",
    "bits",
    "categorical",
    "check_key",
    "compiled_draws",
    "exponential",
    "fold_in",
    "gumbel",
    "key",
    "normal",
    "permutation",
    "rademacher",
    "randint",
    "split",
    "threefry",
    "uniform",
    "use_kernels",
]

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_BITS, _SPLIT, _FOLD = 0, 1, 2  # the high counter word keeps the three uses of a key apart
_WORDS, _NORMAL32, _NORMAL64 = 0, 1, 2  # what the operator makes of a block
_VECTOR = 16  # lanes; a shorter axis is no good as the innermost one
_SMALL = 1 << 14  # blocks; below, plain operations

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


def _open_uniform64(word0: Tensor, word1: Tensor) -> Tensor:
    """A 53-bit uniform in (0, 1) from two words."""
    high = (word0.double() + 2.0**31) * 2.0**-32
    return high + (((word1 >> 11) & 0x1FFFFF).double() + 0.5) * 2.0**-53


def _open_uniform32(word: Tensor) -> Tensor:
    """A uniform in (0, 1] from one word, of 31 bits near zero."""
    return (((word >> 1) & 0x7FFFFFFF).float() + 0.5) * 2.0**-31


def _outputs(key0: Tensor, key1: Tensor, high: Tensor, low: Tensor, kind: int) -> tuple[Tensor, Tensor]:
    """The two outputs of a block (of two blocks for float64 normals), elementwise."""
    if kind == _NORMAL64:
        first = _block(key0, key1, high, 2 * low)
        second = _block(key0, key1, high, 2 * low + 1)
        return _box_muller(_open_uniform64(*first), 2 * _open_uniform64(*second) - 1)
    word0, word1 = _block(key0, key1, high, low)
    if kind == _NORMAL32:
        return _box_muller(_open_uniform32(word0), word1.float() * 2.0**-31)
    return word0, word1


def _grid_over_counters(key: Tensor, counter: Tensor, high: Tensor, kind: int) -> Tensor:
    """Keys ``(K, 2)`` and counters ``(R, m)``, ``R`` 1 or ``K``, to ``(K, 2, m)``: counters are the innermost axis."""
    return torch.stack(_outputs(key[:, :1], key[:, 1:], high, counter, kind), 1)


def _grid_over_keys(key: Tensor, counter: Tensor, high: Tensor, kind: int) -> Tensor:
    """The transposed grid, ``(2, K), (m, R) -> (2, m, K)``: keys are the innermost axis."""
    return torch.stack(_outputs(key[0], key[1], high, counter, kind), 0)


# -- the operator -------------------------------------------------------------------------------------------------

_compile_kernel: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None
_kernels: dict[tuple[bool, int], Callable[..., Any]] = {}
_always_compiled = False


def use_kernels(compile_kernel: Callable[[Callable[..., Any]], Callable[..., Any]] | None) -> None:
    """Tells this module how to compile its kernels (``None``: not at all); :mod:`funcebm.transforms` does."""
    global _compile_kernel
    _compile_kernel = compile_kernel
    _kernels.clear()


@contextlib.contextmanager
def compiled_draws() -> Iterator[None]:
    """Inside, draws of every size run the compiled kernels, so that results do not depend on how a run is cut."""
    global _always_compiled
    before, _always_compiled = _always_compiled, True
    try:
        yield
    finally:
        _always_compiled = before


def _run_grid(keys_inner: bool, kind: int, num_blocks: int, key: Tensor, counter: Tensor, high: Tensor) -> Tensor:
    grid = _grid_over_keys if keys_inner else _grid_over_counters
    if _compile_kernel is not None and (_always_compiled or num_blocks >= _SMALL):
        if (keys_inner, kind) not in _kernels:
            _kernels[keys_inner, kind] = _compile_kernel(grid)
        return _kernels[keys_inner, kind](key, counter, high, kind)
    return grid(key, counter, high, kind)


def _keys_innermost(num_keys: int, num_counters: int, kind: int) -> bool:
    """Which axis is the innermost: the one that vectorises; words of many keys lie in planes, as keys do."""
    return num_keys >= _VECTOR and (kind == _WORDS or num_counters < _VECTOR)


def _draw_blocks(key: Tensor, counter: Tensor, domain: int, kind: int) -> Tensor:
    """The operator: keys ``(K, 2)``, counters ``(R, m)`` with ``R`` 1 or ``K``, to ``(K, 2, m)``."""
    num_keys, num_counters = key.shape[0], counter.shape[1]
    num_blocks = num_keys * num_counters
    high = torch.full((), domain, dtype=torch.int32, device=key.device)
    with torch.no_grad():
        if _keys_innermost(num_keys, num_counters, kind):
            planes = key.t().contiguous()
            return _run_grid(True, kind, num_blocks, planes, counter.t().contiguous(), high).permute(2, 0, 1)
        return _run_grid(False, kind, num_blocks, key.contiguous(), counter.contiguous(), high)


if hasattr(torch.library, "custom_op") and hasattr(torch.library, "register_vmap"):
    _operator: Callable[..., Tensor] = torch.library.custom_op(
        "funcebm::draw_blocks",
        _draw_blocks,
        mutates_args=(),
        schema="(Tensor key, Tensor counter, int domain, int kind) -> Tensor",
    )

    @torch.library.register_fake("funcebm::draw_blocks")
    def _(key: Tensor, counter: Tensor, domain: int, kind: int) -> Tensor:
        dtype = (torch.int32, torch.float32, torch.float64)[kind]
        num_keys, num_counters = key.shape[0], counter.shape[1]
        if _keys_innermost(num_keys, num_counters, kind):
            return torch.empty(2, num_counters, num_keys, dtype=dtype, device=key.device).permute(2, 0, 1)
        return torch.empty(num_keys, 2, num_counters, dtype=dtype, device=key.device)

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

    torch.library.register_vmap("funcebm::draw_blocks", _batched_draw)
else:
    _operator = _draw_blocks  # an older torch: plain operations, which vmap knows


def _blocks(key: Key, counter: Tensor, domain: int, kind: int) -> Tensor:
    """Blocks ``(2, m)`` of one key at the counters ``(m,)``."""
    return _operator(key.unsqueeze(0), counter.unsqueeze(0), domain, kind)[0]


def _numbered_blocks(key: Key, num: int, domain: int, kind: int) -> Tensor:
    return _blocks(key, torch.arange(num, dtype=torch.int32, device=key.device), domain, kind)


# -- keys ---------------------------------------------------------------------------------------------------------


def check_key(key: Any) -> None:
    """Raises unless ``key`` is one key."""
    if not isinstance(key, Tensor) or key.shape != (2,) or key.dtype != torch.int32:
        got = f"a tensor of shape {tuple(key.shape)} and {key.dtype}" if isinstance(key, Tensor) else repr(key)
        raise ValueError(
            f"a key must be an int32 tensor of shape (2,). Got {got}. Make one with funcebm.random.key(seed), "
            "more with split(key, num), and use torch.func.vmap for a batch of keys."
        )


def _count(shape: tuple[int, ...] | int) -> tuple[tuple[int, ...], int]:
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    count = math.prod(shape)
    if count >= 2**31:
        raise ValueError(
            f"one key gives fewer than 2**31 numbers. Got the shape {shape}. Split the key and draw parts."
        )
    return shape, count


def key(seed: int, *, device: torch.device | str | None = None) -> Key:
    """The key of a seed. ``(2,)`` int32.

    Args:
        seed: any integer; taken modulo ``2**64``.
        device: where the key, and so all that is drawn with it, lives.

    >>> key(42).shape
    torch.Size([2])
    """
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"a seed must be an int. Got {seed!r}. Write funcebm.random.key(0), for example.")
    words = [(seed >> 32) & 0xFFFFFFFF, seed & 0xFFFFFFFF]
    return torch.tensor([word - 2**32 if word >= 2**31 else word for word in words], dtype=torch.int32, device=device)


def split(key: Key, num: int = 2) -> Key:
    """``num`` independent keys. ``(num, 2)``. The first ones do not depend on ``num``.

    >>> bool((split(key(0), 4) == split(key(0), 9)[:4]).all())
    True
    """
    check_key(key)
    if num < 1:
        raise ValueError(f"num must be at least 1. Got {num}. Ask for one key or more.")
    return _numbered_blocks(key, num, _SPLIT, _WORDS).movedim(0, -1)


def fold_in(key: Key, data: int | Tensor) -> Key:
    """The key of a loop index. ``(2,)``.

    Args:
        key: ``(2,)``.
        data: an integer in ``[0, 2**32)``, or a 0-d integer tensor.

    >>> bool((fold_in(key(0), 3) == fold_in(key(0), torch.tensor(3))).all())
    True
    """
    check_key(key)
    if isinstance(data, int):
        if not 0 <= data < 2**32:
            raise ValueError(f"data must be in [0, 2**32). Got {data}. Fold large numbers in as two words.")
        data = torch.full((), data - 2**32 if data >= 2**31 else data, dtype=torch.int32, device=key.device)
    return _blocks(key, data.to(key.device, torch.int32).reshape(1), _FOLD, _WORDS)[:, 0]


# -- draws --------------------------------------------------------------------------------------------------------


def bits(key: Key, shape: tuple[int, ...] | int = ()) -> Tensor:
    """Uniform 32-bit words, as ``int32``. Shape ``shape``.

    >>> bits(key(0), (3,)).dtype
    torch.int32
    """
    check_key(key)
    shape, count = _count(shape)
    return _numbered_blocks(key, (count + 1) // 2, _BITS, _WORDS).reshape(-1)[:count].reshape(shape)


def _word_pairs(key: Key, count: int) -> tuple[Tensor, Tensor]:
    word0, word1 = _numbered_blocks(key, count, _BITS, _WORDS).unbind(0)
    return word0, word1


def _unit(key: Key, shape: tuple[int, ...] | int, dtype: torch.dtype | None) -> Tensor:
    """Uniforms in the half-open (0, 1], or (0, 1) for float64; for logarithms."""
    if (dtype or torch.get_default_dtype()) == torch.float64:
        shape, count = _count(shape)
        check_key(key)
        return _open_uniform64(*_word_pairs(key, count)).reshape(shape)
    return _open_uniform32(bits(key, shape))


def uniform(
    key: Key,
    shape: tuple[int, ...] | int = (),
    low: float = 0.0,
    high: float = 1.0,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Uniform numbers in ``[low, high)``, of 24 bits (53 in float64). Shape ``shape``.

    >>> u = uniform(key(0), (1000,))
    >>> bool((u >= 0).all() and (u < 1).all())
    True
    """
    dtype = dtype or torch.get_default_dtype()
    if dtype == torch.float64:
        shape, count = _count(shape)
        check_key(key)
        word0, word1 = _word_pairs(key, count)
        unit = (word0.double() + 2.0**31) * 2.0**-32 + ((word1 >> 11) & 0x1FFFFF).double() * 2.0**-53
        return low + (high - low) * unit.reshape(shape)
    unit = ((bits(key, shape) >> 8) & 0xFFFFFF).float() * 2.0**-24
    return (low + (high - low) * unit).to(dtype)


def normal(key: Key, shape: tuple[int, ...] | int = (), *, dtype: torch.dtype | None = None) -> Tensor:
    """Standard normal numbers, by Box and Muller (1958). Shape ``shape``.

    Both outputs of a block are used: with ``n`` numbers and ``m = ceil(n / 2)``, numbers ``i`` and ``m + i`` share block
    ``i``. Float32 reaches to 6.6 standard deviations; half precisions are drawn in float32 and rounded.

    >>> normal(key(0), (2, 3)).shape
    torch.Size([2, 3])
    """
    check_key(key)
    dtype = dtype or torch.get_default_dtype()
    if not dtype.is_floating_point:
        raise TypeError(f"normal numbers need a floating-point dtype. Got {dtype}. Use torch.float32, for example.")
    shape, count = _count(shape)
    kind = _NORMAL64 if dtype == torch.float64 else _NORMAL32
    drawn = _numbered_blocks(key, (count + 1) // 2, _BITS, kind)
    return drawn.reshape(-1)[:count].reshape(shape).to(dtype)


def rademacher(key: Key, shape: tuple[int, ...] | int = (), *, dtype: torch.dtype | None = None) -> Tensor:
    """Signs, -1 or 1 with equal probability. Shape ``shape``."""
    dtype = dtype or torch.get_default_dtype()
    return 1 - 2 * (bits(key, shape) & 1).to(dtype)


def bernoulli(key: Key, probability: float | Tensor = 0.5, shape: tuple[int, ...] | int | None = None) -> Tensor:
    """True with the given probability. Shape ``shape``, by default that of ``probability``; bool."""
    probability = torch.as_tensor(probability, device=key.device)
    return uniform(key, tuple(probability.shape) if shape is None else shape) < probability


def randint(key: Key, shape: tuple[int, ...] | int, low: int, high: int) -> Tensor:
    """Integers in ``[low, high)``, as ``int64``. Shape ``shape``. The bias is below ``(high - low) / 2**64``.

    >>> sorted(set(randint(key(0), (100,), 2, 5).tolist()))
    [2, 3, 4]
    """
    check_key(key)
    span = high - low
    if not 0 < span < 2**31:
        raise ValueError(f"0 < high - low < 2**31 must hold. Got low={low}, high={high}. Give a non-empty range.")
    shape, count = _count(shape)
    word0, word1 = _word_pairs(key, count)
    upper, lower = word0.long() & 0xFFFFFFFF, word1.long() & 0xFFFFFFFF
    return low + ((upper % span * (2**32 % span) + lower) % span).reshape(shape)


def exponential(key: Key, shape: tuple[int, ...] | int = (), *, dtype: torch.dtype | None = None) -> Tensor:
    """Standard exponential numbers, ``-log u``. Shape ``shape``."""
    dtype = dtype or torch.get_default_dtype()
    return (-torch.log(_unit(key, shape, dtype))).to(dtype)


def gumbel(key: Key, shape: tuple[int, ...] | int = (), *, dtype: torch.dtype | None = None) -> Tensor:
    """Standard Gumbel numbers, ``-log(-log u)`` with ``u`` in (0, 1). Shape ``shape``."""
    dtype = dtype or torch.get_default_dtype()
    unit = _unit(key, shape, dtype)
    largest = 1 - torch.finfo(unit.dtype).eps / 2
    return (-torch.log(-torch.log(unit.clamp(max=largest)))).to(dtype)


def categorical(key: Key, logits: Tensor, shape: tuple[int, ...] | int = ()) -> Tensor:
    """Indices into the last axis of ``logits``, with probabilities ``softmax(logits)``, as ``int64``.

    Args:
        key: ``(2,)``.
        logits: ``(*batch, n)``, unnormalised log probabilities.
        shape: how many to draw of each. The result is ``(*shape, *batch)``.
    """
    shape, _ = _count(shape)
    noise = gumbel(key, (*shape, *logits.shape), dtype=logits.dtype)
    return (logits + noise).argmax(-1)


def permutation(key: Key, num: int) -> Tensor:
    """A uniformly random order of ``0 .. num - 1``, as ``int64``. ``(num,)``.

    >>> sorted(permutation(key(0), 5).tolist())
    [0, 1, 2, 3, 4]
    """
    check_key(key)
    word0, word1 = _word_pairs(key, num)
    return torch.argsort((word0.long() << 32) | (word1.long() & 0xFFFFFFFF))
