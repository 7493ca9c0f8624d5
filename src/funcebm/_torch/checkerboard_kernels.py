"""Heat-bath sweeps of Ising spins on tori, in C (``checkerboard.c``), on the CPU: one operator, with a rule for ``vmap``."""

from __future__ import annotations

import ctypes
import functools
import struct
from typing import Any

import torch
from torch import Tensor

from . import native

__all__ = ["has_kernel", "sweep"]

_FLAGS = ("-std=gnu11", "-O3")
_BEST = (*_FLAGS, "-march=native", "-fopenmp")
_pack = struct.Struct("12q").pack


@functools.cache
def _function() -> Any:
    """The function of the library, compiled at its first use; None where there is none."""
    instead = "sweeps are made of tensor operations"
    library = native.optional("checkerboard.c", flags=_BEST, or_flags=((*_FLAGS, "-fopenmp"), _FLAGS), instead=instead)
    if library is None:
        return None
    function = library.funcebm_checkerboard
    function.argtypes, function.restype = (ctypes.c_char_p,), ctypes.c_int
    return function


def has_kernel(like: Tensor) -> bool:
    """Whether :func:`sweep` serves tensors such as this one."""
    is_served = like.device.type == "cpu" and like.dtype in (torch.float32, torch.float64)
    return is_served and _OPERATOR is not None and _function() is not None


def _sweep(spins: Tensor, words: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    spins, words, thresholds = spins.contiguous(), words.contiguous(), thresholds.contiguous()
    after, counts = torch.empty_like(spins), torch.empty(len(spins), 3, dtype=torch.int64)
    sizes = (*spins.shape, len(thresholds), thresholds.shape[2], spins.element_size())
    pointers = (tensor.data_ptr() for tensor in (spins, words, thresholds, after, counts))
    if _function()(_pack(*sizes, *pointers, torch.get_num_threads())):
        raise MemoryError("a sweep of a lattice needs one byte for each of its sites")
    return after, counts


_OPERATOR: Any = None
if hasattr(torch.library, "custom_op") and hasattr(torch.library, "register_vmap"):
    _library = torch.library.Library("funcebm", "FRAGMENT")
    _library.define("checkerboard(Tensor spins, Tensor words, Tensor thresholds) -> (Tensor, Tensor)")
    _library.impl("checkerboard", lambda *arguments: _sweep(*arguments), "CompositeExplicitAutograd")
    _OPERATOR = torch.ops.funcebm.checkerboard.default

    @torch.library.register_fake("funcebm::checkerboard", lib=_library)
    def _(spins: Tensor, words: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
        after = spins.new_empty(spins.shape)
        return after, spins.new_empty(spins.shape[0], 3, dtype=torch.int64)

    def _batched(info: Any, in_dims: tuple[Any, ...], spins: Tensor, words: Tensor, thresholds: Tensor) -> Any:
        size = info.batch_size

        def lead(tensor: Tensor, dim: int | None) -> Tensor:
            return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)

        spins, words = lead(spins, in_dims[0]), lead(words, in_dims[1])
        num = spins.shape[1]
        if in_dims[2] is not None or thresholds.shape[0] > 1:
            thresholds = lead(thresholds, in_dims[2]).expand(size, num, -1, -1).flatten(0, 1)
        results = _OPERATOR(spins.flatten(0, 1), words.flatten(0, 1), thresholds)
        return tuple(result.unflatten(0, (size, num)) for result in results), (0, 0)

    torch.library.register_vmap("funcebm::checkerboard", _batched, lib=_library)


def sweep(spins: Tensor, words: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    """Both colours of a lattice, one after the other.

    Args:
        spins: ``(H, W)``, of -1 and 1.
        words: ``(2, H, W / 2)`` int32, of which 31 bits are used, for the sites of each colour.
        thresholds: ``(5, 1)`` or, by colours, ``(5, H * W)`` int32: below which word a site is up, for neighbours that add up
            to -4, -2, 0, 2 and 4.

    Returns:
        The spins, and ``(3,)`` int64: the sum of products over the bonds, the sum of spins, and how many changed.
    """
    after, counts = _OPERATOR(spins[None], words[None], thresholds[None])
    return after[0], counts[0]
