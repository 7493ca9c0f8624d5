"""One step of training as a pure function, and the loop of many that is compiled whole."""

from __future__ import annotations

from typing import Callable, NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from .. import random, tree
from ..losses._staged import objective, prepare
from ..optimizers import apply_updates
from ..types import Batch, Key, Loss, LossAux, Optimizer, Params, Tree

__all__ = [
    "Found",
    "Gradient",
    "Health",
    "Recipe",
    "TrainState",
    "begin",
    "draw_noise",
    "draw_step",
    "make_body",
    "plain_gradient",
    "train_step",
]


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
    gradient: Gradient | None = None
    health: Health | None = None


Metrics = dict[str, Tensor]
Found = tuple[Params, Tensor, Metrics, Tree]
Gradient = Callable[[Loss, Params, Tree, Batch, Tree], Found]
Health = Callable[[Params, Params], tuple[Tensor, Tensor]]


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
    return _stepped((plain_gradient, _health), loss, optimizer, state, batch, noise, ema_decay)


def plain_gradient(loss: Loss, params: Params, memory: Tree, batch: Batch, noise: Tree) -> Found:
    """The gradient of a loss, its value, its metrics, and what it remembers then."""
    prepared = prepare(loss, params, memory, batch, noise)

    def value(params: Params) -> tuple[Tensor, LossAux]:
        return objective(loss, params, prepared)

    gradients, (number, aux) = grad_and_value(value, has_aux=True)(params)
    return gradients, number, aux.metrics, aux.memory


def _health(gradients: Params, params: Params) -> tuple[Tensor, Tensor]:
    """Whether gradients and new params are finite, and the squared norm of the gradients."""
    return tree.all_finite(gradients) & tree.all_finite(params), tree.squared_norm(gradients)


def _stepped(
    how: tuple[Gradient, Health],
    loss: Loss,
    optimizer: Optimizer,
    state: TrainState,
    batch: Batch,
    noise: Tree,
    ema_decay: float | Tensor | None,
) -> tuple[TrainState, Metrics]:
    """One step of training, whose gradient, and whether it is finite, are found in one or another way."""
    gradient, health = how
    gradients, number, found, memory = gradient(loss, state.params, state.memory, batch, noise)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = apply_updates(state.params, updates)
    averages = state.ema_params
    if ema_decay is not None:
        decay = tree.number(ema_decay)
        kept, new = (lambda leaf: decay.to(leaf) * leaf), (lambda leaf: (1 - decay).to(leaf) * leaf)
        averages = tree.map(lambda mean, leaf: kept(mean) + new(leaf), averages, params)
    is_sound, squares = health(gradients, params)
    is_finite = torch.isfinite(number) & is_sound
    new = tree.where(is_finite, TrainState(params, averages, opt_state, memory), state)
    metrics = {**found, "loss": number, "gradient_norm": squares.sqrt(), "skipped": (~is_finite).to(number.dtype)}
    return new, metrics


def begin(
    recipe: Recipe, key: Key, params: Params, example: Batch, hyper: Tree, whole: Params | None = None
) -> TrainState:
    """The state before the first step; of an ensemble, everything leads with the axis of its members.

    ``whole`` are the params that the loss sees, where ranks hold parts of them.
    """

    def one(key: Key, params: Params, seen: Params, hyper: Tree) -> TrainState:
        averages = () if recipe.ema_decay is None else tree.map(torch.clone, params)
        memory = recipe.loss(hyper).init(key, seen, example)
        return TrainState(params, averages, recipe.optimizer(hyper).init(params), memory)

    seen = params if whole is None else whole
    if not recipe.is_ensemble:
        return one(key, params, seen, hyper)
    state = vmap(one)(random.split(key, tree.batch_size(params)), params, seen, hyper)
    return tree.map(torch.Tensor.contiguous, state)


def draw_step(recipe: Recipe, key: Key, num_members: int, example: Batch, step: Tensor, hyper: Tree) -> Tree:
    """The noise of one step; of an ensemble, leaves lead with the axis of its members."""

    def one(key: Key, hyper: Tree) -> Tree:
        return recipe.loss(hyper).draw(random.fold_in(key, step), example)

    return vmap(one)(random.split(key, num_members), hyper) if recipe.is_ensemble else one(key, hyper)


def draw_noise(recipe: Recipe, key: Key, num_members: int, example: Batch, steps: Tensor, hyper: Tree) -> Tree:
    """The noise of the steps ``(T,)``: leaves ``(T, ...)``, or ``(T, M, ...)`` of an ensemble."""
    return vmap(lambda step: draw_step(recipe, key, num_members, example, step, hyper))(steps)


def make_body(recipe: Recipe, is_indexed: bool, num_members: int) -> Callable[..., tuple[TrainState, Metrics]]:
    """The iteration of training: ``(shared, state, x) -> (state, metrics)``.

    ``shared`` are the data, the hyperparameters, the key and an example of a batch; ``x`` is the index of the step, the rows of
    its batch and its noise, ``()`` where it is to be drawn here. ``rows`` are indices into the data where ``is_indexed``, else
    the batch itself, and the data are ``()``.
    """

    how = (recipe.gradient or plain_gradient, recipe.health or _health)

    def step(state: TrainState, batch: Batch, noise: Tree, hyper: Tree) -> tuple[TrainState, Metrics]:
        return _stepped(how, recipe.loss(hyper), recipe.optimizer(hyper), state, batch, noise, recipe.ema_decay)

    all_members = vmap(step, (0, None, 0, 0)) if recipe.is_ensemble else step

    def body(shared: Tree, state: TrainState, x: Tree) -> tuple[TrainState, Metrics]:
        data, hyper, key, example = shared
        index, rows, noise = x
        if not tree.leaves(noise):
            noise = draw_step(recipe, key, num_members, example, index, hyper)
        batch = tree.map(lambda leaf: leaf[rows], data) if is_indexed else rows
        return all_members(state, batch, noise, hyper)

    return body
