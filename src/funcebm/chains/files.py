"""Runs in files, which go on in another process: safetensors and JSON, no pickle."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any, Callable

import torch
from torch import Tensor
from torch.func import vmap

from .. import _files, checks, tree
from ..distributed.agreement import together
from ..distributed.mesh import Mesh, single
from ..types import Sampler, Tree
from . import _checks, _ranks, reducers
from ._folders import names_in_rows, read_folder
from ._loop import kernel_of, same_kernel
from ._run import Run, Samples, collect_position
from .reducers import Reducer

__all__ = ["load", "need_file", "save", "write_shared"]

_HEADER, _FORMAT = "funcebm.chains", 1
_HINT = "training.load reads those of fit; warm_up(checkpoint=...) goes on from its own when it is called again."
_WHO = "funcebm.save and funcebm.load"
_NUMBERS = ("num_steps", "thin", "jit", "progress", "chunk_size", "num_burn_in")


def save(samples: Samples | Any, path: str | os.PathLike[str]) -> None:
    """Writes a run to a file: its draws, its info, and all that :func:`resume` needs but functions. Or what a warm-up found.

    The file is written beside ``path`` and then renamed: whatever happens, ``path`` is either the old file or the new one.

    Args:
        samples: what ``sample``, ``resume`` or ``warm_up`` returned, also where Ctrl-C ended it.
        path: where to; the directory must exist.

    Returns:
        Nothing; the file holds the run.

    Raises:
        ImportError: without safetensors (``pip install funcebm[checkpoints]``).
        ValueError: samples of a transform or of a mesh, no such directory, or trees of classes that a file cannot name.
        TypeError: something else than samples.

    >>> import tempfile, torch, funcebm as ebm
    >>> sampler = ebm.samplers.mala(lambda params, x: (x**2).sum() / 2, step_size=0.5)
    >>> samples = ebm.sample(ebm.random.key(0), sampler, (), torch.zeros(3, 2), num_samples=5, jit=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(samples, folder + "/run.safetensors")
    ...     again = load(folder + "/run.safetensors", sampler)
    >>> torch.equal(ebm.resume(again, num_samples=2).draws, ebm.resume(samples, num_samples=2).draws)
    True
    """
    _files.need_safetensors(_WHO)
    if _is_warm_up(samples):
        _files.check_path(Path(path), "a saved warm-up")
        found: dict[str, Tensor] = {}
        _write(path, {"format": _FORMAT, "warm_up": _described(samples, "warm_up", found)}, found)
        return
    fix = "Pass all that funcebm.sample, funcebm.resume or funcebm.warm_up returned."
    checks.require(isinstance(samples, Samples), "save takes Samples", type(samples).__name__, fix, TypeError)
    run = samples.run
    if not isinstance(run, Run) or run.place.mesh.size > 1:
        fix = "Call funcebm.sample outside of vmap, grad and jit, and save on one process."
        raise ValueError(checks.message("samples must hold what a run needs to go on", "samples without it", fix))
    need_file(path)
    _write(path, *_header(samples))


def need_file(path: str | os.PathLike[str], samples: Samples | None = None) -> None:
    """An error where no run, or not this one, can be written there: before it makes draws that would be lost."""
    _files.need_safetensors(_WHO)
    _files.check_path(Path(path), "a saved run")
    if samples is not None and isinstance(samples.run, Run):
        _header(samples)


def write_shared(path: Path, samples: Samples, parts: tuple[str, ...]) -> None:
    """The file of a run without what leads with its chains, which is in files of their own, in these parts."""
    run: Any = samples.run
    nothing: Any = ()
    is_gathered = tree.leaves(samples.draws) and tree.batch_size(samples.draws) != run.place.last - run.place.first
    if run.reducer is not None or is_gathered:
        samples = samples._replace(draws=nothing, info=nothing)
    samples = samples._replace(reduced=nothing)
    header, tensors = _header(samples)
    known = {"state": samples.state, "draws": samples.draws, "info": samples.info}
    known |= {"accumulator": run.accumulator, "keys": run.chain_keys}
    rows = names_in_rows({part: known[part] for part in parts}, tensors)
    _write(path, {**header, "rows": rows}, {name: leaf for name, leaf in tensors.items() if name not in rows})


def _header(samples: Samples) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A run in words, and its tensors by name."""
    run: Any = samples.run
    tuning = () if callable(run.tuning) else run.tuning
    parts = {name: getattr(samples, name) for name in ("draws", "info", "state", "reduced")}
    parts |= {"params": run.params, "tuning": tuning, "accumulator": run.accumulator, "chain_keys": run.chain_keys}
    tensors: dict[str, Tensor] = {}
    header: dict[str, Any] = {name: getattr(run, name) for name in _NUMBERS}
    header |= {"format": _FORMAT, "trees": {name: _described(value, name, tensors) for name, value in parts.items()}}
    header |= {"is_complete": bool(samples.is_complete), "has_schedule": callable(run.tuning)}
    header["sampler"] = kernel_of(run.sampler)
    header |= {"has_reduce": run.reducer is not None, "has_collect": not _is_default(run.collect)}
    return header, tensors


def _is_warm_up(value: Any) -> bool:
    return type(value).__module__ == "funcebm.adaptation.report" and hasattr(value, "report")


def _write(path: str | os.PathLike[str], header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    header["torch_dtype"] = str(torch.get_default_dtype())
    kept = {name: leaf.detach().cpu().contiguous().clone() for name, leaf in tensors.items()}
    _files.write(Path(path), _HEADER, header, kept)


def load(
    path: str | os.PathLike[str],
    sampler: Sampler,
    *,
    tuning: Callable[[Tensor], Tree] | None = None,
    collect: Callable[[Any, Any], Tree] | None = None,
    reduce: Reducer | dict[str, Reducer] | None = None,
    device: str | torch.device | None = None,
    mesh: Mesh = single,
) -> Samples | Any:
    """Reads a run from a file of :func:`save`, or a folder of :func:`funcebm.distributed.save`, for ``funcebm.resume``.

    That goes on with it, bit for bit as if it had not been cut.

    From the file of a warm-up it gives the ``WarmUp`` again: ``positions``, ``tuning`` and ``report``.

    Args:
        path: where from.
        sampler: built as it was for that run: functions are in no file.
        tuning: the schedule of that run, where it had one.
        collect: what that run collected by, where it was given.
        reduce: the reducers of that run, where it had some.
        device: of all tensors; by default the CPU.
        mesh: of ranks that share the chains of a folder, whatever the number of those that wrote it.

    Returns:
        :class:`Samples`, with the draws that were saved; or a ``WarmUp``.

    Raises:
        ImportError: without safetensors.
        ValueError: a file that is damaged or of something else, a function of that run that is missing here, or another sampler
            than its own.
        TypeError: something that is not a sampler.

    >>> import tempfile, torch, funcebm as ebm
    >>> sampler = ebm.samplers.mala(lambda params, x: (x**2).sum() / 2, step_size=0.5)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     options = {"jit": False, "checkpoint": folder + "/run.safetensors", "checkpoint_every": 2}
    ...     _ = ebm.sample(ebm.random.key(0), sampler, (), torch.zeros(3, 2), num_samples=5, **options)
    ...     load(folder + "/run.safetensors", sampler).draws.shape
    torch.Size([3, 5, 2])
    """
    with together(mesh):
        return _loaded(path, sampler, tuning, collect, reduce, device, mesh)


def _loaded(
    path: str | os.PathLike[str],
    sampler: Sampler,
    tuning: Callable[[Tensor], Tree] | None,
    collect: Callable[[Any, Any], Tree] | None,
    reduce: Reducer | dict[str, Reducer] | None,
    device: str | torch.device | None,
    mesh: Mesh,
) -> Samples | Any:
    _files.need_safetensors(_WHO)
    _checks.is_sampler(sampler)
    must = f"{os.fspath(path)} must be a file of funcebm.save"
    chains: tuple[int, int, int] | None = None
    if os.path.isdir(path):
        header, tensors, chains = read_folder(Path(path), mesh, _HEADER, _FORMAT)
    else:
        header, tensors = _files.read(path, _HEADER, _FORMAT, must, _HINT)
        fix = "Load it in one process, and write it with funcebm.distributed.save(folder, samples) for ranks."
        is_one = mesh.size == 1 or "warm_up" in header
        checks.require(is_one, "a run that ranks share must be in a folder", f"the file {os.fspath(path)}", fix)
    if device is not None:
        tensors = {name: leaf.to(device) for name, leaf in tensors.items()}
    if "warm_up" in header:
        warm = _restored(header["warm_up"], tensors)
        same_kernel(sampler, bytes(warm.report.sampler.tolist()).decode(), "that warm-up")
        starts = warm.positions if sampler.bijection is None else vmap(sampler.bijection.inverse)(warm.positions)
        _checks.tuning(warm.tuning, sampler.tuning, tree.map(lambda leaf: leaf[0], starts))
        return warm
    for name, given in (("schedule", tuning), ("collect", collect), ("reduce", reduce)):
        argument = "tuning" if name == "schedule" else name
        fix = f"Call load(path, sampler, {argument}=...) with that of the run."
        fix = fix if header[f"has_{name}"] else f"Leave {argument} out: the run had none."
        checks.require(
            header[f"has_{name}"] == (given is not None), f"{argument} must be given as to that run", given, fix
        )
    same_kernel(sampler, header.get("sampler", ""), "that run")
    parts = {name: _restored(shape, tensors) for name, shape in header["trees"].items()}
    reducer = reducers.combine(reduce) if isinstance(reduce, dict) else reduce
    num_chains = tree.batch_size(parts["state"])
    run = Run(
        chain_keys=parts["chain_keys"],
        sampler=sampler,
        params=parts["params"],
        tuning=parts["tuning"] if tuning is None else tuning,
        accumulator=parts["accumulator"],
        collect=collect_position if collect is None else collect,
        reducer=reducer,
        place=_ranks.alone(num_chains) if chains is None else _ranks.Place(mesh, *chains, policy=header["gather"]),
        **{name: header[name] for name in _NUMBERS if name in header},
    )
    kept = {name: parts[name] for name in ("draws", "info", "state", "reduced")}
    return Samples(**kept, is_complete=header["is_complete"], run=run, chains=run.place.chains)


# -- parts --------------------------------------------------------------------------------------------------------


def _is_default(collect: Any) -> bool:
    return collect is collect_position


def _described(value: Tree, name: str, tensors: dict[str, Tensor]) -> Any:
    """A tree as JSON; its tensors go to ``tensors`` by name."""
    if isinstance(value, Tensor):
        checks.different_names("a run", [name] * (1 + (name in tensors)))
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        keys = list(value)
        fix = "Use strings for the keys of dicts."
        checks.require(
            all(isinstance(key, str) for key in keys), f"{name} must be a tree that a file can name", keys, fix
        )
        word = "ordered" if isinstance(value, OrderedDict) else "dict"  # whose leaves come in another order
        return {word: {key: _described(value[key], f"{name}/{key}", tensors) for key in keys}}
    if isinstance(value, (tuple, list)):
        kind = type(value)
        parts = [_described(part, f"{name}/{index}", tensors) for index, part in enumerate(value)]
        if kind in (tuple, list):
            return {kind.__name__: parts}
        must = f"{name} must be a tree of dicts, lists, tuples and NamedTuples of funcebm"
        right = hasattr(value, "_fields") and kind.__module__.startswith("funcebm.")
        checks.require(right, must, f"{kind.__module__}.{kind.__qualname__}", "Give positions and params as dicts.")
        return {"class": [kind.__module__, kind.__qualname__], "parts": parts}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    raise ValueError(checks.message(f"{name} must be a tree of tensors", type(value).__name__, "Use torch.as_tensor."))


def _restored(shape: Any, tensors: dict[str, Tensor]) -> Tree:
    if "tensor" in shape:
        return tensors[shape["tensor"]]
    if "dict" in shape or "ordered" in shape:
        make: Any = dict if "dict" in shape else OrderedDict
        return make(
            (name, _restored(part, tensors)) for name, part in shape["dict" if make is dict else "ordered"].items()
        )
    if "value" in shape:
        return shape["value"]
    if "class" in shape:
        module, name = shape["class"]
        kind = getattr(importlib.import_module(module), name, None) if module.startswith("funcebm.") else None
        right = isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")
        fix = "Use the version of funcebm that wrote it."
        checks.require(right, "a file must name NamedTuples of funcebm", f"{module}.{name}", fix)
        return kind(*(_restored(part, tensors) for part in shape["parts"]))  # type: ignore[misc]
    kind = list if "list" in shape else tuple
    return kind(_restored(part, tensors) for part in shape[kind.__name__])
