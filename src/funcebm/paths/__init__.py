"""Probability paths from noise (t = 0) to data (t = 1), what follows from what on them, and exact ones."""

from . import exact
from .affine import (
    linear,
    linear_variance_preserving,
    lipman,
    polynomial,
    sub_variance_preserving,
    trigonometric,
    variance_exploding,
    variance_preserving,
)
from .conversions import convert, energy_of, negative_gradient, potential_of, velocity_of_energy
from .latent import brownian_bridge, encoder_decoder
from .path import Coefficients, Field, Path, PathSample, TimeEnergy, at, at_time, path, sample_path, static, time_of

energy_of_potential = energy_of

__all__ = [
    "Coefficients",
    "Field",
    "Path",
    "PathSample",
    "TimeEnergy",
    "at",
    "at_time",
    "brownian_bridge",
    "convert",
    "encoder_decoder",
    "energy_of",
    "energy_of_potential",
    "exact",
    "linear",
    "linear_variance_preserving",
    "lipman",
    "negative_gradient",
    "path",
    "polynomial",
    "potential_of",
    "sample_path",
    "static",
    "sub_variance_preserving",
    "time_of",
    "trigonometric",
    "variance_exploding",
    "variance_preserving",
    "velocity_of_energy",
]
