"""Parts of networks that ``vmap`` or second derivatives cannot go through, in operators that they can."""

from __future__ import annotations

from typing import Any

import torch
from torch.backends import cuda
from torch.overrides import TorchFunctionMode

__all__ = ["InPlainOperators"]


def _recurrent() -> dict[Any, Any]:
    """Recurrent layers as loops over time; none where this torch has no such formulae."""
    try:
        from torch._decomp import decompositions as known

        return {
            torch.gru: known.gru_impl,
            torch.lstm: known.lstm_impl,
            torch.rnn_tanh: known.rnn_tanh_input,
            torch.rnn_relu: known.rnn_relu_input,
        }
    except (ImportError, AttributeError):
        return {}


_RECURRENT = _recurrent()


class InPlainOperators(TorchFunctionMode):
    """While it is active, attention and recurrent layers are made of operators that can be mapped and differentiated twice."""

    def __enter__(self) -> InPlainOperators:
        """Attention by its formula, torch's ``MATH`` back end, on every device."""
        self.before = cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled()
        cuda.enable_flash_sdp(False)
        cuda.enable_mem_efficient_sdp(False)
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        cuda.enable_flash_sdp(self.before[0])
        cuda.enable_mem_efficient_sdp(self.before[1])

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs a function, or what stands for it."""
        kwargs = kwargs or {}
        if func in _RECURRENT and len(args) == 9 and isinstance(args[2], (list, tuple)):  # else a packed sequence
            with torch._C.DisableTorchFunction():
                return _RECURRENT[func](*args)
        return func(*args, **kwargs)
