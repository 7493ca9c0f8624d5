"""Runs of chains in files, by the global numbers of chains: written by some ranks, read by another number of them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import secrets
import shutil
import time
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from .. import _files, checks, tree
from ..types import Tree
from .agreement import together
from .mesh import Mesh, bounds, single

__all__ = ["draws_of", "last_run", "load", "open_folder", "rows_of", "save", "see_folder"]

_FORMAT = 1
_SEEN = 5.0  # seconds until a file of one rank is seen by others
_WHO = "distributed.save and load"
_PARTS = ("state", "draws", "info", "accumulator", "keys")


def save(path: str | os.PathLike[str], samples: Any, *, mesh: Mesh | None = None, is_part: bool = False) -> None:
    """Writes where a run is, so that :func:`load` goes on with it on any number of ranks; :func:`funcebm.load` reads it too.

    Makes the folder ``path/run-<steps>`` with one file of safetensors for the chains of each rank, ``meta.json`` with their
    digests, and at last an empty file ``done``; another run in ``path`` is removed after that. So whenever a rank is killed
    there is a whole one. All ranks must see the folder.

    Args:
        path: a folder, which is made.
        samples: from :func:`funcebm.sample` or :func:`funcebm.resume`, on every rank its own.
        mesh: of the run.
        is_part: keep what earlier calls wrote: :func:`draws_of` then has the draws of all of them, in their order.

    Returns:
        None; the run is in the folder once every rank is back.

    Raises:
        ValueError: samples of a transform, or of another mesh.
        ImportError: without safetensors (``pip install funcebm[checkpoints]``).

    >>> import funcebm as ebm, tempfile
    >>> sampler = ebm.samplers.mala(lambda params, x: (x**2).sum() / 2, step_size=0.5)
    >>> whole = ebm.sample(ebm.random.key(0), sampler, (), torch.zeros(3, 2), num_samples=5, jit=False)
    >>> first = ebm.sample(ebm.random.key(0), sampler, (), torch.zeros(3, 2), num_samples=3, jit=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(folder, first)
    ...     again = load(folder, first.run)
    >>> torch.equal(ebm.resume(again, num_samples=2).draws, whole.draws[:, 3:])
    True
    """
    mesh = single if mesh is None else mesh
    news: dict[str, Any] = {}
    with together(mesh, news) as found:
        _files.need_safetensors(_WHO)
        from safetensors.torch import save as to_bytes

        fix = "Call funcebm.sample outside of vmap, grad and jit, and save what it returns."
        checks.require(samples.run != (), "samples must hold what a run needs to go on", "samples of a transform", fix)
        place = samples.run.place
        right = (place.mesh.rank, place.mesh.size) == (mesh.rank, mesh.size)
        checks.require(right, "samples must be of this mesh", f"those of {place.mesh}, on {mesh}", "Pass mesh=mesh.")
        name = f"run-{samples.run.num_steps:012d}"
        folder = pathlib.Path(path) / name
        folder.mkdir(parents=True, exist_ok=True)
        num = place.last - place.first
        if num > 0:
            file = f"chains-{place.first}-{place.last}.safetensors"
            content = to_bytes(_leaves(samples, num))
            _files.put(folder / file, content)
            news.update(file=file, sha256=hashlib.sha256(content).hexdigest())
        news.update(name=name)
    with together(mesh):
        if mesh.rank == 0:
            told = found or [news]
            names = {other["name"] for other in told}
            checks.require(
                len(names) == 1, "all ranks must save the same step", sorted(names), "Save after the same call."
            )
            files = {other["file"]: other["sha256"] for other in told if "file" in other}
            meta = {
                "format": _FORMAT,
                "num_chains": place.total,
                "num_steps": samples.run.num_steps,
                "thin": samples.run.thin,
                "num_burn_in": samples.run.num_burn_in,
                "gather": place.policy,
                "torch": torch.__version__,
                "files": files,
            }
            _write_shared(folder / "shared.safetensors", samples)
            _files.put(folder / "meta.json", json.dumps(meta, indent=1).encode())
            _files.put(folder / "done", b"")
            for other in pathlib.Path(path).glob("run-*"):
                if other != folder and not (is_part and (other / "done").exists()):
                    shutil.rmtree(other, ignore_errors=True)


def load(path: str | os.PathLike[str], run: Any, *, mesh: Mesh | None = None) -> Any:
    """Reads what :func:`save` wrote, on this number of ranks.

    Args:
        path: the folder.
        run: the ``run`` of samples made with the same arguments (of one draw, say), or these samples: sampler, params and the
            functions of the run, which are in no file, are taken from there.
        mesh: to go on with; the file may be of another one.

    Returns:
        The :class:`~funcebm.chains.Samples` of the chains of this rank. :func:`funcebm.resume` goes on, bit for bit as if
        nothing had happened.

    Raises:
        ValueError: no whole run in the folder, a file that is missing or damaged, or of another model; on every rank.
        ImportError: without safetensors.

    >>> load("/no/such/folder", single)  # doctest: +SKIP
    Traceback (most recent call last):
    ValueError: /no/such/folder must hold a run that was saved whole...
    """
    mesh = single if mesh is None else mesh
    samples, run = (run, run.run) if hasattr(run, "run") else (None, run)
    with together(mesh):
        _files.need_safetensors(_WHO)
        return _loaded(pathlib.Path(path), samples, run, mesh)


def draws_of(path: str | os.PathLike[str], *, mesh: Mesh | None = None, like: Tree = ()) -> tuple[Tree, Tree]:
    """The draws in a folder, of all parts of a run: from ``sample(..., gather="files", checkpoint=path)`` or :func:`save`.

    Args:
        path: the folder.
        mesh: whose ranks read their chains each; without it all chains are read.
        like: optionally, draws and info whose structure is taken; a file names the leaves of a tree, and their classes are lost.

    Returns:
        The draws ``(C, N, *event)`` and the info ``(C, N)``, on the CPU.

    Raises:
        ValueError: no whole run in the folder, or a file that is missing or damaged; on every rank.
        ImportError: without safetensors.

    >>> import funcebm as ebm, tempfile
    >>> sampler = ebm.samplers.mala(lambda params, x: (x**2).sum() / 2, step_size=0.5)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     options = {"num_samples": 5, "gather": "files", "checkpoint": folder, "checkpoint_every": 2, "jit": False}
    ...     _ = ebm.sample(ebm.random.key(0), sampler, (), torch.zeros(3, 2), **options)
    ...     draws_of(folder)[0].shape
    torch.Size([3, 5, 2])
    """
    mesh = single if mesh is None else mesh
    with together(mesh):
        _files.need_safetensors(_WHO)
        parts = []
        for folder in _whole_runs(pathlib.Path(path)):
            meta = json.loads((folder / "meta.json").read_text())
            first, last = bounds(meta["num_chains"], mesh.rank, mesh.size)
            leaves = rows_of(folder, meta["files"], min(first, meta["num_chains"] - 1), max(last, first + 1))
            parts.append({name: leaf[: last - first] for name, leaf in leaves.items()})
        parts = [
            part for part in parts if any(name.startswith("draws/") for name in part)
        ] or parts  # none in the burn-in
        joined: dict[str, dict[str, Tensor]] = {"draws": {}, "info": {}}
        for name in parts[0]:
            part, _, rest = name.partition("/")
            if part in joined:
                joined[part][rest] = torch.cat([leaves[name] for leaves in parts], 1)
        if tree.leaves(like):
            return _like(joined["draws"], like[0], "the draws"), _like(joined["info"], like[1], "the info")
        return _tree(joined["draws"]), _tree(joined["info"])


def see_folder(path: str | os.PathLike[str], mesh: Mesh) -> None:
    """An error, before anything is run, where ranks do not see one folder into which all of them can write."""
    place, mark = pathlib.Path(path), ""
    news: dict[str, Any] = {}
    with together(mesh, news) as found:
        _files.need_safetensors(_WHO)
        fix = "Give a folder, or a name that is not taken: it is made."
        checks.require(not place.exists() or place.is_dir(), "the checkpoint of ranks must be a folder", str(path), fix)
        place.mkdir(parents=True, exist_ok=True)
        mark = f".seen-by-{mesh.rank}-{secrets.token_hex(8)}"
        _files.put(place / mark, b"")
        news.update(mark=mark)
    try:
        with together(mesh):
            end = time.monotonic() + _SEEN
            missing = [other["mark"] for other in found]
            while missing and time.monotonic() < end:  # the file systems of other machines take their time
                missing = [name for name in missing if not (place / name).exists()]
                time.sleep(0.05 if missing else 0)
            must, fix = "the checkpoint of ranks must be one folder that all of them see", "Use a shared file system."
            checks.require(not missing, must, f"{place}, where rank {mesh.rank} does not see what others wrote", fix)
    finally:
        (place / mark).unlink(missing_ok=True)


def open_folder(path: str | os.PathLike[str], samples: Any, *, mesh: Mesh) -> None:
    """Makes a folder such that parts of a run can be added: it holds the run up to ``samples``, and nothing after.

    Raises:
        ValueError: a folder of another run, on every rank.
    """
    run, is_new = samples.run, False
    with together(mesh):
        _files.need_safetensors(_WHO)
        folders = {int(folder.name.removeprefix("run-")): folder for folder in _done(pathlib.Path(path))}
        is_new = not folders
        if not is_new:
            must = f"{os.fspath(path)} must hold this run, of {run.num_steps} steps, or none"
            fix = "Load the run from there and go on with it, or give another folder."
            checks.require(run.num_steps in folders, must, f"one of {sorted(folders)} steps", fix)
            folder = folders[run.num_steps]
            meta = json.loads((folder / "meta.json").read_text())
            total, first = meta["num_chains"], min(run.place.first, meta["num_chains"] - 1)
            checks.require(total == run.place.total, must, f"one of {total} chains", fix)
            keys = rows_of(folder, meta["files"], first, max(run.place.last, first + 1))["keys/"]
            checks.require(torch.equal(keys, run.chain_keys.cpu()), must, "one of another key", fix)
    if is_new:
        save(path, samples, mesh=mesh)
        return
    with together(mesh):
        for num_steps, folder in folders.items() if mesh.rank == 0 else ():
            if num_steps > run.num_steps:
                (folder / "done").unlink(missing_ok=True)
                shutil.rmtree(folder, ignore_errors=True)


def _done(path: pathlib.Path) -> list[pathlib.Path]:
    return sorted(folder for folder in path.glob("run-*") if (folder / "done").exists())


def _whole_runs(path: pathlib.Path) -> list[pathlib.Path]:
    found = _done(path)
    fix = "Give the folder that distributed.save was given; one that no rank finished cannot be used."
    checks.require(bool(found), f"{path} must hold a run that was saved whole", "none", fix)
    return found


def last_run(path: pathlib.Path) -> pathlib.Path:
    """The folder of the latest run that was written whole."""
    return _whole_runs(path)[-1]


def _loaded(path: pathlib.Path, like: Any, run: Any, mesh: Mesh) -> Any:
    folder = last_run(path)
    meta = json.loads((folder / "meta.json").read_text())
    must = f"{folder} must be in format {_FORMAT}"
    checks.require(meta["format"] == _FORMAT, must, meta["format"], "Use the version that wrote it.")
    checks.require(
        meta["thin"] == run.thin, f"{folder} must be of a run with thin={run.thin}", meta["thin"], "Set thin."
    )
    total = meta["num_chains"]
    first, last = bounds(total, mesh.rank, mesh.size)
    is_spare = first == last
    leaves = rows_of(folder, meta["files"], total - 1 if is_spare else first, total if is_spare else last)
    device = run.chain_keys.device
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in _PARTS}
    for name, leaf in leaves.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = leaf.to(device)
    state = _state(parts["state"], run)
    accumulator = _like(parts["accumulator"], run.accumulator, "the reducers")
    draws = _tree(parts["draws"]) if like is None else _like(parts["draws"], like.draws, "the draws")
    info = _tree(parts["info"]) if like is None else _like(parts["info"], like.info, "the info")
    policy = meta.get("gather", run.place.policy)
    place = run.place._replace(
        mesh=mesh, first=first, last=last, total=total, policy=policy, spare=state if is_spare else ()
    )
    counts = {"num_steps": meta["num_steps"], "num_burn_in": meta.get("num_burn_in", 0)}
    run = run._replace(chain_keys=parts["keys"][""], accumulator=accumulator, place=place, **counts)
    if is_spare:
        draws, info, state = tree.map(lambda leaf: leaf[:0], (draws, info, state))
    made = type(like) if like is not None else _samples_type()
    return made(draws=draws, info=info, state=state, reduced=(), is_complete=True, run=run, chains=place.chains)


def _write_shared(path: pathlib.Path, samples: Any) -> None:
    """What all ranks share, and the words of ``funcebm.load``, where trees are such that a file can name them."""
    from ..chains.files import write_shared

    with contextlib.suppress(ValueError):  # a class of the user: then distributed.load takes the structure from a run
        write_shared(path, samples, _PARTS)


def _samples_type() -> Any:
    from ..chains import Samples

    return Samples


def _leaves(samples: Any, num: int) -> dict[str, Tensor]:
    """All that leads with the chains of this rank, by name."""
    found = {}
    values = (samples.state, samples.draws, samples.info, samples.run.accumulator, samples.run.chain_keys)
    for part, value in zip(_PARTS, values, strict=True):
        leaves = tree.leaves(value)
        if part in ("draws", "info") and not (leaves and leaves[0].ndim > 1 and leaves[0].shape[0] == num):
            continue  # none, means, or those of all ranks
        checks.different_names(part, tree.paths(value))
        for name, leaf in zip(tree.paths(value), leaves, strict=True):
            found[f"{part}/{name}"] = leaf.detach()[:num].cpu().clone().contiguous()
    return found


def rows_of(folder: pathlib.Path, files: dict[str, str], first: int, last: int) -> dict[str, Tensor]:
    """The chains ``first`` to before ``last``, from the files that hold some of them."""
    from safetensors.torch import load as of_bytes

    parts: list[dict[str, Tensor]] = []
    ordered = sorted(files, key=lambda file: int(file.split("-")[1]))
    place = first
    for file in ordered:
        start, end = (int(number) for number in file.removesuffix(".safetensors").split("-")[1:])
        if end <= first or start >= last:
            continue
        fix = "Copy the file from where it was written, or use an earlier run."
        checks.require((folder / file).exists(), f"{folder} must hold chains {start} to {end - 1}", f"no {file}", fix)
        content = (folder / file).read_bytes()
        is_whole = hashlib.sha256(content).hexdigest() == files[file]
        checks.require(is_whole, f"{folder / file} must be as it was written", "other bytes: it is damaged", fix)
        rows = slice(max(first, start) - start, min(last, end) - start)
        parts.append({name: leaf[rows] for name, leaf in of_bytes(content).items()})
        place = min(last, end)
    checks.require(place == last, f"{folder} must hold chains {first} to {last - 1}", f"{place - first} of them", "")
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _state(leaves: dict[str, Tensor], run: Any) -> Any:
    """The state, with the structure that the sampler gives it."""
    positions = _tree(
        {name.removeprefix("position").lstrip("/"): leaf for name, leaf in leaves.items() if _is_position(name)}
    )
    like = vmap(run.sampler.init, (None, 0))(run.params, positions)
    return _like(leaves, like, "the sampler")


def _is_position(name: str) -> bool:
    return name == "position" or name.startswith("position/")


def _like(leaves: dict[str, Tensor], like: Tree, what: str) -> Tree:
    """The leaves in a known structure."""
    names = tree.paths(like)
    missing = f"missing {sorted(set(names) - set(leaves))}, not expected {sorted(set(leaves) - set(names))}"
    if not leaves:
        return ()
    fix = "Build the run with the same sampler, positions and reducers."
    checks.require(set(names) == set(leaves), f"the file must fit {what} of this run", missing, fix)
    return tree.unflatten(tree.structure(like), [leaves[name] for name in names])


def _tree(leaves: dict[str, Tensor]) -> Tree:
    """A tree of dicts, and of tuples where the names are numbers."""
    if "" in leaves:
        return leaves[""]
    groups: dict[str, dict[str, Tensor]] = {}
    for name, leaf in leaves.items():
        head, _, rest = name.partition("/")
        groups.setdefault(head, {})[rest] = leaf
    parts = {head: _tree(rest) for head, rest in groups.items()}
    if parts and all(head.isdigit() for head in parts):
        return tuple(parts[str(index)] for index in range(len(parts)))
    return parts or ()
