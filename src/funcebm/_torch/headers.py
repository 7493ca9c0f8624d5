"""The header of all kernels, precompiled: parsing it is two thirds of what a small program costs the C++ compiler.

Compiling it ahead takes two to three times as long as parsing it once and 150 MB of the cache folder, so nobody waits for it:
when the first program is about to be compiled, a process in the background, of lowest priority, makes it for those that follow,
once a machine and torch. It changes the time of compiling only. ``FUNCEBM_PRECOMPILE=0`` switches it off.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import shlex
import shutil
import subprocess
import time

from . import native

__all__ = ["begin", "precompiled"]

_STALE = 600.0  # seconds after which an unfinished attempt is taken for dead


def begin(include: str, flags: tuple[str, ...]) -> None:
    """Has the header precompiled in the background, if it is not there and nobody does it.

    Args:
        include: the line with which a source begins.
        flags: of the compilation; a header is good for the same ones only.
    """
    if (folder := _folder(include, flags)) is None or (folder / "funcebm.hpp.gch").exists():
        return
    with contextlib.suppress(OSError):
        _make(folder, include, flags, native.compiler("c++") or [])


def precompiled(include: str, flags: tuple[str, ...]) -> tuple[str, ...]:
    """Flags that make a compilation use the precompiled header, ``()`` where there is none (yet)."""
    folder = _folder(include, flags)
    if folder is None or not (folder / "funcebm.hpp.gch").exists():
        return ()
    return ("-include", str(folder / "funcebm.hpp"))


def _folder(include: str, flags: tuple[str, ...]) -> pathlib.Path | None:
    """Where the header is kept, or ``None`` where there shall be none."""
    command = native.compiler("c++")
    is_on = os.environ.get("FUNCEBM_PRECOMPILE", "1") not in ("0", "false", "no")
    if command is None or not is_on or os.name != "posix":
        return None
    if "g++" not in os.path.basename(os.path.realpath(command[0])):
        return None
    return native.cache_dir() / f"header-{native.digest_of((include, flags), command)}"


def _make(folder: pathlib.Path, include: str, flags: tuple[str, ...], command: list[str]) -> None:
    """Starts the background process."""
    header, begun = folder / "funcebm.hpp", folder / "begun"
    folder.mkdir(exist_ok=True)
    try:
        os.close(os.open(begun, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        if time.time() - begun.stat().st_mtime < _STALE:
            return
        begun.touch()
    header.write_text(include + "\n")
    making = folder / f"making-{hashlib.sha256(str(time.time()).encode()).hexdigest()[:8]}.gch"
    compile_only = [flag for flag in flags if not flag.startswith(("-L", "-l", "-Wl,"))]
    call = shlex.join([*command, "-x", "c++-header", "-fPIC", str(header), "-o", str(making), *compile_only])
    done = shlex.join(["mv", str(making), f"{header}.gch"])
    polite = "nice -n 19 " if shutil.which("nice") else ""
    # a grandchild: it outlives this process, and nobody waits for it
    script = f"({polite}{call} && {done} || rm -f {shlex.quote(str(making))}) >/dev/null 2>&1 &"
    nothing = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(["sh", "-c", script], start_new_session=True, check=False, **nothing)  # type: ignore[call-overload]
