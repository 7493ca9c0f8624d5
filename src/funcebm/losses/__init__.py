"""Losses: one file a family, every one a :class:`funcebm.types.Loss` of pure functions."""

from .annealed_denoising import annealed_denoising_score_matching, geometric_noise_scales
from .combinators import ensemble, penalised, weighted_sum
from .contrastive import contrastive_divergence, persistent_contrastive_divergence
from .denoising import denoising_score_matching
from .finite_difference import finite_difference_score_matching
from .score_matching import score_matching
from .sliced import sliced_score_matching

__all__ = [
    "annealed_denoising_score_matching",
    "contrastive_divergence",
    "denoising_score_matching",
    "ensemble",
    "finite_difference_score_matching",
    "geometric_noise_scales",
    "penalised",
    "persistent_contrastive_divergence",
    "score_matching",
    "sliced_score_matching",
    "weighted_sum",
]
