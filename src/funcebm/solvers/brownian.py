"""Brownian motion over a grid of times, and the same motion over every second time."""

from __future__ import annotations

import math

from torch import Tensor

from .. import checks, random, tree
from ..types import Key, Position
from .integrator import BrownianIncrement

__all__ = ["check_increment", "coarsen", "draw_area", "draw_displacement"]


def draw_displacement(key: Key, x: Position) -> BrownianIncrement:
    """The noise of a step that needs only the displacement."""
    return BrownianIncrement(tree.normal_like(key, x))


def draw_area(key: Key, x: Position) -> BrownianIncrement:
    """The noise of a step that needs the space-time area too."""
    key_displacement, key_area = random.split(key)
    return BrownianIncrement(tree.normal_like(key_displacement, x), tree.normal_like(key_area, x))


def check_increment(noise: BrownianIncrement, x: Position, has_area: bool) -> None:
    """The noise of a step must be that of this solver, and like the position. Looks at shapes only."""
    fix = "Draw it for this solver and this position: solvers.draw_path(key, solver, x, len(times) - 1)."
    checks.instance("the noise of a step", noise, BrownianIncrement, fix)
    must = "this solver needs the space-time area of the noise"
    checks.require(bool(tree.leaves(noise.area)) or not has_area, must, "the displacement alone", fix)
    for part in (noise.displacement, noise.area)[: 1 + has_area]:
        checks.one_structure("the noise", part, "the position", x)
        checks.same_shapes("the noise of a step", part, x, fix)


def coarsen(noise: BrownianIncrement, times: Tensor) -> tuple[BrownianIncrement, Tensor]:
    r"""The noise of the same Brownian motion for steps twice as long.

    With :math:`I = \int W\,dt = h (W/2 + H)` of each step, two steps of length :math:`h_1, h_2` make one with

    .. math:: W = W_1 + W_2, \qquad I = I_1 + I_2 + h_2 W_1, \qquad H = I / h - W / 2.

    So solvers with different steps, or of different kinds, can follow one path: for orders of strong convergence, and for
    multilevel Monte Carlo.

    Args:
        noise: of T - 1 steps, an even number, on the leading axis.
        times: ``(T,)``.

    Returns:
        The noise of (T - 1) / 2 steps, and every second time.

    Raises:
        ValueError: an odd number of steps.

    Reference: Foster, Lyons and Oberhauser (2020), SIAM Journal on Numerical Analysis 58(3):1466-1491.

    >>> import torch
    >>> from funcebm import solvers
    >>> x, times = torch.zeros(2), torch.linspace(0, 1, 5)
    >>> noise = solvers.draw_path(random.key(0), solvers.shark(), x, 4)
    >>> coarse, longer = coarsen(noise, times)
    >>> coarse.displacement.shape, longer
    (torch.Size([2, 2]), tensor([0.0000, 0.5000, 1.0000]))
    """
    steps = times.diff()
    num = len(steps)
    counts = {leaf.shape[0] for leaf in tree.leaves(noise)}
    must = f"{len(times)} times take the noise of {num} steps"
    checks.require(counts == {num}, must, f"that of {sorted(counts)}", "Use draw_path(key, solver, x, len(times) - 1).")
    checks.require(num % 2 == 0, "the number of steps must be even", num, "Draw the noise of an even number of steps.")
    length = steps[0::2] + steps[1::2]

    def halves(leaf: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = lambda value: value.to(leaf).reshape(-1, *[1] * (leaf.ndim - 1))  # noqa: E731
        scaled = leaf * wide(steps).sqrt() * scale
        return scaled[0::2], scaled[1::2], wide(length), wide(steps[1::2])

    def displacement(leaf: Tensor) -> Tensor:
        left, right, whole, _ = halves(leaf, 1.0)
        return (left + right) / whole.sqrt()

    def area(leaf: Tensor, normal: Tensor) -> Tensor:
        w1, w2, whole, h2 = halves(leaf, 1.0)
        a1, a2, _, _ = halves(normal, 1 / math.sqrt(12))
        h1 = whole - h2
        integral = h1 * (w1 / 2 + a1) + h2 * (w2 / 2 + a2) + h2 * w1
        return (integral / whole - (w1 + w2) / 2) * (12 / whole).sqrt()

    areas = tree.map(area, noise.displacement, noise.area) if tree.leaves(noise.area) else ()
    return BrownianIncrement(tree.map(displacement, noise.displacement), areas), times[::2]
