r"""Data to learn from: point clouds in the plane as pure functions of a key, and handwritten digits.

Every generator is ``f(key, num, ...) -> (num, 2)``: ``num`` independent draws of one distribution, the same for the same key,
on the key's device. Components are drawn at random, not dealt out one after the other, so the rows are independent and
identically distributed, and any part of them is a sample of the distribution. ``noise`` and ``std`` are standard deviations in
units of the points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import random
from .checks import positive, positive_int, require
from .types import Key

__all__ = [
    "Digits",
    "checkerboard",
    "digits",
    "eight_gaussians",
    "gaussian_mixture",
    "grid",
    "pinwheel",
    "rings",
    "spirals",
    "swiss_roll",
    "two_moons",
]


def two_moons(key: Key, num: int, *, noise: float = 0.05, dtype: torch.dtype | None = None) -> Tensor:
    r"""Two interleaved half circles of radius 1.

    With an angle :math:`\theta` uniform in :math:`[0, \pi]`, one moon is :math:`(\cos\theta, \sin\theta)`, the other
    :math:`(1 - \cos\theta, \tfrac12 - \sin\theta)`.

    Args:
        key: ``(2,)``.
        num: how many points, at least 1.
        noise: standard deviation of the noise on each coordinate, at least 0.
        dtype: of the points; by default torch's default.

    Returns:
        ``(num, 2)``.

    Raises:
        ValueError: a count below 1 or a negative noise.

    >>> two_moons(random.key(0), 100).shape
    torch.Size([100, 2])
    """
    _check(num, noise=noise)
    key_moon, key_angle, key_noise = random.split(key, 3)
    lower = random.bernoulli(key_moon, 0.5, (num,))
    angle = random.uniform(key_angle, (num,), 0.0, math.pi, dtype=dtype)
    x, y = torch.cos(angle), torch.sin(angle)
    points = torch.stack([torch.where(lower, 1 - x, x), torch.where(lower, 0.5 - y, y)], -1)
    return _blur(key_noise, points, noise)


def gaussian_mixture(
    key: Key,
    num: int,
    *,
    num_components: int = 8,
    std: float = 0.05,
    radius: float = 1.0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Round Gaussians of equal weight, evenly spaced on a circle, with centres at the angles :math:`2\pi k/K`.

    Args:
        key, num, dtype: as in :func:`two_moons`.
        num_components: :math:`K`, at least 1.
        std: standard deviation of each component, at least 0.
        radius: of the circle of centres, above 0.

    Returns:
        ``(num, 2)``.

    Raises:
        ValueError: a count below 1, a negative std or a radius that is not positive.

    >>> gaussian_mixture(random.key(0), 100, num_components=5).shape
    torch.Size([100, 2])
    """
    _check(num, std=std)
    positive_int("num_components", num_components)
    positive("radius", radius)
    key_component, key_noise = random.split(key)
    component = random.randint(key_component, (num,), 0, num_components)
    angle = 2 * math.pi / num_components * component.to(dtype or torch.get_default_dtype())
    return _blur(key_noise, radius * _circle(angle), std)


def eight_gaussians(
    key: Key, num: int, *, std: float = 0.02, scale: float = 2.0, dtype: torch.dtype | None = None
) -> Tensor:
    """Eight round Gaussians on a circle: :func:`gaussian_mixture` of eight components of radius ``scale``.

    Args:
        key, num, dtype: as in :func:`two_moons`.
        std: standard deviation of each component, at least 0.
        scale: radius of the circle of centres, above 0.

    Returns:
        ``(num, 2)``.

    Raises:
        ValueError: as :func:`gaussian_mixture`.

    >>> eight_gaussians(random.key(0), 100).shape
    torch.Size([100, 2])
    """
    positive("scale", scale)
    return gaussian_mixture(key, num, num_components=8, std=std, radius=scale, dtype=dtype)


def swiss_roll(
    key: Key, num: int, *, noise: float = 0.02, arclength: float = 3.0, dtype: torch.dtype | None = None
) -> Tensor:
    r"""A spiral of constant pitch, :math:`(t \cos t, t \sin t)`, of mean 0 and variance 1/4 a coordinate before noise.

    :math:`t` is uniform in :math:`[a, 3a]` with :math:`a = \pi\,` ``arclength``. Centre and scale are those of the distribution,
    in closed form, not those of the sample, so that the points are independent and ``noise`` is in their units.

    Args:
        key, num, dtype: as in :func:`two_moons`.
        noise: standard deviation of the noise on each coordinate, at least 0.
        arclength: the number of turns, above 0.

    Returns:
        ``(num, 2)``.

    Raises:
        ValueError: a count below 1, a negative noise or an arclength that is not positive.

    >>> swiss_roll(random.key(0), 100).shape
    torch.Size([100, 2])
    """
    _check(num, noise=noise)
    positive("arclength", arclength)
    key_angle, key_noise = random.split(key)
    a = math.pi * arclength
    mean_x = (3 * a * math.sin(3 * a) + math.cos(3 * a) - a * math.sin(a) - math.cos(a)) / (2 * a)
    mean_y = (math.sin(3 * a) - 3 * a * math.cos(3 * a) - math.sin(a) + a * math.cos(a)) / (2 * a)
    spread = math.sqrt((13 * a**2 / 3 - mean_x**2 - mean_y**2) / 2)
    t = random.uniform(key_angle, (num,), a, 3 * a, dtype=dtype)
    roll = t[:, None] * _circle(t)
    points = torch.stack([roll[:, 0] - mean_x, roll[:, 1] - mean_y], -1) / (2 * spread)
    return _blur(key_noise, points, noise)


