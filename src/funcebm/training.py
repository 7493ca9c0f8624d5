"""Training: one pure step, and ``fit``, which runs many of them in compiled loops."""

from __future__ import annotations

import contextlib
import math
from typing import Any, Callable, Iterator, NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from . import checks, loops, random, tree
from .losses._staged import objective, prepare
from .optimizers import apply_updates
from .progress import progress_bar
from .transforms import dynamic_axis, jit_once
from .types import Batch, Key, Loss, LossAux, Optimizer, Params, Tree

__all__ = ["Fit", "TrainState", "fit", "train_step"]

_CHUNK_BYTES = 64 * 2**20  # of noise, in a chunk of the default size
_CHUNK_STEPS = 500


class TrainState(NamedTuple):
    """What evolves in training: ``params``, their moving average (or ``()``), and what optimizer and loss remember."""

    params: Params
    ema_params: Params
    opt_state: Tree
    memory: Tree


class Fit(NamedTuple):
    """What :func:`fit` returns.

    Attributes:
        params: the trained parameters.
        ema_params: their exponential moving average; ``()`` without ``ema_decay``.
        opt_state: the state of the optimizer.
        memory: the memory of the loss, such as a replay buffer.
        metrics: numbers of each step, ``(num_steps,)``: ``loss``, ``gradient_norm``, ``skipped`` (1 where the step was
            not finite and left everything as it was) and those of the loss.
        num_steps: steps done, from the very start where a run was resumed.
        is_complete: False where the run was interrupted, or stopped by its callback.
    """

    params: Params
    ema_params: Params
    opt_state: Tree
    memory: Tree
    metrics: dict[str, Tensor]
    num_steps: int
    is_complete: bool


def train_step(
    loss: Loss,
    optimizer: Optimizer,
    state: TrainState,
    batch: Batch,
    noise: Tree,
    *,
    ema_decay: float | Tensor | None = None,
) -> tuple[TrainState, dict[str, Tensor]]:
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
    new = tree.where(is_finite, TrainState(params, averages, opt_state, aux.memory), state)
    norm = tree.squared_norm(gradients).sqrt()
    metrics = {**aux.metrics, "loss": number, "gradient_norm": norm, "skipped": (~is_finite).to(number.dtype)}
    return new, metrics


