"""Pictures of energies, samples and chains. Needs matplotlib, which is imported when the first picture is drawn.

Every function draws on one ``Axes`` (``ax``, by default that of a new figure) and returns it, so pictures can be laid
over each other and side by side::

    ax = energy_landscape(energy, params, x_range=(-2, 2), y_range=(-2, 2))
    samples(chains_draws, ax=ax)
    ax.figure.savefig("landscape.png")

Colours are those of Okabe and Ito (2008), which colour-blind readers can tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from . import tree
from .checks import positive_int, require
from .types import Energy, Params

__all__ = ["COLOURS", "calibration", "energy_histogram", "energy_landscape", "image_grid", "samples", "traces"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
"""The colours of lines and histograms, in order."""

_GRID_CHUNK = 1 << 14  # grid points in one call of the energy
_MAX_TRACES = 8


def energy_landscape(
    energy: Energy,
    params: Params,
    *,
    x_range: tuple[float, float] = (-3.0, 3.0),
    y_range: tuple[float, float] = (-3.0, 3.0),
    resolution: int = 150,
    levels: int = 24,
    max_energy: float | None = None,
    colorbar: bool = True,
    ax: Any = None,
) -> Any:
    r"""Filled contours of an energy of the plane, dark where it is low.

    The levels are :math:`E_0 + (E_1 - E_0)(i/n)^2`, dense near the minimum, where the samples are; :math:`E_0` and
    :math:`E_1` are the least and the largest finite energy on the grid. Points of infinite or NaN energy stay white.

    Args:
        energy: ``(params, x) -> ()`` with ``x`` of shape ``(2,)``.
        params: its parameters; the grid has the dtype and device of the first floating-point leaf.
        x_range: the first coordinate, from and to.
        y_range: the second coordinate.
        resolution: grid points along each axis, at least 2.
        levels: :math:`n`, how many bands, at least 1.
        max_energy: :math:`E_1`; all above has the last colour.
        colorbar: whether to draw the scale.
        ax: the ``Axes`` to draw on; by default a new one.

    Returns:
        The ``Axes``.

    Raises:
        ValueError: an empty range, a count that is too low, an energy that is not a scalar or nowhere finite.
        ImportError: matplotlib is not installed.

    >>> ax = energy_landscape(lambda params, x: params * (x * x).sum(), torch.tensor(0.5), levels=10)
    >>> ax.get_xlim() == (-3.0, 3.0)
    True
    """
    positive_int("resolution", resolution, minimum=2)
    positive_int("levels", levels)
    for name, (low, high) in (("x_range", x_range), ("y_range", y_range)):
        require(-math.inf < low < high < math.inf, f"{name} must go up", (low, high), "Try (-3.0, 3.0).")
    x, y = torch.linspace(*x_range, resolution), torch.linspace(*y_range, resolution)
    values = _energies_on_grid(energy, params, x, y)
    finite = values[values.isfinite()]
    require(
        finite.numel() > 0, "energy must be finite somewhere on the grid", "none", "Try another x_range or y_range."
    )
    lowest, highest = float(finite.min()), float(finite.max()) if max_energy is None else float(max_energy)
    require(lowest <= highest, f"max_energy must be at least the least energy, {lowest:g}", highest, "Raise it.")
    if highest - lowest <= 1e-12 * max(1.0, abs(lowest)):  # a flat energy: one band
        lowest, highest = lowest - 0.5, lowest + 0.5
    bounds = [lowest + (highest - lowest) * (i / levels) ** 2 for i in range(levels + 1)]

    ax = _axes(ax, 5.4 if colorbar else 4.8, 4.6)
    from matplotlib.colors import BoundaryNorm

    shown = torch.where(values.isfinite(), values, torch.nan).clamp(lowest, highest)
    norm = BoundaryNorm(bounds, 256)
    grid = (x.numpy(), y.numpy(), shown.numpy())
    filled = ax.contourf(*grid, levels=bounds, cmap="YlGnBu_r", norm=norm)
    ax.contour(*grid, levels=bounds, colors="white", linewidths=0.4, alpha=0.35)
    if colorbar:
        ticks = bounds[:: max(1, levels // 6)]
        decimals = max(0, 1 - math.floor(math.log10((highest - lowest) / 2)))
        style = f".{decimals}f" if 1e-4 < highest - lowest < 1e6 else ".2e"
        bar = ax.figure.colorbar(filled, ax=ax, label="energy", ticks=ticks, shrink=0.85, aspect=28, pad=0.02)
        bar.set_ticks(ticks, labels=[format(tick, style) for tick in ticks])
        bar.minorticks_off()
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0)
    ax.set(xlim=x_range, ylim=y_range, xlabel="$x_0$", ylabel="$x_1$", aspect="equal")
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return ax


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
    ax = _axes(ax, 4.8, 4.6)
    limits = ax.get_xlim(), ax.get_ylim()
    size = max(2.5, min(18.0, 6000 / len(x))) if size is None else size
    edge = {"edgecolors": "white", "linewidths": 0.3} if size > 6 else {"linewidths": 0}
    ax.scatter(x, y, s=size, c=color, alpha=0.85, label=label, zorder=3, **edge)
    if is_new:
        ax.set(xlabel="$x_0$", ylabel="$x_1$", aspect="equal")
        _plain(ax)
    else:
        ax.set(xlim=limits[0], ylim=limits[1])
    if label is not None:
        ax.legend(loc="upper right", frameon=True, framealpha=0.9, edgecolor="none", markerscale=2)
    return ax


def traces(draws: Tensor, *, name: str = "x", max_chains: int = _MAX_TRACES, ax: Any = None) -> Any:
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

    >>> len(traces(torch.zeros(4, 100)).lines)
    4
    """
    right = draws.ndim == 2 and draws.numel() > 0
    fix = "Pick one coordinate, such as draws[:, :, 0]."
    require(right, "draws must have the shape (C, N), none of them zero", f"the shape {tuple(draws.shape)}", fix)
    positive_int("max_chains", max_chains)
    ax = _axes(ax, 7.0, 2.8)
    width = 0.9 if draws.shape[1] <= 1000 else 0.5
    for chain, line in enumerate(draws.detach()[:max_chains].double().cpu().numpy()):
        ax.plot(line, color=COLOURS[chain % len(COLOURS)], linewidth=width, alpha=0.8, label=f"chain {chain}")
    ax.set(xlabel="draw", ylabel=name, xlim=(0, max(1, draws.shape[1] - 1)))
    if draws.shape[0] > max_chains:
        ax.set_title(f"{max_chains} of {draws.shape[0]:,} chains", loc="left", fontsize="medium")
    _plain(ax)
    return ax


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
    ax = _axes(ax, 5.0, 3.2)
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
    _plain(ax)
    if num <= _MAX_TRACES:
        ax.legend(frameon=False, fontsize="small", ncols=2)
    return ax


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

    ax = _axes(ax, 0.45 * columns + 0.4, 0.45 * rows + 0.5)
    if channels == 1:
        ax.imshow(sheet[0].numpy(), cmap=cmap, vmin=0, vmax=1, interpolation="nearest")
    else:
        ax.imshow(sheet.nan_to_num(1.0).movedim(0, -1).numpy(), interpolation="nearest")
    ax.set_axis_off()
    if title is not None:
        ax.set_title(title, loc="left", fontsize="medium")
    return ax


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
    ax = _axes(ax, 6.0, 3.2)
    for index, (name, each) in enumerate(values.items()):
        color = COLOURS[index % len(COLOURS)]
        style = {"bins": edges, "density": True, "color": color}
        ax.hist(each.numpy(), histtype="stepfilled", alpha=0.25, **style)
        ax.hist(each.numpy(), histtype="step", linewidth=1.4, label=name or None, **style)
    ax.set(xlabel="energy", ylabel="density", xlim=(low, high))
    ax.set_yticks([])
    _plain(ax)
    if any(sets):
        ax.legend(frameon=False)
    return ax


def _energies_on_grid(energy: Energy, params: Params, x: Tensor, y: Tensor) -> Tensor:
    """Energies at all pairs of coordinates, rows by ``y``: ``(len(y), len(x))``, float64 on the CPU."""
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    points = torch.stack([columns, rows], -1).reshape(-1, 2)
    floats = [leaf for leaf in tree.leaves(params) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    points = points.to(floats[0]) if floats else points
    batched = torch.func.vmap(energy, in_dims=(None, 0))
    with torch.no_grad():
        parts = [batched(params, part) for part in points.split(_GRID_CHUNK)]
    fix = "Return the energy of one particle, for example with .sum()."
    require(parts[0].ndim == 1, "energy must return a scalar", f"the shape {tuple(parts[0].shape[1:])}", fix)
    return torch.cat(parts).double().cpu().reshape(rows.shape)


def _axes(ax: Any, width: float, height: float) -> Any:
    """``ax``, or that of a new figure."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "funcebm.plotting needs matplotlib, which is not installed. Run: pip install 'funcebm[notebooks]' "
            "(or pip install matplotlib)."
        ) from error
    if ax is not None:
        return ax
    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def _plain(ax: Any) -> None:
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
