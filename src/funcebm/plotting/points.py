"""Points of the plane."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ..checks import positive_int, require
from ._axes import COLOURS, axes, plain

__all__ = ["samples"]


def samples(
    points: Tensor,
    *,
    label: str | None = None,
    color: str = COLOURS[1],
    size: float | None = None,
    max_points: int = 20_000,
    ax: Any = None,
) -> Any:
    """Points of the plane, on an empty picture or over an :func:`energy_landscape`.

    Args:
        points: ``(..., 2)``, such as draws ``(C, N, 2)``; the leading axes do not matter.
        label: for the legend, which is drawn when there is one.
        color: any colour of matplotlib.
        size: area of a marker in square points; by default smaller for more points.
        max_points: of more points, evenly spaced ones are drawn.
        ax: the ``Axes`` to draw on, whose limits stay as they are; by default a new one.

    Returns:
        The ``Axes``.

    Raises:
        ValueError: points that are not in the plane.
        ImportError: matplotlib is not installed.

    >>> import torch
    >>> ax = samples(torch.zeros(4, 10, 2))
    >>> len(ax.collections[0].get_offsets())
    40
    """
    shape = tuple(points.shape)
    right = len(shape) >= 2 and shape[-1] == 2 and points.numel() > 0
    fix = "Pick two coordinates, such as draws[..., :2]."
    require(right, "points must have the shape (..., 2) and hold at least one", f"the shape {shape}", fix)
    positive_int("max_points", max_points)
    flat = points.detach().reshape(-1, 2)
    x, y = flat[:: math.ceil(flat.shape[0] / max_points)].double().cpu().T.numpy()
    is_new = ax is None
    ax = axes(ax, 4.8, 4.6)
    limits = ax.get_xlim(), ax.get_ylim()
    size = max(2.5, min(18.0, 6000 / len(x))) if size is None else size
    edge = {"edgecolors": "white", "linewidths": 0.3} if size > 6 else {"linewidths": 0}
    ax.scatter(x, y, s=size, c=color, alpha=0.85, label=label, zorder=3, **edge)
    if is_new:
        ax.set(xlabel="$x_0$", ylabel="$x_1$", aspect="equal")
        plain(ax)
    else:
        ax.set(xlim=limits[0], ylim=limits[1])
    if label is not None:
        ax.legend(loc="upper right", frameon=True, framealpha=0.9, edgecolor="none", markerscale=2)
    return ax
