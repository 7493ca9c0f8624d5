"""The picture of ``python -m funcebm``."""

from __future__ import annotations

import os

from torch import Tensor

from .. import plotting
from ..types import Energy, Params
from .tasks import Task

__all__ = ["draw"]


def draw(
    out: str | os.PathLike[str],
    task: Task,
    energy: Energy,
    params: Params,
    drawn: Tensor,
    sets: dict[str, Tensor],
) -> None:
    """Writes a PNG: held-out data beside samples, and under them histograms of the energies.

    Args:
        out: the file.
        task: what was learnt.
        energy: what learnt it.
        params: its parameters.
        drawn: samples, ``(S, D)``; of images, the first 64 are shown.
        sets: energies by name: of held-out data, of samples, and of corrupted data.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "the picture needs matplotlib, which is not installed. Run: pip install matplotlib"
        ) from error
    figure = Figure(figsize=(12, 10), layout="constrained")
    axes = figure.subplot_mosaic([["data", "samples"], ["energies", "energies"]], height_ratios=[2.2, 1])
    is_image = task.train.shape[1] > 2
    panels = (
        ("data", "data (held out)", task.held_out),
        ("samples", "samples: what the chains visit, denoised", drawn),
    )
    for panel, title, examples in panels:
        if is_image:
            images = examples[:64].reshape(-1, 8, 8)
            plotting.image_grid(images, num_columns=8, value_range=(-1, 1), ax=axes[panel])
        else:
            plotting.energy_landscape(
                energy,
                params,
                x_range=(-1.6, 2.6),
                y_range=(-1.3, 1.8),
                max_energy=float(sets["held-out data"].max()),
                colorbar=False,
                ax=axes[panel],
            )
            plotting.samples(examples, ax=axes[panel])
        axes[panel].set_title(title, loc="left")
    names = list(sets)
    shown = {name: sets[name] for name in (*names[:2], names[3], names[-1])}
    low = min(float(values.min()) for values in shown.values())
    high = max(float(2 * values.median() - values.min()) for values in shown.values())  # far tails are left out
    high = max(high, float(sets["held-out data"].max()))
    plotting.energy_histogram(shown, num_bins=80, value_range=(low, high), ax=axes["energies"])
    axes["energies"].set_title("energies, of everything with the noise that the energy is for", loc="left")
    figure.savefig(out, dpi=110, format="png")
