"""What ``python -m funcebm`` can learn: data, the noise of their energy, and ways to spoil them."""

from __future__ import annotations

from typing import Callable, NamedTuple

import torch
from torch import Tensor

from .. import datasets, random
from ..types import Key

__all__ = ["TASKS", "Task"]


class Task(NamedTuple):
    """What to learn.

    Attributes:
        train: ``(N, D)``.
        held_out: ``(M, D)``, never trained on.
        noise_scale: sigma, in the units of the data.
        hidden: the widths of the network.
        corrupt: ``(key, examples) -> corrupted examples by name``, which the energy should find unlikely.
    """

    train: Tensor
    held_out: Tensor
    noise_scale: float
    hidden: tuple[int, ...]
    corrupt: Callable[[Key, Tensor], dict[str, Tensor]]


def _digits(key: Key) -> Task:
    images = datasets.digits(device=key.device).images.flatten(1)
    images = images[random.permutation(key, len(images))]
    return Task(images[:1500], images[1500:], 0.4, (256, 256), _corrupt_digits)


def _corrupt_digits(key: Key, images: Tensor) -> dict[str, Tensor]:
    key_uniform, key_shuffle, key_noise = random.split(key, 3)
    pixels = images.shape[1]
    return {
        "uniform noise": random.uniform(key_uniform, images.shape, -1.0, 1.0),
        "shuffled pixels": images[:, random.permutation(key_shuffle, pixels)],
        "noise of 0.5 added": images + 0.5 * random.normal(key_noise, images.shape),
        "black and white swapped": -images,
        "upside down": images.flip(1),
    }


def _two_moons(key: Key) -> Task:
    points = datasets.two_moons(key, 3000)
    return Task(points[:2500], points[2500:], 0.1, (128, 128), _corrupt_points)


def _corrupt_points(key: Key, points: Tensor) -> dict[str, Tensor]:
    key_uniform, key_shuffle, key_noise = random.split(key, 3)
    low, high = points.amin(0), points.amax(0)
    shuffled = points[random.permutation(key_shuffle, len(points))]
    return {
        "uniform in the box": low + (high - low) * random.uniform(key_uniform, points.shape),
        "noise of 0.5 added": points + 0.5 * random.normal(key_noise, points.shape),
        "x and y of two points": torch.stack([points[:, 0], shuffled[:, 1]], 1),
    }


TASKS: dict[str, Callable[[Key], Task]] = {"digits": _digits, "two_moons": _two_moons}
"""What ``--data`` offers: ``key -> Task``."""
