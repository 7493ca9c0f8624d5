"""Langevin and MALA with a preconditioner, Barker and the random walk: against NumPy, and against their theorems."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov
from tests.distributions import assert_covariance, assert_mean, assert_uniform
from torch.func import vmap

import funcebm as ebm
from funcebm import metrics, random, samplers, tree

P = np.array([[0.9, 0.2, 0.0], [0.2, 0.5, -0.1], [0.0, -0.1, 0.7]])
FORMS = {
    "none": (None, np.eye(3)),
    "number": (0.5, 0.5 * np.eye(3)),
    "diagonal": (torch.tensor([0.5, 1.0, 2.0]), np.diag([0.5, 1.0, 2.0])),
    "dense": (torch.tensor(P), P),
}
forms = pytest.mark.parametrize("form", list(FORMS))
temperatures = pytest.mark.parametrize("temperature", [1.0, 0.5])


def _energy(params, x):
    return params * (x**2).sum() / 2 + 0.2 * (x**4).sum() + torch.sin(x[0] + 2 * x[1])


def _energy_np(k, x):
    return k * (x**2).sum() / 2 + 0.2 * (x**4).sum() + np.sin(x[0] + 2 * x[1])


def _gradient_np(k, x):
    return k * x + 0.8 * x**3 + np.cos(x[0] + 2 * x[1]) * np.array([1.0, 2.0, 0.0])


def _steps(sampler, num=12):
    """Positions, infos and noises of a float64 chain, with the root of the preconditioner that the library chose."""
    params = torch.tensor(1.3, dtype=torch.float64)
    sampler = sampler._replace(tuning=tree.map(torch.Tensor.double, sampler.tuning))
    root = torch.stack([metrics.displacement(sampler.tuning.metric, unit) for unit in torch.eye(3).double()], 1).numpy()
    state = sampler.init(params, torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64))
    for i in range(num):
        noise = sampler.draw(random.fold_in(random.key(7), i), state.position)
        after, info = sampler.step(params, sampler.tuning, state, noise)
        yield state.position.numpy(), tree.map(torch.Tensor.numpy, noise), after.position.numpy(), info, root
        state = after


def _agree(steps, transcription):
    accepted = 0
    for x, noise, y, info, root in steps:
        position, rate = transcription(x, noise, root)
        np.testing.assert_allclose(y, position, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(float(info.acceptance_rate), rate, rtol=1e-9, atol=1e-12)
        accepted += bool(info.is_accepted)
    return accepted


@forms
def test_langevin_is_its_definition(form):
    preconditioner, matrix = FORMS[form]
    sampler = samplers.langevin(_energy, step_size=0.125, preconditioner=preconditioner, temperature=2.0)
    for x, noise, y, _, root in _steps(sampler):
        np.testing.assert_allclose(root @ root.T, matrix, rtol=1e-7, atol=1e-12)
        expected = x - 0.125 * matrix @ _gradient_np(1.3, x) + np.sqrt(0.5) * root @ noise
        np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-10)


@forms
@temperatures
def test_mala_is_its_definition(form, temperature):
    """The ratio with the densities of the proposal written out: ``q(y | x) = N(x - h P grad E(x), 2 h T P)``."""
    preconditioner, matrix = FORMS[form]
    h = 0.25

    def transcription(x, noise, root):
        def log_q(a, b):
            error = b - a + h * matrix @ _gradient_np(1.3, a)
            return -error @ np.linalg.solve(matrix, error) / (4 * h * temperature)

        y = x - h * matrix @ _gradient_np(1.3, x) + np.sqrt(2 * h * temperature) * root @ noise.normal
        ratio = (_energy_np(1.3, x) - _energy_np(1.3, y)) / temperature + log_q(y, x) - log_q(x, y)
        return (y if np.log(noise.uniform) < ratio else x), min(1.0, np.exp(ratio))

    sampler = samplers.mala(_energy, step_size=h, preconditioner=preconditioner, temperature=temperature)
    assert _agree(_steps(sampler), transcription) > 0


@forms
@temperatures
def test_barker_is_its_definition(form, temperature):
    """Livingstone and Zanella's algorithm for ``A^-1 x``, coordinate by coordinate."""
    preconditioner, h = FORMS[form][0], 0.75

    def transcription(x, noise, root):
        score = lambda x: -root.T @ _gradient_np(1.3, x) / temperature  # noqa: E731
        z = h * noise.normal
        b = np.where(noise.sign < 1 / (1 + np.exp(-z * score(x))), 1, -1)
        y = x + root @ (b * z)
        back = np.log1p(np.exp(-b * z * score(x))) - np.log1p(np.exp(b * z * score(y)))
        ratio = (_energy_np(1.3, x) - _energy_np(1.3, y)) / temperature + back.sum()
        return (y if np.log(noise.uniform) < ratio else x), min(1.0, np.exp(ratio))

    sampler = samplers.barker(_energy, step_size=h, preconditioner=preconditioner, temperature=temperature)
    assert 0 < _agree(_steps(sampler), transcription) < 12


