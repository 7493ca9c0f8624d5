"""Samplers: one file each, every one a :class:`funcebm.types.Sampler` of pure functions."""

from .barker import barker
from .descent import gradient_descent, nesterov
from .dynamic_hmc import dynamic_hmc
from .ghmc import ghmc
from .hmc import hmc
from .langevin import langevin
from .mala import mala
from .metropolis import metropolis_hastings
from .random_walk import random_walk
from .sghmc import sghmc
from .sgld import sgld
from .sgnht import sgnht
from .underdamped_langevin import underdamped_langevin

__all__ = [
    "barker",
    "dynamic_hmc",
    "ghmc",
    "gradient_descent",
    "hmc",
    "langevin",
    "mala",
    "metropolis_hastings",
    "nesterov",
    "random_walk",
    "sghmc",
    "sgld",
    "sgnht",
    "underdamped_langevin",
]
