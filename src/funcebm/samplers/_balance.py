"""Balancing functions of locally informed proposals, as logarithms."""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .. import checks

__all__ = ["BALANCES", "balancing"]

BALANCES: dict[str, Callable[[Tensor], Tensor]] = {
    "sqrt": lambda difference: difference / 2,
    "barker": logsigmoid,
    "min": lambda difference: difference.clamp(max=0),
    "max": lambda difference: difference.clamp(min=0),
}


def balancing(name: str) -> Callable[[Tensor], Tensor]:
    """``log g(e^d)`` of ``d``, with ``g(t) = t g(1/t)``; ``-inf``, a move that is not allowed, stays so."""
    fix = 'Write balance="sqrt", "barker" (t / (1 + t)), "min" (min(1, t)) or "max" (max(1, t)).'
    checks.require(name in BALANCES, "balance must be one of four", repr(name), fix)
    function = BALANCES[name]
    return lambda difference: torch.where(difference == -torch.inf, -torch.inf, function(difference))
