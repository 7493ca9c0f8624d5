"""What a training run returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from .. import checks, tree
from .._progress import in_order
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
            not finite and left everything as it was) and those of the loss. Of an ensemble ``(num_steps, M)``. Where the run
            diverged they go on past ``num_steps``, with the bad steps that were taken back.
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

    def __repr__(self) -> str:
        return _text_of(self)


def _text_of(run: Fit) -> str:
    """A few lines: shapes, and the metrics at the start and at the end; inside of a transform, shapes alone."""
    end = "complete" if run.is_complete else f"ended early: {run.report}" if run.report else "ended early"
    lines = [f"Fit: {run.num_steps} steps, {end}", f"  params          {tree.describe(run.params)}"]
    if checks.is_traced((run.params, run.metrics)):
        return "\n".join([*lines, "  (inside of a transform or a compiled function)"])
    lines[-1] += f": {tree.size(run.params)} numbers"
    if run.metrics:
        width = max(1, min(100, len(run.metrics["loss"]) // 2))
        lines.append(f"  means of the first and the last {width} steps:")
        names = in_order(name for name in run.metrics if name != "skipped")
        lines += [
            f"  {name:15} {_mean(run.metrics[name][:width])} to {_mean(run.metrics[name][-width:])}"
            for name in names[:4]
        ]
        more = [f"also measured: {', '.join(names[4:])}"] if names[4:] else []
        lines.append("  " + "; ".join([f"{int(run.metrics['skipped'].sum())} steps skipped", *more]))
    if isinstance(run.validation, Validated):
        lines.append(
            f"  best validation {_mean(run.validation.best_value)} after {run.validation.best_step.tolist()} steps"
        )
    return "\n".join(lines)


def _mean(values: Tensor) -> str:
    return f"{float(values.double().mean()):.4g}"
