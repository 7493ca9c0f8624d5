"""Calls of compiled functions side by side."""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import os
from typing import Any, Callable, Sequence

import torch

from . import programs
from .recorder import current

__all__ = ["run_all"]


def run_all(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """See :func:`funcebm.transforms.run_all`."""
    num_workers = min(torch.get_num_threads(), len(calls))
    if num_workers == 1 or current() is not None:
        return [call() for call in calls]
    results: list[Any] = [None] * len(calls)
    numbers = itertools.count()

    def work() -> None:
        with programs.one_thread():
            while (number := next(numbers)) < len(calls):
                results[number] = calls[number]()

    others = [_workers().submit(work) for _ in range(num_workers - 1)]
    try:
        work()
    finally:  # a thread that found no processor until now is not waited for: there is nothing left to do
        others = [other for other in others if not other.cancel()]
        concurrent.futures.wait(others)
    for other in others:
        other.result()
    return results


@functools.cache
def _workers() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(max(os.cpu_count() or 1, 1), thread_name_prefix="funcebm")


if hasattr(os, "register_at_fork"):  # a child has none of these threads
    os.register_at_fork(after_in_child=_workers.cache_clear)
