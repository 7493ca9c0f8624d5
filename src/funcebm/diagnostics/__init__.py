"""How good the samples are: convergence of the chains, a summary to read, discrepancies between sets of samples."""

from __future__ import annotations

from .convergence import ess, mcse_mean, split_rhat
from .discrepancy import auroc, mmd
from .summary import Summary, summary

__all__ = ["Summary", "auroc", "ess", "mcse_mean", "mmd", "split_rhat", "summary"]
