"""One style for the pictures of a notebook."""

from __future__ import annotations

from ..checks import require
from ._axes import COLOURS, pyplot

__all__ = ["style"]


def style(form: str | None = "svg") -> None:
    """Sharp pictures in one style, for the first cell of a notebook.

    Colours are :data:`COLOURS`, frames have no top and no right side, legends no box, and pictures are laid out so that
    nothing is cut off. In IPython they are vector graphics; points in their thousands are better off as pixels:
    ``ax.scatter(..., rasterized=True)``.

    Args:
        form: of pictures in IPython: ``"svg"``, ``"retina"`` (pixels, twice as many), ``"png"``, or None for what it is.

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
    if form is not None and get_ipython() is not None:
        set_matplotlib_formats(form)
