"""Keys and draws: counter-based random numbers, the only source of randomness of the library.

A key is two 32-bit words, held in an ``int32`` tensor of shape ``(2,)``. The generator is Threefry-2x32 with 20 rounds
(Salmon et al. 2011): block ``i`` of a key is a pure function of the key and of ``i``, so equal keys give equal numbers on
any device, eager or compiled, under any ``vmap``, and in any order. Use a key once; make more with :func:`split`
(siblings) and :func:`fold_in` (loop indices).

Reference: Salmon, Moraes, Dror and Shaw (2011), "Parallel random numbers: as easy as 1, 2, 3", SC11.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import Tensor

from ._threefry import (
    BITS,
    FOLD,
    NORMAL32,
    NORMAL64,
    SPLIT,
    WORDS,
    blocks,
    numbered_blocks,
    open_uniform32,
    open_uniform64,
    threefry,
)
from ._torch.tracing import is_concrete
from .types import Key

__all__ = [
    "bernoulli",
    "bits",
    "categorical",
    "check_key",
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
]

# -- keys ---------------------------------------------------------------------------------------------------------


def check_key(key: Any) -> None:
    """Raises unless ``key`` is one key.

    Raises:
        ValueError: something else than a key.

    >>> check_key(key(0))
    """
    if not isinstance(key, Tensor) or key.shape != (2,) or key.dtype != torch.int32:
        got = f"a tensor of shape {tuple(key.shape)} and {key.dtype}" if isinstance(key, Tensor) else repr(key)
        raise ValueError(
            f"a key must be an int32 tensor of shape (2,). Got {got}. Make one with funcebm.random.key(seed), "
            "more with split(key, num), and use torch.func.vmap for a batch of keys."
        )


def _count(shape: tuple[int, ...] | int) -> tuple[tuple[int, ...], int]:
    shape = tuple(shape) if hasattr(shape, "__iter__") else (shape,)
    if any(isinstance(size, (float, str)) or (isinstance(size, int) and size < 0) for size in shape):
        raise ValueError(f"a shape must be of ints of at least 0. Got {shape}. Write (3, 2), for example.")
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

    Raises:
        TypeError: a seed that is no integer, of Python or NumPy.

    >>> key(42).shape
    torch.Size([2])
    """
    if isinstance(seed, (bool, Tensor)) or not hasattr(seed, "__index__"):
        fix = "int(seed)" if isinstance(seed, Tensor) else "funcebm.random.key(0), for example"
        raise TypeError(f"a seed must be an int. Got {seed!r}. Write {fix}.")
    try:
        seed = operator.index(seed)
    except TypeError as error:  # an array, or a bool of NumPy
        raise TypeError(f"a seed must be an int. Got {seed!r}. Write int(seed).") from error
    words = [(seed >> 32) & 0xFFFFFFFF, seed & 0xFFFFFFFF]
    return torch.tensor([word - 2**32 if word >= 2**31 else word for word in words], dtype=torch.int32, device=device)


def split(key: Key, num: int = 2, *, start: int = 0) -> Key:
    """``num`` independent keys. ``(num, 2)``. The first ones do not depend on ``num``.

    Args:
        key: ``(2,)``.
        num: how many.
        start: the number of the first one: ``split(key, num, start=start)`` is ``split(key, start + num)[start:]``, without
            the others. Ranks make the keys of their own chains with it.

    Returns:
        ``(num, 2)`` int32.

    Raises:
        ValueError: ``num`` below 1, or numbers of keys beyond ``2**31``.

    >>> bool((split(key(0), 4) == split(key(0), 9)[:4]).all())
    True
    >>> bool((split(key(0), 4, start=5) == split(key(0), 9)[5:]).all())
    True
    """
    check_key(key)
    if isinstance(num, bool) or not hasattr(num, "__index__"):
        raise TypeError(f"num must be an int. Got {num!r}. Write int(num).")
    if num < 1:
        raise ValueError(f"num must be at least 1. Got {num}. Ask for one key or more.")
    if start < 0 or start + num > 2**31:
        raise ValueError(
            f"start must be at least 0 and start + num at most 2**31. Got {start} and {num}. Fold an index into the key first."
        )
    return numbered_blocks(key, num, SPLIT, WORDS, start).movedim(0, -1)


def _word(data: int, device: torch.device) -> Tensor:
    if not 0 <= data < 2**32:
        raise ValueError(
            f"data must be in [0, 2**32). Got {data}. Fold large numbers in as two words: "
            "fold_in(fold_in(key, data >> 32), data % 2**32)."
        )
    return torch.full((), data - 2**32 if data >= 2**31 else data, dtype=torch.int32, device=device)