@forms
@temperatures
def test_the_random_walk_is_its_definition(form, temperature):
    def transcription(x, noise, root):
        y = x + 0.5 * root @ noise.increment
        ratio = (_energy_np(1.3, x) - _energy_np(1.3, y)) / temperature
        return (y if np.log(noise.uniform) < ratio else x), min(1.0, np.exp(ratio))

    sampler = samplers.random_walk(_energy, step_size=0.5, preconditioner=FORMS[form][0], temperature=temperature)
    assert 0 < _agree(_steps(sampler), transcription) < 12


@forms
def test_preconditioned_langevin_on_a_gaussian_has_the_stationary_law_of_its_recursion(form):
    """``S = F S F^T + 2 h T P`` with ``F = I - h P K``; where ``P K = K P = k P`` that is ``T / (k (1 - h P k / 2))``."""
    preconditioner, matrix = FORMS[form]
    stiffness = np.array([[1.0, 0.3, 0.0], [0.3, 0.8, -0.2], [0.0, -0.2, 1.2]])
    h, temperature = 0.6, 1.5
    forward = np.eye(3) - h * matrix @ stiffness
    stationary = torch.as_tensor(solve_discrete_lyapunov(forward, 2 * h * temperature * matrix))
    start = random.normal(random.key(1), (16000, 3), dtype=torch.float64) @ torch.linalg.cholesky(stationary).mT
    options = {"step_size": h, "preconditioner": preconditioner, "temperature": temperature}
    sampler = samplers.langevin(lambda k, x: x @ k @ x / 2, **options)
    options = {"num_samples": 1, "thin": 3, "jit": False}
    draws = ebm.sample(random.key(2), sampler, torch.as_tensor(stiffness), start, **options).draws[:, 0]
    assert_mean(draws, 0.0)
    assert_covariance(draws, stationary)


# -- Barker -------------------------------------------------------------------------------------------------------


def test_the_signs_of_barker_are_the_balance_of_a_linear_energy():
    """On ``E = s x`` the ratio is ``e^{-s d} sigma(s d) / sigma(-s d) = 1``: every proposal is accepted."""
    sampler = samplers.barker(lambda params, x: (params * x).sum(), step_size=2.0)
    slope = torch.tensor([1.0, -3.0, 0.2], dtype=torch.float64)
    start = torch.zeros(500, 3, dtype=torch.float64)
    samples = ebm.sample(random.key(0), sampler, slope, start, num_samples=1, jit=False)
    torch.testing.assert_close(samples.info.acceptance_rate, torch.ones(500, 1).double())
    moves = samples.draws[:, 0]
    downhill = torch.sigmoid(2 * slope.abs() * random.normal(random.key(1), (500, 3), dtype=torch.float64).abs())
    assert_mean((moves * slope < 0).double() - downhill, 0.0)  # the chance of a step down is sigma(|s z|)


def test_barker_is_robust_where_mala_is_not():
    """A steep slope makes MALA overshoot and reject everything, while a Barker step is never longer than its noise."""
    energy = lambda params, x: ((x / params) ** 2).sum() / 2  # noqa: E731
    scales, start = torch.tensor([0.01, 1.0, 1.0]), torch.tensor([0.05, 1.0, 1.0]).expand(2000, 3).clone()
    rates = [
        ebm.sample(random.key(0), sampler, scales, start, num_samples=1, jit=False).info.acceptance_rate.mean()
        for sampler in (samplers.mala(energy, step_size=0.02), samplers.barker(energy, step_size=0.2))
    ]
    assert float(rates[0]) < 1e-6
    assert float(rates[1]) > 0.02


# -- random walk --------------------------------------------------------------------------------------------------


def _steps_and_kinks(params, x):
    """Minus the log density of a Laplace variable cut into steps, which no gradient would tell of; NaN beyond 4."""
    return torch.where(x.abs() < 4, torch.floor(2 * x.detach().abs()).sum() / 2, torch.nan)


def test_the_random_walk_needs_no_gradient(monkeypatch):
    for name in ("grad", "grad_and_value", "vjp", "jacrev"):
        monkeypatch.delattr(torch.func, name)
    cells = torch.arange(-8, 8)
    weights = torch.exp(-torch.floor((cells + 0.5).abs()) / 2)
    key_cell, key_inside = random.split(random.key(1))
    start = (random.categorical(key_cell, weights.log(), (20000,)) - 8 + random.uniform(key_inside, (20000,))) / 2
    sampler = samplers.random_walk(_steps_and_kinks, step_size=2.0)
    options = {"num_samples": 1, "thin": 4, "jit": False}
    samples = ebm.sample(random.key(2), sampler, (), start, **options)
    counts = torch.bincount(torch.floor(2 * samples.draws[:, 0] + 8).long(), minlength=16)
    assert_uniform(counts, weights / weights.sum())
    assert samples.info.num_gradients.max() == 0
    assert samples.info.is_divergent.any()  # proposals beyond the edge


