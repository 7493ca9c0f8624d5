r"""Normalizing constants: the log of :math:`Z = \int e^{-E(x)}\,dx` with an error bar, from below and from above."""

from .annealed_importance import (
    AnnealedImportance,
    annealed_importance_sampling,
    log_mean_exp,
    reverse_annealed_importance_sampling,
)
from .controlled_importance import controlled_importance
from .escorted_annealing import escorted_annealing
from .flow_importance import FlowImportance, importance
from .pareto import pareto_khat
from .sequential_monte_carlo import SequentialMonteCarlo, sequential_monte_carlo

__all__ = [
    "AnnealedImportance",
    "FlowImportance",
    "SequentialMonteCarlo",
    "annealed_importance_sampling",
    "controlled_importance",
    "escorted_annealing",
    "importance",
    "log_mean_exp",
    "pareto_khat",
    "reverse_annealed_importance_sampling",
    "sequential_monte_carlo",
]
