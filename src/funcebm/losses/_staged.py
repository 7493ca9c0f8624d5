"""How a loss is split into a part without gradient and the rest."""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor

from .. import tree
from ..types import Batch, Key, Loss, LossAux, MemoryT, Params, Tree

__all__ = ["detached", "objective", "prepare", "staged", "without_memory"]


def without_memory(key: Key, params: Params, batch: Batch) -> tuple[()]:
    """The ``init`` of a loss that remembers nothing."""
    return ()


def detached(value: Tree) -> Tree:
    """The same numbers, through which no gradient flows."""
    return tree.map(torch.Tensor.detach, value)


def staged(
    init: Callable[[Key, Params, Batch], MemoryT],
    draw: Callable[[Key, Batch], Any],
    prepare: Callable[[Params, Any, Batch, Any], Any],
    objective: Callable[[Params, Any], tuple[Tensor, LossAux[MemoryT]]],
    couple: Callable[[Batch, Any], Any] | None = None,
) -> Loss[MemoryT]:
    """A loss whose value is ``objective(params, prepare(params, memory, batch, noise))``, without gradient in ``prepare``."""

    def stopped(params: Params, memory: Tree, batch: Batch, noise: Tree) -> Tree:
        return detached(prepare(detached(params), detached(memory), batch, noise))

    def value(params: Params, memory: Tree, batch: Batch, noise: Tree) -> tuple[Tensor, LossAux[MemoryT]]:
        return objective(params, stopped(params, memory, batch, noise))

    return Loss(init, draw, value, stopped, objective, couple)


def prepare(loss: Loss, params: Params, memory: Tree, batch: Batch, noise: Tree) -> Tree:
    """The part of any loss that may run outside of ``torch.func.grad``."""
    return (memory, batch, noise) if loss.prepare is None else loss.prepare(params, memory, batch, noise)


def objective(loss: Loss, params: Params, prepared: Tree) -> tuple[Tensor, LossAux]:
    """The part of any loss to differentiate; ``(value, aux)``."""
    return loss.value(params, *prepared) if loss.objective is None else loss.objective(params, prepared)
