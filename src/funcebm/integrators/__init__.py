"""Building blocks of Hamiltonian samplers."""

from .symplectic import Integrator, PhasePoint, leapfrog, mclachlan, position_leapfrog, splitting, yoshida

__all__ = ["Integrator", "PhasePoint", "leapfrog", "mclachlan", "position_leapfrog", "splitting", "yoshida"]
