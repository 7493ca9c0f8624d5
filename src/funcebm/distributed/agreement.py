"""What ranks must agree on: that they were given the same, and that an error of one is an error of all."""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import hashlib
import json
import signal
import threading
from typing import Any, Callable, Iterator

import torch
from torch import Tensor

from .. import checks, tree
from .._torch import collectives
from .._torch.collectives import RankError
from .._torch.tracing import is_tracing
from ..types import Tree
from .mesh import Mesh, bits_of

__all__ = [
    "RankError",
    "check_equal",
    "check_mesh",
    "check_same",
    "digest",
    "failing_together",
    "nan_unless_same",
    "patient",
    "starting_together",
    "together",
]

_ROOM = 4096  # bytes of what one rank tells the others


def digest(value: Tree) -> str:
    """A name for all numbers, shapes, dtypes and the structure of a tree; functions count by their names.

    >>> digest({"a": torch.zeros(2)}) == digest({"a": torch.zeros(2)}), digest(torch.zeros(2)) == digest(torch.ones(2))
    (True, False)
    """
    leaves, _ = tree.flatten(value)
    found = hashlib.sha256(json.dumps(tree.paths(value)).encode())
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            found.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode())
            plain = leaf.detach().cpu().contiguous().reshape(-1)
            found.update(ctypes.string_at(plain.data_ptr(), plain.numel() * plain.element_size()))
        else:
            name = getattr(leaf, "__qualname__", type(leaf).__qualname__) if callable(leaf) else repr(leaf)
            found.update(name.encode())
    return found.hexdigest()[:24]


def told(mesh: Mesh, news: dict[str, Any]) -> list[dict[str, Any]]:
    """What every rank has to tell, in the order of ranks."""
    text = json.dumps(news).encode()
    if len(text) > _ROOM:
        text = json.dumps({"error": str(news.get("error", ""))[:1000] or "a message that is too long"}).encode()
    device = "cuda" if collectives.peers_of(mesh.name).backend == "nccl" else "cpu"
    own = torch.tensor(list(text.ljust(_ROOM)), dtype=torch.uint8, device=device)
    everything = collectives.exchange(own, mesh.name, mesh.size, False).cpu()
    return [json.loads(bytes(row.tolist()).decode()) for row in everything]


def check_equal(mesh: Mesh, found: list[dict[str, Any]]) -> None:
    """Raises where ranks were given different things; ``found`` is what all of them told, ``{"digests": {name: digest}}``."""
    for name in found[0]["digests"]:
        values = [news["digests"].get(name) for news in found]
        if len(set(values)) > 1:
            other = next(rank for rank, value in enumerate(values) if value != values[0])
            got = f"others on rank {other} than on rank 0"
            fix = f"Make {name} from the same key and files on every rank"
            fix += ", or mark the rows of one rank: mesh.shard(rows)." if name == "positions" else "."
            raise _agreed(ValueError(checks.message(f"{name} must be the same on all ranks", got, fix)))


def check_same(mesh: Mesh, given: dict[str, Tree]) -> None:
    """Raises on all ranks where they were given different things, by name; not in a transform or a trace."""
    tensors = [leaf for leaf in tree.leaves(given) if isinstance(leaf, Tensor)]
    if mesh.size == 1 or not all(map(checks.is_concrete, tensors)):
        return
    news: dict[str, Any] = {}
    with together(mesh, news) as found:
        news.update(digests={name: digest(value) for name, value in given.items()})
    check_equal(mesh, found)


def starting_together(mesh: Mesh) -> contextlib.AbstractContextManager[Any]:
    """:func:`together`, but in a trace, where nothing can be told. Nothing inside may speak to other ranks."""
    return contextlib.nullcontext() if is_tracing() else together(mesh)


