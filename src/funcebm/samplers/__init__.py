"""Samplers: one file each, every one a :class:`funcebm.types.Sampler` of pure functions."""

from .descent import gradient_descent, nesterov
from .hmc import hmc
from .langevin import langevin
from .mala import mala
from .metropolis import metropolis_hastings

__all__ = ["gradient_descent", "hmc", "langevin", "mala", "metropolis_hastings", "nesterov"]
