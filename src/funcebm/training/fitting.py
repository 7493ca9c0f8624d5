"""``fit`` and ``fit_ensemble``: many steps in compiled loops, and what a long run needs around them."""

from __future__ import annotations

import os
from typing import Any, Callable, Iterable, Mapping

from torch import Tensor

from .. import checks, tree
from ..distributed.agreement import together
from ..distributed.mesh import Mesh, single
from ..distributed.parameters import check_whole
from ..transforms import is_worth_it
from ..types import Batch, Key, Loss, Optimizer, Params, Tree
from .result import Fit
from .run import Options, run
from .step import Recipe
from .validation import Validation

__all__ = ["fit", "fit_ensemble"]

Callback = Callable[[int, Params, dict[str, Tensor]], Any]


def fit(
    key: Key,
    loss: Loss | Callable[[Tree], Loss],
    params: Params,
    data: Batch | Iterable[Batch] | Callable[[int], Iterable[Batch]],
    *,
    optimizer: Optimizer | Callable[[Tree], Optimizer],
    num_steps: int,
    batch_size: int | None = None,
    hyper: Tree = (),
    jit: bool | None = None,
    progress: bool = False,
    callback: Callback | None = None,
    ema_decay: float | Tensor | None = None,
    chunk_size: int | None = None,
    validation: Validation | None = None,
    limits: Mapping[str, float] | None = None,
    max_bad_steps: int | None = 50,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: Fit | None = None,
    mesh: Mesh | None = None,
    deterministic: bool = False,
) -> Fit:
    r"""Trains, many steps in one compiled loop.

    Each epoch goes through the data in a new random order, in batches of ``batch_size``; the rows that fill no batch are
    left out of that epoch. Step ``i`` uses the key ``fold_in(key_steps, i)``, epoch ``e`` the key ``fold_in(key_epochs, e)``, so
    the numbers depend neither on ``chunk_size``, nor on ``jit`` (to rounding), nor on where a run was cut.

    Data may also be anything that gives batches: a ``DataLoader`` or the like, gone through again for each epoch; a function
    ``epoch -> batches``; or an iterator, read once. Batches are tensors or trees of them; a list of several is taken as a
    tuple, a list of one as that one. They are moved to the device of the params, and their order is that of the loader. The
    first one sets the batch size; a smaller last one of an epoch is left out. A loader with ``set_epoch`` (or its sampler) is
    told the epoch.

    Args:
        key: ``(2,)``.
        loss: what to minimise, or a function from ``hyper`` to it. Its ``draw`` may look at the shapes and dtypes of the batch,
            not at the numbers. Losses and optimizers that differ in their numbers alone share one compiled loop.
        params: where training starts; a tree of floating-point tensors.
        data: ``(N, ...)``, a tensor or a tree of tensors with one leading axis, such as ``(points, labels)``; or batches
            (no list, which could be either: ``lambda epoch: batches``).
        optimizer: how the params move, or a function from ``hyper`` to it.
        num_steps: how many steps (more, where a run is resumed).
        batch_size: B, at most N; with a loader it may be left out.
        hyper: what ``loss`` and ``optimizer`` are functions of, a tree of tensors: for numbers of your own that should compile
            nothing when they change. The loop takes them as arguments.
        jit: compile; None does so for runs of 700 steps or more.
        progress: show a bar (tqdm) with the metrics. Ctrl-C then, as always, ends training and returns what is finished.
        callback: ``(steps done, params, metrics of the chunk) -> stop``, called after each chunk; training ends where
            it returns True (or an array or tensor of it).
        ema_decay: :math:`d` in [0, 1) of the moving average of the params; None makes none.
        chunk_size: at most this many steps in one compiled call.
        validation: held-out data, and how often to look at them; :class:`~funcebm.training.Validation`.
        limits: metric to how large it may be, such as ``{"energy_gap": 100.0}``.
        max_bad_steps: stop after so many consecutive bad steps (skipped, or with a metric that is not finite or beyond its
            limit), with a warning and a report, and return the last good params: those from before the first of them, or from
            one step earlier if those already fail on the previous batch. None disables the check.
        checkpoint: a file to save the run in from time to time, and at the end; see :func:`~funcebm.training.save`.
        resume: the result of an earlier call with the same arguments, or of :func:`~funcebm.training.load`, to continue from;
            bit for bit as if uncut. Of a loader, the batches that this epoch has given already are skipped: exact where an
            epoch can be gone through again in the same order, which a function of the epoch or ``set_epoch`` makes
            possible with shuffling. An iterator continues where it is.
        mesh: from :func:`funcebm.distributed.mesh`: every rank makes this call with the same arguments and data, takes its rows
            of each batch and of its noise, and one message a step adds the gradients up. The result is the same on all ranks.
            Params may be DTensors, cut over these ranks: then params, average and optimizer stay cut, with an element-wise
            optimizer, and are whole for the time of a step alone; what is returned are DTensors again, and the file holds whole
            tensors.
            Of a loss that remembers, such as a buffer of chains, each rank has one of its own. An error, or Ctrl-C, on one rank
            is one on all; the first rank writes the checkpoint.
        deterministic: whether sums must not depend on the number of ranks: a batch goes by 8 blocks of rows, whose gradients
            (and memories) are the same whoever has them, so that 1, 2, 4 and 8 ranks end with the same bits, also where a run is
            resumed on another number. It sends more, and is slower.

    Returns:
        :class:`~funcebm.training.Fit`. Where an error ends a run that has begun, the error has it as its attribute ``fit``.

    Raises:
        ValueError: a bad count, key or decay, data that are not finite, a batch larger than the data, batches of several
            sizes, a loader that ends early, a loss that is not a scalar, tensors on several devices, a run of another model to
            resume, labels out of range, validation data unlike the training data, a checkpoint in no folder; on ranks, arguments
            that differ between them, or a loss that is no mean over the rows of its batch.
        TypeError: params that are not floating-point tensors; no :class:`~funcebm.types.Loss`, optimizer or run to resume.

    >>> import torch
    >>> from funcebm import losses, optimizers, random
    >>> loss = losses.denoising_score_matching(lambda params, x: params * (x**2).sum() / 2, 0.5)
    >>> data = random.normal(random.key(0), (1000, 2))
    >>> result = fit(random.key(1), loss, torch.tensor(0.0), data, optimizer=optimizers.adam(0.05), num_steps=100,
    ...     batch_size=100, jit=False)
    >>> bool((result.params - 1 / (1 + 0.5**2)).abs() < 0.1)
    True
    """
    with together(single if mesh is None else mesh):
        kinds = (
            (Loss, Optimizer) if tree.leaves(hyper) else (object, object)
        )  # without numbers nothing is a function of them
        loss_of, optimizer_of = _function_of_hyper(loss, kinds[0]), _function_of_hyper(optimizer, kinds[1])
        recipe = Recipe(loss_of, optimizer_of, _number(ema_decay), False)
        is_compiled = _decided(jit, num_steps, key, params)
    options = Options(
        num_steps,
        batch_size,
        is_compiled,
        progress,
        callback,
        chunk_size,
        validation,
        limits,
        max_bad_steps,
        checkpoint,
        single if mesh is None else mesh,
        deterministic,
    )
    return run(recipe, options, key, params, data, hyper, resume)


