"""Energies ``(params, x) -> ()`` of one particle, with ``p(x) = exp(-E(x)) / Z``.

Any function of that form is an energy; these are ready-made ones. ``energies.gaussian`` and its like carry
``.params(...)`` and, where known, ``.log_normalizer(params)`` and ``.sample(key, params, num)``. ``mlp``, ``conv`` and
``from_module`` make an energy and its parameters. The rest makes energies from energies.
"""

from . import bijections
from .algebra import conditioned, fill_in, mixture, product, pullback, tempered
from .analytic import ackley, double_well, rastrigin, rosenbrock
from .exact import AnalyticEnergy, ExactEnergy
from .landscapes import himmelblau, mueller_brown
from .mixtures import banana, funnel, gaussian_mixture, ring
from .modules import from_module
from .neural import conv, mlp
from .quadratic import gaussian, harmonic

__all__ = [
    "AnalyticEnergy",
    "ExactEnergy",
    "ackley",
    "banana",
    "bijections",
    "conditioned",
    "conv",
    "double_well",
    "fill_in",
    "from_module",
    "funnel",
    "gaussian",
    "gaussian_mixture",
    "harmonic",
    "himmelblau",
    "mixture",
    "mlp",
    "mueller_brown",
    "product",
    "pullback",
    "rastrigin",
    "ring",
    "rosenbrock",
    "tempered",
]