def fit(
    key: Key,
    loss: Loss,
    params: Params,
    data: Batch,
    *,
    optimizer: Optimizer,
    num_steps: int,
    batch_size: int,
    jit: bool = True,
    progress: bool = False,
    callback: Callable[[int, Params, dict[str, Tensor]], Any] | None = None,
    ema_decay: float | Tensor | None = None,
    chunk_size: int | None = None,
    resume: Fit | None = None,
) -> Fit:
    r"""Trains, many steps in one compiled loop.

    Each epoch goes through the data in a new random order, in batches of ``batch_size``; the rows that fill no batch are
    left out of that epoch. Step ``i`` uses the key ``fold_in(key_steps, i)``, epoch ``e`` the key ``fold_in(key_epochs, e)``, so
    the numbers depend neither on ``chunk_size``, nor on ``jit`` (to rounding), nor on where a run was cut.

    Args:
        key: ``(2,)``.
        loss: what to minimise; keep and reuse it and the optimizer, since new ones compile anew. Its ``draw`` may look at
            the shapes and dtypes of the batch, not at the numbers.
        params: where training starts; a tree of floating-point tensors.
        data: ``(N, ...)``; a tensor, or a tree of tensors with one leading axis.
        optimizer: how the params move.
        num_steps: how many steps (more, where a run is resumed).
        batch_size: B, at most N.
        jit: compile.
        progress: show a bar (tqdm). Ctrl-C then, as always, ends training and returns what is finished.
        callback: ``(steps done, params, metrics of the chunk) -> stop``, called after each chunk; training ends where
            it returns True.
        ema_decay: :math:`d` in [0, 1) of the moving average of the params; None makes none.
        chunk_size: at most this many steps in one compiled call.
        resume: the result of an earlier call with the same arguments, to go on from; bit for bit as if uncut.

    Returns:
        :class:`Fit`.

    Raises:
        ValueError: a bad count, key or decay, data that are not finite, a batch larger than the data, a loss that is
            not a scalar, tensors on several devices.
        TypeError: params that are not floating-point tensors.

    >>> from funcebm import losses, optimizers
    >>> loss = losses.denoising_score_matching(lambda params, x: params * (x**2).sum() / 2, 0.5)
    >>> data = random.normal(random.key(0), (1000, 2))
    >>> result = fit(random.key(1), loss, torch.tensor(0.0), data, optimizer=optimizers.adam(0.05), num_steps=100,
    ...     batch_size=100, jit=False)
    >>> bool((result.params - 1 / (1 + 0.5**2)).abs() < 0.1)
    True
    """
    random.check_key(key)
    num_rows = _check(params, data, batch_size, num_steps, chunk_size, ema_decay)
    device = tree.first(data).device
    key_init, key_steps, key_epochs = random.split(key.to(device), 3).unbind(0)
    with torch.no_grad():
        params, data = tree.map(torch.Tensor.detach, params), tree.map(torch.Tensor.detach, data)
        example = tree.map(lambda leaf: leaf[:batch_size], data)
        _check_loss(loss, key_init, params, example)
        if resume is None:
            averages = () if ema_decay is None else tree.map(torch.clone, params)
            state = TrainState(params, averages, optimizer.init(params), loss.init(key_init, params, example))
            start = 0
        else:
            checks.one_structure("params", params, "resume.params", resume.params)
            state, start = TrainState(*resume[:4]), resume.num_steps
        arguments = (loss, optimizer, ema_decay)
        run = jit_once(_make_chunk, *arguments) if jit else _make_chunk(*arguments)
        sizes = _chunk_sizes(num_steps, chunk_size, _noise_bytes(loss, key_init, example))
        collected: list[dict[str, Tensor]] = []
        orders: _Orders | None = None
        num_done = 0
        with progress_bar(num_steps, "training", progress) as bar, contextlib.suppress(KeyboardInterrupt):
            for size in sizes:
                first = start + num_done
                with random.compiled_draws() if jit else contextlib.nullcontext():
                    noise = _draw_noise(loss, key_steps, example, first, size)
                rows, orders = _draw_rows(key_epochs, num_rows, batch_size, first, size, orders)
                xs = (rows, noise)
                if jit:  # plain strides whatever the number of steps, so that all chunks are one compiled function
                    xs = dynamic_axis(tree.map(lambda leaf: leaf.clone(memory_format=torch.contiguous_format), xs))
                state, metrics = run(state, data, xs)
                collected.append(metrics)
                num_done += size
                bar.update(size)
                if progress:
                    bar.set_postfix({"loss": f"{float(metrics['loss'][-1]):.4g}"})
                if callback is not None and callback(start + num_done, state.params, metrics) is True:
                    break
    joined = tree.map(lambda *parts: torch.cat(parts), *collected) if collected else {}
    return Fit(*state, joined, start + num_done, num_done == num_steps)


# -- chunks -------------------------------------------------------------------------------------------------------


def _make_chunk(
    loss: Loss, optimizer: Optimizer, ema_decay: Any
) -> Callable[..., tuple[TrainState, dict[str, Tensor]]]:
    """Many steps: ``(state, data, (indices, noise)) -> (state, metrics)``."""

    def chunk(state: TrainState, data: Batch, xs: Tree) -> tuple[TrainState, dict[str, Tensor]]:
        def body(state: TrainState, x: Tree) -> tuple[TrainState, dict[str, Tensor]]:
            indices, noise = x
            batch = tree.map(lambda leaf: leaf[indices], data)
            return train_step(loss, optimizer, state, batch, noise, ema_decay=ema_decay)

        return loops.scan(body, state, xs)

    return chunk


def _draw_noise(loss: Loss, key_steps: Key, example: Batch, first: int, num: int) -> Tree:
    """The noise of the steps ``first .. first + num - 1``, stacked."""
    steps = torch.arange(first, first + num, device=key_steps.device)
    return vmap(lambda step: loss.draw(random.fold_in(key_steps, step), example))(steps)


class _Orders(NamedTuple):
    """The orders of the rows in the epochs ``first, first + 1, ...``; ``(E, N)``."""

    first: int
    rows: Tensor


def _orders(key_epochs: Key, first: int, last: int, num_rows: int, known: _Orders | None) -> _Orders:
    """The orders of the epochs ``first .. last``; the first of them is often the last one known."""
    start, rows = first, []
    if known is not None and known.first + len(known.rows) - 1 == first:
        start, rows = first + 1, [known.rows[-1:]]
    if start <= last:
        epochs = torch.arange(start, last + 1, device=key_epochs.device)
        rows.append(vmap(lambda epoch: random.permutation(random.fold_in(key_epochs, epoch), num_rows))(epochs))
    return _Orders(first, torch.cat(rows))


