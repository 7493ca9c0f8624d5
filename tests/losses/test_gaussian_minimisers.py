"""Every loss without chains, trained to convergence on Gaussian data, ends at its closed-form optimum.

All of them are convex in the parameters here, so training is Newton's method. It runs on independent sets of data: the
mean over sets must be the optimum within standard errors, but for the bias of an estimate from a finite set, of the order
of its variance.
"""

from __future__ import annotations

import math

import pytest
import torch
from tests.distributions import SIGMAS

from funcebm import losses, random, tree

NUM_SETS, SHAPE, DIM = 40, (2, 2), 4
PRECISION = 1.6
SIGMA = 0.7


def energy(params, x):
    return params["k"] * (x**2).sum() / 2


def normalized(loss):
    def value(params, memory, batch, noise):
        return loss.value(losses.NormalizedParams({"k": params["k"]}, params["c"]), memory, batch, noise)

    return loss._replace(value=value)


NOISE = losses.gaussian_noise(torch.full(SHAPE, 0.3, dtype=torch.float64), 1.2)
SKEWED = losses.ConditionalNoise(
    # moves towards the origin more than away from it: the two directions have different densities
    log_density=lambda y, x: -((y - 0.5 * x) ** 2).sum() / (2 * SIGMA**2),
    sample=lambda key, x: 0.5 * x + SIGMA * random.normal(key, tuple(x.shape), dtype=x.dtype),
)
TRUE = {"k": PRECISION}
NORMALIZED = {"k": PRECISION, "c": DIM / 2 * math.log(2 * math.pi / PRECISION)}
QUADRATIC = {  # in k: one step of Newton ends at the minimum
    "exact": (lambda: losses.score_matching(energy), 100, PRECISION),
    "hutchinson": (lambda: losses.score_matching(energy, "hutchinson"), 200, PRECISION),
    "sliced": (
        lambda: losses.sliced_score_matching(energy, variance_reduction=False, probe="normal"), 400, PRECISION
    ),
    "sliced_sphere": (
        lambda: losses.sliced_score_matching(energy, variance_reduction=False, probe="sphere"), 400, PRECISION
    ),
    "sliced_reduced": (lambda: losses.sliced_score_matching(energy, probe="normal", num_probes=2), 200, PRECISION),
    "finite_difference": (lambda: losses.finite_difference_score_matching(energy, step_size=0.5), 400, PRECISION),
    "denoising": (lambda: losses.denoising_score_matching(energy, SIGMA), 400, 1 / (1 / PRECISION + SIGMA**2)),
    "kernel_stein": (lambda: losses.kernel_stein_discrepancy(energy), 250, PRECISION),
    "kernel_stein_wide": (
        lambda: losses.kernel_stein_discrepancy(energy, length_scale=3.0, exponent=-0.8), 250, PRECISION
    ),
}  # fmt: skip
CONVEX = {
    "nce": (lambda: normalized(losses.noise_contrastive_estimation(energy, NOISE)), NORMALIZED),
    "nce_3": (lambda: normalized(losses.noise_contrastive_estimation(energy, NOISE, num_noise=3)), NORMALIZED),
    "ranking": (lambda: losses.ranking_noise_contrastive_estimation(energy, NOISE, num_noise=4), TRUE),
    "conditional": (lambda: losses.conditional_noise_contrastive_estimation(energy, SIGMA, num_noise=2), TRUE),
    "conditional_skewed": (lambda: losses.conditional_noise_contrastive_estimation(energy, SKEWED), TRUE),
}


def _minimise(loss, start, num_data, num_steps):
    """Newton's iterations on independent sets of data: the parameters where they end, ``(NUM_SETS, P)``."""
    vector, back = tree.ravel(start)

    def one(key):
        key_data, key_noise = random.split(key)
        data = random.normal(key_data, (num_data, *SHAPE), dtype=torch.float64) / math.sqrt(PRECISION)
        noise = loss.draw(key_noise, data)
        slope = torch.func.grad(lambda vector: loss.value(back(vector), (), data, noise)[0])
        at = vector
        for _ in range(num_steps):
            at = at - torch.linalg.solve(torch.func.jacrev(slope)(at), slope(at))
        return at, slope(at)

    found, slope = torch.func.vmap(one)(random.split(random.key(11), NUM_SETS))
    assert slope.abs().max() < 1e-9  # converged
    return found


def _assert_optimum(found, expected):
    error = found.std(0) / math.sqrt(NUM_SETS)
    bias = 2 * found.var(0)  # of one set's estimate: second order in its spread
    distance = (found.mean(0) - torch.tensor(expected, dtype=torch.float64)).abs()
    assert (distance < SIGMAS * error + bias).all(), (found.mean(0), expected, error, bias)
    assert (SIGMAS * error + bias < 0.2).all()  # the statement says something


@pytest.mark.parametrize("name", QUADRATIC)
def test_training_ends_at_the_closed_form(name):
    make, num_data, expected = QUADRATIC[name]
    _assert_optimum(_minimise(make(), {"k": torch.tensor(0.8).double()}, num_data, 1), [expected])


@pytest.mark.parametrize("name", CONVEX)
def test_training_on_ratios_ends_at_the_closed_form(name):
    make, expected = CONVEX[name]
    start = {"k": torch.tensor(0.8).double(), "c": torch.tensor(2.0).double()}
    found = _minimise(make(), {name: start[name] for name in expected}, 1000, 7)
    _assert_optimum(found, [expected[name] for name in sorted(expected)])
