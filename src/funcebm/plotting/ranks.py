"""Ranks of a simulation-based calibration."""

from __future__ import annotations

import math
from typing import Any

import torch

from .. import tree
from ..checks import require
from ._axes import COLOURS, MAX_TRACES, axes, plain

__all__ = ["calibration"]


def calibration(found: Any, *, level: float = 0.95, ax: Any = None) -> Any:
    r"""How far the ranks of a simulation-based calibration are from uniform: a line for each quantity, which stays in the band.

    A line is :math:`\hat F(u) - F(u)`, the empirical distribution function of the ranks minus the uniform one. The band holds
    a whole line of a right posterior with the given probability (of Kolmogorov's test). A line that arches up is of draws
    that are too high, one that arches down of draws that are too low; an S of draws that are spread too little or too much.

    Args:
        found: from :func:`funcebm.diagnostics.simulation_based_calibration`.
        level: of the band, in (0, 1).
        ax: the ``Axes`` to draw on; by default a new one.

    Returns:
        The ``Axes``.

    Raises:
        ValueError: a level outside of (0, 1).
        ImportError: matplotlib is not installed.

    Reference: Säilynoja, Bürkner and Vehtari (2022), Statistics and Computing 32:32, on such pictures.

    >>> from funcebm import diagnostics, random
    >>> simulate = lambda key, mean: mean + random.normal(key)
    >>> posterior = lambda key, y: y / 2 + 0.5**0.5 * random.normal(key, (19,))
    >>> args = (random.key(0), random.normal, simulate, posterior)
    >>> ax = calibration(diagnostics.simulation_based_calibration(*args, num_simulations=100))
    >>> len(ax.lines)
    2
    """
    require(0 < level < 1, "level must be between 0 and 1", level, "Try 0.95.")
    num_draws = int(found.num_draws)
    values = torch.arange(num_draws + 1, dtype=torch.float64)
    ax = axes(ax, 5.0, 3.2)
    num = 0
    for name, ranks in zip(tree.paths(found.ranks), tree.leaves(found.ranks), strict=True):
        flat = ranks.reshape(len(ranks), -1).double().cpu()
        for place in range(flat.shape[1]):
            below = (flat[:, place, None] <= values).double().mean(0)
            label = (name or "x") + (f"[{place}]" if flat.shape[1] > 1 else "")
            line = {"color": COLOURS[num % len(COLOURS)], "linewidth": 1.2, "drawstyle": "steps-post", "label": label}
            ax.plot((values / num_draws).numpy(), (below - (values + 1) / (num_draws + 1)).numpy(), **line)
            num += 1
    width = math.sqrt(-math.log((1 - level) / 2) / (2 * len(tree.first(found.ranks))))
    ax.axhline(0, color="0.5", linewidth=0.8)
    ax.axhspan(-width, width, color="0.5", alpha=0.15, linewidth=0)
    ax.set(xlabel="rank of the truth, from 0 to 1", ylabel="distribution of ranks, minus uniform", xlim=(0, 1))
    plain(ax)
    if num <= MAX_TRACES:
        ax.legend(frameon=False, fontsize="small", ncols=2)
    return ax
