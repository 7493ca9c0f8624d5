"""Training: one pure step, runs of many in compiled loops, ensembles, and runs in files."""

from .bridge import BridgeFit, fit_bridge
from .checkpoint import load, save
from .fitting import fit, fit_ensemble
from .result import Fit, Validated
from .step import TrainState, train_step
from .validation import Validation

__all__ = [
    "BridgeFit",
    "Fit",
    "TrainState",
    "Validated",
    "Validation",
    "fit",
    "fit_bridge",
    "fit_ensemble",
    "load",
    "save",
    "train_step",
]
