"""How good the samples are: convergence of the chains, a summary to read, discrepancies between sets of samples."""

from __future__ import annotations

from .arviz_export import to_arviz
from .convergence import folded_rhat, nested_rhat, rhat, split_rhat
from .discrepancy import auroc, mmd
from .ebfmi import ebfmi
from .effective_sample_size import ess, ess_bulk, ess_quantile, ess_tail
from .monte_carlo_error import mcse_mean, mcse_quantile, mcse_sd
from .sampler_report import Efficiency, SamplerReport, efficiency, sampler_report
from .summary import Summary, summary

__all__ = [
    "Efficiency",
    "SamplerReport",
    "Summary",
    "auroc",
    "ebfmi",
    "efficiency",
    "ess",
    "ess_bulk",
    "ess_quantile",
    "ess_tail",
    "folded_rhat",
    "mcse_mean",
    "mcse_quantile",
    "mcse_sd",
    "mmd",
    "nested_rhat",
    "rhat",
    "sampler_report",
    "split_rhat",
    "summary",
    "to_arviz",
]
