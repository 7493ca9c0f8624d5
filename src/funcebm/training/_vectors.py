"""Compiled training on vectors: all params as one, and so what an optimizer remembers of them.

A network has many small leaves, and an optimizer that works number by number says the same for each. On one vector that is one
kernel in place of one for each leaf. The loss sees the leaves, as views; their gradients are joined.
"""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor

from .. import tree
from ..types import Optimizer, Tree
from .step import Found, Gradient, TrainState

__all__ = ["Vectors", "vectors_of"]

_FEWEST = 3  # leaves


class Vectors:
    """How a state of training is one of vectors, and the other way round."""

    def __init__(self, state: TrainState, optimizer: Optimizer) -> None:
        self.structure = tree.structure(state.params)
        vector, self.split = tree.ravel(state.params)
        self.remembered = tree.structure(optimizer.init(vector))
        self.are_like_params = [self._is_like_params(part) for part in tree.parts(self.remembered, state.opt_state)]

    def join(self, value: Tree) -> Tensor:
        """A tree like the params as a vector."""
        return tree.ravel(value)[0]

    def of_state(self, state: TrainState) -> TrainState:
        """A state whose params, averages and memories of params are vectors."""
        return self._mapped(state, self.join, tree.parts(self.remembered, state.opt_state))

    def to_state(self, state: TrainState) -> TrainState:
        """The way back; leaves have memory of their own."""
        return self._mapped(state, self._apart, tree.leaves(state.opt_state))

    def gradient(self, of_leaves: Gradient) -> Gradient:
        """The gradient of a loss with respect to the vector."""

        def of_vector(loss: Any, params: Tensor, memory: Tree, batch: Tree, noise: Tree) -> Found:
            gradients, *others = of_leaves(loss, self.split(params), memory, batch, noise)
            return self.join(gradients), *others

        return of_vector

    def loop(self, loop: Callable[..., Any]) -> Callable[..., Any]:
        """A loop of states, from one whose states are vectors."""

        def run(shared: Tree, carry: TrainState, xs: Tree, *arguments: Any, **options: Any) -> tuple[TrainState, Tree]:
            carry, ys = loop(shared, self.of_state(carry), xs, *arguments, **options)
            return self.to_state(carry), ys

        return run

    def _is_like_params(self, value: Tree) -> bool:
        return tree.structure(value) == self.structure

    def _apart(self, vector: Tensor) -> Tree:
        return tree.map(torch.clone, self.split(vector))

    def _mapped(self, state: TrainState, change: Callable[[Any], Tree], remembered: list[Tree]) -> TrainState:
        pairs = zip(remembered, self.are_like_params, strict=True)
        opt_state = tree.unflatten(self.remembered, [change(part) if flag else part for part, flag in pairs])
        averages = change(state.ema_params) if tree.leaves(state.ema_params) else ()
        return TrainState(change(state.params), averages, opt_state, state.memory)


def vectors_of(state: TrainState, optimizer: Optimizer) -> Vectors | None:
    """The vectors of a state; None where the optimizer does not declare that leaves are the same to it, or these are few or of
    several kinds."""
    leaves = tree.leaves(state.params)
    is_one_kind = len({(leaf.dtype, leaf.device) for leaf in leaves}) == 1
    return Vectors(state, optimizer) if optimizer.is_elementwise and is_one_kind and len(leaves) >= _FEWEST else None