def nan_unless_same(mesh: Mesh, given: dict[str, Tree], value: Tree) -> Tree:
    """The value, where all ranks were given the same; elsewhere an error, or NaN in a trace and under ``vmap``.

    There a chain of another position is NaN, and every chain of other params.
    """
    if mesh.size == 1:
        return value
    for name, each in given.items():
        leaves = [leaf.detach() for leaf in tree.leaves(each) if isinstance(leaf, Tensor)]
        if not is_tracing() and all(map(checks.is_concrete, leaves)):
            check_same(mesh, {name: each})
        elif leaves:
            own = torch.stack([bits_of(leaf) for leaf in leaves])
            everyone = collectives.exchange(own, mesh.name, mesh.size, False)
            is_same = (everyone == everyone[:1]).all()
            value = tree.map(lambda leaf: torch.where(is_same, leaf, torch.nan), value)  # noqa: B023
    return value


def check_mesh(mesh: Mesh) -> None:
    """A mesh is one of its group of processes; the others hear of it if not."""
    fix = "Pass what funcebm.distributed.mesh() gives, or leave it out."
    checks.require(isinstance(mesh, Mesh), "mesh must be a Mesh", repr(mesh), fix, TypeError)
    if mesh.size == 1:
        return
    peers = collectives.peers_of(mesh.name)
    if (peers.rank, peers.size) == (mesh.rank, mesh.size):
        return
    must = f"a mesh must be of the size of its group, here rank {peers.rank} of {peers.size}"
    text = checks.message(must, str(mesh), "Take what funcebm.distributed.mesh() gives, and change only its memory.")
    collectives.abort(mesh.name, text)
    raise _agreed(ValueError(text))


@contextlib.contextmanager
def together(mesh: Mesh, news: dict[str, Any] | None = None) -> Iterator[list[dict[str, Any]]]:
    """An error inside, of any rank, is raised on all of them at the end; what each has put into ``news`` is known to all then.

    The rank where it happened raises it as it is, the others an error of the same kind that names the rank.
    """
    news = {} if news is None else news
    check_mesh(mesh)
    found: list[dict[str, Any]] = []
    if mesh.size == 1:
        yield found
        return
    try:
        yield found
    except (Exception, KeyboardInterrupt) as error:
        with contextlib.suppress(RankError):  # what has happened here is what counts
            told(mesh, {"error": str(error) or "interrupted", "kind": type(error).__name__})
        _agreed(error)
        raise
    found.extend(told(mesh, news))
    for rank, other in enumerate(found):
        if "error" in other:
            raise _agreed(_error(rank, mesh.size, other))


def _agreed(error: BaseException) -> BaseException:
    """The error, with a mark that all ranks raise it."""
    error.is_of_all_ranks = True  # type: ignore[attr-defined]
    return error


@contextlib.contextmanager
def failing_together(mesh: Mesh) -> Iterator[None]:
    """Around work in which ranks wait for each other: an error of one ends the waiting of the others, with an error there too."""
    try:
        yield
    except BaseException as error:
        if isinstance(mesh, Mesh) and mesh.size > 1 and not getattr(error, "is_of_all_ranks", False):
            text = str(error) or "interrupted"
            collectives.abort(mesh.name, f"{type(error).__name__} on rank {mesh.rank}: {text}")
        raise


def _error(rank: int, size: int, news: dict[str, Any]) -> BaseException:
    """The error of another rank: of its type where Python has it."""
    kind = getattr(builtins, news.get("kind", ""), None)
    right = isinstance(kind, type) and issubclass(kind, (Exception, KeyboardInterrupt))
    text = f"{news['error']} (rank {rank} of {size})"
    try:
        return kind(text) if right and kind is not None else RankError(f"{news.get('kind', 'an error')}: {text}")
    except TypeError:
        return RankError(f"{news.get('kind')}: {text}")


# -- Ctrl-C -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def patient(mesh: Mesh) -> Iterator[Callable[[], bool]]:
    """Inside, Ctrl-C waits until the chunk has ended: the ranks would lose each other in the middle of it.

    Gives a function that asks all ranks whether one was interrupted.
    """
    raised: list[Any] = []
    if mesh.size == 1 or threading.current_thread() is not threading.main_thread():
        yield lambda: mesh.agree(bool(raised))
        return

    def note(number: int, frame: Any) -> None:
        if raised:  # a second one is meant
            raise KeyboardInterrupt
        raised.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: mesh.agree(bool(raised))
    finally:
        signal.signal(signal.SIGINT, before)
