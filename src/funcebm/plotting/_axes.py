"""What the pictures share: colours, a new picture, plain frames."""

from __future__ import annotations

from typing import Any

__all__ = ["COLOURS", "MAX_TRACES", "axes", "plain", "pyplot"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
"""The colours of lines and histograms, in order."""

MAX_TRACES = 8


def pyplot() -> Any:
    """The module ``matplotlib.pyplot``, or an error that says how to get it."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "funcebm.plotting needs matplotlib, which is not installed. Run: pip install 'funcebm[notebooks]' "
            "(or pip install matplotlib)."
        ) from error
    return plt


def axes(ax: Any, width: float, height: float) -> Any:
    """``ax``, or that of a new figure."""
    plt = pyplot()
    return plt.subplots(figsize=(width, height), layout="constrained")[1] if ax is None else ax


def plain(ax: Any) -> None:
    """Without the upper and the right side of the frame."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
