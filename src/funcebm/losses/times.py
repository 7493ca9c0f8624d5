r"""At which times a transport loss looks: distributions on [0, 1], as functions ``(key, num, dtype) -> (num,)``."""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor

from .. import checks, paths, random
from ..types import Key

__all__ = ["Times", "log_snr_times", "logit_normal_times", "stratified_times", "uniform_times"]

Times = Callable[[Key, int, torch.dtype], Tensor]
"""``(key, num, dtype) -> (num,)``, times in [0, 1]."""


def _check_range(low: float, high: float) -> None:
    right = 0 <= low < high <= 1
    checks.require(right, "times must be in [0, 1], low before high", f"{low} and {high}", "Try 0.0 and 1.0.")


def uniform_times(low: float = 0.0, high: float = 1.0) -> Times:
    """Independent times, uniform in [low, high).

    Args:
        low: at least 0.
        high: at most 1.

    Returns:
        ``(key, num, dtype) -> (num,)``.

    Raises:
        ValueError: a range that is not in [0, 1].

    >>> uniform_times()(random.key(0), 3, torch.float32).shape
    torch.Size([3])
    """
    _check_range(low, high)
    return lambda key, num, dtype: random.uniform(key, num, low, high, dtype=dtype)


def stratified_times(low: float = 0.0, high: float = 1.0) -> Times:
    """One time in each of ``num`` equal parts of [low, high): each is uniform, and together they leave no gap.

    The loss has less variance at no cost. The parts are dealt to the rows at random.

    Args:
        low: at least 0.
        high: at most 1.

    Returns:
        ``(key, num, dtype) -> (num,)``.

    Raises:
        ValueError: a range that is not in [0, 1].

    >>> times = stratified_times()(random.key(0), 4, torch.float32)
    >>> (4 * times.sort().values).floor()
    tensor([0., 1., 2., 3.])
    """
    _check_range(low, high)

    def times(key: Key, num: int, dtype: torch.dtype) -> Tensor:
        key_order, key_inside = random.split(key)
        order = random.permutation(key_order, num).to(dtype)
        return low + (high - low) * (order + random.uniform(key_inside, num, dtype=dtype)) / num

    return times


def logit_normal_times(mean: float | Tensor = 0.0, std: float | Tensor = 1.0) -> Times:
    r""":math:`t = 1 / (1 + e^{-z})` with :math:`z \sim N(m, s^2)`: more of the middle, where a velocity is hardest to learn.

    Args:
        mean: :math:`m`; above 0 nearer to the data. ``()``.
        std: :math:`s > 0`. ``()``.

    Returns:
        ``(key, num, dtype) -> (num,)``.

    Raises:
        ValueError: a spread that is not positive.

    Reference: Esser et al. (2024), ICML, arXiv:2403.03206, equation 19, with their time run backwards.

    >>> bool((logit_normal_times()(random.key(0), 100, torch.float32) < 1).all())
    True
    """
    checks.positive("std", std)
    return lambda key, num, dtype: torch.sigmoid(mean + std * random.normal(key, num, dtype=dtype))


def log_snr_times(path: paths.Path, mean: float | Tensor = 1.2, std: float | Tensor = 1.2) -> Times:
    r"""Times at which :math:`\log(\alpha_t/\sigma_t) \sim N(m, s^2)`, on any path.

    The defaults are those of EDM, whose noise level is :math:`\sigma_t/\alpha_t`, for data of standard deviation 1/2.

    Args:
        path: any.
        mean: :math:`m`. ``()``.
        std: :math:`s > 0`. ``()``.

    Returns:
        ``(key, num, dtype) -> (num,)``.

    Raises:
        ValueError: a spread that is not positive.

    Reference: Karras, Aittala, Aila and Laine (2022), NeurIPS, arXiv:2206.00364, table 1.

    >>> log_snr_times(paths.linear())(random.key(0), 3, torch.float32).shape
    torch.Size([3])
    """
    checks.positive("std", std)
    checks.instance("path", path, paths.Path, "Write paths.linear(), say.")
    return lambda key, num, dtype: paths.time_of(path, mean + std * random.normal(key, num, dtype=dtype))
