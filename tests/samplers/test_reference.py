"""The samplers against transcriptions in NumPy that are fed the same noise, and against one another."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.func import vmap

from funcebm import random, samplers, tree

D = 3
MATRIX = np.array([[0.9, 0.2, 0.0], [0.2, 0.5, -0.1], [0.0, -0.1, 0.7]])


def _energy(params, x):
    return params * (x**2).sum() / 2 + 0.2 * (x**4).sum() + torch.sin(x[0] + 2 * x[1])


def _energy_np(k, x):
    return k * (x**2).sum() / 2 + 0.2 * (x**4).sum() + np.sin(x[0] + 2 * x[1])


def _gradient_np(k, x):
    return k * x + 0.8 * x**3 + np.cos(x[0] + 2 * x[1]) * np.array([1.0, 2.0, 0.0])


def _mala_np(k, h, T, x, z, u):
    y = x - h * _gradient_np(k, x) + np.sqrt(2 * h * T) * z
    log_q = lambda a, b: -((b - a + h * _gradient_np(k, a)) ** 2).sum() / (4 * h * T)  # noqa: E731
    ratio = (_energy_np(k, x) - _energy_np(k, y)) / T + log_q(y, x) - log_q(x, y)
    return (y if np.log(u) < ratio else x), min(1.0, np.exp(ratio))


def _hmc_np(k, h, T, inverse_mass, p, num_leapfrog, x, u):
    hamiltonian = lambda x, p: _energy_np(k, x) / T + p @ inverse_mass @ p / 2  # noqa: E731
    before, start = hamiltonian(x, p), x
    for _ in range(num_leapfrog):
        p = p - h / 2 * _gradient_np(k, x) / T
        x = x + h * inverse_mass @ p
        p = p - h / 2 * _gradient_np(k, x) / T
    ratio = before - hamiltonian(x, p)
    return (x if np.log(u) < ratio else start), min(1.0, np.exp(ratio))


def _multinomial_np(k, h, T, inverse_mass, p, num_leapfrog, num_backward, x, uniforms):
    """The whole trajectory first, then the choice among its states, by streaming in the order in which they were made."""
    hamiltonian = lambda x, p: _energy_np(k, x) / T + p @ inverse_mass @ p / 2  # noqa: E731
    start, states = (x, p), [(x, p)]
    for sign, num in ((1, num_leapfrog - num_backward), (-1, num_backward)):
        x, p = start
        for _ in range(num):
            p = p - sign * h / 2 * _gradient_np(k, x) / T
            x = x + sign * h * inverse_mass @ p
            p = p - sign * h / 2 * _gradient_np(k, x) / T
            states.append((x, p))
    weights = np.exp([hamiltonian(*start) - hamiltonian(*state) for state in states])
    chosen = 0
    for i, u in enumerate(uniforms, start=1):
        chosen = i if u < weights[i] / weights[: i + 1].sum() else chosen
    return (states[chosen][0], np.minimum(1, weights[1:]).mean()), chosen


def _ghmc_np(k, h, T, inverse_mass, root, alpha, delta, num_leapfrog, x, z, u, xi):
    """``root`` takes white momenta to ``p``; the state after is ``(x, z, u)``, and beside it the rate."""
    energy = lambda x, z: _energy_np(k, x) / T + z @ z / 2  # noqa: E731
    z = np.sqrt(1 - alpha) * z + np.sqrt(alpha) * xi
    u = (u + 1 + delta) % 2 - 1
    y, p = x, root @ z
    for _ in range(num_leapfrog):
        p = p - h / 2 * _gradient_np(k, y) / T
        y = y + h * inverse_mass @ p
        p = p - h / 2 * _gradient_np(k, y) / T
    end = np.linalg.solve(root, p)
    ratio = energy(x, z) - energy(y, end)
    after = (y, end, u * np.exp(-ratio)) if np.log(abs(u)) <= ratio else (x, -z, u)
    return after, min(1.0, np.exp(ratio))


def _steps(sampler, num=12):
    """Positions, infos and noises of a float64 chain."""
    params = torch.tensor(1.3, dtype=torch.float64)
    sampler = sampler._replace(tuning=tree.map(torch.Tensor.double, sampler.tuning))
    state = sampler.init(params, torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64))
    for i in range(num):
        noise = sampler.draw(random.fold_in(random.key(7), i), state.position)
        after, info = sampler.step(params, sampler.tuning, state, noise)
        yield state.position.numpy(), tree.map(torch.Tensor.numpy, noise), after.position.numpy(), info
        state = after


def _agree(got, info, expected):
    position, rate = expected
    np.testing.assert_allclose(got, position, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(float(info.acceptance_rate), rate, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_mala_is_its_definition(temperature):
    accepted = 0
    for x, noise, y, info in _steps(samplers.mala(_energy, step_size=0.25, temperature=temperature)):
        _agree(y, info, _mala_np(1.3, 0.25, temperature, x, noise.normal, noise.uniform))
        accepted += bool(info.is_accepted)
    assert 0 < accepted < 12


def test_langevin_is_its_definition():
    for x, noise, y, _ in _steps(samplers.langevin(_energy, step_size=0.125, temperature=2.0)):
        np.testing.assert_allclose(y, x - 0.125 * _gradient_np(1.3, x) + np.sqrt(0.5) * noise, rtol=1e-12, atol=1e-12)


METRICS = {
    "identity": (None, np.eye(D)),
    "number": (0.5, 0.5 * np.eye(D)),
    "diagonal": (torch.tensor([0.5, 1.0, 2.0]), np.diag([0.5, 1.0, 2.0])),
    "dense": (torch.tensor(MATRIX), MATRIX),
}


@pytest.mark.parametrize("metric", list(METRICS))
@pytest.mark.parametrize("jitter", [None, 0.5])
@pytest.mark.parametrize(("num_leapfrog", "temperature"), [(1, 1.0), (4, 1.0), (3, 0.5)])
def test_hmc_is_its_definition(metric, jitter, num_leapfrog, temperature):
    inverse_mass, matrix = METRICS[metric]
    options = {"num_leapfrog": num_leapfrog, "temperature": temperature, "jitter": jitter}
    sampler = samplers.hmc(_energy, step_size=0.375, inverse_mass=inverse_mass, **options)
    for x, noise, y, info in _steps(sampler):
        if metric == "dense":  # p = M^{1/2} z with a root of M that is the library's to choose: take it from there
            p = sampler.tuning.metric.mass_root.numpy() @ noise.momentum
        else:
            p = noise.momentum / np.sqrt(np.diag(matrix))
        h = 0.375 if jitter is None else 0.375 * (1 + jitter * float(noise.jitter))
        _agree(y, info, _hmc_np(1.3, h, temperature, matrix, p, num_leapfrog, x, noise.uniform))


@pytest.mark.parametrize("metric", list(METRICS))
@pytest.mark.parametrize(("num_leapfrog", "temperature"), [(1, 1.0), (4, 0.5), (7, 1.0)])
def test_multinomial_hmc_is_its_definition(metric, num_leapfrog, temperature):
    inverse_mass, matrix = METRICS[metric]
    options = {"num_leapfrog": num_leapfrog, "temperature": temperature, "endpoint": "multinomial"}
    sampler = samplers.hmc(_energy, step_size=0.375, inverse_mass=inverse_mass, **options)
    all_chosen = set()
    for x, noise, y, info in _steps(sampler, 20):
        if metric == "dense":
            p = sampler.tuning.metric.mass_root.numpy() @ noise.momentum
        else:
            p = noise.momentum / np.sqrt(np.diag(matrix))
        trajectory = (matrix, p, num_leapfrog, int(noise.num_backward), x, noise.uniform)
        expected, chosen = _multinomial_np(1.3, 0.375, temperature, *trajectory)
        _agree(y, info, expected)
        assert bool(info.is_accepted) == (chosen > 0)
        all_chosen.add(chosen)
    assert all_chosen >= {0, 1}


@pytest.mark.parametrize("metric", list(METRICS))
@pytest.mark.parametrize(
    ("num_leapfrog", "alpha", "temperature", "step_size"),
    [(1, 0.25, 1.0, 0.75), (3, 0.5, 0.5, 0.5), (2, 1.0, 1.0, 0.75)],
)
def test_ghmc_is_its_definition(metric, num_leapfrog, alpha, temperature, step_size):
    inverse_mass, matrix = METRICS[metric]
    options = {"num_leapfrog": num_leapfrog, "alpha": alpha, "temperature": temperature}
    sampler = samplers.ghmc(_energy, step_size=step_size, inverse_mass=inverse_mass, **options)
    sampler = sampler._replace(tuning=tree.map(torch.Tensor.double, sampler.tuning))
    root = sampler.tuning.metric.mass_root.numpy() if metric == "dense" else np.diag(np.diag(matrix) ** -0.5)
    params = torch.tensor(1.3, dtype=torch.float64)
    state = sampler.init(params, torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64))
    x, z, u = state.position.numpy(), None, None
    outcomes = set()
    for i in range(24):
        noise = sampler.draw(random.key(i), state.position)
        state, info = sampler.step(params, sampler.tuning, state, noise)
        xi = noise.momentum.numpy()
        numbers = (alpha, alpha / 2)
        if i == 0:  # a full refreshment, and a slice that does not drift
            numbers, z, u = (1.0, 0.0), 0 * xi, 2 * float(noise.uniform) - 1
        (x, z, u), rate = _ghmc_np(1.3, step_size, temperature, matrix, root, *numbers, num_leapfrog, x, z, u, xi)
        _agree(state.position.numpy(), info, (x, rate))
        np.testing.assert_allclose(state.momentum.numpy(), z, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(float(state.slice), u, rtol=1e-9, atol=1e-10)
        outcomes.add(bool(info.is_accepted))
    assert outcomes == {True, False}


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_hmc_with_one_leapfrog_step_is_mala_noise_for_noise(temperature):
    """With ``h = eps^2 / (2 T)``: the same proposal, and the same Metropolis ratio."""
    epsilon, dtype = 0.6, torch.float64
    numbers = [torch.tensor(value, dtype=dtype) for value in (epsilon, epsilon**2 / (2 * temperature), temperature)]
    hmc = samplers.hmc(_energy, step_size=numbers[0], num_leapfrog=1, temperature=numbers[2])
    mala = samplers.mala(_energy, step_size=numbers[1], temperature=numbers[2])
    params = torch.tensor(1.3, dtype=dtype)
    start = random.normal(random.key(0), (200, D), dtype=dtype)
    noise = vmap(mala.draw)(random.split(random.key(1), 200), start)
    states = [vmap(sampler.init, (None, 0))(params, start) for sampler in (hmc, mala)]
    hmc_noise = (
        samplers.hmc(_energy).draw(random.key(0), start[0])._replace(momentum=noise.normal, uniform=noise.uniform)
    )
    results = [
        vmap(sampler.step, (None, None, 0, 0))(params, sampler.tuning, state, z)
        for sampler, state, z in zip((hmc, mala), states, (hmc_noise, noise), strict=True)
    ]
    torch.testing.assert_close(results[0][0].position, results[1][0].position, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(results[0][1].acceptance_rate, results[1][1].acceptance_rate, rtol=1e-9, atol=1e-12)
    assert 0 < float(results[0][1].is_accepted.double().mean()) < 1


def test_the_batched_step_of_hmc_is_the_step_of_each_chain():
    for jitter in (None, 0.4):
        sampler = samplers.hmc(_energy, step_size=0.4, num_leapfrog=3, inverse_mass=torch.tensor(MATRIX), jitter=jitter)
        params, start = torch.tensor(1.3).double(), random.normal(random.key(0), (9, D), dtype=torch.float64)
        state = vmap(sampler.init, (None, 0))(params, start)
        noise = vmap(sampler.draw)(random.split(random.key(1), 9), start)
        got = sampler.batched_step(params, sampler.tuning, state, noise)
        expected = vmap(sampler.step, (None, None, 0, 0))(params, sampler.tuning, state, noise)
        assert tree.structure(got) == tree.structure(expected)
        for a, b in zip(tree.leaves(got), tree.leaves(expected), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
