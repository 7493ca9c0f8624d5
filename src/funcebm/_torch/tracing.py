"""Who is looking at these tensors: a trace, a transform, or nobody."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import recorder

__all__ = ["is_concrete", "is_differentiating", "is_mapped", "is_tracing", "plain"]


def is_tracing() -> bool:
    """Whether the code that asks is being traced, by :func:`funcebm.jit` or by ``torch.compile``."""
    if recorder.current() is not None:
        return True
    check = getattr(getattr(torch, "compiler", None), "is_compiling", None)
    return check() if check is not None else False


def is_mapped(value: Any) -> bool:
    """Whether a tensor is one of many that ``vmap``, or the variable of a ``grad``, stands for."""
    return torch._C._functorch.is_functorch_wrapped_tensor(value)


def is_concrete(value: Tensor) -> bool:
    """Whether the numbers of a tensor can be looked at now: not in a trace or a transform; a meta tensor has none."""
    return not value.is_meta and not is_mapped(value) and not is_tracing()


def is_differentiating() -> bool:
    """Whether the code that asks runs inside ``torch.func.grad`` (``jacrev``, ``vjp``), or ``jvp`` (``jacfwd``)."""
    stack = torch._C._functorch.get_interpreter_stack() or []
    kinds = torch._C._functorch.TransformType
    return any(level.key() in (kinds.Grad, kinds.Jvp) for level in stack)


def plain(value: Tensor) -> Tensor:
    """The tensor of all that ``vmap`` maps over, without the transforms."""
    while is_mapped(value):
        value = torch._C._functorch.get_unwrapped(value)
    return value
