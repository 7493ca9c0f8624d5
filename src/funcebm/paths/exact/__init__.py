"""Oracles: Gaussians and mixtures of them, for which all that transport speaks of is known in closed form."""

from .bridge import GaussianBridge, schrodinger_bridge
from .gaussian import (
    flow,
    gaussian_params,
    kullback_leibler,
    optimal_transport_map,
    velocity_variance,
    wasserstein_distance,
)
from .mixture import Marginals, marginals, mixture_params, sample, sample_at

__all__ = [
    "GaussianBridge",
    "Marginals",
    "flow",
    "gaussian_params",
    "kullback_leibler",
    "marginals",
    "mixture_params",
    "optimal_transport_map",
    "sample",
    "sample_at",
    "schrodinger_bridge",
    "velocity_variance",
    "wasserstein_distance",
]
