"""How a run does on data that it was not trained on, and when that is reason to stop."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, random, tree
from ..transforms import jit
from ..types import Batch, Key, Loss, Params, Tree
from .data import check_tensors
from .result import Validated
from .step import Recipe

__all__ = ["Validation", "check_like", "check_validation", "make_evaluate", "run_out_of_patience", "with_value"]


class Validation(NamedTuple):
    """Held-out data, and what :func:`~funcebm.training.fit` does with them: a number every few steps, best params, an early stop.

    The number is taken at the averaged params where there are any. The loss is taken with one and the same noise each time,
    and with a memory that it makes again, so that the numbers of one run can be compared. Mind that the value of a contrastive
    loss is no measure of fit; give a metric, or a loss that is, such as denoising score matching.

    Attributes:
        data: ``(V, ...)``, in the form of the training data.
        every: after how many steps, again and again.
        metric: what to measure; lower is better. A loss, or ``(params, data) -> ()``, which is called eagerly. By default the
            loss that is trained.
        patience: training ends when so many numbers in a row were no better than the best; None never ends it.

    >>> Validation(torch.zeros(10, 2), every=100, patience=5).every
    100
    """

    data: Batch
    every: int
    metric: Loss | Callable[[Params, Batch], Tensor] | None = None
    patience: int | None = None


def check_validation(validation: Validation) -> None:
    """Checks at the door."""
    fix = "Write validation=training.Validation(data, every=100)."
    right = isinstance(validation, Validation)
    checks.require(right, "validation must be a Validation", type(validation).__name__, fix, TypeError)
    checks.positive_int("validation.every", validation.every)
    if validation.patience is not None:
        checks.positive_int("validation.patience", validation.patience)
    check_tensors("validation.data", validation.data)


def check_like(validation: Validation, example: Batch) -> None:
    """Held-out data must be like the training data, where they are put into the same loss."""
    if validation.metric is not None:
        return
    checks.one_structure("validation.data", validation.data, "the training data", example)
    for path, leaf, like in zip(tree.paths(example), tree.leaves(validation.data), tree.leaves(example), strict=True):
        kinds = [(tuple(part.shape[1:]), part.dtype, part.device) for part in (leaf, like)]
        got = f"rows of {kinds[0]} in place of {kinds[1]}" + (f" in {path!r}" if path else "")
        fix = "Split one set of data in two."
        checks.require(kinds[0] == kinds[1], "validation.data must be like the training data", got, fix)


def make_evaluate(
    recipe: Recipe, validation: Validation, key: Key, hyper: Tree, is_jitted: bool
) -> Callable[..., Tensor]:
    """``params -> value``; ``()``, or ``(M,)`` of an ensemble."""
    data, metric = tree.map(torch.Tensor.detach, validation.data), validation.metric
    if metric is not None and not isinstance(metric, Loss):

        def one(params: Params) -> Tensor:
            value = torch.as_tensor(metric(params, data))
            must, fix = "validation.metric must return a number", "Average over the data."
            checks.require(value.ndim == 0, must, f"the shape {tuple(value.shape)}", fix)
            return value

        return vmap(one) if recipe.is_ensemble else one
    loss = recipe.loss if metric is None else _constant(metric)
    run = jit(_make_value(loss, recipe.is_ensemble)) if is_jitted else _make_value(loss, recipe.is_ensemble)
    key_init, key_noise = random.split(key)

    def start(keys: tuple[Key, Key], params: Params, hyper: Tree) -> tuple[Tree, Tree]:
        return loss(hyper).init(keys[0], params, data), loss(hyper).draw(keys[1], data)

    def evaluate(params: Params) -> Tensor:
        if recipe.is_ensemble:
            num = tree.batch_size(params)
            keys = (random.split(key_init, num), random.split(key_noise, num))
            memory, noise = vmap(start)(keys, params, hyper)
        else:
            memory, noise = start((key_init, key_noise), params, hyper)
        return run(params, memory, data, noise, hyper)

    return evaluate


def _constant(loss: Loss) -> Callable[[Tree], Loss]:
    return lambda hyper: loss


def _make_value(loss: Callable[[Tree], Loss], is_ensemble: bool) -> Callable[..., Tensor]:
    def value(params: Params, memory: Tree, data: Batch, noise: Tree, hyper: Tree) -> Tensor:
        return loss(hyper).value(params, memory, data, noise)[0]

    return vmap(value, (0, 0, None, 0, 0)) if is_ensemble else value


def with_value(known: Validated | tuple[()], params: Params, value: Tensor, step: int) -> Validated:
    """One more number. One that is NaN is never the best."""
    value = value.detach()
    steps = torch.full((1,), step, dtype=torch.int64, device=value.device)
    if not isinstance(known, Validated):
        infinite = torch.full_like(value, torch.inf)
        known = Validated(steps[:0], value[None][:0], params, infinite, torch.zeros_like(value, dtype=torch.int64))
    is_best = value < known.best_value

    def better(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(is_best.reshape(is_best.shape + (1,) * (new.ndim - is_best.ndim)), new, old)

    return Validated(
        torch.cat((known.steps, steps)),
        torch.cat((known.values, value[None])),
        tree.map(better, params, known.best_params),
        better(value, known.best_value),
        better(steps[0].expand(value.shape), known.best_step),
    )


def run_out_of_patience(validated: Any, patience: int | None) -> str:
    """Why to stop, or the empty string."""
    if patience is None or not isinstance(validated, Validated) or not checks.is_concrete(validated.values):
        return ""
    later = (validated.steps > validated.best_step.max()).sum()
    if later < patience:
        return ""
    best = ", ".join(f"{float(value):.4g}" for value in validated.best_value.flatten()[:4])
    return (
        f"stopped early at step {int(validated.steps[-1])}: the validation loss has not been lower than {best}, of step "
        f"{int(validated.best_step.max())}, for {int(later)} validations; validation.best_params are those of then"
    )
