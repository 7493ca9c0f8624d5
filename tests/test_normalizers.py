"""Annealed importance sampling: unbiased weights, a sandwich around the truth, and an error bar that covers it."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.func import vmap

from funcebm import energies, normalizers, random, samplers, tree
from funcebm.normalizers._path import AnnealedPath
from tests.distributions import SIGMAS, assert_mean
from tests.helpers import compiles_nothing

NUM = 4000
START = energies.gaussian.params(torch.zeros(2, dtype=torch.float64), [[2.0, 0.3], [0.3, 1.5]])
TARGETS = {
    "gaussian": (energies.gaussian, energies.gaussian.params([0.7, -0.4], [[0.5, 0.2], [0.2, 0.9]])),
    "mixture": (
        energies.gaussian_mixture,
        energies.gaussian_mixture.params([[-1.0, 0.0], [1.0, 0.5]], 0.7, weights=[0.3, 0.7]),
    ),
}
TARGETS = {name: (energy, tree.map(torch.Tensor.double, params)) for name, (energy, params) in TARGETS.items()}
SETTINGS = {"reference": energies.gaussian, "reference_params": START, "jit": False}


def _hmc(energy):
    return samplers.hmc(energy, step_size=0.3, num_leapfrog=3)


def _forwards(name, num_temperatures=6, num=NUM, **settings):
    energy, params = TARGETS[name]
    settings = {**SETTINGS, "num_particles": num, "num_temperatures": num_temperatures, **settings}
    return normalizers.annealed_importance_sampling(random.key(3), energy, params, **settings)


def _backwards(name, num_temperatures=6, num=NUM, **settings):
    energy, params = TARGETS[name]
    positions = energy.sample(random.key(7), params, num)
    settings = {**SETTINGS, "num_temperatures": num_temperatures, **settings}
    return normalizers.reverse_annealed_importance_sampling(random.key(4), energy, params, positions, **settings)


def _log_ratio(name):
    energy, params = TARGETS[name]
    return energy.log_normalizer(params) - energies.gaussian.log_normalizer(START)


@pytest.mark.parametrize("sampler", [None, _hmc], ids=["mala", "hmc"])
@pytest.mark.parametrize("name", TARGETS)
def test_weights_are_unbiased_both_ways_and_make_a_sandwich(name, sampler):
    log_ratio = _log_ratio(name)
    forwards, backwards = _forwards(name, sampler=sampler), _backwards(name, sampler=sampler)
    assert_mean(torch.exp(forwards.log_weights - log_ratio), 1.0)
    assert_mean(torch.exp(backwards.log_weights + log_ratio), 1.0)
    # groups of five particles: the mean of their estimates lies below, and in reverse above
    groups = [vmap(normalizers.log_mean_exp)(run.log_weights.reshape(-1, 5))[0] for run in (forwards, backwards)]
    for error, sign in ((groups[0] - log_ratio, -1), (-groups[1] - log_ratio, 1)):
        assert float(sign * error.mean()) > 0
        assert abs(float(error.mean())) < 1
    for run in (forwards, backwards):
        truth = log_ratio + energies.gaussian.log_normalizer(START)
        assert abs(float(run.log_normalizer - truth)) < SIGMAS * float(run.standard_error)


@pytest.mark.parametrize("is_forwards", [True, False])
def test_the_error_bar_covers_the_truth(is_forwards):
    num_groups = 160
    run = (_forwards if is_forwards else _backwards)("mixture", 20, 50 * num_groups)
    value, error, _ = vmap(normalizers.log_mean_exp)(run.log_weights.reshape(num_groups, 50))
    distance = (value - (1 if is_forwards else -1) * _log_ratio("mixture")).abs()
    covered = float((distance < 1.96 * error).double().mean())
    assert abs(covered - 0.95) < SIGMAS * (0.95 * 0.05 / num_groups) ** 0.5
    # its mean square is the variance between groups, whose relative standard error is sqrt(2 / num_groups)
    assert abs(math.log(float(error.square().mean() / value.var()))) < SIGMAS * (2 / num_groups) ** 0.5


def test_particles_with_weights_are_draws_of_the_target():
    run = _forwards("gaussian", 20)
    weights = torch.softmax(run.log_weights, 0)
    params = TARGETS["gaussian"][1]
    variance = torch.linalg.inv(params["precision"]).diagonal()
    mean = weights @ run.positions
    assert bool(((mean - params["mean"]).abs() < SIGMAS * (variance / run.effective_sample_size).sqrt()).all())
    assert 0.5 * NUM < float(run.effective_sample_size) <= NUM


def test_more_temperatures_less_variance():
    # on a fine path the variance of log weights falls as one over the number of steps
    few, many = (float(_forwards("mixture", num, 1000).standard_error) for num in (10, 90))
    assert 2 < few / many < 4.5


def test_one_temperature_is_importance_sampling():
    energy, params = TARGETS["mixture"]
    run = _forwards("mixture", 1, 50)
    start = energies.gaussian.sample(random.split(random.key(3), 3)[0], START, 50)
    expected = vmap(energies.gaussian, (None, 0))(START, start) - vmap(energy, (None, 0))(params, start)
    torch.testing.assert_close(run.log_weights, expected)
    assert run.acceptance_rate.shape == (1,)


def test_the_path_by_hand():
    """Three temperatures of a kernel without a step size to tune, particle by particle."""
    betas = [0.0, 0.2, 0.7, 1.0]
    energy, params = TARGETS["gaussian"]

    def descent(energy):
        return samplers.gradient_descent(energy, step_size=0.1)

    run = _forwards("gaussian", schedule=betas, sampler=descent, num=4)
    x = energies.gaussian.sample(random.split(random.key(3), 3)[0], START, 4)
    log_weights = torch.zeros(4, dtype=torch.float64)
    for low, high in itertools.pairwise(betas):
        difference = [energies.gaussian(START, row) - energy(params, row) for row in x]
        log_weights = log_weights + (high - low) * torch.stack(difference)
        path = lambda row: (1 - high) * energies.gaussian(START, row) + high * energy(params, row)  # noqa: E731, B023
        x = torch.stack([row - 0.1 * torch.func.grad(path)(row) for row in x])
    torch.testing.assert_close(run.log_weights, log_weights)
    torch.testing.assert_close(run.positions, x)

    start = energy.sample(random.key(7), params, 4)
    run = _backwards("gaussian", schedule=betas, sampler=descent, num=4)
    x, log_weights = start, torch.zeros(4, dtype=torch.float64)
    for low, high in zip(betas[-2::-1], betas[:0:-1], strict=True):
        path = lambda row: (1 - high) * energies.gaussian(START, row) + high * energy(params, row)  # noqa: E731, B023
        x = torch.stack([row - 0.1 * torch.func.grad(path)(row) for row in x])
        difference = [energies.gaussian(START, row) - energy(params, row) for row in x]
        log_weights = log_weights - (high - low) * torch.stack(difference)
    torch.testing.assert_close(run.log_weights, log_weights)


@pytest.mark.parametrize("step_size", [0.01, 30.0])
def test_the_pilot_finds_step_sizes_all_along_the_path(step_size, monkeypatch):
    """The pilot adds ``2 (rate - target)`` to the log step size: its mean rate is the target plus half the mean increase, which
    nowhere is more than that of the scales of the path. The run has the rates of the pilot."""
    walks, drive = [], AnnealedPath.drive
    monkeypatch.setattr(AnnealedPath, "drive", lambda *given: walks.append(drive(*given)) or walks[-1])
    run = normalizers.annealed_importance_sampling(
        random.key(3),
        energies.gaussian,
        energies.gaussian.params(torch.zeros(2, dtype=torch.float64), [[0.02, 0.0], [0.0, 0.02]]),
        num_particles=100,
        num_temperatures=100,
        sampler=lambda energy: samplers.mala(energy, step_size=step_size),
        **SETTINGS,
    )
    (_, rates, log_sizes), _ = walks
    rates, log_sizes = rates[-64:], log_sizes[-64:]  # without the steps at the first temperature
    torch.testing.assert_close(log_sizes.diff(), 2 * (rates - 0.574)[:-1])
    log_sizes = torch.cat([log_sizes, log_sizes[-1:] + 2 * (rates[-1:] - 0.574)])
    for quarter, part in enumerate(run.acceptance_rate.split(25)):
        before, after = log_sizes[16 * quarter], log_sizes[16 * quarter + 16]
        assert abs(after - before) < math.log(50) + SIGMAS * part.std()
        error = part.std() * (1 / 16 + 1 / 25) ** 0.5
        assert abs(float(part.mean()) - 0.574 - float(after - before) / 32) < SIGMAS * error


def test_trees_and_chunks(monkeypatch):
    def energy(params, x):
        return params["k"] * (x["a"] ** 2).sum() / 2 + (x["b"] ** 2).sum()

    def sample(key, params, num):
        keys = random.split(key)
        return {"a": random.normal(keys[0], (num, 3)), "b": random.normal(keys[1], (num,)) * math.sqrt(0.5)}

    def reference(params, x):
        return (x["a"] ** 2).sum() / 2 + x["b"] ** 2

    reference.sample, reference.log_normalizer = (
        sample,
        lambda params: torch.tensor(2 * math.log(math.pi) + 1.5 * math.log(2)),
    )
    settings = {"reference": reference, "reference_params": {"c": torch.zeros(())}, "num_temperatures": 9, "jit": False}
    run = normalizers.annealed_importance_sampling(
        random.key(0), energy, {"k": torch.tensor(2.0)}, num_particles=300, **settings
    )
    truth = settings["reference"].log_normalizer(()) - 1.5 * math.log(2)
    assert abs(float(run.log_normalizer - truth)) < SIGMAS * float(run.standard_error)
    monkeypatch.setattr("funcebm._chunks._BYTES", 4 * 300 * 16 * 2)
    again = normalizers.annealed_importance_sampling(
        random.key(0), energy, {"k": torch.tensor(2.0)}, num_particles=300, **settings
    )
    assert torch.allclose(run.log_weights, again.log_weights, rtol=1e-4, atol=1e-5)


@pytest.mark.compiled
def test_compiled_is_eager_and_other_temperatures_compile_nothing():
    eager, compiled = (_forwards("mixture", 70, 64, jit=jit) for jit in (False, True))
    with compiles_nothing():
        _forwards("mixture", 50, 64, jit=True)
    torch.testing.assert_close(compiled.log_weights, eager.log_weights, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(compiled.positions, eager.positions, rtol=1e-6, atol=1e-6)


def test_log_mean_exp():
    log_weights = random.normal(random.key(0), (12,), dtype=torch.float64) + 700.0
    value, error, size = normalizers.log_mean_exp(log_weights)
    weights = torch.exp(log_weights - 700)
    torch.testing.assert_close(value, weights.mean().log() + 700)
    left_out = torch.stack([torch.cat([weights[:i], weights[i + 1 :]]).mean().log() for i in range(12)])
    torch.testing.assert_close(error, (11 / 12 * (left_out - left_out.mean()).square().sum()).sqrt())
    torch.testing.assert_close(size, weights.sum() ** 2 / weights.square().sum())
    assert float(normalizers.log_mean_exp(torch.tensor([0.0, -200.0, -200.0]))[1]) == math.inf


@pytest.mark.parametrize("schedule", ["sigmoid", "linear", [0.0, 0.5, 1.0]])
def test_temperatures(schedule):
    from funcebm.normalizers._path import inverse_temperatures

    betas = inverse_temperatures(schedule, 2)
    assert betas.tolist() == pytest.approx([0.0, 0.5, 1.0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_particles": 1}, "num_particles must be an integer of at least 2"),
        ({"num_temperatures": 0}, "num_temperatures must be an integer of at least 1"),
        ({"schedule": "cosine"}, "schedule must be"),
        ({"schedule": [0.0, 0.6, 0.5, 1.0]}, "schedule must increase strictly"),
        ({"schedule": [0.1, 1.0]}, "from 0 to 1"),
        (
            {"reference": energies.himmelblau, "reference_params": ()},
            "reference must have an exact log_normalizer and sample",
        ),
        ({"sampler": lambda energy: energy}, "sampler must make a sampler"),
    ],
)
def test_bad_arguments_are_refused_at_the_door(change, words):
    energy, params = TARGETS["gaussian"]
    with pytest.raises((ValueError, TypeError), match=words):
        normalizers.annealed_importance_sampling(
            random.key(0), energy, params, **{**SETTINGS, "num_particles": 4, "num_temperatures": 2, **change}
        )