def fold_in(key: Key, data: int | Tensor) -> Key:
    """The key of a loop index. ``(2,)``.

    Args:
        key: ``(2,)``.
        data: an integer in ``[0, 2**32)``, or a 0-d integer tensor, of which 32 bits are taken.

    Raises:
        ValueError: an integer, or a tensor on the CPU, that does not fit into 32 bits; a tensor with axes.
        TypeError: something that is not an integer.

    >>> bool((fold_in(key(0), 3) == fold_in(key(0), torch.tensor(3))).all())
    True
    """
    check_key(key)
    if isinstance(data, Tensor):
        if data.is_floating_point() or data.is_complex():
            raise TypeError(f"data must be an integer. Got a tensor of {data.dtype}. Count steps in torch.int64.")
        if data.ndim > 0:
            shape = tuple(data.shape)
            raise ValueError(
                f"data must be a 0-d tensor. Got the shape {shape}. Use torch.func.vmap(fold_in, (None, 0)) for many keys."
            )
        if data.dtype == torch.int64 and data.device.type == "cpu" and is_concrete(data):
            data = _word(int(data), key.device)
    else:
        if isinstance(data, bool) or not hasattr(data, "__index__") or len(getattr(data, "shape", "")) > 0:
            raise TypeError(f"data must be an integer. Got {data!r}. Give the number of a step, for example.")
        data = _word(operator.index(data), key.device)
    return blocks(key, data.to(key.device, torch.int32).reshape(1), FOLD, WORDS)[:, 0]


# -- draws --------------------------------------------------------------------------------------------------------


