"""Known posteriors, by NUTS and ``warm_up``, compiled: within four Monte Carlo standard errors, and no draw diverges.

All run with default settings, with which eight schools diverge in 2 of 320,000 draws; see ``adaptation.default``.
"""

from __future__ import annotations

import math

import pytest
import torch

import funcebm as ebm
from funcebm import diagnostics, random, samplers, tree

pytestmark = pytest.mark.compiled  # eager trajectories take too long here

NUM_CHAINS = 4


def _posterior(energy, params, like, num_samples=2_000):
    """Draws of ``(C, N, ...)``, whose diagnostics must be good."""
    leaves, structure = tree.flatten(like)
    keys = random.split(random.key(1), len(leaves))
    starts = [0.5 * random.normal(key, (NUM_CHAINS, *leaf.shape)) for key, leaf in zip(keys, leaves, strict=True)]
    sampler = samplers.nuts(energy)
    starts = tree.unflatten(structure, starts)
    warm = ebm.warm_up(random.key(2), sampler, params, starts, num_steps=1_000, jit=True)
    options = {"num_samples": num_samples, "tuning": warm.tuning, "jit": True}
    samples = ebm.sample(random.key(3), sampler, params, warm.positions, **options)
    assert not samples.info.is_divergent.any()
    found = diagnostics.summary(samples)
    assert float(found.rhat.max()) < 1.01
    assert float(found.ess_bulk.min()) > 400
    assert float(found.ess_tail.min()) > 400
    return samples.draws


def _assert_mean(draws, expected, error=0.0):
    """The mean over chains and draws, within four standard errors of its own and of the reference."""
    expected = torch.as_tensor(expected, dtype=torch.float64)
    error = torch.sqrt(diagnostics.mcse_mean(draws) ** 2 + torch.as_tensor(error, dtype=torch.float64) ** 2)
    distance = (draws.double().mean((0, 1)) - expected).abs() / error
    assert float(distance.max()) < 4, f"{float(distance.max()):.1f} standard errors off"


# -- eight schools, non-centred (Rubin 1981); the school effects integrate out, and two numbers go by quadrature ----------

EFFECTS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def eight_schools(params, x):
    mean, log_scale, z = x["mean"], x["log_scale"], x["z"]
    scale = torch.exp(log_scale)
    prior = (mean / 5) ** 2 / 2 + torch.log1p((scale / 5) ** 2) - log_scale + (z**2).sum() / 2
    return prior + (((params - mean - scale * z) / ERRORS.to(z)) ** 2).sum() / 2


def _exact_schools():
    """Means of ``(mean, scale, mean^2)`` under normal(0, 5) and half-Cauchy(0, 5) priors."""
    log_scale = torch.linspace(-12, 6, 4001, dtype=torch.float64)
    scale = log_scale.exp()
    variance = ERRORS.double() ** 2 + scale[:, None] ** 2
    precision = 1 / 25 + (1 / variance).sum(1)
    centre = (EFFECTS.double() / variance).sum(1) / precision
    log_weight = -0.5 * (variance.log().sum(1) + (EFFECTS.double() ** 2 / variance).sum(1) - precision * centre**2)
    log_weight = log_weight - 0.5 * precision.log() - torch.log1p((scale / 5) ** 2) + log_scale
    weight = torch.softmax(log_weight, 0)
    return [float((weight * value).sum()) for value in (centre, scale, centre**2 + 1 / precision)]


# the means of theta_1 ... theta_8, mean and scale, and their errors, that posteriordb publishes for eight_schools_noncentered:
# long runs of Stan
PUBLISHED = [
    6.15050229,
    4.93958114,
    3.90590609,
    4.79601675,
    3.61443632,
    4.05114758,
    6.31716976,
    4.88399694,
    4.41051834,
    3.60205952,
]
PUBLISHED_ERRORS = [
    0.0557375,
    0.0462294,
    0.0542314,
    0.0474936,
    0.0461451,
    0.0485195,
    0.0498767,
    0.0542512,
    0.0330375,
    0.0318615,
]


