"""Splittings of underdamped Langevin dynamics: exact on a Gaussian, matrix by matrix, and its stationary distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov
from tests.distributions import assert_covariance, assert_mean
from torch.func import jacrev, vmap

import funcebm as ebm
from funcebm import integrators, metrics, random, samplers, tree
from funcebm.samplers.underdamped_langevin import UnderdampedState

K = np.array([[2.0, 0.7], [0.7, 1.0]])  # the stiffness
P = np.array([[0.8, -0.3], [-0.3, 0.5]])  # an inverse mass
METRICS = {"identity": (None, np.eye(2)), "diagonal": (torch.tensor([0.5, 2.0]), np.diag([0.5, 2.0])), "dense": (P, P)}
H, FRICTION, TEMPERATURE = 0.75, 0.5, 1.5

splittings = pytest.mark.parametrize("splitting", ["baoab", "obabo"])
sweep = pytest.mark.parametrize("metric", list(METRICS))


def _gaussian(matrix, x):
    return x @ matrix @ x / 2


def _sampler(splitting, inverse_mass, energy=_gaussian, step_size=H, friction=FRICTION, temperature=TEMPERATURE):
    inverse_mass = torch.as_tensor(inverse_mass) if isinstance(inverse_mass, np.ndarray) else inverse_mass
    options = {"friction": friction, "splitting": splitting, "inverse_mass": inverse_mass, "temperature": temperature}
    sampler = samplers.underdamped_langevin(energy, step_size=step_size, **options)
    return sampler._replace(tuning=tree.map(torch.Tensor.double, sampler.tuning))


def _recursion(splitting, inverse_mass, h=H):
    """The matrices ``F`` and ``Q`` of ``s' = F s + N(0, Q)``, ``s = (x, p)``, as products of the parts; in NumPy."""
    eye, zero, mass = np.eye(2), np.zeros((2, 2)), np.linalg.inv(inverse_mass)

    def part(name, time):
        decay = np.exp(-FRICTION * time)
        noise = np.block([[zero, zero], [zero, (1 - decay**2) * mass]]) if name == "o" else np.zeros((4, 4))
        blocks = {
            "a": [[eye, time * inverse_mass], [zero, eye]],
            "b": [[eye, zero], [-time * K / TEMPERATURE, eye]],
            "o": [[eye, zero], [zero, decay * eye]],
        }
        return np.block(blocks[name]), noise

    forward, covariance = np.eye(4), np.zeros((4, 4))
    for name in splitting:
        matrix, noise = part(name, h / splitting.count(name))
        forward, covariance = matrix @ forward, matrix @ covariance @ matrix.T + noise
    return forward, covariance


def _linear_maps(sampler):
    """The same of the sampler: a step on a Gaussian is linear in the state and in the noise, so its Jacobians are it."""
    stiffness, zeros = torch.as_tensor(K), torch.zeros(2).double()
    noise = tree.map(torch.zeros_like, sampler.draw(random.key(0), zeros))

    def step(x, p, noise):
        state = UnderdampedState(x, p, stiffness @ x, torch.tensor(False))
        after, _ = sampler.step(stiffness, sampler.tuning, state, noise)
        return torch.cat([after.position, after.momentum])

    of_state = jacrev(step, (0, 1))(zeros, zeros, noise)
    of_noise = torch.cat(jacrev(step, 2)(zeros, zeros, noise), 1)
    return torch.cat(of_state, 1).numpy(), (of_noise @ of_noise.T).numpy()


