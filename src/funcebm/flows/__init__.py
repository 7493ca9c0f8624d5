"""Flows: particles carried along a field from noise (t = 0) to data (t = 1), their densities, and guidance."""

from .composition import composed, reversed_in_time, sde_drift
from .flow import Flow, flow, flow_energy
from .guidance import energy_guided, guided
from .integrate import integrate, sample
from .likelihood import LogLikelihood, log_likelihood
from .predictor_corrector import predictor_corrector

__all__ = [
    "Flow",
    "LogLikelihood",
    "composed",
    "energy_guided",
    "flow",
    "flow_energy",
    "guided",
    "integrate",
    "log_likelihood",
    "predictor_corrector",
    "reversed_in_time",
    "sample",
    "sde_drift",
]
