"""Energies ``(params, x) -> ()`` of one particle, with ``p(x) = exp(-E(x)) / Z``.

Any function of that form is an energy; these are ready-made ones. ``energies.gaussian`` and its like carry
``.params(...)`` and, where known, ``.log_normalizer(params)`` and ``.sample(key, params, num)``. ``mlp``, ``conv``,
``resnet`` and ``from_module`` make an energy and its parameters. The rest makes energies from energies.
"""

from ..networks import spectral_norm, spectral_normalised
from . import bijections, exact
from ._discrete import DiscreteEnergy
from .algebra import conditioned, confined, fill_in, mixture, product, pullback, tempered
from .analytic import ackley, double_well, rastrigin, rosenbrock
from .boltzmann import DeepBoltzmann, boltzmann, deep_boltzmann
from .categorical_field import categorical_field, potts
from .classifier import energy_of_logits
from .closed_forms import AnalyticEnergy, ExactEnergy
from .conditional import fourier_features, given
from .encodings import on_bits, on_integers, on_one_hot, on_spins
from .hopfield import hopfield
from .independent_sites import independent_sites
from .ising import ising, ising_torus
from .landscapes import himmelblau, mueller_brown
from .members import mixture_of_members, product_of_members
from .mixtures import banana, funnel, gaussian_mixture, ring
from .modules import from_module, load_into
from .neural import NeuralEnergy, conv, mlp, resnet
from .quadratic import gaussian, harmonic
from .rbm import RBM, rbm

__all__ = [
    "AnalyticEnergy",
    "DeepBoltzmann",
    "DiscreteEnergy",
    "ExactEnergy",
    "NeuralEnergy",
    "RBM",
    "ackley",
    "banana",
    "bijections",
    "boltzmann",
    "categorical_field",
    "conditioned",
    "confined",
    "conv",
    "deep_boltzmann",
    "double_well",
    "energy_of_logits",
    "exact",
    "fill_in",
    "fourier_features",
    "from_module",
    "funnel",
    "gaussian",
    "gaussian_mixture",
    "given",
    "harmonic",
    "himmelblau",
    "hopfield",
    "independent_sites",
    "ising",
    "ising_torus",
    "load_into",
    "mixture",
    "mixture_of_members",
    "mlp",
    "mueller_brown",
    "on_bits",
    "on_integers",
    "on_one_hot",
    "on_spins",
    "potts",
    "product",
    "product_of_members",
    "pullback",
    "rastrigin",
    "rbm",
    "resnet",
    "ring",
    "rosenbrock",
    "spectral_norm",
    "spectral_normalised",
    "tempered",
]
