r"""Solvers of ODEs and SDEs, as pure functions of one particle.

=================  =====  ============  ====================================================
solver             order  evaluations   for
=================  =====  ============  ====================================================
euler              1      1             few, cheap steps
midpoint, heun     2      2             few steps; ``heun`` estimates its error
ralston            2      2             the least error bound of order 2
bosh3              3      3             adaptive steps at low accuracy
rk4                4      4             fixed steps
dopri5, tsit5      5      6             adaptive steps; likelihoods
euler_maruyama     1      1             SDEs with additive noise, weak order 1
stochastic_heun    2      2             the same, weak order 2
sra1, shark        2      2             the same, strong order 1.5
ddim               1      1             a path with normal noise, few steps
dpm_solver         2      1             the same (DPM-Solver++ 2M)
ancestral          1      1             the same, with fresh noise (DDPM)
edm_heun           2      2             the same, in the noise level, with churn
=================  =====  ============  ====================================================

:func:`solve` runs one over a grid of times, :func:`solve_adaptive` chooses its steps, :func:`discrete_adjoint` gives exact
gradients through compiled loops. Called with a field, a solver is a :class:`~funcebm.types.Sampler`.
"""

from .adaptive import solve_adaptive
from .brownian import coarsen
from .ddim import ancestral, ddim
from .discrete_adjoint import SolveGradients, discrete_adjoint
from .dpm_solver import dpm_solver
from .edm import edm_heun, edm_times, log_snr_times
from .euler_maruyama import euler_maruyama
from .integrator import Attempt, BrownianIncrement, Integrator, SolverInfo, SolverState, SolverTuning
from .runge_kutta import bosh3, dopri5, euler, heun, midpoint, ralston, rk4, runge_kutta, tsit5
from .shark import shark
from .solve import Solution, SolveInfo, draw_path, solve
from .sra1 import sra1
from .stochastic_heun import stochastic_heun
from .tableaux import Tableau

__all__ = [
    "Attempt",
    "BrownianIncrement",
    "Integrator",
    "Solution",
    "SolveGradients",
    "SolveInfo",
    "SolverInfo",
    "SolverState",
    "SolverTuning",
    "Tableau",
    "ancestral",
    "bosh3",
    "coarsen",
    "ddim",
    "discrete_adjoint",
    "dopri5",
    "dpm_solver",
    "draw_path",
    "edm_heun",
    "edm_times",
    "euler",
    "euler_maruyama",
    "heun",
    "log_snr_times",
    "midpoint",
    "ralston",
    "rk4",
    "runge_kutta",
    "shark",
    "solve",
    "solve_adaptive",
    "sra1",
    "stochastic_heun",
    "tsit5",
]