@splittings
@sweep
def test_a_step_on_a_gaussian_is_the_product_of_its_parts(splitting, metric):
    inverse_mass, matrix = METRICS[metric]
    for got, expected in zip(
        _linear_maps(_sampler(splitting, inverse_mass)), _recursion(splitting, matrix), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


@sweep
def test_baoab_has_exactly_the_right_positions_on_a_gaussian(metric):
    """Whatever the step: the stationary covariance, from the discrete Lyapunov equation, is ``T K^-1``."""
    for h in (0.2, 0.75, 1.1):
        stationary = solve_discrete_lyapunov(*_recursion("baoab", METRICS[metric][1], h))
        np.testing.assert_allclose(stationary[:2, :2], TEMPERATURE * np.linalg.inv(K), rtol=1e-9)
        np.testing.assert_allclose(stationary[:2, 2:], 0, atol=1e-9)


@sweep
def test_obabo_has_the_positions_of_the_leapfrog_shadow(metric):
    """``T (K - h^2 K P K / 4 T)^-1``, and exactly the right momenta."""
    inverse_mass = METRICS[metric][1]
    stationary = solve_discrete_lyapunov(*_recursion("obabo", inverse_mass))
    shadow = K - H**2 * K @ inverse_mass @ K / (4 * TEMPERATURE)
    np.testing.assert_allclose(stationary[:2, :2], TEMPERATURE * np.linalg.inv(shadow), rtol=1e-9)
    np.testing.assert_allclose(stationary[2:, 2:], np.linalg.inv(inverse_mass), rtol=1e-9, atol=1e-12)


@splittings
@sweep
def test_chains_reach_the_stationary_law(splitting, metric):
    inverse_mass, matrix = METRICS[metric]
    stationary = solve_discrete_lyapunov(*_recursion(splitting, matrix))
    start, stiffness = torch.full((8000, 2), 3.0, dtype=torch.float64), torch.as_tensor(K)
    options = {"num_samples": 1, "thin": 60, "jit": False}
    state = ebm.sample(random.key(1), _sampler(splitting, inverse_mass), stiffness, start, **options).state
    draws = torch.cat([state.position, state.momentum], 1)
    assert_mean(draws, 0.0, bias=1e-4)
    assert_covariance(draws, torch.as_tensor(stationary), bias=1e-4)


def _asymmetric(params, x):
    return params * (x**2).sum() / 2 + torch.exp(x[0] - x[1]) + torch.sin(x.sum())


def _state(sampler, params, is_fresh):
    state = sampler.init(params, torch.tensor([0.4, -1.1]).double())
    if is_fresh:
        return state
    return state._replace(momentum=torch.tensor([0.9, 0.3]).double(), is_fresh=torch.tensor(False))


@pytest.mark.parametrize("is_fresh", [False, True])
def test_obabo_is_a_leapfrog_step_between_two_refreshments(is_fresh):
    params, sampler = torch.tensor(1.3).double(), _sampler("obabo", P, _asymmetric)
    state, noise = _state(sampler, params, is_fresh), sampler.draw(random.key(5), torch.zeros(2).double())
    after, _ = sampler.step(params, sampler.tuning, state, noise)
    metric, decay = metrics.dense(torch.as_tensor(P)), np.exp(-FRICTION * H / 2)
    normals = [metrics.momentum(metric, z) for z in noise]
    momentum = normals[0] if is_fresh else decay * state.momentum + np.sqrt(1 - decay**2) * normals[0]
    field = lambda x: (None, torch.func.grad(lambda x: _asymmetric(params, x) / TEMPERATURE)(x))  # noqa: E731
    point = integrators.PhasePoint(state.position, momentum, field(state.position)[1])
    point, _ = integrators.leapfrog(field, metric, torch.tensor(H), point)
    torch.testing.assert_close(after.position, point.position, rtol=1e-12, atol=1e-12)
    momentum = decay * point.momentum + np.sqrt(1 - decay**2) * normals[1]
    torch.testing.assert_close(after.momentum, momentum, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("is_fresh", [False, True])
def test_baoab_is_its_definition(is_fresh):
    params, sampler = torch.tensor(1.3).double(), _sampler("baoab", P, _asymmetric)
    state, (z,) = _state(sampler, params, is_fresh), sampler.draw(random.key(5), torch.zeros(2).double())
    after, _ = sampler.step(params, sampler.tuning, state, (z,))
    gradient = lambda x: torch.func.grad(lambda x: _asymmetric(params, x))(torch.as_tensor(x)).numpy()  # noqa: E731
    x, normal = state.position.numpy(), metrics.momentum(metrics.dense(torch.as_tensor(P)), z).numpy()
    p = normal if is_fresh else state.momentum.numpy()
    p = p - H / 2 * gradient(x) / TEMPERATURE
    x = x + H / 2 * P @ p
    if not is_fresh:
        p = np.exp(-FRICTION * H) * p + np.sqrt(1 - np.exp(-2 * FRICTION * H)) * normal
    x = x + H / 2 * P @ p
    p = p - H / 2 * gradient(x) / TEMPERATURE
    np.testing.assert_allclose(after.position.numpy(), x, rtol=1e-12)
    np.testing.assert_allclose(after.momentum.numpy(), p, rtol=1e-12)
    assert not bool(after.is_fresh)


@splittings
def test_the_first_step_draws_the_momentum_in_full(splitting):
    """From exact draws one small step later: positions as before, momenta ``N(0, M)``; never a start at rest."""
    start = (
        random.normal(random.key(6), (20000, 2), dtype=torch.float64)
        @ torch.linalg.cholesky(TEMPERATURE * torch.linalg.inv(torch.as_tensor(K))).mT
    )
    sampler = _sampler(splitting, P, step_size=0.02)
    state = ebm.sample(random.key(7), sampler, torch.as_tensor(K), start, num_samples=1, jit=False).state
    assert_covariance(state.momentum, torch.linalg.inv(torch.as_tensor(P)), bias=2e-3)
    assert_covariance(state.position, TEMPERATURE * torch.linalg.inv(torch.as_tensor(K)), bias=2e-3)


def test_baoab_with_much_friction_is_the_method_of_leimkuhler_and_matthews():
    """``x'' = x' - h^2 / 2T grad E(x') + h (z + z') / 2``: overdamped, each normal used in two steps."""
    params, sampler = torch.tensor(1.3).double(), _sampler("baoab", None, _asymmetric, friction=1e4)
    state, previous = sampler.init(params, torch.tensor([0.4, -1.1]).double()), None
    for i in range(5):
        (normal,) = noise = sampler.draw(random.key(i), state.position)
        after, _ = sampler.step(params, sampler.tuning, state, noise)
        if previous is not None:
            drift = H**2 / (2 * TEMPERATURE) * torch.func.grad(lambda x: _asymmetric(params, x))(state.position)
            expected = state.position - drift + H / 2 * (previous + normal)
            torch.testing.assert_close(after.position, expected, rtol=1e-10, atol=1e-10)
        state, previous = after, (normal if i > 0 else None)  # the first step draws its momentum otherwise


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"splitting": "aboba"}, "splitting must be 'baoab' or 'obabo'"),
        ({"friction": 0.0}, "friction must be positive"),
        ({"step_size": -0.1}, "step_size must be positive"),
        ({"temperature": 0.0}, "temperature must be positive"),
    ],
)
def test_numbers_that_make_no_sense_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        samplers.underdamped_langevin(_gaussian, **options)


def test_a_chain_that_starts_outside_is_an_error_that_names_it():
    sampler = samplers.underdamped_langevin(lambda params, x: (x**1.5).sum())
    with pytest.raises(ValueError, match=r"Got chains 1\."):
        ebm.sample(random.key(0), sampler, (), torch.tensor([[1.0], [-1.0]]), num_samples=2, jit=False)


def test_one_gradient_a_step_and_a_chain_that_blows_up_says_so():
    sampler = samplers.underdamped_langevin(lambda params, x: (x**4).sum(), step_size=1.0)
    samples = ebm.sample(random.key(0), sampler, (), torch.full((2, 1), 5.0), num_samples=12, jit=False)
    assert (samples.info.num_gradients == 1).all()
    assert samples.info.is_divergent[:, -1].all()
    assert vmap(sampler.init, (None, 0))((), torch.ones(2, 1)).is_fresh.all()
