"""Losses: one file a family, every one a :class:`funcebm.types.Loss` of pure functions."""

from .annealed_denoising import annealed_denoising_score_matching, geometric_noise_scales
from .bit_energy_discrepancy import bit_energy_discrepancy
from .combinators import ensemble, penalised, weighted_sum
from .conditional_noise_contrastive import ConditionalNoise, conditional_noise_contrastive_estimation
from .contrastive import contrastive_divergence, persistent_contrastive_divergence
from .denoising import denoising_score_matching
from .discrete_noise import fitted_independent_noise, flip_noise, independent_noise
from .energy_discrepancy import energy_discrepancy
from .finite_difference import finite_difference_score_matching
from .improved_contrastive import improved_contrastive_divergence
from .jarzynski import jarzynski_maximum_likelihood
from .joint_energy import joint_energy
from .maximum_likelihood import maximum_likelihood
from .minimum_probability_flow import minimum_probability_flow
from .noise_contrastive import (
    NormalizedParams,
    noise_contrastive_estimation,
    ranking_noise_contrastive_estimation,
    with_log_normalizer,
)
from .noise_models import NoiseModel, exact_noise, fitted_gaussian_noise, gaussian_noise
from .pseudolikelihood import pseudolikelihood
from .ratio_matching import ratio_matching
from .score_entropy import score_entropy
from .score_matching import score_matching
from .sliced import sliced_score_matching
from .stein_discrepancy import kernel_stein_discrepancy
from .tempered_contrastive import parallel_tempering_contrastive_divergence

__all__ = [
    "ConditionalNoise",
    "NoiseModel",
    "NormalizedParams",
    "annealed_denoising_score_matching",
    "bit_energy_discrepancy",
    "conditional_noise_contrastive_estimation",
    "contrastive_divergence",
    "denoising_score_matching",
    "energy_discrepancy",
    "ensemble",
    "exact_noise",
    "finite_difference_score_matching",
    "fitted_gaussian_noise",
    "fitted_independent_noise",
    "flip_noise",
    "gaussian_noise",
    "geometric_noise_scales",
    "improved_contrastive_divergence",
    "independent_noise",
    "jarzynski_maximum_likelihood",
    "joint_energy",
    "kernel_stein_discrepancy",
    "maximum_likelihood",
    "minimum_probability_flow",
    "noise_contrastive_estimation",
    "parallel_tempering_contrastive_divergence",
    "penalised",
    "persistent_contrastive_divergence",
    "pseudolikelihood",
    "ranking_noise_contrastive_estimation",
    "ratio_matching",
    "score_entropy",
    "score_matching",
    "sliced_score_matching",
    "weighted_sum",
    "with_log_normalizer",
]
