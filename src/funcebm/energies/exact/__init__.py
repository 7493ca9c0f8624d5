"""Exact normalizers, expectations and draws of discrete energies: what samplers and losses are measured against."""

from ..closed_forms import AnalyticEnergy, ExactEnergy
from .enumeration import expectation, log_normalizer, log_probabilities, sample
from .kaufman import kaufman
from .transfer import transfer_matrix

__all__ = [
    "AnalyticEnergy",
    "ExactEnergy",
    "expectation",
    "kaufman",
    "log_normalizer",
    "log_probabilities",
    "sample",
    "transfer_matrix",
]
