"""How ranks find each other: by a name that is new, whatever an earlier attempt has left in the store, and in time."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from funcebm._torch.joining import RankError, agreed_name, within

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no ranks")


def _meet(store, ranks, size, timeout=10.0, words=("", "", ""), delays=(0, 0, 0)):
    """What each of these ranks gets, a name or an error."""
    found = {}

    def run(rank):
        time.sleep(delays[rank])
        try:
            found[rank] = agreed_name(store, rank, size, timeout, words[rank])
        except (RankError, ValueError) as error:
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[rank] for rank in ranks]


@pytest.mark.parametrize("delays", [(0, 0, 0), (0.05, 0, 0), (0, 0.05, 0), (0, 0.03, 0.06)])
def test_every_attempt_has_a_name_of_its_own(delays):
    """Ranks that come first see the name of the attempt before, and the answers to it."""
    store = torch.distributed.HashStore()
    names = [_meet(store, range(3), 3, delays=delays) for _ in range(3)]
    assert all(len(set(each)) == 1 for each in names)
    assert len({each[0] for each in names}) == 3


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_who_is_missing_is_named_in_time(missing):
    store = torch.distributed.HashStore()
    _meet(store, range(3), 3)
    start = time.monotonic()
    ranks = [rank for rank in range(3) if rank != missing]
    errors = _meet(store, ranks, 3, timeout=0.3)
    assert 0.3 <= time.monotonic() - start < 2.0
    assert [type(error) for error in errors] == [RankError] * 2
    assert all(f"rank {missing} of 3 did not come within 0.3 s" in str(error) for error in errors)
    assert len(set(_meet(store, range(3), 3))) == 1


def test_what_is_not_the_same_is_said_on_all():
    errors = _meet(torch.distributed.HashStore(), range(3), 3, words=("a", "a", "b"))
    assert all("Got b on rank 2, a on rank 0" in str(error) for error in errors)


def test_a_wait_ends(monkeypatch):
    monkeypatch.setattr("funcebm._torch.joining._SLACK", 0.1)
    is_over = threading.Event()
    with pytest.raises(RankError, match=r"opening a group did not end within 0.2 s"):
        within(0.1, is_over.wait, "opening a group")
    is_over.set()
    assert within(1.0, lambda: 3, "counting") == 3
    with pytest.raises(RankError, match="opening a group failed: refused"):
        within(1.0, lambda: (_ for _ in ()).throw(RuntimeError("refused\nby whom")), "opening a group")
    with pytest.raises(KeyError):
        within(1.0, lambda: {}[0], "counting")
