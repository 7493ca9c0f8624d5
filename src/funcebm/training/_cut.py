"""Training of params that ranks hold parts of, as DTensors: they are whole for the time of a step alone.

A run carries the parts of its rank, as plain tensors. A step gathers the params by one message, differentiates the loss at them,
and keeps the gradient of its part, which is all that an element-wise optimizer needs.
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor

from .. import checks, tree
from ..distributed.mesh import Mesh
from ..distributed.optimizer import ShardedState, check_elementwise
from ..distributed.parameters import Layout, gathered, is_cut, layout_of, local
from ..types import Batch, Loss, Optimizer, Params, Tree
from .result import Fit, Validated
from .step import Found, Gradient, TrainState

__all__ = ["Cut", "cut_of", "described", "whole_fit"]


class Cut(NamedTuple):
    """How the params are cut, and with them their average and what the optimizer remembers, each by name."""

    params: Layout
    parts: dict[str, Layout]
    names: dict[str, list[str]]

    def gradient(self, inner: Gradient) -> Gradient:
        """The gradient of the part of this rank, at the params of all."""

        def gradient(loss: Loss, params: Params, memory: Tree, batch: Batch, noise: Tree) -> Found:
            gradients, *others = inner(loss, self.params.whole(params), memory, batch, noise)
            return (self.params.own(gradients), *others)

        return gradient

    def health(self, gradients: Params, params: Params) -> tuple[Tensor, Tensor]:
        """Whether all numbers of all ranks are finite, and the squared norm of the gradient; by one message of two numbers."""
        is_bad = ~(tree.all_finite(gradients) & tree.all_finite(params))
        squares = self.params.sum_of_squares(gradients)
        num_bad, total = self.params.mesh.sum(torch.stack([is_bad.to(squares.dtype), squares])).unbind(0)
        return num_bad == 0, total

    def dtensors(self, fit: Fit) -> Fit:
        """What a run returns, with DTensors in the place of the parts."""
        parts: Any = {name: layout.dtensors(getattr(fit, name)) for name, layout in self.parts.items()}
        return _with_best(fit._replace(**parts), self.params.dtensors)

    def own_fit(self, fit: Fit) -> Fit:
        """A run to resume, with the parts of this rank by name; it may hold DTensors, or whole tensors of a file."""
        parts: dict[str, Any] = {}
        for name, layout in self.parts.items():
            value = getattr(fit, name)
            found = dict(zip(tree.paths(value), tree.leaves(value), strict=True))
            parts[name] = layout.own_named(found, self.names[name]) if found else value

        def best(params: Params) -> Params:
            is_whole = not is_cut(params)
            return self.params.own(params) if is_whole else local(params)

        return _with_best(fit._replace(**parts), best)


def cut_of(state: TrainState, optimizer: Optimizer, mesh: Mesh) -> Cut | None:
    """How a run is cut that begins with DTensors; None where it does not."""
    if not is_cut(state.params):
        return None
    fix = "Leave out clip_by_global_norm and what else needs all gradients."
    check_elementwise(optimizer, "the optimizer of params that are DTensors", fix)
    must, fix = (
        "the optimizer of params that are DTensors must be plain",
        "Pass the one inside: its memory is cut as they are.",
    )
    checks.require(not _has_sharded(state.opt_state), must, "a sharded_optimizer", fix)
    values = {name: getattr(state, name) for name in ("params", "ema_params", "opt_state")}
    layouts = {name: layout_of(value, mesh) for name, value in values.items()}
    return Cut(layouts["params"], layouts, {name: tree.paths(value) for name, value in values.items()})


def _has_sharded(state: Tree) -> bool:
    is_tuple = isinstance(state, (tuple, list))
    return isinstance(state, ShardedState) or (is_tuple and any(_has_sharded(part) for part in state))


def _with_best(fit: Fit, function: Callable[[Params], Params]) -> Fit:
    """With the best params of the validation, changed."""
    validated = fit.validation
    if not isinstance(validated, Validated):
        return fit
    return fit._replace(validation=validated._replace(best_params=function(validated.best_params)))


def whole_fit(fit: Fit) -> Fit:
    """With whole tensors for a file; on all ranks at once."""
    if not is_cut(fit.params):
        return fit
    parts: Any = {name: gathered(getattr(fit, name)) for name in ("params", "ema_params", "opt_state")}
    return _with_best(fit._replace(**parts), gathered)


def described(params: Params) -> Tree:
    """What of params must be the same on all ranks."""
    leaves = tree.leaves(params)
    pairs = zip(leaves, tree.leaves(local(params)), strict=True)
    return [plain if leaf is plain else f"{leaf.shape} {leaf.dtype} {leaf.placements}" for leaf, plain in pairs]
