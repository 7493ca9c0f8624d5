"""One step of training as a pure function, and the loop of many that is compiled whole."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from .. import loops, random, tree
from ..losses._staged import objective, prepare
from ..optimizers import apply_updates
from ..types import Batch, Key, Loss, LossAux, Optimizer, Params, Tree

__all__ = ["Recipe", "TrainState", "begin", "draw_noise", "make_chunk", "train_step"]


class TrainState(NamedTuple):
    """What evolves in training: ``params``, their moving average (or ``()``), and what optimizer and loss remember."""

    params: Params
    ema_params: Params
    opt_state: Tree
    memory: Tree


class Recipe(NamedTuple):
    """What a run repeats; loss and optimizer are functions of the numbers in which members of an ensemble differ."""

    loss: Callable[[Tree], Loss]
    optimizer: Callable[[Tree], Optimizer]
    ema_decay: float | Tensor | None
    is_ensemble: bool


Metrics = dict[str, Tensor]


def train_step(
    loss: Loss,
    optimizer: Optimizer,
    state: TrainState,
    batch: Batch,
    noise: Tree,
    *,
    ema_decay: float | Tensor | None = None,
) -> tuple[TrainState, Metrics]:
    r"""One step of training, as a pure function.

    Differentiates the loss, lets the optimizer move the params, and averages them:
    :math:`\bar\theta \leftarrow d\,\bar\theta + (1 - d)\,\theta`. Where the loss, its gradient or the new params are not
    finite, the step is skipped: the whole state stays as it was.

    Args:
        loss: what to minimise.
        optimizer: how.
        state: where training is. A start is ``TrainState(params, params, optimizer.init(params), loss.init(key, params,
            batch))``, with ``()`` in the second place where nothing is averaged.
        batch: ``(B, ...)``.
        noise: from ``loss.draw(key, batch)``.
        ema_decay: :math:`d` in [0, 1). ``()``.

    Returns:
        The new state, and the metrics, 0-d tensors: ``loss``, ``gradient_norm``, ``skipped`` (0 or 1), those of the loss.

    >>> from funcebm import losses, optimizers
    >>> loss = losses.score_matching(lambda params, x: params * (x**2).sum() / 2)
    >>> optimizer, params = optimizers.sgd(0.1), torch.tensor(2.0)
    >>> state = TrainState(params, (), optimizer.init(params), ())
    >>> state, metrics = train_step(loss, optimizer, state, torch.ones(4, 2), ())
    >>> state.params, metrics["loss"]
    (tensor(1.8000), tensor(0.))
    """
    return _step(loss, optimizer, state, batch, noise, ema_decay, None)


def _step(
    loss: Loss,
    optimizer: Optimizer,
    state: TrainState,
    batch: Batch,
    noise: Tree,
    ema_decay: float | Tensor | None,
    is_real: Tensor | None,
) -> tuple[TrainState, Metrics]:
    """:func:`train_step`, of no effect where ``is_real`` is False."""
    prepared = prepare(loss, state.params, state.memory, batch, noise)

    def value(params: Params) -> tuple[Tensor, LossAux]:
        return objective(loss, params, prepared)

    gradients, (number, aux) = grad_and_value(value, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = apply_updates(state.params, updates)
    averages = state.ema_params
    if ema_decay is not None:
        averages = tree.map(lambda mean, leaf: ema_decay * mean + (1 - ema_decay) * leaf, averages, params)
    is_finite = torch.isfinite(number) & tree.all_finite(gradients) & tree.all_finite(params)
    is_taken = is_finite if is_real is None else is_finite & is_real
    new = tree.where(is_taken, TrainState(params, averages, opt_state, aux.memory), state)
    norm = tree.squared_norm(gradients).sqrt()
    metrics = {**aux.metrics, "loss": number, "gradient_norm": norm, "skipped": (~is_finite).to(number.dtype)}
    return new, metrics


def begin(recipe: Recipe, key: Key, params: Params, example: Batch, hyper: Tree) -> TrainState:
    """The state before the first step; of an ensemble, everything leads with the axis of its members."""

    def one(key: Key, params: Params, hyper: Tree) -> TrainState:
        averages = () if recipe.ema_decay is None else tree.map(torch.clone, params)
        memory = recipe.loss(hyper).init(key, params, example)
        return TrainState(params, averages, recipe.optimizer(hyper).init(params), memory)

    if not recipe.is_ensemble:
        return one(key, params, hyper)
    state = vmap(one)(random.split(key, tree.batch_size(params)), params, hyper)
    return tree.map(torch.Tensor.contiguous, state)


def draw_noise(recipe: Recipe, key: Key, num_members: int, example: Batch, steps: Tensor, hyper: Tree) -> Tree:
    """The noise of the steps ``(T,)``: leaves ``(T, ...)``, or ``(T, M, ...)`` of an ensemble."""

    def one(key: Key, hyper: Tree, step: Tensor) -> Tree:
        return recipe.loss(hyper).draw(random.fold_in(key, step), example)

    if not recipe.is_ensemble:
        return vmap(lambda step: one(key, hyper, step))(steps)
    members = vmap(one, (0, 0, None))
    keys = random.split(key, num_members)
    return vmap(lambda step: members(keys, hyper, step))(steps)


def make_chunk(recipe: Recipe, is_indexed: bool) -> Callable[..., tuple[TrainState, Metrics]]:
    """Many steps: ``(state, data, hyper, (is_real, rows, noise)) -> (state, metrics)``.

    ``rows`` are the indices of each batch in the data where ``is_indexed``, else the batches, and ``data`` is ``()``.
    """

    def step(state: TrainState, batch: Batch, noise: Tree, hyper: Tree, is_real: Any) -> tuple[TrainState, Metrics]:
        return _step(recipe.loss(hyper), recipe.optimizer(hyper), state, batch, noise, recipe.ema_decay, is_real)

    all_members = vmap(step, (0, None, 0, 0, None)) if recipe.is_ensemble else step

    def chunk(state: TrainState, data: Batch, hyper: Tree, xs: Tree) -> tuple[TrainState, Metrics]:
        def body(state: TrainState, x: Tree) -> tuple[TrainState, Metrics]:
            is_real, rows, noise = x
            batch = tree.map(lambda leaf: leaf[rows], data) if is_indexed else rows
            return all_members(state, batch, noise, hyper, is_real)

        return loops.scan(body, state, xs, is_plain=True)

    return chunk
