"""What a training run returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..types import Params, Tree

__all__ = ["Fit", "Validated"]


class Validated(NamedTuple):
    """How a run did on data that it was not trained on; of an ensemble, values ``(V, M)`` and the rest ``(M,)``.

    Attributes:
        steps: after how many steps each value was taken. ``(V,)``.
        values: the loss or the metric. ``(V,)``.
        best_params: where it was lowest.
        best_value: there. ``()``.
        best_step: when. ``()``.
    """

    steps: Tensor
    values: Tensor
    best_params: Params
    best_value: Tensor
    best_step: Tensor


class Fit(NamedTuple):
    """What :func:`~funcebm.training.fit` returns; all of it from the very start, where a run was resumed.

    Attributes:
        params: the trained parameters.
        ema_params: their exponential moving average; ``()`` without ``ema_decay``.
        opt_state: the state of the optimizer.
        memory: the memory of the loss, such as a replay buffer.
        metrics: numbers of each step, ``(num_steps,)``: ``loss``, ``gradient_norm``, ``skipped`` (1 where the step was
            not finite and left everything as it was) and those of the loss. Of an ensemble ``(num_steps, M)``.
        num_steps: steps done.
        is_complete: False where the run ended before its time.
        report: why it did; else empty.
        validation: :class:`Validated`; ``()`` where there was none.
        epoch: how many times the data were gone through to their end.
        epoch_steps: how many steps were done since.
    """

    params: Params
    ema_params: Params
    opt_state: Tree
    memory: Tree
    metrics: dict[str, Tensor]
    num_steps: int
    is_complete: bool
    report: str = ""
    validation: Validated | tuple[()] = ()
    epoch: int = 0
    epoch_steps: int = 0
