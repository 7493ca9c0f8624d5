"""What is looked at before a run of training begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from .. import checks, tree
from ..types import Key, Loss, Optimizer, Params, Tree
from .checkpoint import check_path
from .data import Rows, Stream, extreme_rows
from .step import Recipe
from .validation import check_validation

if TYPE_CHECKING:
    from .run import Options

__all__ = ["check_loss", "check_options"]


def check_options(params: Params, options: Options, ema_decay: Any) -> None:
    checks.positive_int("num_steps", options.num_steps)
    if options.chunk_size is not None:
        checks.positive_int("chunk_size", options.chunk_size)
    if options.validation is not None:
        check_validation(options.validation)
    if options.checkpoint is not None:
        check_path(options.checkpoint)
    if ema_decay is not None and checks.is_concrete(ema_decay):
        must, fix = "ema_decay must be in [0, 1)", "Try 0.999, or None for no average."
        checks.require(bool((ema_decay >= 0) & (ema_decay < 1)), must, ema_decay.tolist(), fix)
    must, fix = "params must hold a tensor", "Give what is to be trained."
    checks.require(bool(tree.leaves(params)), must, "an empty tree", fix)
    for name, leaf in zip(tree.paths(params), tree.leaves(params), strict=True):
        right = isinstance(leaf, Tensor) and leaf.is_floating_point()
        got = f"{name or 'params'}: {leaf.dtype if isinstance(leaf, Tensor) else type(leaf).__name__}"
        fix = "Close over what is not trained, and make the rest tensors of floats."
        checks.require(right, "params must be floating-point tensors", got, fix, TypeError)


def check_loss(recipe: Recipe, key: Key, params: Params, source: Rows | Stream, hyper: Tree) -> dict[str, Tensor]:
    """Runs the loss once on a few rows, eagerly: errors of the user's energy come out here, as they are; the metrics.

    Rows with the smallest and the largest integers are shown to its ``init``, which refuses labels out of range.
    """
    if recipe.is_ensemble:
        params, hyper = tree.map(lambda leaf: leaf[0], params), tree.map(lambda leaf: leaf[0], hyper)
    loss, few = recipe.loss(hyper), tree.map(lambda leaf: leaf[:2], source.example)
    right, fix = isinstance(loss, Loss), "Make one with funcebm.losses, or Loss(init, draw, value) of your own."
    checks.require(right, "loss must be a Loss", type(loss).__name__, fix, TypeError)
    optimizer, fix = recipe.optimizer(hyper), "Make one with funcebm.optimizers, such as optimizers.adam(1e-3)."
    right = isinstance(optimizer, Optimizer)
    checks.require(right, "optimizer must be an Optimizer", type(optimizer).__name__, fix, TypeError)
    for row in extreme_rows(source.shared):
        loss.init(key, params, row)
    value, aux = loss.value(params, loss.init(key, params, few), few, loss.draw(key, few))
    fix = "Average over the batch."
    checks.require(value.shape == (), "a loss must return a 0-d tensor", f"the shape {tuple(value.shape)}", fix)
    for name, metric in aux.metrics.items():
        checks.require(metric.shape == (), f"the metric {name!r} must be a 0-d tensor", f"{tuple(metric.shape)}", fix)
    return aux.metrics
