"""Samplers: one file each, every one a :class:`funcebm.types.Sampler` of pure functions."""

from .adjusted_mclmc import adjusted_mclmc
from .barker import barker
from .combinators import annealed, cycle, mix, tempered, thin
from .descent import gradient_descent, nesterov
from .dynamic_hmc import dynamic_hmc
from .elliptical_slice import elliptical_slice
from .ghmc import ghmc
from .hmc import hmc
from .langevin import langevin
from .mala import mala
from .mclmc import mclmc
from .metropolis import metropolis_hastings
from .nuts import nuts
from .random_walk import random_walk
from .sghmc import sghmc
from .sgld import sgld
from .sgnht import sgnht
from .underdamped_langevin import underdamped_langevin

__all__ = [
    "adjusted_mclmc",
    "annealed",
    "barker",
    "cycle",
    "dynamic_hmc",
    "elliptical_slice",
    "ghmc",
    "gradient_descent",
    "hmc",
    "langevin",
    "mala",
    "mclmc",
    "metropolis_hastings",
    "mix",
    "nesterov",
    "nuts",
    "random_walk",
    "sghmc",
    "sgld",
    "sgnht",
    "tempered",
    "thin",
    "underdamped_langevin",
]
