"""A warm-up in a file, from which the same call goes on in another process, bit for bit as if it had not been cut."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from .. import _files, checks, tree
from ..distributed.agreement import digest, together
from ..distributed.checkpoint import see_folder
from ..distributed.mesh import Mesh
from ..types import Tree

__all__ = ["Checkpoint", "Where", "open_checkpoint"]

_HEADER, _FORMAT = "funcebm.warm_up", 1
_FIX = "Make the call that wrote it again, or give another path."


class Where(NamedTuple):
    """How far a warm-up is: how many steps are done, in which window, and after how many chains restarted last."""

    done: int = 0
    window: int = 0
    last_restart: int = 0


class Checkpoint(NamedTuple):
    """Where a warm-up is written: a file, or with several ranks a folder, in which each has its own.

    Attributes:
        path: of it.
        every: after how many steps.
        mesh: of the run.
        same: digests of what the call was given, by name.
    """

    path: Path
    every: int
    mesh: Mesh
    same: dict[str, str]

    def save(self, where: Where, carry: Tree, traces: Tree) -> None:
        """Writes where the run is; all ranks call it at the same step."""
        tensors: dict[str, Tensor] = {}
        orders: dict[str, list[int]] = {}
        for name, leaf in _named(carry, traces).items():
            # in its order of memory: by that sums go, whose last bits must be those of a run that was not cut
            strides: Any = leaf.stride()
            orders[name] = sorted(range(leaf.ndim), key=lambda axis: (-strides[axis], axis))
            tensors[name] = leaf.detach().permute(orders[name]).contiguous().cpu().clone()
        header = {"format": _FORMAT, "where": list(where), "orders": orders, "same": self.same, "size": self.mesh.size}
        with together(self.mesh):
            if self.mesh.size > 1:
                self._folder(where.done).mkdir(parents=True, exist_ok=True)
            _files.write(self._file(where.done), _HEADER, header, tensors)
        if self.mesh.size == 1:
            return
        with together(self.mesh):
            if self.mesh.rank == 0:
                _files.put(self._folder(where.done) / "done", b"")
                for other in self.path.glob("warm-up-*"):
                    if other != self._folder(where.done):
                        (other / "done").unlink(missing_ok=True)
                        shutil.rmtree(other, ignore_errors=True)

    def load(self, carry: Tree, traces: Tree) -> tuple[Where, Tree, Tree] | None:
        """Where the run was, or None where nothing was written; with the structure of these, on their device.

        Raises:
            ValueError: a file of something else, or of another warm-up; on every rank.
        """
        with together(self.mesh):
            done = self._last()
            if done is None:
                return None
            must = f"{self._file(done)} must be a checkpoint of warm_up"
            header, tensors = _files.read(self._file(done), _HEADER, _FORMAT, must, _FIX)
            must = f"{self.path} must be of this warm-up"
            checks.require(header["size"] == self.mesh.size, must, f"one of {header['size']} ranks", _FIX)
            others = [name for name, value in self.same.items() if header["same"].get(name) != value]
            checks.require(not others, must, f"one with other {', '.join(others)}", _FIX)
            like = _named(carry, traces)
            checks.require(set(like) == set(tensors), must, "one with another adaptation", _FIX)
            found = {}
            for name, leaf in tensors.items():
                order = header["orders"][name]
                found[name] = leaf.permute([order.index(axis) for axis in range(leaf.ndim)]).to(like[name].device)
        parts = [_like(found, part, value) for part, value in (("carry", carry), ("traces", traces))]
        return Where(*header["where"]), parts[0], parts[1]

    def _folder(self, done: int) -> Path:
        return self.path / f"warm-up-{done:012d}"

    def _file(self, done: int) -> Path:
        mesh = self.mesh
        return self.path if mesh.size == 1 else self._folder(done) / f"{mesh.rank}-of-{mesh.size}.safetensors"

    def _last(self) -> int | None:
        """How far what was written whole is; of one process this is in the file."""
        if self.mesh.size == 1:
            return 0 if self.path.exists() else None
        whole = [folder.name for folder in self.path.glob("warm-up-*") if (folder / "done").exists()]
        if not whole:
            return None
        done = int(max(whole).removeprefix("warm-up-"))
        got = ", ".join(sorted(file.name for file in self._folder(done).glob("*.safetensors")))
        must = f"{self._folder(done)} must be of {self.mesh.size} ranks"
        checks.require(self._file(done).exists(), must, got or "nothing", "Start as many ranks as wrote it.")
        return done


def open_checkpoint(path: str | os.PathLike[str], every: int, mesh: Mesh, given: dict[str, Tree]) -> Checkpoint:
    """The checkpoint of a warm-up that was given this; errors are those of all ranks."""
    place = Path(path)
    with together(mesh):
        _files.need_safetensors("warm_up(checkpoint=...)")
        checks.positive_int("checkpoint_every", every)
        if mesh.size == 1:
            _files.check_path(place, "a checkpoint")
    if mesh.size > 1:
        see_folder(place, mesh)
    return Checkpoint(place, every, mesh, {name: digest(value) for name, value in given.items()})


def _named(carry: Tree, traces: Tree) -> dict[str, Tensor]:
    parts = {"carry": carry, "traces": traces}
    for part, value in parts.items():
        checks.different_names(part, tree.paths(value))
    return {
        f"{part}/{name}": leaf
        for part, value in parts.items()
        for name, leaf in zip(tree.paths(value), tree.leaves(value), strict=True)
    }


def _like(found: dict[str, Tensor], part: str, value: Tree) -> Tree:
    return tree.unflatten(tree.structure(value), [found[f"{part}/{name}"] for name in tree.paths(value)])
