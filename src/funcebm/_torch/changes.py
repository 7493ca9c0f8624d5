"""What a function changes in place, or reads by strides, noted as new values: of the memory that it makes itself."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .recorder import Recorder

__all__ = ["RESHAPED", "Storage", "change", "mark_failures", "read_by_strides", "view_of"]

aten = torch.ops.aten
RESHAPED = ("squeeze_", "unsqueeze_", "t_", "transpose_", "swapaxes_", "swapdims_")
_WITHOUT = "Write it without, or pass jit=False."


class Storage:
    """Memory of fake tensors: the tensor that was there first, how often it changed, and its numbers since."""

    def __init__(self, root: Tensor) -> None:
        self.root, self.version = root, 0
        self.flat: torch.fx.Node | None = None


def view_of(recorder: Recorder, storage: Storage, tensor: Tensor) -> torch.fx.Node:
    """A tensor as it is now, of a storage that has changed."""
    arguments = (storage.flat, list(tensor.shape), list(tensor.stride()), tensor.storage_offset())
    node = recorder.graph.call_function(aten.as_strided.default, arguments)
    node.meta["val"] = tensor
    return node


def read_by_strides(recorder: Recorder, tensor: Tensor, out: Tensor) -> None:
    """Notes ``as_strided`` of the memory in its order here: where the graph is lowered, strides may be others."""
    storage = recorder.storage_of(tensor)
    storage.flat = storage.flat or _flat(recorder, storage)
    recorder.set_place(out, view_of(recorder, storage, out))


def mark_failures(recorder: Recorder, info: Tensor) -> None:
    """What :mod:`torch.linalg` would raise an error about, matrices with an ``info`` that is not 0, has NaN as result."""
    node: Any = recorder.place(info)
    parts = [part for part in node.args[0].users if part is not node] if node.target is operator.getitem else []
    for value in (part.meta["val"] for part in parts):
        if value.is_floating_point():
            with recorder:
                is_good = (info == 0).reshape(info.shape + (1,) * (value.ndim - info.ndim))
                marked = torch.where(is_good, value, torch.nan)
            recorder.places[id(value)] = recorder.places[id(marked)]


def _flat(recorder: Recorder, storage: Storage) -> torch.fx.Node:
    """All numbers of a storage in the order of memory, before its first change."""
    root = storage.root
    order = sorted(range(root.ndim), key=lambda axis: (-root.stride()[axis], axis))
    node = recorder.places[id(root)]
    with recorder.paused():
        value = root.permute(order)
        if root.numel() * root.element_size() != root.untyped_storage().nbytes() or not value.is_contiguous():
            raise RuntimeError(
                f"a view of memory that a function does not make is changed in place, or read by strides. {_WITHOUT}"
            )
    return _ordered(recorder, _noted(recorder, aten.permute.default, (node, order), value), value)


def _ordered(recorder: Recorder, node: torch.fx.Node, value: Tensor) -> torch.fx.Node:
    with recorder.paused():
        flat = value.reshape(-1)
        copy = flat.clone()
    node = _noted(recorder, aten.reshape.default, (node, [-1]), flat)
    node = _noted(recorder, aten.clone.default, (node,), copy)
    node.kwargs = {"memory_format": torch.contiguous_format}
    return node


def _noted(recorder: Recorder, func: Any, args: Any, value: Any) -> torch.fx.Node:
    node = recorder.graph.call_function(func, args)
    node.meta["val"] = value
    return node


def change(recorder: Recorder, func: Any, args: Any, kwargs: Any, node_args: Any, node_kwargs: Any, out: Any) -> Any:
    """Notes an operator that changes a tensor in place as one that makes a new value."""
    changed = args[0] if args else None
    functional = _functional_of(func)
    if functional is None or not isinstance(changed, Tensor) or not _changes_first_only(func):
        raise RuntimeError(f"{func} changes tensors in place in a way that cannot be compiled. {_WITHOUT}")
    storage = recorder.storage_of(changed)
    if recorder.places[id(storage.root)].op == "placeholder" and id(storage.root) not in recorder.own:
        raise ValueError(
            "a function that is compiled must not change its arguments, or what it reads from outside, in place. "
            f"Got {func.name()}. Write x = x + 1 in place of x += 1, or begin with x = x.clone()."
        )
    node = recorder.graph.call_function(functional, node_args, node_kwargs)
    if func.overloadpacket.__name__ in RESHAPED:  # only its shape has changed, that of its fake too
        node.meta["val"] = changed
        recorder.places[id(changed)] = node
        return out
    with recorder.paused():
        if (dtype := functional(*args, **kwargs).dtype) != changed.dtype:
            node.meta["val"] = torch.empty(changed.shape, dtype=dtype, device=changed.device)
            node = recorder.graph.call_function(aten._to_copy.default, (node,), {"dtype": changed.dtype})
        node.meta["val"] = value = torch.empty(changed.shape, dtype=changed.dtype, device=changed.device)
    before = storage.flat or _flat(recorder, storage)
    is_whole = (
        changed.is_contiguous() and changed.numel() * changed.element_size() == changed.untyped_storage().nbytes()
    )
    if is_whole:
        storage.flat = _ordered(recorder, node, value)
    else:
        where = (list(changed.shape), list(changed.stride()), changed.storage_offset())
        storage.flat = _noted(recorder, aten.as_strided_scatter.default, (before, node, *where), before.meta["val"])
    storage.version += 1
    recorder.places[id(changed)] = node
    recorder.versions[id(changed)] = storage.version
    return changed if isinstance(out, Tensor) else out


def _functional_of(func: Any) -> Any:
    """The operator that makes a new value where ``func`` changes its first argument, or None."""
    others = {aten.copy_.default: aten.copy.default, aten.transpose_.default: aten.transpose.int}
    if func in others:
        return others[func]
    packet, overload = func.overloadpacket.__name__, func._overloadname
    if not packet.endswith("_") or packet.endswith("__"):
        return None
    namespace = getattr(torch.ops, func.namespace)
    return getattr(getattr(namespace, packet[:-1], None), overload, None)


def _changes_first_only(func: Any) -> bool:
    written = [argument.alias_info is not None and argument.alias_info.is_write for argument in func._schema.arguments]
    return written[0] and not any(written[1:])
