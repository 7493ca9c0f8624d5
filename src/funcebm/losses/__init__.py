"""Losses: one file a family, every one a :class:`funcebm.types.Loss` of pure functions."""

from .combinators import ensemble, penalised, weighted_sum
from .contrastive import contrastive_divergence, persistent_contrastive_divergence
from .denoising import denoising_score_matching
from .score_matching import score_matching

__all__ = [
    "contrastive_divergence",
    "denoising_score_matching",
    "ensemble",
    "penalised",
    "persistent_contrastive_divergence",
    "score_matching",
    "weighted_sum",
]
