"""Parts of networks that ``vmap`` or second derivatives cannot go through, in operators that they can."""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor
from torch.backends import cuda
from torch.nn.functional import linear, rrelu
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


def _linear_pair(x: Tensor, h: Tensor, weights: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    to_input, to_hidden, *biases = weights
    of_input, of_hidden = biases or (None, None)
    return linear(x, to_input, of_input), linear(h, to_hidden, of_hidden)


def _lstm_cell(x: Tensor, state: tuple[Tensor, Tensor], *weights: Tensor) -> tuple[Tensor, Tensor]:
    h, c = state
    keep, forget, new, out = sum(_linear_pair(x, h, weights)).chunk(4, -1)  # type: ignore[union-attr]
    c = torch.sigmoid(forget) * c + torch.sigmoid(keep) * torch.tanh(new)
    return torch.sigmoid(out) * torch.tanh(c), c


def _gru_cell(x: Tensor, h: Tensor, *weights: Tensor) -> Tensor:
    (reset_x, update_x, new_x), (reset_h, update_h, new_h) = (part.chunk(3, -1) for part in _linear_pair(x, h, weights))
    update = torch.sigmoid(update_x + update_h)
    new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
    return new + update * (h - new)


def _rnn_cell(activation: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda x, h, *weights: activation(sum(_linear_pair(x, h, weights)))  # type: ignore[arg-type]


def _prelu(x: Tensor, weight: Tensor) -> Tensor:
    """One slope, or one for each channel, the second axis."""
    slope = weight if weight.numel() == 1 else weight.reshape(-1, *[1] * (x.ndim - 2))
    return torch.where(x > 0, x, slope * x)


def _rrelu(
    x: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False
) -> Tensor:
    if training:
        return rrelu(x, lower, upper, training, inplace)
    return torch.where(x > 0, x, (lower + upper) / 2 * x)


_PLAIN: dict[Any, Callable[..., Any]] = {
    torch.lstm_cell: _lstm_cell,
    torch.gru_cell: _gru_cell,
    torch.rnn_tanh_cell: _rnn_cell(torch.tanh),
    torch.rnn_relu_cell: _rnn_cell(torch.relu),
    torch.prelu: _prelu,
    rrelu: _rrelu,
}


class InPlainOperators(TorchFunctionMode):
    """While it is active, attention, recurrent layers and the like are operators that can be mapped and differentiated twice."""

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
        return _PLAIN.get(func, func)(*args, **kwargs)
