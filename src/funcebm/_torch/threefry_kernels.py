"""The generator's kernels in C (``threefry.c``): random words and normals, on the CPU.

They give the words of :mod:`funcebm._threefry` bit for bit, and its normals to a few units in the last place. What a
block gives does not depend, by one bit, on sizes, memory layout or the number of threads.
"""

from __future__ import annotations

import ctypes
import pathlib
import platform
import struct
import warnings
from typing import Any

import torch
from torch import Tensor

from . import native

__all__ = ["address", "draw_blocks"]

_DTYPES = (torch.int32, torch.float32, torch.float64)  # of the kinds WORDS, NORMAL32, NORMAL64
_FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
_WIDE = ("-mprefer-vector-width=512",) if platform.machine() in ("x86_64", "AMD64") else ()  # nearly twice as fast
_BEST = (*_FLAGS, "-march=native", *_WIDE, "-fopenmp")
_OTHERS = tuple((*_FLAGS, *more) for more in (("-march=native",), ("-fopenmp",), ()))  # not all compilers know all
_pack = struct.Struct("15q").pack

_library: Any = None  # ``False`` where there is none
_call: Any = None  # its function that takes its arguments packed


def _load() -> Any:
    """The library, compiled at its first use; ``False`` where there is none."""
    global _library, _call
    if native.why_not("c"):
        _library = False
        return _library
    source = pathlib.Path(__file__).with_name("threefry.c").read_text(encoding="utf-8")
    try:
        library = native.load(source, name="threefry", flags=_BEST, or_flags=_OTHERS)
    except native.CompilerError as error:
        _library = False
        warnings.warn(
            f"random numbers come from plain tensor operations, which are slower: {error}", RuntimeWarning, stacklevel=3
        )
        return _library
    _call = library.funcebm_threefry_packed
    _call.argtypes, _call.restype = (ctypes.c_char_p,), None
    _library = library
    return _library


def address() -> int:
    """Where ``funcebm_threefry`` is, for callers in C; 0 where there is none."""
    library = _library if _library is not None else _load()
    return ctypes.cast(library.funcebm_threefry, ctypes.c_void_p).value or 0 if library else 0


def draw_blocks(key: Tensor, counter: Tensor, domain: int, kind: int, out: Tensor) -> bool:
    """Fills ``out`` with blocks, whatever its strides; ``False``, and nothing done, where there is no kernel for it.

    Args:
        key: ``(K, 2)`` int32.
        counter: ``(R, m)`` int32, ``R`` being 1 or ``K``.
        domain: the high word of the counters.
        kind: ``WORDS``, ``NORMAL32`` or ``NORMAL64`` of :mod:`funcebm._threefry`.
        out: ``(K, 2, m)``, of int32, float32 or float64.
    """
    if not (key.is_cpu and counter.is_cpu and out.is_cpu) or not (_library if _library is not None else _load()):
        return False
    num_keys, two, num_counters = out.shape
    num_rows, num_columns = counter.shape
    if not (
        key.dtype is counter.dtype is torch.int32
        and out.dtype is _DTYPES[kind]
        and key.shape == (num_keys, 2)
        and two == 2
        and num_columns == num_counters
        and (num_rows == 1 or num_rows == num_keys)
    ):
        raise ValueError(
            f"keys must be (K, 2) int32, counters (1 or K, m) int32, and out (K, 2, m) of {_DTYPES[kind]}. Got "
            f"{tuple(key.shape)} {key.dtype}, {tuple(counter.shape)} {counter.dtype}, {tuple(out.shape)} {out.dtype}. "
            "Change the shape or dtype of the one that differs."
        )
    row_stride, column_stride = counter.stride()
    if num_rows == 1:
        row_stride = 0
    arguments = (key.data_ptr(), *key.stride(), counter.data_ptr(), row_stride, column_stride, domain, out.data_ptr())
    _call(_pack(kind, num_keys, num_counters, *arguments, *out.stride(), torch.get_num_threads()))
    return True
