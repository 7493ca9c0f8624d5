"""Files that are there whole or not at all: tensors by name, with a header of JSON and a digest of both; no pickle."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from torch import Tensor

from . import checks

__all__ = ["check_path", "need_safetensors", "put", "read", "write"]


def need_safetensors(who: str) -> None:
    """An error where safetensors is not installed; ``who`` needs it."""
    if importlib.util.find_spec("safetensors") is None:
        raise ImportError(f"{who} need safetensors: pip install 'funcebm[checkpoints]'")


def check_path(path: Path, what: str) -> None:
    """Whether a file can be written there."""
    fix = "Make the folder first: os.makedirs(folder, exist_ok=True)."
    checks.require(path.parent.is_dir(), f"{what} must be in a folder that exists", os.fspath(path), fix)
    fix = "Choose another folder, or change its permissions."
    checks.require(
        os.access(path.parent, os.W_OK), f"{what} must be in a folder that can be written", os.fspath(path), fix
    )
    fix = "Add the name of a file, such as run.safetensors."
    checks.require(not path.is_dir(), f"{what} must be a file", f"the folder {os.fspath(path)}", fix)


def put(path: Path, content: bytes) -> None:
    """Writes beside ``path`` and renames: whatever happens, ``path`` is either the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def write(path: Path, name: str, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Puts contiguous tensors of the CPU into a file of safetensors, with the header, and its digest, under ``name``."""
    from safetensors.torch import save as to_bytes

    header = {**header, "sha256": _digest(header, tensors, to_bytes(tensors))}
    put(path, to_bytes(tensors, metadata={name: json.dumps(header)}))


def read(
    path: str | os.PathLike[str], name: str, number: int, must: str, hint: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and the tensors of a file of :func:`write`; anything else is an error that says so.

    Args:
        path: where from.
        name: of the header.
        number: the format that it must have.
        must: what the file must be, for messages.
        hint: for a file of safetensors without this header.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as of_bytes

    checks.require(not os.path.isdir(path), must, "a folder", "Add the name of the file.")
    content = Path(path).read_bytes()  # once: a run that is going on may replace the file
    try:
        tensors = of_bytes(content)
        outer = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        header = json.loads(outer.get("__metadata__", {}).get(name, "null"))
    except (SafetensorError, ValueError) as error:
        fix = "It is truncated, damaged or of another kind; use an earlier copy."
        raise ValueError(checks.message(must, f"a file that safetensors cannot read ({error})", fix)) from error
    checks.require(isinstance(header, dict), must, "safetensors of something else", hint)
    got, fix = f"format {header.get('format')}", "Use the version that wrote it."
    checks.require(header.get("format") == number, f"{must} in format {number}", got, fix)
    written = header.pop("sha256", None)  # files of before have none
    right = written is None or _digest(header, tensors, content) == written
    checks.require(right, f"{must} as it was written", "other numbers: it is damaged", "Use an earlier copy.")
    return header, tensors


def _digest(header: dict[str, Any], tensors: dict[str, Tensor], content: bytes) -> str:
    """What tells whether a file is as it was written: its numbers, their names, dtypes and shapes, and our header."""
    kinds = sorted((name, str(leaf.dtype), list(leaf.shape)) for name, leaf in tensors.items())
    digest = hashlib.sha256(json.dumps([header, kinds], sort_keys=True).encode())
    digest.update(memoryview(content)[8 + int.from_bytes(content[:8], "little") :])
    return digest.hexdigest()
