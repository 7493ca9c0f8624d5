"""Adaptation: how a warm-up finds the numbers of a sampler, from all chains together."""

from .dual_averaging import DualAveraging, DualAveragingState, dual_averaging
from .step_size import find_step_size, stable_step_size
from .welford import Welford, WelfordState, welford
from .window import WindowMemory, stan_windows, window_adaptation

__all__ = [
    "DualAveraging",
    "DualAveragingState",
    "Welford",
    "WelfordState",
    "WindowMemory",
    "dual_averaging",
    "find_step_size",
    "stable_step_size",
    "stan_windows",
    "welford",
    "window_adaptation",
]