def test_eight_schools():
    like = {"mean": torch.zeros(()), "log_scale": torch.zeros(()), "z": torch.zeros(8)}
    draws = _posterior(eight_schools, EFFECTS, like, num_samples=4_000)
    mean, scale, second = _exact_schools()
    _assert_mean(draws["mean"], mean)
    _assert_mean(draws["log_scale"].exp(), scale)
    _assert_mean(draws["mean"] ** 2, second)
    both = torch.stack([draws["mean"], draws["log_scale"].exp()], -1)
    effects = both[..., :1] + both[..., 1:] * draws["z"]
    _assert_mean(torch.cat([effects, both], -1), PUBLISHED, PUBLISHED_ERRORS)
    errors = torch.tensor(PUBLISHED_ERRORS[-2:])
    assert bool(((torch.tensor([mean, scale]) - torch.tensor(PUBLISHED[-2:])).abs() < 4 * errors).all())


# -- logistic regression on the breast cancer data of scikit-learn: 24 standardised columns and an intercept -------------

# 64,000 draws of BlackJAX 1.7.1's NUTS in float64 (R-hat 1.0005, bulk ESS above 78,000): means, and their standard errors
REFERENCE = [
    0.14728, -0.08205, -0.01663, -0.08377, -0.25866, -0.66662, 0.15198, -1.76695, -1.21676, -0.64510, -0.11825, -1.03746,
    1.20966, -0.45472, -0.88513, -0.29938, 0.32005, 0.05395, -0.09486, 0.13742, 0.89980, -1.45362, -2.39182, -1.36658,
    -1.36494,
]  # fmt: skip
REFERENCE_ERROR = [
    0.00127, 0.00282, 0.00169, 0.00299, 0.00298, 0.00161, 0.00235, 0.00248, 0.00259, 0.00133, 0.00189, 0.00246, 0.00147,
    0.00255, 0.00304, 0.00133, 0.00183, 0.00198, 0.00194, 0.00126, 0.00203, 0.00296, 0.00202, 0.00293, 0.00303,
]  # fmt: skip
REFERENCE_SD = [
    0.37238, 0.87777, 0.51150, 0.88973, 0.89906, 0.49147, 0.72566, 0.74775, 0.78528, 0.39931, 0.57370, 0.75629, 0.44353,
    0.76395, 0.91251, 0.37282, 0.53945, 0.55407, 0.57220, 0.38727, 0.58638, 0.90442, 0.58872, 0.89894, 0.92155,
]  # fmt: skip


def logistic(params, x):
    columns, labels = params
    logits = columns @ x
    return (torch.nn.functional.softplus(logits) - labels * logits).sum() + (x**2).sum() / 2


def test_logistic_regression():
    data = pytest.importorskip("sklearn.datasets").load_breast_cancer()
    columns = torch.tensor(data.data[:, :24])
    columns = (columns - columns.mean(0)) / columns.std(0, unbiased=False)
    columns = torch.cat([torch.ones(len(columns), 1), columns], 1).float()
    draws = _posterior(logistic, (columns, torch.tensor(data.target).float()), torch.zeros(25))
    _assert_mean(draws, REFERENCE, REFERENCE_ERROR)
    sd = torch.tensor(REFERENCE_SD, dtype=torch.float64)
    distance = (draws.double().flatten(0, 1).std(0) - sd).abs() / diagnostics.mcse_sd(draws)
    assert float(distance.max()) < 4.5  # the reference's own error is a quarter of ours


# -- closed forms --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_gaussian_of_condition_number_ten_thousand():
    variances = torch.logspace(-2, 2, 100)
    draws = _posterior(lambda params, x: (x**2 / params).sum() / 2, variances, torch.zeros(100))
    _assert_mean(draws, torch.zeros(100))
    _assert_mean(draws**2 / variances, torch.ones(100))


@pytest.mark.slow
def test_banana():
    """``x ~ N(0, 1)``, ``y ~ N(b (x^2 - 1), 1)``: uncorrelated, and not independent."""
    bend = 0.5

    def banana(params, x):
        return x[0] ** 2 / 2 + (x[1] - params * (x[0] ** 2 - 1)) ** 2 / 2

    draws = _posterior(banana, torch.tensor(bend), torch.zeros(2))
    x, y = draws[..., 0], draws[..., 1]
    moments = torch.stack([x, x**2, y, y**2, x * y, x**2 * y], -1)
    _assert_mean(moments, [0.0, 1.0, 0.0, 1 + 2 * bend**2, 0.0, 2 * bend])
    assert math.isclose(float((y - bend * (x**2 - 1)).var()), 1.0, rel_tol=0.1)
