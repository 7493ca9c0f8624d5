"""Runs in folders, as ranks write them, in the words of the files of one process: so ``load`` reads both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import _files, checks, tree
from ..distributed.checkpoint import last_run, rows_of
from ..distributed.mesh import Mesh, bounds

__all__ = ["names_in_rows", "read_folder"]


def names_in_rows(parts: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, str]:
    """For each name in a header, that of the leaf in the files of chains, ``part/path``.

    Args:
        parts: what leads with chains, by name.
        tensors: the leaves by the names of the header.
    """
    paths = {
        id(leaf): f"{part}/{path}"
        for part, value in parts.items()
        for path, leaf in zip(tree.paths(value), tree.leaves(value), strict=True)
    }
    return {name: paths[id(leaf)] for name, leaf in tensors.items() if id(leaf) in paths}


def read_folder(
    path: Path, mesh: Mesh, name: str, number: int
) -> tuple[dict[str, Any], dict[str, Tensor], tuple[int, int, int]]:
    """The header and the tensors of a run, with the chains of this rank: their first, their end, and how many there are.

    Args:
        path: the folder that ``distributed.save`` was given.
        mesh: whose ranks share the chains.
        name: of the header.
        number: its format.
    """
    folder = last_run(path)
    must = f"{folder} must be a run of funcebm.distributed.save"
    header, tensors = _files.read(folder / "shared.safetensors", name, number, must, "It is of another version.")
    meta = json.loads((folder / "meta.json").read_text())
    total = meta["num_chains"]
    first, last = bounds(total, mesh.rank, mesh.size)
    must, fix = "each rank must have a chain", "Load the run on fewer ranks."
    checks.require(last > first, must, f"{total} for {mesh.size} ranks", fix)
    rows = rows_of(folder, meta["files"], first, last)
    tensors |= {here: rows[there] for here, there in header["rows"].items()}
    return {**header, "gather": meta.get("gather", "summary")}, tensors, (first, last, total)
