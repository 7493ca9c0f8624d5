"""Building blocks of Hamiltonian samplers."""

from .symplectic import PhasePoint, leapfrog

__all__ = ["PhasePoint", "leapfrog"]
