"""A progress bar for the host's side of a long run; tqdm where it is installed."""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from typing import Any, Iterable, Iterator, Mapping

from torch import Tensor

__all__ = ["in_order", "postfix", "progress_bar"]


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


_FIRST = ("loss", "positive_energy", "negative_energy", "energy_gap", "acceptance_rate", "buffer_age")


def in_order(names: Iterable[str]) -> list[str]:
    """The names of metrics in the order in which a reader sees them: the usual ones first, then others by name.

    >>> in_order(["penalty", "skipped", "energy_gap", "loss"])
    ['loss', 'energy_gap', 'penalty', 'skipped']
    """
    rank = {name: index for index, name in enumerate(_FIRST)}
    return sorted(names, key=lambda name: (name == "skipped", rank.get(name, len(_FIRST)), name))


def postfix(metrics: Mapping[str, Tensor], num_skipped: int) -> dict[str, str]:
    """What a bar shows of many steps: the mean of each metric where it is finite, and how many were skipped so far.

    >>> import torch
    >>> postfix({"skipped": torch.tensor([0.0, 1.0]), "loss": torch.tensor([2.0, torch.nan])}, 3)
    {'loss': '2', 'skipped': '3'}
    """
    shown = {}
    for name in in_order(metrics):
        values = metrics[name].flatten()
        finite = values[values.isfinite()]
        shown[name] = f"{float(finite.mean()) if len(finite) else float('nan'):.4g}"
    return {**shown, "skipped": str(num_skipped)}
