"""Numbers that a traced function takes out of a tensor past the operators, which no dispatch tells of."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

__all__ = ["Reads"]

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