def bits(key: Key, shape: tuple[int, ...] | int = ()) -> Tensor:
    """Uniform 32-bit words, as ``int32``. Shape ``shape``.

    >>> bits(key(0), (3,)).dtype
    torch.int32
    """
    check_key(key)
    shape, count = _count(shape)
    return numbered_blocks(key, (count + 1) // 2, BITS, WORDS).reshape(-1)[:count].reshape(shape)


def _word_pairs(key: Key, count: int) -> tuple[Tensor, Tensor]:
    word0, word1 = numbered_blocks(key, count, BITS, WORDS).unbind(0)
    return word0, word1


def _unit(key: Key, shape: tuple[int, ...] | int, dtype: torch.dtype | None) -> Tensor:
    """Uniforms in the half-open (0, 1], or (0, 1) for float64; for logarithms."""
    if (dtype or torch.get_default_dtype()) == torch.float64:
        shape, count = _count(shape)
        check_key(key)
        return open_uniform64(*_word_pairs(key, count)).reshape(shape)
    return open_uniform32(bits(key, shape))


def uniform(
    key: Key,
    shape: tuple[int, ...] | int = (),
    low: float = 0.0,
    high: float = 1.0,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Uniform numbers in ``[low, high)``, of 24 bits (53 in float64). Shape ``shape``.

    Raises:
        ValueError: ``low`` above ``high``, or not finite; a shape that is not of ints of at least 0.
        TypeError: a dtype that is not floating point.

    >>> u = uniform(key(0), (1000,))
    >>> bool((u >= 0).all() and (u < 1).all())
    True
    """
    dtype = dtype or torch.get_default_dtype()
    if isinstance(low, (int, float)) and isinstance(high, (int, float)) and not low <= high:
        raise ValueError(f"low must be at most high. Got low={low}, high={high}. Give them in their order.")
    if isinstance(low, (int, float)) and isinstance(high, (int, float)) and not math.isfinite(high - low):
        raise ValueError(f"low and high must be finite. Got low={low}, high={high}. Give finite numbers.")
    if not dtype.is_floating_point:
        raise TypeError(f"uniform numbers need a floating-point dtype. Got {dtype}. Use torch.float32, or randint.")
    if dtype == torch.float64:
        shape, count = _count(shape)
        check_key(key)
        word0, word1 = _word_pairs(key, count)
        unit = (word0.double() + 2.0**31) * 2.0**-32 + ((word1 >> 11) & 0x1FFFFF).double() * 2.0**-53
        return _below(low + (high - low) * unit.reshape(shape), low, high)
    unit = ((bits(key, shape) >> 8) & 0xFFFFFF).float() * 2.0**-24
    return _below((low + (high - low) * unit).to(dtype), low, high)


_BITS_OF = {torch.float64: 53, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}


def _below(value: Tensor, low: float, high: float) -> Tensor:
    """At most the number before ``high`` in the dtype, to which rounding would lead."""
    is_exact = low == 0 and high == 1 and value.dtype in (torch.float32, torch.float64)
    if is_exact or value.dtype not in _BITS_OF:
        return value
    info, (fraction, exponent) = torch.finfo(value.dtype), math.frexp(high)
    spacing = 2.0 ** (exponent - _BITS_OF[value.dtype]) if high != 0 else info.tiny
    spacing = max(spacing / 2 if fraction == 0.5 else spacing, info.tiny * info.eps)  # that of subnormal numbers
    return value.clamp(low, max(low, high - spacing))


def normal(key: Key, shape: tuple[int, ...] | int = (), *, dtype: torch.dtype | None = None) -> Tensor:
    """Standard normal numbers, by Box and Muller (1958). Shape ``shape``.

    Both outputs of a block are used: with ``n`` numbers and ``m = ceil(n / 2)``, numbers ``i`` and ``m + i`` share block
    ``i``. Float32 reaches to 6.6 standard deviations; half precisions are drawn in float32 and rounded.

    Raises:
        TypeError: a dtype that is not floating point.

    >>> normal(key(0), (2, 3)).shape
    torch.Size([2, 3])
    """
    check_key(key)
    dtype = dtype or torch.get_default_dtype()
    if not dtype.is_floating_point:
        raise TypeError(f"normal numbers need a floating-point dtype. Got {dtype}. Use torch.float32, for example.")
    shape, count = _count(shape)
    kind = NORMAL64 if dtype == torch.float64 else NORMAL32
    drawn = numbered_blocks(key, (count + 1) // 2, BITS, kind)
    return drawn.reshape(-1)[:count].reshape(shape).to(dtype)


def rademacher(key: Key, shape: tuple[int, ...] | int = (), *, dtype: torch.dtype | None = None) -> Tensor:
    """Signs, -1 or 1 with equal probability. Shape ``shape``.

    >>> rademacher(key(0), 5).abs()
    tensor([1., 1., 1., 1., 1.])
    """
    dtype = dtype or torch.get_default_dtype()
    return 1 - 2 * (bits(key, shape) & 1).to(dtype)


def bernoulli(key: Key, probability: float | Tensor = 0.5, shape: tuple[int, ...] | int | None = None) -> Tensor:
    """True with the given probability. Shape ``shape``, by default that of ``probability``; bool.

    >>> bernoulli(key(0), 0.3, 5).shape
    torch.Size([5])
    """
    probability = torch.as_tensor(probability, device=key.device)
    return uniform(key, tuple(probability.shape) if shape is None else shape) < probability


def randint(key: Key, shape: tuple[int, ...] | int, low: int, high: int) -> Tensor:
    """Integers in ``[low, high)``, as ``int64``. Shape ``shape``. The bias is below ``(high - low) / 2**64``.

    Raises:
        ValueError: an empty range, or one of 2**31 integers or more.

    >>> sorted(set(randint(key(0), (100,), 2, 5).tolist()))
    [2, 3, 4]
    """
    check_key(key)
    if not (hasattr(low, "__index__") and hasattr(high, "__index__")):
        raise TypeError(f"low and high must be ints. Got low={low!r}, high={high!r}. Write int(low), int(high).")
    span = high - low
    if not 0 < span < 2**31:
        raise ValueError(f"0 < high - low < 2**31 must hold. Got low={low}, high={high}. Give a non-empty range.")
    shape, count = _count(shape)
    word0, word1 = _word_pairs(key, count)
    upper, lower = word0.long() & 0xFFFFFFFF, word1.long() & 0xFFFFFFFF
    return low + ((upper % span * (2**32 % span) + lower) % span).reshape(shape)


def exponential(key: Key, shape: tuple[int, ...] | int = (), *, dtype: torch.dtype | None = None) -> Tensor:
    """Standard exponential numbers, ``-log u``. Shape ``shape``.

    >>> bool((exponential(key(0), 5) > 0).all())
    True
    """
    dtype = dtype or torch.get_default_dtype()
    return (-torch.log(_unit(key, shape, dtype))).to(dtype)


def gumbel(key: Key, shape: tuple[int, ...] | int = (), *, dtype: torch.dtype | None = None) -> Tensor:
    """Standard Gumbel numbers, ``-log(-log u)`` with ``u`` in (0, 1). Shape ``shape``.

    >>> gumbel(key(0), (2, 3)).shape
    torch.Size([2, 3])
    """
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

    Raises:
        ValueError: logits without a last axis of one number or more.

    >>> categorical(key(0), torch.tensor([0.0, 50.0]), 3)
    tensor([1, 1, 1])
    """
    shape, _ = _count(shape)
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(
            f"logits must have one number or more on their last axis. Got the shape {tuple(logits.shape)}. Give a vector."
        )
    noise = gumbel(key, (*shape, *logits.shape), dtype=logits.dtype)
    return (logits + noise).argmax(-1)


def permutation(key: Key, num: int) -> Tensor:
    """A uniformly random order of ``0 .. num - 1``, as ``int64``. ``(num,)``.

    >>> sorted(permutation(key(0), 5).tolist())
    [0, 1, 2, 3, 4]
    """
    check_key(key)
    word0, word1 = _word_pairs(key, _count(num)[1])
    return torch.argsort((word0.long() << 32) | (word1.long() & 0xFFFFFFFF))