def test_any_symmetric_proposal_will_do():
    """Signs: a walk on the integers, in detailed balance with ``exp(-E)``; exact transition frequencies."""
    energies = torch.tensor([0.0, 0.5, 2.0, 0.1, 1.0])
    lookup = lambda params, x: params[(x.detach().round().long() % 5)]  # noqa: E731
    sampler = samplers.random_walk(
        lookup, step_size=1.0, proposal=lambda key, x: random.rademacher(key, tuple(x.shape), dtype=x.dtype)
    )
    probabilities = torch.softmax(-energies, 0)
    start = random.categorical(random.key(1), -energies, (50000,)).float()
    draws = ebm.sample(random.key(2), sampler, energies, start, num_samples=1, jit=False).draws[:, 0]
    assert ((draws - start).abs() <= 1).all()
    before, after = start.long() % 5, draws.long() % 5
    for i in range(5):
        j = (i + 1) % 5
        flow = (((before == i) & (after == j)).double() - ((before == j) & (after == i)).double())[:, None]
        assert_mean(flow, 0.0)
        rate = 0.5 * min(1.0, math.exp(float(energies[i] - energies[j]))) * float(probabilities[i])
        assert_mean(((before == i) & (after == j)).double()[:, None], rate)


@pytest.mark.parametrize(
    ("proposal", "message"),
    [
        (lambda key, x: random.normal(key, (2,)), r"must have the shapes \[\(3,\)\]. Got \[\(2,\)\]"),
        (lambda key, x: {"a": random.normal(key, (3,))}, "tree of the same structure as the position"),
    ],
)
def test_a_proposal_that_is_not_like_the_position_is_an_error(proposal, message):
    sampler = samplers.random_walk(_energy, proposal=proposal)
    with pytest.raises(ValueError, match=message):
        ebm.sample(random.key(0), sampler, torch.tensor(1.0), torch.zeros(4, 3), num_samples=2, jit=False)


# -- the door, and the edge of the support ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mala", "barker", "random_walk"])
def test_a_proposal_outside_is_a_divergence_and_nothing_is_left_at_the_edge(name):
    """``x^1.5`` is NaN below zero; the mean of ``exp(-x^1.5)`` is ``Gamma(4/3) / Gamma(2/3)``."""
    options = {"preconditioner": 0.5, "step_size": {"mala": 0.2, "barker": 0.8, "random_walk": 0.9}[name]}
    sampler = getattr(samplers, name)(lambda params, x: (x**1.5).sum(), **options)
    start = torch.full((2000, 1), 0.7)
    samples = ebm.sample(random.key(0), sampler, (), start, num_samples=1, thin=60, jit=False)
    assert float(samples.draws.min()) > 0
    assert_mean(samples.draws[:, 0], math.gamma(4 / 3) / math.gamma(2 / 3))
    with pytest.raises(ValueError, match=r"Got chains 1\."):
        ebm.sample(random.key(0), sampler, (), torch.tensor([[1.0], [-1.0]]), num_samples=2, jit=False)


@pytest.mark.parametrize("name", ["langevin", "mala", "barker", "random_walk"])
@pytest.mark.parametrize("option", ["step_size", "temperature"])
def test_numbers_that_make_no_sense_are_errors(name, option):
    for wrong in (0.0, -1.0, math.nan, math.inf, torch.tensor(-0.1)):
        with pytest.raises(ValueError, match=f"{option} must be positive"):
            getattr(samplers, name)(_energy, **{option: wrong})


def test_the_hints_for_the_warm_up():
    hints = {"langevin": None, "mala": 0.574, "barker": 0.4, "random_walk": 0.234, "underdamped_langevin": None}
    assert {name: getattr(samplers, name)(_energy).target_acceptance for name in hints} == hints


def test_a_step_costs_what_its_info_says():
    for name, num_gradients in (("barker", 1), ("random_walk", 0), ("underdamped_langevin", 1)):
        calls = []
        sampler = getattr(samplers, name)(lambda params, x: calls.append(x) or (x**2).sum())  # noqa: B023
        state = sampler.init((), torch.ones(2))
        calls.clear()
        _, info = sampler(random.key(0), (), state)
        assert (len(calls), int(info.num_gradients)) == (1, num_gradients)


def test_noise_of_a_tree_is_independent_from_leaf_to_leaf():
    position = {"a": torch.zeros(1), "b": torch.zeros(1)}
    noise = vmap(samplers.barker(_energy).draw, (0, None))(random.split(random.key(0), 20000), position)
    normal, sign = (torch.cat([part["a"], part["b"]], 1) for part in (noise.normal, noise.sign))
    columns = torch.cat([normal, normal**2, sign, noise.uniform[:, None]], 1)  # squares: a sign must not know the size
    assert_covariance(columns, torch.diag(torch.tensor([1, 1, 2, 2, 1 / 12, 1 / 12, 1 / 12])))
