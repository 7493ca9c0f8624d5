"""Exact normalizers, expectations and draws of discrete energies: what samplers and losses are measured against."""

from ..closed_forms import AnalyticEnergy, ExactEnergy
from .coupling_from_the_past import coupling_from_the_past
from .enumeration import expectation, log_normalizer, log_probabilities, sample
from .kaufman import kaufman
from .transfer import transfer_matrix
from .trees import tree_log_normalizer, tree_sample

__all__ = [
    "AnalyticEnergy",
    "ExactEnergy",
    "coupling_from_the_past",
    "expectation",
    "kaufman",
    "log_normalizer",
    "log_probabilities",
    "sample",
    "transfer_matrix",
    "tree_log_normalizer",
    "tree_sample",
]
