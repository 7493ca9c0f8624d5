"""Samplers: one file each, every one a :class:`funcebm.types.Sampler` of pure functions."""

from .adjusted_mclmc import adjusted_mclmc
from .annealed_langevin import annealed_langevin
from .barker import barker
from .combinators import cycle, mix, thin
from .descent import gradient_descent, nesterov
from .discrete_langevin import discrete_langevin
from .dlmc import dlmc
from .dynamic_hmc import dynamic_hmc
from .elliptical_slice import elliptical_slice
from .ghmc import ghmc
from .gibbs import gibbs
from .gibbs_with_gradients import gibbs_with_gradients
from .hit_and_run_slice import hit_and_run_slice
from .hmc import hmc
from .independence import independence
from .ising_gibbs import ising_gibbs
from .langevin import langevin
from .locally_balanced import locally_balanced
from .mala import mala
from .mclmc import mclmc
from .metropolis import accepted, metropolis_hastings
from .mixed_hmc import mixed_hmc
from .nuts import nuts
from .parallel_tempering import communication_barrier, num_restarts, parallel_tempering, target_draws, tune_ladder
from .parts import on
from .path_auxiliary import path_auxiliary
from .random_walk import random_walk
from .rbm_gibbs import rbm_gibbs
from .riemannian_hmc import riemannian_hmc
from .sghmc import sghmc
from .sgld import sgld
from .sgnht import sgnht
from .single_site import metropolised_gibbs, single_site_metropolis
from .softabs import softabs
from .svgd import svgd
from .swendsen_wang import swendsen_wang
from .tempering import annealed, tempered
from .underdamped_langevin import underdamped_langevin
from .wolff import wolff

__all__ = [
    "accepted",
    "adjusted_mclmc",
    "annealed",
    "annealed_langevin",
    "barker",
    "communication_barrier",
    "cycle",
    "discrete_langevin",
    "dlmc",
    "dynamic_hmc",
    "elliptical_slice",
    "ghmc",
    "gibbs",
    "gibbs_with_gradients",
    "gradient_descent",
    "hit_and_run_slice",
    "hmc",
    "independence",
    "ising_gibbs",
    "langevin",
    "locally_balanced",
    "mala",
    "mclmc",
    "metropolis_hastings",
    "metropolised_gibbs",
    "mix",
    "mixed_hmc",
    "nesterov",
    "num_restarts",
    "nuts",
    "on",
    "parallel_tempering",
    "path_auxiliary",
    "random_walk",
    "rbm_gibbs",
    "riemannian_hmc",
    "sghmc",
    "sgld",
    "sgnht",
    "single_site_metropolis",
    "softabs",
    "svgd",
    "swendsen_wang",
    "tempered",
    "thin",
    "target_draws",
    "tune_ladder",
    "underdamped_langevin",
    "wolff",
]
