"""Pictures of energies, samples and chains. Needs matplotlib, which is imported when the first picture is drawn.

Every function draws on one ``Axes`` (``ax``, by default that of a new figure) and returns it, so pictures can be laid
over each other and side by side::

    ax = energy_landscape(energy, params, x_range=(-2, 2), y_range=(-2, 2))
    samples(chains_draws, ax=ax)
    ax.figure.savefig("landscape.png")

Colours are those of Okabe and Ito (2008), which colour-blind readers can tell apart.
"""

from __future__ import annotations

from ._axes import COLOURS
from .histograms import energy_histogram
from .images import image_grid
from .landscape import energy_landscape
from .lines import traces
from .points import samples
from .ranks import calibration
from .style import style

__all__ = ["COLOURS", "calibration", "energy_histogram", "energy_landscape", "image_grid", "samples", "style", "traces"]
