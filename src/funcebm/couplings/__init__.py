"""Couplings of noise and data: functions of a key and two batches to indices."""

from .assignment import assignment, auction
from .coupling import Coupling, Pairing, from_cost, independent, reflow, take, within_labels
from .transport import optimal_transport, sinkhorn, unbalanced

__all__ = [
    "Coupling",
    "Pairing",
    "assignment",
    "auction",
    "from_cost",
    "independent",
    "optimal_transport",
    "reflow",
    "sinkhorn",
    "take",
    "unbalanced",
    "within_labels",
]