def rings(
    key: Key,
    num: int,
    *,
    radii: Sequence[float] = (1.0, 2.0, 3.0),
    noise: float = 0.05,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Circles around the origin, of equal weight; ``radii=(1.0,)`` is one circle.

    Args:
        key, num, dtype: as in :func:`two_moons`.
        radii: of the circles, all above 0.
        noise: standard deviation of the noise on each coordinate, at least 0.

    Returns:
        ``(num, 2)``.

    Raises:
        ValueError: a count below 1, a negative noise, no radii or one that is not positive.

    >>> rings(random.key(0), 100).shape
    torch.Size([100, 2])
    """
    _check(num, noise=noise)
    sizes = [float(radius) for radius in radii]
    right = len(sizes) > 0 and all(0 < size < math.inf for size in sizes)
    require(right, "radii must be one or more numbers above zero", sizes, "Try (1.0, 2.0, 3.0).")
    key_ring, key_angle, key_noise = random.split(key, 3)
    angle = random.uniform(key_angle, (num,), 0.0, 2 * math.pi, dtype=dtype)
    which = random.randint(key_ring, (num,), 0, len(sizes))
    radius = torch.tensor(sizes, dtype=angle.dtype, device=angle.device)[which]
    return _blur(key_noise, radius[:, None] * _circle(angle), noise)


def checkerboard(
    key: Key, num: int, *, extent: float = 4.0, num_cells: int = 8, dtype: torch.dtype | None = None
) -> Tensor:
    r"""Uniform on the dark cells of a board over :math:`[-e, e]^2`.

    Cell :math:`(i, j)`, counted from the lower left corner, is dark where :math:`i + j` is odd; with the defaults the
    cells have side 1 and hold the points where :math:`\lfloor x \rfloor + \lfloor y \rfloor` is odd. A dark cell is
    drawn, then a point inside it: nothing is rejected and no point lies in a light cell. (A margin of a few float
    spacings is left free at the cell borders, so that rounding takes no point across.)

    Args:
        key, num, dtype: as in :func:`two_moons`.
        extent: :math:`e`, half the side of the board, above 0.
        num_cells: cells along a side, even, at least 2.

    Returns:
        ``(num, 2)``.

    Raises:
        ValueError: a count below 1, an odd number of cells or an extent that is not positive.

    >>> cells = checkerboard(random.key(0), 100).floor().sum(1)
    >>> bool((cells % 2 == 1).all())
    True
    """
    _check(num)
    positive("extent", extent)
    positive_int("num_cells", num_cells, minimum=2)
    require(
        num_cells % 2 == 0, "num_cells must be even", num_cells, "An even board has as many dark cells as light ones."
    )
    key_cell, key_inside = random.split(key)
    inside = random.uniform(key_inside, (num, 2), dtype=dtype)
    margin = 4 * num_cells * torch.finfo(inside.dtype).eps
    inside = margin + (1 - 2 * margin) * inside
    dark = random.randint(key_cell, (num,), 0, num_cells**2 // 2)
    row = dark // (num_cells // 2)
    column = 2 * (dark % (num_cells // 2)) + (row + 1) % 2
    corner = torch.stack([column, row], -1) - num_cells // 2
    return (corner + inside) * (2 * extent / num_cells)


def pinwheel(
    key: Key,
    num: int,
    *,
    num_classes: int = 5,
    noise: float = 0.05,
    radial_scale: float = 2.0,
    angular_scale: float = 0.1,
    spiral_scale: float = 5.0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Blades that curl around the origin.

    With :math:`t = \sqrt{u}`, :math:`u` uniform in :math:`[0, 1)`, a blade :math:`k` and a standard normal :math:`\xi`,
    the radius is ``radial_scale`` :math:`t` and the angle :math:`2\pi k / K +` ``spiral_scale`` :math:`t +`
    ``angular_scale`` :math:`\xi`.

    Args:
        key, num, dtype: as in :func:`two_moons`.
        num_classes: :math:`K`, the number of blades, at least 1.
        noise: standard deviation of the noise on each coordinate, at least 0.
        radial_scale: length of a blade, above 0.
        angular_scale: width of a blade in radians, at least 0.
        spiral_scale: how far a blade turns, in radians; its sign is the sense.

    Returns:
        ``(num, 2)``.

    Raises:
        ValueError: a count below 1, a negative noise or angular scale, or a radial scale that is not positive.

    >>> pinwheel(random.key(0), 100).shape
    torch.Size([100, 2])
    """
    _check(num, noise=noise, angular_scale=angular_scale)
    positive_int("num_classes", num_classes)
    positive("radial_scale", radial_scale)
    key_class, key_radius, key_angle, key_noise = random.split(key, 4)
    t = random.uniform(key_radius, (num,), dtype=dtype).sqrt()
    blade = random.randint(key_class, (num,), 0, num_classes).to(t.dtype)
    angle = 2 * math.pi / num_classes * blade + spiral_scale * t
    angle = angle + angular_scale * random.normal(key_angle, (num,), dtype=t.dtype)
    return _blur(key_noise, radial_scale * t[:, None] * _circle(angle), noise)


def grid(
    key: Key,
    num: int,
    *,
    num_per_side: int = 10,
    extent: float = 1.0,
    noise: float = 0.01,
    dtype: torch.dtype | None = None,
) -> Tensor:
    r"""The nodes of a square grid on :math:`[-e, e]^2`, blurred.

    Args:
        key, num, dtype: as in :func:`two_moons`; each point is at a node drawn at random.
        num_per_side: nodes along a side, at least 2.
        extent: :math:`e`, above 0.
        noise: standard deviation of the noise on each coordinate, at least 0.

    Returns:
        ``(num, 2)``.

    Raises:
        ValueError: a count that is too low, a negative noise or an extent that is not positive.

    >>> grid(random.key(0), 100).shape
    torch.Size([100, 2])
    """
    _check(num, noise=noise)
    positive_int("num_per_side", num_per_side, minimum=2)
    positive("extent", extent)
    key_node, key_noise = random.split(key)
    node = random.randint(key_node, (num, 2), 0, num_per_side).to(dtype or torch.get_default_dtype())
    return _blur(key_noise, extent * (2 / (num_per_side - 1) * node - 1), noise)


def spirals(
    key: Key, num: int, *, num_arms: int = 2, turns: float = 1.5, noise: float = 0.05, dtype: torch.dtype | None = None
) -> Tensor:
    r"""Spiral arms from the origin, each of radius :math:`2t` at the angle :math:`2\pi (t\,` ``turns`` :math:`+ k/K)`.

    :math:`t = \sqrt{u}` with :math:`u` uniform in :math:`[0, 1)`, which keeps the arms about equally dense.

    Args:
        key, num, dtype: as in :func:`two_moons`.
        num_arms: :math:`K`, at least 1.
        turns: how often an arm goes round; its sign is the sense.
        noise: standard deviation of the noise on each coordinate, at least 0.

    Returns:
        ``(num, 2)``.

    Raises:
        ValueError: a count below 1 or a negative noise.

    >>> spirals(random.key(0), 100).shape
    torch.Size([100, 2])
    """
    _check(num, noise=noise)
    positive_int("num_arms", num_arms)
    key_arm, key_radius, key_noise = random.split(key, 3)
    t = random.uniform(key_radius, (num,), dtype=dtype).sqrt()
    arm = random.randint(key_arm, (num,), 0, num_arms).to(t.dtype)
    return _blur(key_noise, 2 * t[:, None] * _circle(2 * math.pi * (turns * t + arm / num_arms)), noise)


class Digits(NamedTuple):
    """Handwritten digits: ``images`` ``(1797, 8, 8)`` in [-1, 1], paper -1; ``labels`` ``(1797,)`` int64, 0 to 9."""

    images: Tensor
    labels: Tensor


def digits(*, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Digits:
    """The 1,797 handwritten digits of 8x8 pixels that ship with scikit-learn; nothing is downloaded.

    Pixels are integers 0 to 16 there, here scaled to [-1, 1] in steps of 1/8; ``(images + 1) / 2`` is in [0, 1].

    Args:
        dtype: of the images; by default torch's default.
        device: where the tensors live.

    Returns:
        :class:`Digits`, in the order of scikit-learn.

    Raises:
        ImportError: scikit-learn is not installed.

    Reference: Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning Repository.

    >>> digits().images.shape
    torch.Size([1797, 8, 8])
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "datasets.digits needs scikit-learn, which is not installed. Run: pip install 'funcebm[notebooks]' "
            "(or pip install scikit-learn)."
        ) from error
    data = load_digits()
    pixels = torch.tensor(data.images.tolist(), dtype=dtype or torch.get_default_dtype(), device=device)
    return Digits(pixels / 8 - 1, torch.tensor(data.target.tolist(), device=device))


def _circle(angle: Tensor) -> Tensor:
    """Points of the unit circle. ``(num,) -> (num, 2)``."""
    return torch.stack([torch.cos(angle), torch.sin(angle)], -1)


def _blur(key: Key, points: Tensor, noise: float) -> Tensor:
    return points + noise * random.normal(key, tuple(points.shape), dtype=points.dtype)


def _check(num: int, **scales: float) -> None:
    positive_int("num", num)
    for name, value in scales.items():
        require(0 <= value < math.inf, f"{name} must be at least zero and finite", value, "Give 0 for none.")
