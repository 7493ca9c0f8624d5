"""Contours of an energy of the plane."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .. import tree
from ..checks import message, positive_int, require
from ..types import Energy, Params
from ._axes import axes

__all__ = ["energy_landscape"]


_GRID_CHUNK = 1 << 14  # grid points in one call of the energy


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

    ax = axes(ax, 5.4 if colorbar else 4.8, 4.6)
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


def _energies_on_grid(energy: Energy, params: Params, x: Tensor, y: Tensor) -> Tensor:
    """Energies at all pairs of coordinates, rows by ``y``: ``(len(y), len(x))``, float64 on the CPU."""
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    points = torch.stack([columns, rows], -1).reshape(-1, 2)
    floats = [leaf for leaf in tree.leaves(params) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    points = points.to(floats[0]) if floats else points
    batched = torch.func.vmap(energy, in_dims=(None, 0))
    try:
        with torch.no_grad():
            parts = [batched(params, part) for part in points.split(_GRID_CHUNK)]
    except (IndexError, RuntimeError) as error:
        fix = "Hold other coordinates fixed: lambda params, x: energy(params, torch.cat([x, rest]))."
        raise type(error)(message("energy must take positions of shape (2,)", f"{error}", fix)) from error
    fix = "Return the energy of one particle, for example with .sum()."
    require(parts[0].ndim == 1, "energy must return a scalar", f"the shape {tuple(parts[0].shape[1:])}", fix)
    return torch.cat(parts).double().cpu().reshape(rows.shape)
