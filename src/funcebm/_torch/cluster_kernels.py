"""The clusters of many graphs by union and find, in C (``clusters.c``), on the CPU: one operator, with a rule for ``vmap``."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor

from . import native

__all__ = ["cluster_labels", "has_kernel"]

_FLAGS = ("-std=gnu11", "-O3")


@functools.cache
def _function() -> Any:
    """The function of the library, compiled at its first use; None where there is none."""
    instead = "clusters come from tensor operations"
    library = native.optional("clusters.c", flags=(*_FLAGS, "-fopenmp"), or_flags=(_FLAGS,), instead=instead)
    if library is None:
        return None
    function = library.funcebm_clusters
    function.argtypes, function.restype = [ctypes.c_int64] * 3 + [ctypes.c_void_p] * 3 + [ctypes.c_int64], None
    return function


def has_kernel(like: Tensor) -> bool:
    """Whether :func:`cluster_labels` serves tensors such as this one."""
    return like.device.type == "cpu" and _OPERATOR is not None and _function() is not None


def _labels(edges: Tensor, is_open: Tensor, num_sites: int) -> Tensor:
    edges, is_open = edges.to(torch.int64).contiguous(), is_open.contiguous()
    labels = torch.empty(*is_open.shape[:-1], num_sites, dtype=torch.int64)
    num_graphs = is_open.shape[:-1].numel()
    pointers = (edges.data_ptr(), is_open.data_ptr(), labels.data_ptr())
    _function()(num_graphs, len(edges), num_sites, *pointers, torch.get_num_threads())
    return labels


_OPERATOR: Any = None
if hasattr(torch.library, "custom_op") and hasattr(torch.library, "register_vmap"):
    _library = torch.library.Library("funcebm", "FRAGMENT")
    _library.define("cluster_labels(Tensor edges, Tensor is_open, int num_sites) -> Tensor")
    _library.impl("cluster_labels", lambda *arguments: _labels(*arguments), "CompositeExplicitAutograd")
    _OPERATOR = torch.ops.funcebm.cluster_labels.default

    @torch.library.register_fake("funcebm::cluster_labels", lib=_library)
    def _(edges: Tensor, is_open: Tensor, num_sites: int) -> Tensor:
        return is_open.new_empty(*is_open.shape[:-1], num_sites, dtype=torch.int64)

    def _batched(info: Any, in_dims: tuple[Any, ...], edges: Tensor, is_open: Tensor, num_sites: int) -> Any:
        edges_dim, open_dim = in_dims[0], in_dims[1]
        if edges_dim is None:
            return _OPERATOR(edges, is_open.movedim(open_dim, 0), num_sites), 0
        each = is_open.movedim(open_dim, 0) if open_dim is not None else is_open.expand(info.batch_size, *is_open.shape)
        pairs = zip(edges.movedim(edges_dim, 0), each, strict=True)
        return torch.stack([_OPERATOR(one, flags, num_sites) for one, flags in pairs]), 0

    torch.library.register_vmap("funcebm::cluster_labels", _batched, lib=_library)


def cluster_labels(edges: Tensor, is_open: Tensor, num_sites: int) -> Tensor:
    """The smallest site of the cluster of each site.

    Args:
        edges: ``(M, 2)`` integers, of which none is beyond the sites.
        is_open: ``(..., M)`` bool.
        num_sites: N.

    Returns:
        ``(..., N)`` int64.
    """
    labels: Tensor = _OPERATOR(edges, is_open, num_sites)
    return labels
