"""Losses: one file a family, every one a :class:`funcebm.types.Loss` of pure functions."""

from ._transport import TransportBatch
from .action_matching import action_matching
from .adjoint_matching import adjoint_matching
from .annealed_control import annealed_control
from .annealed_denoising import annealed_denoising_score_matching, geometric_noise_scales
from .bit_energy_discrepancy import bit_energy_discrepancy
from .bridge_matching import bridge_matching, simulate_bridge
from .combinators import ensemble, penalised, weighted_sum
from .conditional_noise_contrastive import ConditionalNoise, conditional_noise_contrastive_estimation
from .contrastive import contrastive_divergence, persistent_contrastive_divergence
from .denoising import denoising_score_matching
from .discrete_noise import fitted_independent_noise, flip_noise, independent_noise
from .energy_discrepancy import energy_discrepancy
from .energy_matching import energy_matching
from .equilibrium import (
    constant_weight,
    equilibrium_matching,
    linear_weight,
    negative_norm_energy,
    piecewise_weight,
    product_energy,
    truncated_weight,
)
from .finite_difference import finite_difference_score_matching
from .flow_likelihood import flow_likelihood
from .flow_matching import conditional_dropout, edm_preconditioned, edm_weight, flow_matching
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
from .recovery_likelihood import diffusion_recovery_likelihood
from .score_entropy import score_entropy
from .score_matching import score_matching
from .sliced import sliced_score_matching
from .stein_discrepancy import kernel_stein_discrepancy
from .tempered_contrastive import parallel_tempering_contrastive_divergence
from .times import Times, log_snr_times, logit_normal_times, stratified_times, uniform_times

__all__ = [
    "ConditionalNoise",
    "NoiseModel",
    "NormalizedParams",
    "Times",
    "TransportBatch",
    "action_matching",
    "adjoint_matching",
    "annealed_control",
    "annealed_denoising_score_matching",
    "bit_energy_discrepancy",
    "bridge_matching",
    "conditional_dropout",
    "conditional_noise_contrastive_estimation",
    "constant_weight",
    "contrastive_divergence",
    "denoising_score_matching",
    "diffusion_recovery_likelihood",
    "edm_preconditioned",
    "edm_weight",
    "energy_discrepancy",
    "energy_matching",
    "ensemble",
    "equilibrium_matching",
    "exact_noise",
    "finite_difference_score_matching",
    "fitted_gaussian_noise",
    "fitted_independent_noise",
    "flip_noise",
    "flow_likelihood",
    "flow_matching",
    "gaussian_noise",
    "geometric_noise_scales",
    "improved_contrastive_divergence",
    "independent_noise",
    "jarzynski_maximum_likelihood",
    "joint_energy",
    "kernel_stein_discrepancy",
    "linear_weight",
    "log_snr_times",
    "logit_normal_times",
    "maximum_likelihood",
    "minimum_probability_flow",
    "negative_norm_energy",
    "noise_contrastive_estimation",
    "parallel_tempering_contrastive_divergence",
    "penalised",
    "persistent_contrastive_divergence",
    "piecewise_weight",
    "product_energy",
    "pseudolikelihood",
    "ranking_noise_contrastive_estimation",
    "ratio_matching",
    "score_entropy",
    "score_matching",
    "simulate_bridge",
    "sliced_score_matching",
    "stratified_times",
    "truncated_weight",
    "uniform_times",
    "weighted_sum",
    "with_log_normalizer",
]
