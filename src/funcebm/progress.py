"""A progress bar for the host's side of a long run; tqdm where it is installed."""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from typing import Any, Iterator

__all__ = ["progress_bar"]


class _NoBar:
    """What stands in for a bar that is not wanted."""

    def update(self, num: int) -> None:
        """Does nothing."""

    def set_postfix(self, values: dict[str, Any]) -> None:
        """Does nothing."""


@contextlib.contextmanager
def progress_bar(total: int, description: str, is_shown: bool) -> Iterator[Any]:
    """A bar with the methods ``update(num)`` and ``set_postfix(dict)``.

    >>> with progress_bar(10, "sampling", False) as bar:
    ...     bar.update(5)
    """
    if not is_shown:
        yield _NoBar()
        return
    if importlib.util.find_spec("tqdm") is None:
        warnings.warn("progress=True shows nothing without tqdm: pip install tqdm", RuntimeWarning, stacklevel=4)
        yield _NoBar()
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, desc=description) as bar:
        yield bar
