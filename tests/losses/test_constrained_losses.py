"""Losses of constrained energies: data in the positions, chains in the free numbers; or a refusal."""

from __future__ import annotations

import pytest
import torch

from funcebm import energies, losses, optimizers, random, samplers, spaces, training, tree
from funcebm.bijections import constrained, identity, positive, simplex

from .. import distributions

DOUBLE = torch.float64


def exponential(params, x):
    return params * x.sum()


BOUND = constrained(exponential, positive)
DATA = -random.uniform(random.key(0), (32, 1), dtype=DOUBLE).log()
RATE = torch.tensor(2.0, dtype=DOUBLE)


def _mala(energy):
    return samplers.mala(energy, step_size=0.3)


def _start(key):
    return random.uniform(key, (1,), dtype=DOUBLE) + 0.5


NORMAL = {"reference": energies.gaussian, "reference_params": energies.gaussian.params([0.0])}
MAKE = {
    "cd": lambda energy, **rest: losses.contrastive_divergence(energy, _mala, 3, data_noise=0.1, **rest),
    "cd_noise": lambda energy, **rest: losses.contrastive_divergence(energy, _mala, 3, start="noise", **rest),
    "pcd": lambda energy, **rest: losses.persistent_contrastive_divergence(energy, _mala, 3, buffer_size=40, **rest),
    "improved": lambda energy: losses.improved_contrastive_divergence(energy, _mala, 2, buffer_size=60, bank_size=9),
    "tempering": lambda energy: losses.parallel_tempering_contrastive_divergence(
        energy, lambda energy, beta: _mala(energy), [0.5, 1.0], 2, buffer_size=40
    ),
    "likelihood": lambda energy: losses.maximum_likelihood(energy, num_particles=30, num_temperatures=5, **NORMAL),
    "jarzynski": lambda energy: losses.jarzynski_maximum_likelihood(
        energy, num_walkers=30, num_temperatures=5, **NORMAL
    ),
}


@pytest.mark.parametrize("name", list(MAKE))
def test_they_are_those_of_the_free_numbers_with_the_data_mapped(name):
    """Value, gradient and memory are equal; of a likelihood the value is that of the positions, so that models compare."""
    shift = DATA.log().mean() if name in ("likelihood", "jarzynski") else 0.0  # of exp, log det = y
    found = []
    for energy, data in ((BOUND, DATA), (BOUND.energy, DATA.log())):
        loss = MAKE[name](energy)
        memory = loss.init(random.key(1), RATE, data)
        noise = loss.draw(random.key(2), data)
        grad, (value, aux) = torch.func.grad_and_value(loss.value, has_aux=True)(RATE, memory, data, noise)
        prepared = loss.objective(RATE, loss.prepare(RATE, memory, data, noise))[0]
        torch.testing.assert_close(prepared, value)
        found.append((grad, value - (shift if data is DATA else 0.0), aux.memory, aux.metrics))
    for one, other in zip(*map(tree.leaves, found), strict=True):
        torch.testing.assert_close(one, other)


def test_starts_and_samplers_are_those_of_the_positions():
    given = samplers.mala(BOUND, step_size=0.3)
    key, found = random.key(2), []
    for energy, data, sampler, start in (
        (BOUND, DATA, given, _start),
        (BOUND.energy, DATA.log(), _mala(BOUND.energy), lambda key: _start(key).log()),
    ):
        loss = losses.contrastive_divergence(energy, sampler, num_steps=3, start=start)
        found.append(loss(key, RATE, data)[0])
        fixed = DATA[:5] + 1
        loss = losses.contrastive_divergence(energy, sampler, 3, start=fixed if data is DATA else fixed.log())
        found.append(loss.value(RATE, (), data[:5], loss.draw(key, data[:5]))[0])
    torch.testing.assert_close(found[:2], found[2:])
    with pytest.raises(ValueError, match="must know its constraint"):
        losses.contrastive_divergence(BOUND, _mala(exponential), 3)
    with pytest.raises(ValueError, match="x must be above"):
        MAKE["cd"](BOUND).init(key, RATE, -DATA)
    with pytest.raises(ValueError, match="x must be above"):
        MAKE["pcd"](BOUND).draw(key, -DATA)


def test_the_gradient_is_that_of_the_likelihood_of_the_positions():
    """Of data with the mean 1 and a model with the mean 1/2: their difference. The free numbers as data gave another."""
    loss = losses.contrastive_divergence(BOUND, lambda energy: samplers.nuts(energy, step_size=0.8), 8)
    draw_data = lambda key: -random.uniform(key, (20, 1), dtype=DOUBLE).log()  # noqa: E731
    distributions.assert_mean(distributions.slopes_of(loss, RATE, draw_data), 0.5)


def test_trees_of_constraints_train():
    """A Dirichlet distribution with a normal number beside it, by persistent chains: steps are finite, and go to the data."""
    energy = lambda params, x: -(params * x["p"].log()).sum() + (x["mu"] ** 2).sum() / 2  # noqa: E731
    loss = MAKE["pcd"](constrained(energy, {"p": simplex, "mu": identity}))
    data = {"p": torch.softmax(random.normal(random.key(3), (64, 3)), -1), "mu": random.normal(random.key(4), (64, 1))}
    options = {"optimizer": optimizers.sgd(0.1), "num_steps": 5, "batch_size": 16, "jit": False}
    fit = training.fit(random.key(0), loss, torch.ones(3), data, **options)
    assert bool(torch.isfinite(fit.params).all()) and not torch.equal(fit.params, torch.ones(3))


SPACE = spaces.binary(1)
REFUSED = {
    "score": lambda energy: losses.score_matching(energy),
    "sliced": lambda energy: losses.sliced_score_matching(energy),
    "finite": lambda energy: losses.finite_difference_score_matching(energy),
    "denoising": lambda energy: losses.denoising_score_matching(energy, 0.1),
    "annealed": lambda energy: losses.annealed_denoising_score_matching(energy, torch.tensor([1.0, 0.1])),
    "stein": lambda energy: losses.kernel_stein_discrepancy(energy=energy),
    "discrepancy": lambda energy: losses.energy_discrepancy(energy, 0.1),
    "nce": lambda energy: losses.noise_contrastive_estimation(energy, losses.gaussian_noise(torch.zeros(1))),
    "ranking": lambda energy: losses.ranking_noise_contrastive_estimation(
        energy, losses.gaussian_noise(torch.zeros(1))
    ),
    "conditional": lambda energy: losses.conditional_noise_contrastive_estimation(energy, 0.1),
    "matching": lambda energy: losses.energy_matching(energy),
    "flow": lambda energy: losses.minimum_probability_flow(energy, SPACE),
    "pseudo": lambda energy: losses.pseudolikelihood(energy, SPACE),
    "ratio": lambda energy: losses.ratio_matching(energy, SPACE),
    "entropy": lambda energy: losses.score_entropy(energy, SPACE),
    "bits": lambda energy: losses.bit_energy_discrepancy(energy, SPACE),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_others_refuse_a_constrained_energy(name):
    with pytest.raises(
        ValueError, match=r"an energy of the data as they are. Got a constrained one.*bijection.inverse"
    ):
        REFUSED[name](BOUND)
    REFUSED[name](BOUND.energy)
