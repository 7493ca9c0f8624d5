"""Images side by side."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..checks import positive_int, require
from ._axes import axes

__all__ = ["image_grid"]


def image_grid(
    images: Tensor,
    *,
    num_columns: int | None = None,
    value_range: tuple[float, float] | None = None,
    cmap: str = "gray",
    title: str | None = None,
    ax: Any = None,
) -> Any:
    """Images side by side, row by row, in one picture.

    Args:
        images: ``(B, H, W)``, ``(B, 1, H, W)`` or, in colour, ``(B, 3, H, W)``.
        num_columns: images in a row; by default about as many as there are rows.
        value_range: the values shown black and white, outside of which they are clipped; by default the least and the
            largest of these images. Give it to compare grids, ``(-1, 1)`` for :func:`funcebm.datasets.digits`.
        cmap: any colour map of matplotlib, for images of one channel.
        title: above the grid.
        ax: the ``Axes`` to draw on; by default a new one.

    Returns:
        The ``Axes``.

    Raises:
        ValueError: images of another shape, none, or an empty range.
        ImportError: matplotlib is not installed.

    >>> ax = image_grid(torch.zeros(6, 8, 8), num_columns=3)
    >>> ax.images[0].get_array().shape
    (19, 28)
    """
    right = images.ndim == 3 or (images.ndim == 4 and images.shape[1] in (1, 3))
    must = "images must have the shape (B, H, W), (B, 1, H, W) or (B, 3, H, W), none of them zero"
    fix = "Reshape them, for example with images.reshape(-1, 8, 8)."
    require(right and images.numel() > 0, must, f"the shape {tuple(images.shape)}", fix)
    pixels = images.detach().double().cpu()
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels
    count, channels, height, width = pixels.shape
    columns = min(count, math.ceil(math.sqrt(count)) if num_columns is None else num_columns)
    positive_int("num_columns", columns)
    if value_range is None:
        finite = pixels[pixels.isfinite()]
        low, high = (float(finite.min()), float(finite.max())) if finite.numel() > 0 else (0.0, 1.0)
        high = high if high > low else low + 1.0
    else:
        low, high = value_range
        require(low < high, "value_range must go up", value_range, "Try (-1, 1).")
    rows = math.ceil(count / columns)
    sheet = torch.full((channels, rows * (height + 1) + 1, columns * (width + 1) + 1), torch.nan, dtype=pixels.dtype)
    for index, image in enumerate((pixels - low) / (high - low)):
        top, left = (index // columns) * (height + 1) + 1, (index % columns) * (width + 1) + 1
        sheet[:, top : top + height, left : left + width] = image.clamp(0, 1)

    ax = axes(ax, 0.45 * columns + 0.4, 0.45 * rows + 0.5)
    if channels == 1:
        ax.imshow(sheet[0].numpy(), cmap=cmap, vmin=0, vmax=1, interpolation="nearest")
    else:
        ax.imshow(sheet.nan_to_num(1.0).movedim(0, -1).numpy(), interpolation="nearest")
    ax.set_axis_off()
    if title is not None:
        ax.set_title(title, loc="left", fontsize="medium")
    return ax
