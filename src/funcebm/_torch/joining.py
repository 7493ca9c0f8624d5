"""How processes find each other: all of them are there, and agree on a new name, before any connects to another.

The store of torchrun outlives a restart, and with it the addresses at which ranks of the last attempt could be reached. A rank
that reads one of these connects to nobody, or to a stranger, and then no timeout of the transport ends its waiting. So groups
are made under a name that is new in every attempt; and whatever making them does, the wait for it ends.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import secrets
import threading
import time
from typing import Any, Callable, TypeVar

__all__ = ["RankError", "agreed_name", "has_keys", "name_groups", "own_store", "within"]

_POLL = 0.01, 0.2  # seconds between looks, at first and at most
_SLACK = 5.0  # seconds that the transport has beyond its timeout
_GRACE = 1.0  # seconds that the others have longer than the first rank, which says who is missing
_LATE = "Every rank must call mesh(): see what the others print, or give them more time, mesh(timeout=...)."

ResultT = TypeVar("ResultT")


class RankError(RuntimeError):
    """Another rank failed, or went away."""


def own_store(timeout: float) -> tuple[Any, int, int]:
    """The store that the environment names, this rank, and how many there are."""
    import torch.distributed as dist

    seconds = datetime.timedelta(seconds=timeout)
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=seconds))
    except RuntimeError as error:
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        why = (str(error).splitlines() or ["?"])[0][:200]
        raise RankError(f"the ranks did not all meet at {place} within {timeout:g} s ({why}). {_LATE}") from error
    store.set_timeout(seconds)
    return store, rank, size


def has_keys(store: Any, keys: list[str]) -> bool:
    """Whether all of them are there; it does not wait."""
    if hasattr(store, "check"):
        return bool(store.check(keys))
    try:  # torch before 2.2
        store.wait(keys, datetime.timedelta(milliseconds=1))
    except RuntimeError:
        return False
    return True


def agreed_name(store: Any, rank: int, size: int, timeout: float, words: str = "") -> str:
    """A name that no earlier attempt has had, the same on all ranks, once all are there.

    The first rank says a new name, the others answer under it with a token of their own, and the first repeats these: so each
    side knows that what it reads was not left by an earlier attempt.

    Args:
        store: of ``torch.distributed``, seen by all ranks.
        rank: of this process.
        size: how many there are.
        timeout: seconds after which a rank that is missing is an error.
        words: what all ranks must say alike.

    Raises:
        RankError: a rank that did not come.
        ValueError: words that differ.
    """
    place = f"funcebm/join/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{size}"
    own = {"rank": rank, "token": secrets.token_hex(8), "words": words}
    end = time.monotonic() + timeout
    name, answers = _first(store, place, own, size, end) if rank == 0 else _other(store, place, own, end + _GRACE)
    missing = sorted(set(range(size)) - {answer["rank"] for answer in answers})
    if missing:
        who = f"rank{'s' if len(missing) > 1 else ''} {', '.join(map(str, missing[:8]))}"
        who = f"{who}{' and more' if len(missing) > 8 else ''}" if answers else "all ranks" if name else "rank 0"
        raise RankError(f"{who} of {size} did not come within {timeout:g} s. {_LATE}")
    for answer in answers:
        if answer["words"] != answers[0]["words"]:
            got = f"{answer['words']} on rank {answer['rank']}, {answers[0]['words']} on rank 0"
            raise ValueError(f"mesh must be the same on all ranks. Got {got}. Call it with the same axes everywhere.")
    return name


Answers = list[dict[str, Any]]


def _first(store: Any, place: str, own: dict[str, Any], size: int, end: float) -> tuple[str, Answers]:
    name = str(10**14 + secrets.randbelow(10**14))
    store.set(f"{place}/name", name)
    answers = [f"{place}/{name}/{other}" for other in range(1, size)]
    is_whole = _waited(lambda: has_keys(store, answers), end)
    found = [own, *(json.loads(store.get(answer)) for answer in answers if is_whole or has_keys(store, [answer]))]
    store.set(f"{place}/{name}/all", json.dumps(found))
    return name, found


def _other(store: Any, place: str, own: dict[str, Any], end: float) -> tuple[str, Answers]:
    """Follows the name that is said, until the first rank has repeated the token of this one."""
    name, found = "", []

    def is_known() -> bool:
        nonlocal found
        if name and has_keys(store, [f"{place}/{name}/all"]):
            found = json.loads(store.get(f"{place}/{name}/all"))
        return any(answer["token"] == own["token"] for answer in found)

    def look() -> bool:
        nonlocal name
        said = store.get(f"{place}/name").decode() if has_keys(store, [f"{place}/name"]) else ""
        if is_known():  # also where the first rank is at its next mesh by now
            return True
        if said != name:
            name = said
            store.set(f"{place}/{name}/{own['rank']}", json.dumps(own))
        return is_known()

    if _waited(look, end):
        return name, found
    return "" if found else name, []  # a name that was answered without this rank is one of before


def _waited(look: Callable[[], bool], end: float) -> bool:
    """Whether it came true before the end."""
    pause, most = _POLL
    while not look():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
        pause = min(2 * pause, most)
    return True


def within(seconds: float, function: Callable[[], ResultT], what: str) -> ResultT:
    """The value of a function that may wait for ever, outside of Python too: then an error, and a thread that is left behind."""
    found: list[ResultT] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(function())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True, name=f"funcebm: {what}")
    thread.start()
    thread.join(seconds + _SLACK)
    if thread.is_alive():
        raise RankError(f"{what} did not end within {seconds + _SLACK:g} s. End the processes, and start them again.")
    if failed:
        if isinstance(failed[0], RuntimeError) and not isinstance(failed[0], RankError):
            why = (str(failed[0]).splitlines() or ["?"])[0][:200]
            raise RankError(f"{what} failed: {why}. End the processes, and start them again.") from failed[0]
        raise failed[0]
    return found[0]


def name_groups(name: str) -> None:
    """Groups that are made from here on take names of this attempt: torch counts them from 0, also after a restart."""
    from torch.distributed import distributed_c10d

    world = getattr(distributed_c10d, "_world", None)
    with contextlib.suppress(AttributeError):
        world.group_count = int(name)  # type: ignore[union-attr]
