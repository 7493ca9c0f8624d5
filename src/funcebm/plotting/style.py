"""One style for the pictures of a notebook."""

from __future__ import annotations

import io
from typing import Any

from ..checks import require
from ._axes import COLOURS, pyplot

__all__ = ["style"]


def style(form: str | None = "svg") -> None:
    """Sharp pictures in one style, for the first cell of a notebook.

    Colours are :data:`COLOURS`, frames have no top and no right side, legends no box, and pictures are laid out so that
    nothing is cut off. In IPython they are vector graphics; points in their thousands are better off as pixels:
    ``ax.scatter(..., rasterized=True)``.

    Args:
        form: of pictures in IPython: ``"svg"``, ``"retina"`` (pixels, twice as many in each direction, of at most 256 colours:
            no larger than the usual ``"png"``), ``"png"``, or None for what it is.

    Returns:
        Nothing; matplotlib's settings are changed for the process.

    Raises:
        ValueError: another form.
        ImportError: matplotlib is not installed.

    >>> style(None)
    """
    require(
        form in (None, "svg", "retina", "png"),
        "form must be a kind of picture",
        form,
        'Write "svg", "retina" or "png".',
    )
    plt = pyplot()
    plt.rcParams.update(
        {
            "axes.prop_cycle": plt.cycler(color=COLOURS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": "medium",
            "legend.frameon": False,
            "figure.constrained_layout.use": True,
            "savefig.dpi": 144,
            "svg.fonttype": "none",
        }
    )
    try:
        from IPython import get_ipython
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:
        return
    shell = get_ipython()
    if form is None or shell is None:
        return
    set_matplotlib_formats(form)
    if form == "retina":
        _show_sharp(shell)
        shell.events.register(
            "post_run_cell", lambda result: _show_sharp(shell)
        )  # the first cell sets formats at its end


def _show_sharp(shell: Any) -> None:
    from matplotlib.figure import Figure

    shell.display_formatter.formatters["image/png"].for_type(Figure, _sharp_png)


def _sharp_png(figure: Any) -> tuple[bytes, dict[str, int]]:
    """Pixels for a screen of twice the density, and the size to show them at."""
    from PIL import Image

    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=2 * figure.dpi, bbox_inches="tight", facecolor="white")
    image = Image.open(drawn).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(packed, "png", optimize=True)
    width, height = image.size
    return packed.getvalue(), {"width": width // 2, "height": height // 2}
