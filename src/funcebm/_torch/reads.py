"""Numbers that a traced function takes out of tensors of outside, and out of what it computes from these alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

if TYPE_CHECKING:
    from .recorder import Recorder

__all__ = ["Reads", "value_from_outside"]

_READERS = {Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__dlpack__, Tensor.data_ptr}


class Reads(TorchFunctionMode):
    """While it is active, ``tolist``, ``numpy`` and the like of a tensor that exists are noted; of a traced one they are errors.

    Args:
        values: where the tensors are noted.
        refused: makes the error.
    """

    def __init__(self, values: list[Tensor], refused: type[Exception]) -> None:
        super().__init__()
        self.values, self.refused = values, refused

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs a function, on real memory where it reads that."""
        from torch._subclasses import FakeTensor

        if func not in _READERS:
            return func(*args, **(kwargs or {}))
        if type(args[0]) is FakeTensor:
            raise self.refused("a number that is traced has no value yet")
        self.values.append(args[0])
        with _disable_current_modes():
            return func(*args, **(kwargs or {}))


def value_from_outside(recorder: Recorder, node: torch.fx.Node, read: list[Tensor], refused: type[Exception]) -> Tensor:
    """The value of a node that depends on constants and tensors of outside alone; its operators are run now.

    Args:
        recorder: of the node.
        node: an operator or a captured tensor.
        read: where the tensors are noted that it depends on.
        refused: makes the error about a node that depends on an argument, or on a loop.
    """
    known: dict[torch.fx.Node, Any] = {}

    def value(node: torch.fx.Node) -> Any:
        if node not in known:
            known[node] = _value(recorder, node, value, read, refused)
        return known[node]

    with _disable_current_modes(), torch.no_grad():
        return value(node)


def _value(recorder: Recorder, node: Any, value: Any, read: list[Tensor], refused: type[Exception]) -> Any:
    from torch._subclasses import FakeTensor

    if "constant" in node.meta:
        return node.meta["constant"]
    if node in recorder.outside:
        tensor = recorder.outside[node]
        if not isinstance(tensor, FakeTensor):
            read.append(tensor)
            return tensor
        if recorder.parent is not None:
            return value_from_outside(recorder.parent, recorder.parent.place(tensor), read, refused)
    if node.op != "call_function" or "bodies" in node.meta:
        raise refused("a number that is traced has no value yet")
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), value)
    return node.target(*args, **kwargs)
