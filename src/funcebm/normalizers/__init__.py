r"""Normalizing constants: the log of :math:`Z = \int e^{-E(x)}\,dx` with an error bar, from below and from above."""

from .annealed_importance import (
    AnnealedImportance,
    annealed_importance_sampling,
    log_mean_exp,
    reverse_annealed_importance_sampling,
)
from .escorted_annealing import escorted_annealing
from .sequential_monte_carlo import SequentialMonteCarlo, sequential_monte_carlo

__all__ = [
    "AnnealedImportance",
    "SequentialMonteCarlo",
    "annealed_importance_sampling",
    "escorted_annealing",
    "log_mean_exp",
    "reverse_annealed_importance_sampling",
    "sequential_monte_carlo",
]
