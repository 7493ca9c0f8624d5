"""Adaptation: how a warm-up finds the tuning of a sampler, from all chains together."""

from .chees import CheesMemory, chees, chees_gradient
from .default import default, unchanged
from .dual_averaging import DualAveraging, DualAveragingState, dual_averaging
from .mclmc import MclmcMemory, adjusted_mclmc_adaptation, mclmc_adaptation
from .meads import MeadsMemory, largest_eigenvalue, meads
from .report import Report, WarmUp
from .step_size import find_step_size, stable_step_size
from .warm_up import warm_up
from .welford import Welford, WelfordState, welford
from .window import WindowMemory, stan_windows, window_adaptation

__all__ = [
    "CheesMemory",
    "DualAveraging",
    "DualAveragingState",
    "MclmcMemory",
    "MeadsMemory",
    "Report",
    "WarmUp",
    "Welford",
    "WelfordState",
    "WindowMemory",
    "adjusted_mclmc_adaptation",
    "chees",
    "chees_gradient",
    "default",
    "dual_averaging",
    "find_step_size",
    "largest_eigenvalue",
    "mclmc_adaptation",
    "meads",
    "stable_step_size",
    "stan_windows",
    "unchanged",
    "warm_up",
    "welford",
    "window_adaptation",
]
