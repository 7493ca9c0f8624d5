"""Tensors in memory of ours: where they are, how large they are, and one block of memory for all of them."""

from __future__ import annotations

import bisect
from typing import Any, NamedTuple

import torch

__all__ = [
    "Arena",
    "Buffer",
    "C_TYPES",
    "Call",
    "braces",
    "contiguous_strides",
    "num_elements",
    "is_contiguous",
    "item_size",
    "span",
]

C_TYPES = {
    torch.bool: "bool",
    torch.uint8: "uint8_t",
    torch.int8: "int8_t",
    torch.int16: "int16_t",
    torch.int32: "int32_t",
    torch.int64: "int64_t",
    torch.float16: "c10::Half",
    torch.bfloat16: "c10::BFloat16",
    torch.float32: "float",
    torch.float64: "double",
}
_ALIGN = 64  # bytes


class Buffer(NamedTuple):
    """A tensor at a place in memory: ``block`` is a name, the rest as of a tensor, in elements."""

    block: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    dtype: torch.dtype


class Call(NamedTuple):
    """A call of a kernel or an operator.

    Attributes:
        kind: ``"kernel"``, ``"alloc"``, ``"free"``, ``"product"``, ``"draw"`` or ``"operator"``.
        name: of the kernel (its source), of the operator.
        args: buffers and Python's values, nested; of a kernel with their C++ types.
        outs: where each result goes, None for one that has its place already.
    """

    kind: str
    name: str
    args: Any
    outs: tuple[Buffer | None, ...] = ()


class Arena:
    """Places in one block of memory: first fit, with neighbours merged when they are free again."""

    def __init__(self) -> None:
        self.free: list[tuple[int, int]] = []  # (start, size), sorted
        self.end = 0

    def take(self, size: int) -> tuple[int, int]:
        size = max(-(-size // _ALIGN) * _ALIGN, _ALIGN)
        for index, (start, length) in enumerate(self.free):
            if length >= size:
                self.free[index : index + 1] = [(start + size, length - size)] if length > size else []
                return start, size
        if self.free and sum(self.free[-1]) == self.end:  # grow the last one
            start, _ = self.free.pop()
        else:
            start = self.end
        self.end = start + size
        return start, size

    def give(self, place: tuple[int, int]) -> None:
        index = bisect.bisect(self.free, place)
        self.free.insert(index, place)
        merged: list[tuple[int, int]] = []
        for start, size in self.free:
            if merged and sum(merged[-1]) == start:
                merged[-1] = (merged[-1][0], merged[-1][1] + size)
            else:
                merged.append((start, size))
        self.free = merged


def contiguous_strides(shape: Any) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(tuple(shape)):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def is_contiguous(buffer: Buffer) -> bool:
    ordered = contiguous_strides(buffer.shape)
    return all(
        size <= 1 or step == wanted for size, step, wanted in zip(buffer.shape, buffer.strides, ordered, strict=True)
    )


def num_elements(shape: Any) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def span(buffer: Buffer) -> int:
    """How many elements lie between the first and the last, both included."""
    if 0 in buffer.shape:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(buffer.shape, buffer.strides, strict=True))


def item_size(dtype: torch.dtype) -> int:
    return dtype.itemsize if hasattr(dtype, "itemsize") else torch.empty((), dtype=dtype).element_size()


def braces(numbers: Any) -> str:
    return "{" + ", ".join(map(str, numbers)) + "}"
