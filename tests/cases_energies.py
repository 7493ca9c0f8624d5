"""The table of energies that contract tests sweep: ``name -> (energy, params, position)``, position an example."""

from __future__ import annotations

from typing import Any

import torch

from funcebm import bijections, energies, random

__all__ = ["ENERGIES", "EXACT", "quadratic_of_dict"]


def quadratic_of_dict(params: Any, x: Any) -> torch.Tensor:
    """An energy of a tree, for positions that are no tensors."""
    return (params["a"] * x["a"] ** 2).sum() + ((x["b"] - params["b"]) ** 4).sum() + x["a"].sum() * x["b"].sum() / 9


def _cases() -> dict[str, tuple[Any, Any, Any]]:
    pair, image = torch.tensor([0.7, -1.3]), torch.linspace(-1, 1, 64).reshape(8, 8)
    key = random.key(20)
    network, network_params = energies.mlp(key, 2, hidden=(16, 16))
    convolution, convolution_params = energies.conv(key, (8, 8), channels=(4, 8), hidden=(16,))
    residual, residual_params = energies.resnet(key, (4, 4), channels=(2, 3), hidden=(4,), condition_size=2)
    waves, wave_params = energies.mlp(
        key, 2, hidden=(8,), embed=energies.fourier_features(key, 2, 4, scale=0.3), spectral_bound=1.5
    )
    module, module_params = energies.from_module(_module())
    well, spring = energies.double_well, energies.harmonic
    tree = ({"a": torch.tensor(2.0), "b": torch.tensor(1.0)}, {"a": pair, "b": torch.tensor([[0.1, 0.2, 0.3]])})
    covariance = [[1.0, 0.8], [0.8, 2.0]]
    parts = {"logits": torch.tensor([0.1, -0.2]), "components": (well.params(), spring.params(3.0))}
    half = torch.tensor([True, False])
    return {
        "ackley": (energies.ackley, energies.ackley.params(), pair),
        "banana": (energies.banana, energies.banana.params(0.5, 1.5), pair),
        "double_well": (well, well.params(), pair),
        "funnel": (energies.funnel, energies.funnel.params(1.5), pair),
        "gaussian": (energies.gaussian, energies.gaussian.params([0.5, -1.0], covariance), pair),
        "gaussian_mixture": (energies.gaussian_mixture, energies.gaussian_mixture.params(scale=0.5), pair),
        "harmonic": (spring, spring.params(2.0), pair),
        "himmelblau": (energies.himmelblau, energies.himmelblau.params(0.05), pair),
        "mueller_brown": (energies.mueller_brown, energies.mueller_brown.params(0.05), pair),
        "rastrigin": (energies.rastrigin, energies.rastrigin.params(2.0), pair),
        "ring": (energies.ring, energies.ring.params(), pair),
        "rosenbrock": (energies.rosenbrock, energies.rosenbrock.params(1.0, 5.0), pair),
        "mlp": (energies.product(network, spring), (network_params, spring.params()), pair),
        "conv": (energies.product(convolution, spring), (convolution_params, spring.params()), image),
        "resnet": (energies.confined(energies.given(residual, pair), 2.0), residual_params, image[:4, :4]),
        "fourier": (energies.confined(waves, low=-1.0, high=1.0), wave_params, pair),
        "from_module": (energies.product(module, spring), (module_params, spring.params()), pair),
        "product": (energies.product(well, spring), (well.params(), spring.params()), pair),
        "mixture": (energies.mixture(well, spring), parts, pair),
        "tempered": (energies.tempered(well, 0.5), well.params(), pair),
        "conditioned": (energies.conditioned(well, pair, half), well.params(), pair[:1]),
        "pullback": (energies.pullback(spring, bijections.interval(-1.0, 2.0)), spring.params(), pair),
        "dict": (quadratic_of_dict, *tree),
    }


def _module() -> torch.nn.Module:
    module = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(0.5 * random.normal(random.key(i), tuple(parameter.shape)))
    return module


ENERGIES = _cases()

EXACT = [name for name, (energy, _, _) in ENERGIES.items() if getattr(energy, "sample", None) is not None]
"""Those with a log normalizer and an exact sampler."""
