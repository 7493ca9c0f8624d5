"""Samplers: one file each, every one a :class:`funcebm.types.Sampler` of pure functions."""

from .adjusted_mclmc import adjusted_mclmc
from .barker import barker
from .combinators import cycle, mix, thin
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
from .parallel_tempering import communication_barrier, num_restarts, parallel_tempering, tune_ladder
from .random_walk import random_walk
from .riemannian_hmc import riemannian_hmc
from .sghmc import sghmc
from .sgld import sgld
from .sgnht import sgnht
from .softabs import softabs
from .svgd import svgd
from .tempering import annealed, tempered
from .underdamped_langevin import underdamped_langevin

__all__ = [
    "adjusted_mclmc",
    "annealed",
    "barker",
    "communication_barrier",
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
    "num_restarts",
    "parallel_tempering",
    "random_walk",
    "riemannian_hmc",
    "sghmc",
    "sgld",
    "sgnht",
    "softabs",
    "svgd",
    "tempered",
    "thin",
    "tune_ladder",
    "underdamped_langevin",
]
