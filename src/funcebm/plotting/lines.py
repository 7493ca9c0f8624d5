"""Chains over their draws."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..checks import positive_int, require
from ._axes import COLOURS, MAX_TRACES, axes, plain

__all__ = ["traces"]


def traces(draws: Tensor, *, name: str = "x", max_chains: int = MAX_TRACES, ax: Any = None) -> Any:
    """One coordinate of the chains over the draws, a line for each chain.

    Args:
        draws: ``(C, N)``, such as ``samples.draws[:, :, 0]``.
        name: of the coordinate.
        max_chains: of more chains, the first ones are drawn and the title says so.
        ax: the ``Axes`` to draw on; by default a new one.

    Returns:
        The ``Axes``.

    Raises:
        ValueError: draws of another shape.
        ImportError: matplotlib is not installed.

    >>> import torch
    >>> len(traces(torch.zeros(4, 100)).lines)
    4
    """
    right = draws.ndim == 2 and draws.numel() > 0
    fix = "Pick one coordinate, such as draws[:, :, 0]."
    require(right, "draws must have the shape (C, N), none of them zero", f"the shape {tuple(draws.shape)}", fix)
    positive_int("max_chains", max_chains)
    ax = axes(ax, 7.0, 2.8)
    width = 0.9 if draws.shape[1] <= 1000 else 0.5
    for chain, line in enumerate(draws.detach()[:max_chains].double().cpu().numpy()):
        ax.plot(line, color=COLOURS[chain % len(COLOURS)], linewidth=width, alpha=0.8, label=f"chain {chain}")
    ax.set(xlabel="draw", ylabel=name, xlim=(0, max(1, draws.shape[1] - 1)))
    if draws.shape[0] > max_chains:
        ax.set_title(f"{max_chains} of {draws.shape[0]:,} chains", loc="left", fontsize="medium")
    plain(ax)
    return ax