def fit_ensemble(
    key: Key,
    loss: Loss | Callable[[Tree], Loss],
    params: Params,
    data: Batch | Iterable[Batch] | Callable[[int], Iterable[Batch]],
    *,
    optimizer: Optimizer | Callable[[Tree], Optimizer],
    num_steps: int,
    batch_size: int | None = None,
    hyper: Tree = (),
    jit: bool | None = None,
    progress: bool = False,
    callback: Callback | None = None,
    ema_decay: float | Tensor | None = None,
    chunk_size: int | None = None,
    validation: Validation | None = None,
    max_bad_steps: int | None = 50,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: Fit | None = None,
) -> Fit:
    r"""Trains M models at once, by ``vmap``, in one compiled loop.

    Each member is trained as it would be alone: gradients are clipped, steps are skipped and metrics are taken by member. All
    see the same batches; noise and memory are their own. Members may differ in where they start, and in any number of the
    loss or the optimizer:

    .. code-block:: python

        fit_ensemble(
            key, lambda h: denoising_score_matching(energy, h["noise_scale"]), params, data,
            optimizer=lambda h: chain(clip_by_global_norm(1.0), adam(h["rate"])),
            hyper={"rate": torch.logspace(-4, -2, 8), "noise_scale": torch.linspace(0.1, 0.5, 8)}, ...)

    Args:
        key: ``(2,)``. Member m has the children m of the keys that :func:`fit` splits it into, for any M.
        loss: what each minimises, or a function from the hyperparameters of a member to its loss.
        params: where each starts. Leaves ``(M, ...)``: ``tree.stack`` of M params, or ``tree.broadcast`` of one.
        data: as in :func:`fit`.
        optimizer: how params move, or a function from the hyperparameters of a member to its optimizer.
        num_steps: as in :func:`fit`.
        batch_size: as in :func:`fit`.
        hyper: the numbers in which members differ; a tree of tensors ``(M, ...)``. Other numbers compile nothing.
        jit: compile; None does so for runs of 700 steps or more.
        progress: show a bar, with means over members.
        callback: as in :func:`fit`; params and metrics are of all members.
        ema_decay: as in :func:`fit`.
        chunk_size: as in :func:`fit`.
        validation: as in :func:`fit`; each member has best params of its own, and the run ends when the last of them is out
            of patience.
        max_bad_steps: as in :func:`fit`; the run ends when all members have diverged, and a warning names those that
            have at its end.
        checkpoint: as in :func:`fit`.
        resume: as in :func:`fit`.

    Returns:
        :class:`~funcebm.training.Fit`, with a leading axis M of all trees, and metrics ``(num_steps, M)``. Sample from all
        members with ``vmap`` over ``params``, or from one energy of them all: :func:`funcebm.energies.product_of_members`,
        :func:`funcebm.energies.mixture_of_members`.

    Raises:
        ValueError: as :func:`fit`; params or numbers that do not share one leading axis.

    Reference: Lakshminarayanan, Pritzel and Blundell (2017), NeurIPS, "Simple and scalable predictive uncertainty
    estimation using deep ensembles".

    >>> import torch
    >>> from funcebm import losses, optimizers, random
    >>> loss = losses.denoising_score_matching(lambda params, x: params * (x**2).sum() / 2, 0.5)
    >>> data = random.normal(random.key(0), (1000, 2))
    >>> result = fit_ensemble(random.key(1), loss, torch.zeros(3), data, optimizer=optimizers.adam,
    ...     hyper=torch.tensor([0.001, 0.02, 0.05]), num_steps=50, batch_size=100, jit=False)
    >>> result.params.shape, result.metrics["loss"].shape, bool((result.params[1:] > result.params[:-1]).all())
    (torch.Size([3]), torch.Size([50, 3]), True)
    """
    check_whole(params, "fit_ensemble")
    lengths = sorted(
        {leaf.shape[0] if leaf.ndim else 0 for leaf in tree.leaves((params, hyper)) if isinstance(leaf, Tensor)}
    )
    must = "leaves of params and hyper must lead with one axis, that of the members"
    fix = "Use tree.stack([params_1, params_2, ...]) or tree.broadcast(params, num)."
    checks.require(len(lengths) == 1 and lengths[0] > 0, must, f"lengths {lengths}", fix)
    recipe = Recipe(_function_of_hyper(loss, Loss), _function_of_hyper(optimizer, Optimizer), _number(ema_decay), True)
    is_compiled = _decided(jit, num_steps, key, params)
    options = Options(
        num_steps, batch_size, is_compiled, progress, callback, chunk_size, validation, None, max_bad_steps, checkpoint
    )
    return run(recipe, options, key, params, data, hyper, resume)


def _decided(jit: bool | None, num_steps: int, key: Key, params: Params) -> bool:
    """Whether to compile; what was not asked for does not happen inside a transform."""
    is_long = isinstance(num_steps, int) and is_worth_it(jit, num_steps, 3)
    return is_long and (bool(jit) or not checks.is_traced((key, params)))


def _number(ema_decay: float | Tensor | None) -> Tensor | None:
    right = ema_decay is None or hasattr(ema_decay, "__float__")
    checks.require(right, "ema_decay must be a number", ema_decay, "Try 0.999, or None for no average.", TypeError)
    return None if ema_decay is None else tree.number(ema_decay)


def _function_of_hyper(value: Any, kind: type) -> Callable[[Tree], Any]:
    """A loss or an optimizer, or what a user gave in its place, as a function of the hyperparameters."""
    is_function = callable(value) and not isinstance(value, kind)
    return value if is_function else lambda hyper: value
