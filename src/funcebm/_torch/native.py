"""C and C++ source, compiled once a machine and loaded with :mod:`ctypes`.

A library lies in the cache folder under a digest of all that its machine code depends on: source, flags, compiler and
processor. A file is written under another name and then moved, so processes and threads may compile the same thing at
once, and ends with a digest of its content, so a damaged one is noticed before the loader maps it.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import tempfile
import threading
import warnings
from ctypes import CDLL
from typing import Callable

__all__ = [
    "CompilerError",
    "cache_dir",
    "compiler",
    "digest_of",
    "load",
    "optional",
    "processor",
    "read",
    "why_not",
    "write",
]

Flags = tuple[str, ...]

_VARIABLES = {"c": "CC", "c++": "CXX"}
_PROGRAMS = {"c": ("gcc", "clang", "cc"), "c++": ("g++", "clang++", "c++")}
_SEAL = 0 if platform.system() == "Darwin" else 32  # bytes of the digest; a signed library of macOS may not be added to

_libraries: dict[str, CDLL] = {}
_locks: dict[str, threading.Lock] = {}
_private: str | None = None

if hasattr(os, "register_at_fork"):  # a lock that another thread held would stay locked in the child
    os.register_at_fork(after_in_child=_locks.clear)


class CompilerError(RuntimeError):
    """There is no compiler, or it refused the source, or what it made cannot be loaded."""


def _lock(what: str) -> threading.Lock:
    return _locks.setdefault(what, threading.Lock())


# -- the cache ----------------------------------------------------------------------------------------------------


def _obstacle(folder: str) -> str | None:
    """Why files cannot be put into the folder, which is made if need be; or ``None``."""
    if folder.startswith("~"):
        return "there is no home folder"
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        return str(error)
    return None if os.access(folder, os.W_OK | os.X_OK) else "no permission, or a read-only disk"


def cache_dir() -> pathlib.Path:
    """The folder of what was compiled.

    ``$FUNCEBM_CACHE_DIR``, else ``funcebm`` in ``$TORCHINDUCTOR_CACHE_DIR``, ``$XDG_CACHE_HOME`` or ``~/.cache``. If it
    cannot be written: a folder of this process alone, with one warning.
    """
    global _private
    parent = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = os.path.expanduser(os.environ.get("FUNCEBM_CACHE_DIR") or os.path.join(parent, "funcebm"))
    folder = folder if folder.startswith("~") else os.path.abspath(folder)
    obstacle = _obstacle(folder)
    if obstacle is None:
        return pathlib.Path(folder)
    with _lock("the private folder"):
        if _private is None:
            warnings.warn(
                f"the cache folder {folder} cannot be written ({obstacle}), so this process compiles for itself alone. "
                "Name a folder that can be written in the environment variable FUNCEBM_CACHE_DIR.",
                RuntimeWarning,
                stacklevel=2,
            )
        if _private is None or not os.path.isdir(_private):
            _private = tempfile.mkdtemp(prefix="funcebm-")
            atexit.register(shutil.rmtree, _private, ignore_errors=True)
        return pathlib.Path(_private)


def _read(path: pathlib.Path) -> bytes | None:
    with contextlib.suppress(OSError):
        content = path.read_bytes()
        data = content[: len(content) - _SEAL]
        return data if content == data + hashlib.sha256(data).digest()[:_SEAL] else None
    return None


def _write(path: pathlib.Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data + hashlib.sha256(data).digest()[:_SEAL])
        os.chmod(name, 0o755)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def read(name: str) -> bytes | None:
    """A small file of the cache, as :func:`write` was given it; ``None`` if it is missing or damaged."""
    return _read(cache_dir() / name)


def write(name: str, data: bytes) -> None:
    """Puts a small file into the cache, in one step; does nothing if it cannot."""
    with contextlib.suppress(OSError):
        _write(cache_dir() / name, data)


# -- the compiler -------------------------------------------------------------------------------------------------


def compiler(language: str = "c++") -> list[str] | None:
    """The command of the compiler: ``$CC`` or ``$CXX`` with its arguments, else what is on the path, else ``None``."""
    if named := shlex.split(os.environ.get(_VARIABLES[language], "")):
        return named if shutil.which(named[0]) else None
    return next(([path] for path in map(shutil.which, _PROGRAMS[language]) if path), None)


def why_not(language: str = "c++") -> str | None:
    """Why nothing can be compiled here, or ``None`` if it can."""
    if compiler(language) is not None:
        return None
    variable, program = _VARIABLES[language], _PROGRAMS[language][0]
    named = f": the environment variable {variable} names {os.environ[variable]!r}" if os.environ.get(variable) else ""
    return f"there is no {language.upper()} compiler{named} (install {program}, or name one in {variable})"


@functools.lru_cache(1)
def processor() -> str:
    """The kind of machine and, on Linux, what its processor can do: code for ``-march=native`` depends on it."""
    features = ""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        features = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return f"{platform.system()} {platform.machine()} {features}"


def digest_of(what: object, command: list[str]) -> str:
    """A name for what depends on ``what``, the compiler and the processor."""
    binaries = [os.path.realpath(path) for path in map(shutil.which, command) if path]  # ccache's compiler too
    identity = [(path, os.stat(path).st_mtime_ns, os.stat(path).st_size) for path in binaries]
    return hashlib.sha256(repr((what, identity, processor())).encode()).hexdigest()[:32]


def _compile(source: str, command: list[str], language: str, flags: Flags, path: pathlib.Path) -> CDLL:
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
            text, made = os.path.join(folder, "source.c" + language[1:].replace("+", "p")), os.path.join(folder, "made")
            pathlib.Path(text).write_text(source, encoding="utf-8")
            call = [*command, "-shared", "-fPIC", text, "-o", made, *flags]
            environment = {**os.environ, "TMPDIR": folder, "LC_ALL": "C"}
            run = subprocess.run(call, stdin=subprocess.DEVNULL, capture_output=True, env=environment)
            if run.returncode != 0:
                lines = run.stderr.decode(errors="replace").replace(folder + os.sep, "").splitlines()[:20]
                raise CompilerError("\n".join((f"{shlex.join(command)}: exit code {run.returncode}", *lines)))
            _write(path, pathlib.Path(made).read_bytes())
        return CDLL(str(path))
    except OSError as error:
        raise CompilerError(f"{path.name} could not be made or loaded: {error}") from error


def optional(file: str, *, flags: Flags, or_flags: tuple[Flags, ...] = (), instead: str) -> CDLL | None:
    """The library of a C source that lies beside this file; None where there is no compiler, or, with a warning, where it fails.

    Args:
        file: its name, such as ``"clusters.c"``.
        flags, or_flags: as of :func:`load`.
        instead: what is done without it, for the warning.
    """
    if why_not("c"):
        return None
    path = pathlib.Path(__file__).with_name(file)
    try:
        return load(path.read_text(encoding="utf-8"), name=path.stem, flags=flags, or_flags=or_flags)
    except CompilerError as error:
        warnings.warn(f"{instead}, which is slower: {error}", RuntimeWarning, stacklevel=4)
        return None


def load(
    source: str,
    *,
    name: str,
    language: str = "c",
    flags: Flags = (),
    or_flags: tuple[Flags, ...] = (),
    hints: Callable[[], Flags] = tuple,
) -> CDLL:
    """The shared library of a source text, compiled if the cache does not hold it.

    Args:
        source: the whole text.
        name: how the name of the library's file begins.
        language: ``"c"`` or ``"c++"``.
        flags: more arguments for the compiler, also those that optimise; they follow the source.
        or_flags: what to try, one after the other, where the compiler refuses ``flags``.
        hints: gives flags that change how long it takes and not what comes out; asked only where something is compiled.

    Raises:
        CompilerError: there is no compiler, or it refused the source, or what it made cannot be loaded.
    """
    if (command := compiler(language)) is None:
        raise CompilerError(why_not(language))
    variants = (flags, *or_flags)
    digest = digest_of((source, command, language, variants), command)
    with _lock(digest):
        if digest in _libraries:
            return _libraries[digest]
        path = cache_dir() / f"{name}-{digest}.so"
        if _read(path) is not None:
            with contextlib.suppress(OSError):  # of another machine, say
                return _libraries.setdefault(digest, CDLL(str(path)))
        for tried in variants[:-1]:
            with contextlib.suppress(CompilerError):
                return _libraries.setdefault(digest, _compile(source, command, language, tried, path))
        if hinted := hints():
            with contextlib.suppress(CompilerError):
                return _libraries.setdefault(digest, _compile(source, command, language, (*hinted, *flags), path))
        return _libraries.setdefault(digest, _compile(source, command, language, variants[-1], path))
