"""How good the samples are: convergence of the chains, a summary to read, discrepancies between sets of samples, detection."""

from __future__ import annotations

from .arviz_export import to_arviz
from .calibration import Calibration, simulation_based_calibration
from .classifier_two_sample import ClassifierTest, classifier_two_sample
from .convergence import folded_rhat, nested_rhat, rhat, split_rhat
from .detection import auroc, average_precision, fpr_at_tpr
from .discrepancy import DiscrepancyTest, energy_distance, mmd, mmd_test
from .ebfmi import ebfmi
from .effective_sample_size import ess, ess_bulk, ess_quantile, ess_tail
from .monte_carlo_error import mcse_mean, mcse_quantile, mcse_sd
from .sampler_report import Efficiency, SamplerReport, efficiency, sampler_report
from .sliced_wasserstein import sliced_wasserstein
from .stein_discrepancy import kernel_stein_discrepancy, stein_test
from .summary import Summary, summary

__all__ = [
    "Calibration",
    "ClassifierTest",
    "DiscrepancyTest",
    "Efficiency",
    "SamplerReport",
    "Summary",
    "auroc",
    "average_precision",
    "classifier_two_sample",
    "ebfmi",
    "efficiency",
    "energy_distance",
    "ess",
    "ess_bulk",
    "ess_quantile",
    "ess_tail",
    "folded_rhat",
    "fpr_at_tpr",
    "kernel_stein_discrepancy",
    "mcse_mean",
    "mcse_quantile",
    "mcse_sd",
    "mmd",
    "mmd_test",
    "nested_rhat",
    "rhat",
    "sampler_report",
    "simulation_based_calibration",
    "sliced_wasserstein",
    "split_rhat",
    "stein_test",
    "summary",
    "to_arviz",
]