def _draw_rows(
    key_epochs: Key, num_rows: int, batch_size: int, first: int, num: int, known: _Orders | None
) -> tuple[Tensor, _Orders]:
    """The rows ``(num, B)`` of the steps ``first .. first + num - 1``."""
    epoch_steps = num_rows // batch_size
    orders = _orders(key_epochs, first // epoch_steps, (first + num - 1) // epoch_steps, num_rows, known)
    batches = orders.rows[:, : epoch_steps * batch_size].reshape(-1, batch_size)
    offset = first % epoch_steps
    return batches[offset : offset + num], orders


def _noise_bytes(loss: Loss, key: Key, example: Batch) -> int:
    noise = loss.draw(key, example)
    return sum(leaf.numel() * leaf.element_size() for leaf in tree.leaves(noise))


def _chunk_sizes(num_steps: int, chunk_size: int | None, step_bytes: int) -> Iterator[int]:
    if chunk_size is None:
        largest = max(1, min(_CHUNK_STEPS, _CHUNK_BYTES // max(step_bytes, 1)))
        num_chunks = math.ceil(num_steps / largest)
        return (num_steps // num_chunks + (index < num_steps % num_chunks) for index in range(num_chunks))
    return (min(chunk_size, num_steps - done) for done in range(0, num_steps, chunk_size))


# -- checks at the door -------------------------------------------------------------------------------------------


def _check(params: Params, data: Batch, batch_size: int, num_steps: int, chunk_size: int | None, ema_decay: Any) -> int:
    checks.positive_int("num_steps", num_steps)
    checks.positive_int("batch_size", batch_size)
    if chunk_size is not None:
        checks.positive_int("chunk_size", chunk_size)
    if ema_decay is not None and not isinstance(ema_decay, Tensor):
        checks.require(
            0 <= ema_decay < 1, "ema_decay must be in [0, 1)", ema_decay, "Try 0.999, or None for no average."
        )
    checks.require(
        bool(tree.leaves(params)), "params must hold a tensor", "an empty tree", "Give what is to be trained."
    )
    for name, leaf in zip(tree.paths(params), tree.leaves(params), strict=True):
        right = isinstance(leaf, Tensor) and leaf.is_floating_point()
        got = f"{name or 'params'}: {leaf.dtype if isinstance(leaf, Tensor) else type(leaf).__name__}"
        fix = "Close over what is not trained, and make the rest tensors of floats."
        checks.require(right, "params must be floating-point tensors", got, fix, TypeError)
    num_rows = _check_data(data)
    fix = f"Set batch_size to {num_rows} or less."
    checks.require(
        batch_size <= num_rows, "batch_size must be at most the number of rows", f"{batch_size} of {num_rows}", fix
    )
    checks.same_device(params=params, data=data)
    return num_rows


def _check_data(data: Batch) -> int:
    leaves = tree.leaves(data)
    fix = "Stack the examples on a leading axis of every leaf."
    right = bool(leaves) and all(isinstance(leaf, Tensor) and leaf.ndim > 0 for leaf in leaves)
    checks.require(right, "data must be tensors with a leading axis of examples", type(data).__name__, fix)
    lengths = sorted({leaf.shape[0] for leaf in leaves})
    checks.require(len(lengths) == 1, "all leaves of data must share one leading axis", f"lengths {lengths}", fix)
    for name, leaf in zip(tree.paths(data), leaves, strict=True):
        if leaf.is_floating_point() and checks.is_concrete(leaf) and not bool(torch.isfinite(leaf).all()):
            bad = torch.nonzero(~torch.isfinite(leaf.flatten(1) if leaf.ndim > 1 else leaf[:, None]).all(1)).flatten()
            got = (
                f"{len(bad)} rows with NaN or infinity" + (f" in {name!r}" if name else "") + f", first {bad[0].item()}"
            )
            raise ValueError(checks.message("data must be finite", got, "Drop or fill these rows."))
    return lengths[0]


def _check_loss(loss: Loss, key: Key, params: Params, example: Batch) -> None:
    """Runs the loss once on a few rows, eagerly: errors of the user's energy come out here, as they are."""
    few = tree.map(lambda leaf: leaf[:2], example)
    value, aux = loss.value(params, loss.init(key, params, few), few, loss.draw(key, few))
    fix = "Average over the batch."
    checks.require(value.shape == (), "a loss must return a 0-d tensor", f"the shape {tuple(value.shape)}", fix)
    for name, metric in aux.metrics.items():
        checks.require(metric.shape == (), f"the metric {name!r} must be a 0-d tensor", f"{tuple(metric.shape)}", fix)
