"""Runs in files: safetensors with JSON, no pickle."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import _files, checks, tree
from ..types import Params, Tree
from .result import Fit, Validated
from .step import TrainState

__all__ = ["check_path", "load", "named", "restored", "save"]

_HEADER = "funcebm.training"
_FORMAT = 1
_STATE = ("params", "ema_params", "opt_state", "memory")
_COUNTS = ("num_steps", "is_complete", "report", "epoch", "epoch_steps")


def named(value: Tree) -> dict[str, Tensor]:
    """The leaves of a tree by name."""
    return dict(zip(tree.paths(value), tree.leaves(value), strict=True))


def restored(parts: dict[str, Tree], like: dict[str, Tree], must: str, fix: str) -> dict[str, Tree]:
    """The leaves of ``parts`` in the structures of ``like``; what differs is an error that names it."""
    found = {name: checks.differences(named(parts[name]), named(like[name])) for name in like}
    got = ", and ".join(f"in {name}: {words}" for name, words in found.items() if words)
    checks.require(not got, must, got, fix)
    result = {}
    for name, expected in like.items():
        leaves = named(parts[name])
        result[name] = tree.unflatten(tree.structure(expected), [leaves[path] for path in tree.paths(expected)])
    return result


_WHO = "training.save and training.load"


def check_path(path: str | os.PathLike[str]) -> None:
    """Whether a file can be written there, before a long run."""
    _files.need_safetensors(_WHO)
    _files.check_path(Path(path), "a checkpoint")


def save(fit: Fit | TrainState, path: str | os.PathLike[str]) -> None:
    """Writes all of a run to a file of safetensors, with the counts as JSON in its header.

    The file is written beside ``path`` and then renamed: whatever happens, ``path`` is either the old file or the new one.

    Args:
        fit: what :func:`~funcebm.training.fit` returned, also where it ended early; or the state of a loop of your own.
        path: where to; the directory must exist.

    Returns:
        Nothing; :func:`load` reads the file.

    Raises:
        ImportError: without safetensors (``pip install funcebm[checkpoints]``).
        ValueError: no such directory, or ``path`` is one.

    >>> import tempfile, torch
    >>> from funcebm import training
    >>> state = training.TrainState({"w": torch.ones(2)}, (), (), ())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     training.save(state, folder + "/run.safetensors")
    ...     training.load(folder + "/run.safetensors", {"w": torch.zeros(2)}).params
    {'w': tensor([1., 1.])}
    """
    _files.need_safetensors(_WHO)
    right = isinstance(fit, (Fit, TrainState))
    checks.require(
        right, "save takes a Fit or a TrainState", type(fit).__name__, "Pass all that fit returned.", TypeError
    )
    if isinstance(fit, TrainState):
        fit = Fit(*fit, {}, 0, False)
    check_path(path)
    parts = {name: getattr(fit, name) for name in (*_STATE, "metrics", "validation")}
    tensors: dict[str, Tensor] = {}
    for part, value in parts.items():
        leaves = named(value)
        checks.different_names(part, tree.paths(value))
        tensors.update({f"{part}/{name}": leaf.detach().cpu().clone() for name, leaf in leaves.items()})
    header = {"format": _FORMAT, "parts": [part for part, value in parts.items() if tree.leaves(value)]}
    header.update({name: getattr(fit, name) for name in _COUNTS})
    tensors = {name: leaf.contiguous() for name, leaf in tensors.items()}
    _files.write(Path(path), _HEADER, header, tensors)


def load(path: str | os.PathLike[str], like: Params | TrainState | Fit) -> Fit:
    """Reads a run from a file of :func:`save`.

    Args:
        path: where from.
        like: what tells the structure: params of the same model (their numbers do not matter). Then ``opt_state`` and
            ``memory`` of the result are dicts of leaves by name, to which ``fit(..., resume=...)`` gives their structure
            back. Or a :class:`TrainState` or :class:`Fit` for the structure of everything.

    Returns:
        The :class:`Fit`, on the device of ``like``. Go on with ``fit(..., resume=...)``: the run ends bit for bit where it
        would have ended uncut.

    Raises:
        ValueError: a file that is truncated, damaged or of something else, or of another model: the message names the leaves
            that are missing, not expected, or of another shape or dtype.
        ImportError: without safetensors (``pip install funcebm[checkpoints]``).

    >>> import tempfile, torch
    >>> from funcebm import training
    >>> state = training.TrainState(torch.ones(2), (), (), ())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     training.save(state, folder + "/run.safetensors")
    ...     training.load(folder + "/run.safetensors", torch.zeros(2)).params
    tensor([1., 1.])
    """
    _files.need_safetensors(_WHO)
    must = f"{os.fspath(path)} must be a file of training.save"
    header, tensors = _files.read(path, _HEADER, _FORMAT, must, "Params alone are no run.")
    is_params = not isinstance(like, (TrainState, Fit))
    params = like if is_params else like.params
    device = tree.first(params).device
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in (*_STATE, "metrics", "validation")}
    for name, leaf in tensors.items():
        part, _, rest = name.partition("/")
        parts.setdefault(part, {})[rest] = leaf.to(device)
    shapes: dict[str, Tree] = {"params": params} if is_params else {name: getattr(like, name) for name in _STATE}
    if is_params and parts["ema_params"]:
        shapes["ema_params"] = params
    must = f"{os.fspath(path)} must hold a run of the same model"
    fix = "Build the model, the optimizer and the loss as they were built for that run, with the same sizes and dtype."
    state: dict[str, Any] = {
        "ema_params": (),
        "opt_state": (),
        "memory": (),
        **{name: parts[name] for name in _STATE if parts[name]},
    }
    state.update(restored(state, shapes, must, fix))
    validation: Validated | tuple[()] = ()
    if parts["validation"]:
        others = [name for name in Validated._fields if name != "best_params"]
        numbers = {name: parts["validation"].pop(name) for name in others}
        best = {name[len("best_params") :].removeprefix("/"): leaf for name, leaf in parts["validation"].items()}
        best_params = restored({"params": best}, {"params": params}, must, fix)["params"]
        validation = Validated(best_params=best_params, **numbers)
    counts: dict[str, Any] = {name: header[name] for name in _COUNTS}
    return Fit(**state, metrics=parts["metrics"], validation=validation, **counts)
