"""The energy Bayesian fraction of missing information: do the momenta reach all energies of the target?"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..checks import require
from .draws import check_shapes

__all__ = ["ebfmi"]


def ebfmi(energies: Any) -> Tensor:
    r"""The energy Bayesian fraction of missing information of each chain of a Hamiltonian sampler.

    .. math:: \frac{\sum_{i \ge 2} (H_i - H_{i-1})^2}{\sum_i (H_i - \bar H)^2}

    with :math:`H_i` the total energy (potential and kinetic) of draw :math:`i`. Only a new momentum changes the energy,
    by about the root of the dimension; a target of heavy tails or of a scale that changes from place to place, such as a
    funnel, has energies much wider than that, and the chain then crawls through them. For a Gaussian it is about 1;
    below 0.3 the tails are not explored: another parameterisation helps, a smaller step size does not. It is ArviZ's
    ``az.bfmi``.

    Args:
        energies: :math:`H`, ``(C, N)`` with ``N >= 4``; or the samples of a sampler whose info has ``total_energy``
            (``nuts``). ``info.energy`` is the potential energy only and cannot be used here.

    Returns:
        ``(C,)`` in float64; NaN for a chain whose energy never changes or is not finite.

    Raises:
        ValueError: samples whose info has no total energy, or energies that are not ``(C, N)``.

    Reference: Betancourt (2016), "Diagnosing suboptimal cotangent disintegrations in Hamiltonian Monte Carlo",
    arXiv:1604.00695.

    >>> from funcebm import random
    >>> ebfmi(random.normal(random.key(0), (2, 4000))).round(decimals=1)
    tensor([2., 2.], dtype=torch.float64)
    """
    if hasattr(energies, "draws") and hasattr(energies, "info"):
        total = getattr(energies.info, "total_energy", None)
        must = "samples.info must have the field total_energy"
        fix = "Sample with nuts, or pass the energies, potential and kinetic, as a tensor (C, N)."
        require(total is not None, must, f"the info {type(energies.info).__name__}", fix)
        energies = total
    check_shapes(energies)
    must = "energies must be one tensor of shape (C, N)"
    got = f"the shape {tuple(energies.shape)}" if isinstance(energies, Tensor) else type(energies).__name__
    require(isinstance(energies, Tensor) and energies.ndim == 2, must, got, "For one chain, pass energies[None].")
    energies = energies.detach().double()
    deviations = energies - energies.mean(1, keepdim=True)
    return energies.diff(dim=1).square().sum(1) / deviations.square().sum(1)
