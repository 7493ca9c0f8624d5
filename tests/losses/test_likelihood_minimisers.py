"""Losses that estimate the likelihood end, on Gaussian data, at the precision of the data."""

from __future__ import annotations

import math

import pytest
import torch

from funcebm import energies, losses, optimizers, random, samplers
from funcebm.training import TrainState, train_step

NUM, STEPS, KEPT, RATE = 1000, 60, 40, 0.3
MEAN, VARIANCE = 0.5, 1.5


def energy(params, x):
    """A Gaussian in one dimension, with its precision, and the precision times its mean."""
    return params[0] * (x**2).sum() / 2 - params[1] * x.sum()


MALA = samplers.mala(energy, step_size=0.5)


def _maximum_likelihood():
    return losses.maximum_likelihood(
        energy,
        reference=energies.gaussian,
        reference_params=energies.gaussian.params([0.0], [[2.0]]),
        num_particles=NUM,
        num_temperatures=5,
        sampler=lambda energy: samplers.mala(energy, step_size=0.5),
    )


LOSSES = {
    "cd": lambda: losses.contrastive_divergence(energy, MALA, 4),
    "cd_noise": lambda: losses.contrastive_divergence(energy, MALA, 15, start="noise"),
    "pcd": lambda: losses.persistent_contrastive_divergence(energy, MALA, 4, buffer_size=NUM, restart_probability=0.0),
    "tempered_cd": lambda: losses.parallel_tempering_contrastive_divergence(
        energy, lambda energy, beta: samplers.mala(energy, step_size=0.5 / beta), [0.3, 1.0], 4, buffer_size=NUM
    ),
    "maximum_likelihood": _maximum_likelihood,
}


@pytest.mark.parametrize("name", LOSSES)
def test_trained_to_convergence(name):
    # quantiles, so that chains from the data are in equilibrium; the statistics x^2 / 2 and -x and their covariance
    probabilities = (torch.arange(NUM, dtype=torch.float64) + 0.5) / NUM
    data = MEAN + VARIANCE**0.5 * torch.special.ndtri(probabilities)[:, None]
    inverse_fisher = torch.linalg.inv(torch.cov(torch.cat([data**2 / 2, -data], 1).T))
    loss, optimizer = LOSSES[name](), optimizers.sgd(1.0)
    preconditioned = optimizer._replace(
        update=lambda gradients, state, params: (-RATE * inverse_fisher @ gradients, state)
    )
    params = torch.tensor([1.2, 0.0], dtype=torch.float64)
    state = TrainState(params, (), optimizer.init(params), loss.init(random.key(0), params, data))
    visited = []
    for key in random.split(random.key(1), STEPS):
        state, metrics = train_step(loss, preconditioned, state, data, loss.draw(key, data))
        visited.append(state.params)
    precision = 1 / data.var(correction=0)
    expected = torch.stack([precision, precision * data.mean()])
    # the mean of late iterates: its error is that of the statistics of all their negatives; 2 for correlated chains
    standard_error = (2 * inverse_fisher.diagonal() / (NUM * KEPT)).sqrt()
    distance = (torch.stack(visited[-KEPT:]).mean(0) - expected).abs()
    assert bool((distance < 5 * standard_error).all()), (distance / standard_error).tolist()
    assert float(standard_error[0]) < 0.01
    if name == "maximum_likelihood":  # the value is the negative log likelihood per point
        entropy = 0.5 * math.log(2 * math.pi * math.e * float(data.var(correction=0)))
        assert abs(float(metrics["loss"]) - entropy) < 0.02
