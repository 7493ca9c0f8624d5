"""A function whose value and gradient come together from elsewhere, as one that can be differentiated once."""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor

__all__ = ["summed_value"]


_FIRST_ONLY = (
    "a sharded energy has first derivatives only, in reverse. Got a second one by the position, or one forward. Take a sampler "
    "or a loss that needs gradients alone, or hold all data on every rank."
)


class _Scaled(torch.autograd.Function):
    """The gradient times what comes from outside; a derivative of it by the position would need another message."""

    generate_vmap_rule = True

    @staticmethod
    def forward(slope: Tensor, factor: Tensor, position: Tensor) -> Tensor:
        return slope * factor

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        raise RuntimeError(_FIRST_ONLY)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise RuntimeError(_FIRST_ONLY)


class _Summed(torch.autograd.Function):
    """``function(params, position) -> [value, *gradient]``, seen as the value."""

    generate_vmap_rule = True

    @staticmethod
    def forward(function: Callable[..., Any], num: int, *leaves: Tensor) -> Any:
        return tuple(function(list(leaves[:num]), list(leaves[num:])))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.num = inputs[1]
        ctx.save_for_backward(*output[1:], *inputs[2 + ctx.num :])
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        if any(ctx.needs_input_grad[2 : 2 + ctx.num]):
            raise RuntimeError(
                "a sharded energy has no derivative by its params, which differ between ranks. Got one. Train with "
                "funcebm.fit(..., mesh=mesh), which adds gradients up."
            )
        slopes = ctx.saved_tensors[: len(ctx.saved_tensors) // 2]
        positions = ctx.saved_tensors[len(slopes) :]
        found = [_Scaled.apply(slope, outer[0], at) for slope, at in zip(slopes, positions, strict=True)]
        return (None, None, *([None] * ctx.num), *found)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise RuntimeError(_FIRST_ONLY)


def summed_value(function: Callable[..., Any], params: list[Tensor], position: list[Tensor]) -> Tensor:
    """The value, whose gradient by the position is the one that comes with it.

    Args:
        function: ``(params, position) -> [value, *gradient]``, of flat lists.
        params: constants.
        position: by these there is a derivative.
    """
    value: Tensor = _Summed.apply(function, len(params), *params, *position)[0]
    return value
