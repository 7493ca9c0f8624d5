r"""Normalizing constants: the log of :math:`Z = \int e^{-E(x)}\,dx` with an error bar, from below and from above."""

from .annealed_importance import (
    AnnealedImportance,
    annealed_importance_sampling,
    log_mean_exp,
    reverse_annealed_importance_sampling,
)

__all__ = ["AnnealedImportance", "annealed_importance_sampling", "log_mean_exp", "reverse_annealed_importance_sampling"]
