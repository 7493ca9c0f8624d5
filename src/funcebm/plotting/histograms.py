"""Histograms of energies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..checks import positive_int, require
from ._axes import COLOURS, axes, plain

__all__ = ["energy_histogram"]


def energy_histogram(
    energies: Tensor | Mapping[str, Tensor],
    *,
    num_bins: int = 60,
    value_range: tuple[float, float] | None = None,
    ax: Any = None,
) -> Any:
    """Histograms of energies of several sets over common bins, each of area 1.

    Args:
        energies: one tensor, or tensors by name; their shapes do not matter.
        num_bins: how many bins, at least 1.
        value_range: energies from and to, those outside are not shown; by default all of them.
        ax: the ``Axes`` to draw on; by default a new one.

    Returns:
        The ``Axes``.

    Raises:
        ValueError: a set without a finite energy, no sets, or an empty range.
        ImportError: matplotlib is not installed.

    >>> ax = energy_histogram({"data": torch.arange(10.0), "samples": torch.arange(20.0)})
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['data', 'samples']
    """
    positive_int("num_bins", num_bins)
    sets = dict(energies) if isinstance(energies, Mapping) else {"": energies}
    require(len(sets) > 0, "energies must hold at least one set", sets, "Pass a tensor, or a dict of tensors.")
    values = {name: each.detach().double().cpu().flatten() for name, each in sets.items()}
    values = {name: each[each.isfinite()] for name, each in values.items()}
    for name, each in values.items():
        must = "each set of energies must hold at least one finite number"
        require(each.numel() > 0, must, f"none in {name!r}", "Look at the examples that it comes from.")
    together = torch.cat(list(values.values()))
    low, high = (float(together.min()), float(together.max())) if value_range is None else value_range
    high = high if high > low or value_range is not None else low + 1.0
    require(low < high, "value_range must go up", value_range, "Try (-10.0, 10.0).")
    edges = torch.linspace(low, high, num_bins + 1, dtype=torch.float64).numpy()
    ax = axes(ax, 6.0, 3.2)
    for index, (name, each) in enumerate(values.items()):
        color = COLOURS[index % len(COLOURS)]
        style = {"bins": edges, "density": True, "color": color}
        ax.hist(each.numpy(), histtype="stepfilled", alpha=0.25, **style)
        ax.hist(each.numpy(), histtype="step", linewidth=1.4, label=name or None, **style)
    ax.set(xlabel="energy", ylabel="density", xlim=(low, high))
    ax.set_yticks([])
    plain(ax)
    if any(sets):
        ax.legend(frameon=False)
    return ax
