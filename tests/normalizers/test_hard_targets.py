"""log Z of a funnel, of forty modes and of eight schools, by SMC and escorted annealing: right, with error bars that hold."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from funcebm import energies, normalizers, random, samplers

CENTRES = 80 * (random.uniform(random.key(7), (40, 2), dtype=torch.float64) - 0.5)
EFFECTS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]).double()
ERRORS = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]).double()


class Target(NamedTuple):
    """An energy, its log normalizer, and the normal reference ``(mean, standard deviations)`` and the settings for it.

    Escorted annealing may have deviations of its own.
    """

    energy: Any
    log_z: float
    mean: Tensor
    deviations: Tensor
    smc: dict[str, Any]
    escorted: dict[str, Any]
    of_escorted: Tensor | None = None


def funnel(params, x):
    """Neal's with four numbers, normalised: v of standard deviation 1.5, the others of variance exp(v)."""
    v, rest = x[0], x[1:]
    constants = 2 * math.log(2 * math.pi) + math.log(1.5)
    return (v / 1.5) ** 2 / 2 + (rest**2).sum() * torch.exp(-v) / 2 + 1.5 * v + constants


def forty(params, x):
    """Narrow Gaussians of standard deviation 1.3 and even weights in a square of 80 by 80, normalised."""
    near = -((x - CENTRES.to(x)) ** 2).sum(1) / (2 * 1.3**2)
    return -torch.logsumexp(near, 0) + math.log(40 * 2 * math.pi * 1.3**2)


def schools(params, x):
    """Rubin's eight schools, non-centred: mean, log of the scale, and eight standard normals; all constants kept."""
    mean, log_scale, z = x[0], x[1], x[2:]
    scale = torch.exp(log_scale)
    prior = (mean / 5) ** 2 / 2 + torch.log1p((scale / 5) ** 2) - log_scale + (z**2).sum() / 2
    constants = 4.5 * math.log(2 * math.pi) + math.log(5) + math.log(5 * math.pi / 2)
    errors = ERRORS.to(x)
    likelihood = (((EFFECTS.to(x) - mean - scale * z) / errors) ** 2).sum() / 2 + errors.log().sum()
    return prior + constants + likelihood + 4 * math.log(2 * math.pi)


def evidence_of_schools() -> float:
    """The effects and the mean integrate out; the scale goes by quadrature."""
    log_scale = torch.linspace(-14, 8, 8001, dtype=torch.float64)
    scale = log_scale.exp()
    covariance = torch.diag_embed(ERRORS**2 + scale[:, None] ** 2) + 25.0
    normal = torch.distributions.MultivariateNormal(torch.zeros(8).double(), covariance)
    log_prior = math.log(2 / (5 * math.pi)) - torch.log1p((scale / 5) ** 2) + log_scale
    return float(torch.log(torch.trapezoid(torch.exp(normal.log_prob(EFFECTS) + log_prior), log_scale)))


def of_three_sizes(energy):
    """Moves for the neck, the middle and the mouth of a funnel, where no single step size serves."""
    return samplers.cycle(*(samplers.random_walk(energy, step_size=size) for size in (2.0, 0.7, 0.2)))


def widening(params, t, x):
    """The control under which the three numbers keep, given v, their distribution along the sigmoid path from N(0, 1)."""
    curve, low = torch.sigmoid(4 * (2 * t - 1)), 1 / (1 + math.exp(4))
    beta, speed = (curve - low) / (1 - 2 * low), 8 * curve * (1 - curve) / (1 - 2 * low)
    precision = torch.exp(-x[0])
    return torch.cat([torch.zeros_like(x[:1]), speed / 2 * (1 - precision) / (1 - beta + beta * precision) * x[1:]])


ONES = torch.ones(10).double()
TARGETS = {
    "funnel": Target(
        funnel,
        0.0,
        torch.zeros(4).double(),
        torch.tensor([1.5, 4.0, 4.0, 4.0]).double(),
        {"num_particles": 1024, "num_moves": 6, "threshold": 0.8, "sampler": of_three_sizes},
        {"num_steps": 100, "diffusion": 0.3, "schedule": "sigmoid", "control": widening},
        torch.tensor([1.5, 1.0, 1.0, 1.0]).double(),
    ),
    "forty_modes": Target(
        forty,
        0.0,
        torch.zeros(2).double(),
        torch.full((2,), 30.0).double(),
        {"num_particles": 1024, "num_moves": 4},
        {"num_steps": 400, "diffusion": 100.0, "schedule": "sigmoid"},
    ),
    "eight_schools": Target(
        schools,
        evidence_of_schools(),
        torch.cat([torch.tensor([4.0, 1.0]), torch.zeros(8)]).double(),
        torch.cat([torch.tensor([4.0, 1.5]).double(), ONES[:8]]),
        {"num_particles": 512, "num_moves": 4},
        {"num_steps": 60, "diffusion": 2.0},
    ),
}


def reference_of(target: Target, deviations: Tensor) -> dict[str, Any]:
    params = energies.gaussian.params(target.mean, torch.diag(deviations**2))
    return {"reference": energies.gaussian, "reference_params": params}


def by_smc(target: Target, num: int) -> tuple[Tensor, Tensor]:
    """Estimates and error bars of independent runs."""
    runs = [
        normalizers.sequential_monte_carlo(
            random.key(seed), target.energy, (), **reference_of(target, target.deviations), **target.smc, jit=False
        )
        for seed in range(num)
    ]
    return torch.stack([run.log_normalizer for run in runs]), torch.stack([run.standard_error for run in runs])


def by_escorted_annealing(target: Target, num: int, num_particles: int = 250) -> tuple[Tensor, Tensor]:
    """The same: particles never meet, so that one long run is many short ones."""
    deviations = target.deviations if target.of_escorted is None else target.of_escorted
    run = normalizers.escorted_annealing(
        random.key(0),
        target.energy,
        (),
        **reference_of(target, deviations),
        **target.escorted,
        num_particles=num * num_particles,
        jit=False,
    )
    log_z0 = len(target.mean) * math.log(2 * math.pi) / 2 + float(deviations.log().sum())
    log_weights = log_z0 + run.log_weights.reshape(num, num_particles)
    found = [normalizers.annealed_importance.log_mean_exp(row) for row in log_weights]
    return torch.stack([value for value, _, _ in found]), torch.stack([error for _, error, _ in found])


METHODS = {"smc": by_smc, "escorted": by_escorted_annealing}


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("method", METHODS)
def test_log_z_is_within_three_error_bars(method, name):
    target = TARGETS[name]
    value, error = (part[0] for part in METHODS[method](target, 1))
    assert float(error) < 0.3
    assert abs(float(value) - target.log_z) < 3 * float(error), (float(value), target.log_z, float(error))


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("method", METHODS)
def test_error_bars_of_forty_repetitions_are_calibrated(method, name):
    """Nearly all runs are within three error bars, which are as long as the spread; and there is no bias over all."""
    target = TARGETS[name]
    values, errors = METHODS[method](target, 40)
    ratios = (values - target.log_z) / errors
    assert int((ratios.abs() < 3).sum()) >= 38
    assert 0.5 < float(values.std() / errors.square().mean().sqrt()) < 1.6
    assert abs(float((values - target.log_z).mean())) < 5 * float(values.std()) / math.sqrt(40)
