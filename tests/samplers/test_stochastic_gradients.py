"""SGLD, SGHMC and SGNHT: noisy gradients with their exact covariance on a Gaussian, and what the thermostat finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov
from scipy.optimize import brentq
from tests.distributions import assert_covariance, assert_mean, assert_uniform
from torch.func import jacrev, vmap

import funcebm as ebm
from funcebm import random, samplers, tree
from funcebm.samplers.sghmc import SGHMCState
from funcebm.samplers.sgld import MinibatchNoise
from funcebm.samplers.sgnht import SGNHTState

NUM_DATA, BATCH_SIZE, DIM = 60, 5, 2


def _data():
    """Skewed data, whitened: the minibatch gradient has then the covariance ``V I`` exactly."""
    raw = random.exponential(random.key(1), (NUM_DATA, DIM), dtype=torch.float64)
    centred = raw - raw.mean(0)
    root = torch.linalg.cholesky(centred.T @ centred / NUM_DATA)
    return torch.linalg.solve_triangular(root, centred.T, upper=False).T * 0.3 + torch.tensor([1.0, -0.5]).double()


DATA = _data()
K = 1.0 + NUM_DATA  # of the posterior of a mean: x ~ N(0, 1), data_i ~ N(x, 1)
CENTRE = DATA.sum(0) / K
V = NUM_DATA**2 / BATCH_SIZE * 0.09  # of a coordinate of the minibatch gradient


def posterior(data, x, indices):
    return (x**2).sum() / 2 + NUM_DATA / BATCH_SIZE * ((x - data[indices]) ** 2).sum() / 2


BATCHES = {"num_data": NUM_DATA, "batch_size": BATCH_SIZE}


def _double(sampler):
    return sampler._replace(tuning=tree.map(torch.Tensor.double, sampler.tuning))


# -- minibatches --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sgld", "sghmc", "sgnht"])
def test_minibatches_are_uniform_and_their_gradient_is_unbiased(name):
    sampler = getattr(samplers, name)(posterior, **BATCHES)
    x = torch.tensor([0.4, -2.0], dtype=torch.float64)
    noise = vmap(sampler.draw, (0, None))(random.split(random.key(2), 20000), x)
    assert noise.indices.dtype == torch.int64
    assert noise.indices.shape == (20000, BATCH_SIZE)
    assert_uniform(torch.bincount(noise.indices.flatten(), minlength=NUM_DATA))
    gradients = vmap(torch.func.grad(posterior, 1), (None, None, 0))(DATA, x, noise.indices)
    assert_mean(gradients, K * (x - CENTRE))
    assert_covariance(gradients, V * torch.eye(DIM))
    assert_covariance(torch.cat([noise.normal, gradients / V**0.5], 1), torch.eye(2 * DIM))  # independent
    key_normal, key_batch = random.split(random.split(random.key(2), 20000)[7])  # one key, one draw
    assert torch.equal(noise.normal[7], random.normal(key_normal, (DIM,), dtype=torch.float64))
    assert torch.equal(noise.indices[7], random.randint(key_batch, (BATCH_SIZE,), 0, NUM_DATA))
    assert len(torch.unique(noise.indices.sort(1).values, dim=0)) > 19000  # each chain and step has its own


@pytest.mark.parametrize("name", ["sgld", "sghmc", "sgnht"])
def test_a_minibatch_of_everything_is_the_energy_itself(name):
    """With indices that name each datum once, a step is that of the sampler without minibatches."""
    factory = getattr(samplers, name)
    batched = _double(factory(lambda data, x, indices: posterior(data, x, indices) * BATCH_SIZE / NUM_DATA, **BATCHES))
    whole = _double(factory(lambda data, x: posterior(data, x, torch.arange(NUM_DATA)) * BATCH_SIZE / NUM_DATA))
    state = [sampler.init(DATA, CENTRE) for sampler in (batched, whole)]
    for i in range(4):
        noise = whole.draw(random.key(i), CENTRE)
        assert noise.indices == ()
        after = whole.step(DATA, whole.tuning, state[1], noise)
        indices = random.permutation(random.key(i), NUM_DATA)
        same = batched.step(DATA, batched.tuning, state[0], noise._replace(indices=indices))
        for a, b in zip(tree.leaves(after), tree.leaves(same), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
        state = [same[0], after[0]]


def test_chains_of_minibatches_run_in_chunks_and_go_on_as_if_never_cut():
    sampler = samplers.sghmc(posterior, step_size=0.02, friction=5.0, **BATCHES)
    start = CENTRE.float().expand(3, DIM).clone()
    options = {"jit": False, "num_burn_in": 2}
    run = lambda n: ebm.sample(random.key(3), sampler, DATA.float(), start, num_samples=n, **options)  # noqa: E731
    joined = torch.cat([run(4).draws, ebm.resume(run(4), num_samples=3).draws], 1)
    assert torch.equal(joined, run(7).draws)


# -- definitions --------------------------------------------------------------------------------------------------


def _gradient(x, indices):
    return x + NUM_DATA / BATCH_SIZE * (x - DATA.numpy()[indices]).sum(0)


def _walk(sampler, state, num=6):
    for i in range(num):
        noise = sampler.draw(random.key(i), state.position)
        after, info = sampler.step(DATA, sampler.tuning, state, noise)
        value = posterior(DATA, after.position, noise.indices)
        torch.testing.assert_close(info.energy, value, rtol=1e-12, atol=1e-12)
        yield tree.map(torch.Tensor.numpy, (state, noise, after))
        state = after


def test_sgld_is_its_definition():
    h, temperature = 0.002, 1.5
    sampler = _double(samplers.sgld(posterior, step_size=h, temperature=temperature, gradient_noise=V, **BATCHES))
    for state, noise, after in _walk(sampler, sampler.init(DATA, CENTRE)):
        spread = np.sqrt(2 * h * temperature - h**2 * V)
        expected = state.position - h * _gradient(state.position, noise.indices) + spread * noise.normal
        np.testing.assert_allclose(after.position, expected, rtol=1e-6)  # numbers of a tuning come as float32
        torch_h, torch_v = (float(value) for value in (sampler.tuning.step_size, sampler.tuning.gradient_noise))
        spread = np.sqrt(torch_h * (2 * temperature - torch_h * torch_v))
        expected = state.position - torch_h * _gradient(state.position, noise.indices) + spread * noise.normal
        np.testing.assert_allclose(after.position, expected, rtol=1e-10)


def test_sghmc_is_algorithm_2_of_chen_fox_and_guestrin():
    """``theta += eps M^-1 r``; ``r += -eps grad U(theta) - eps C M^-1 r + N(0, 2 (C - B) eps)``, with ``C = gamma M``."""
    h, friction, temperature, inverse_mass = 0.0625, 2.0, 1.5, np.array([0.5, 0.25])
    options = {"friction": friction, "temperature": temperature, "inverse_mass": torch.as_tensor(inverse_mass)}
    sampler = _double(samplers.sghmc(posterior, step_size=h, gradient_noise=64.0, **options, **BATCHES))
    for i, (state, noise, after) in enumerate(_walk(sampler, sampler.init(DATA, CENTRE))):
        r, mass = state.momentum if i > 0 else noise.normal / np.sqrt(inverse_mass), 1 / inverse_mass
        theta = state.position + h * inverse_mass * r
        r_new = r - h * _gradient(theta, noise.indices) / temperature
        if i > 0:
            c, b = friction * mass, h / 2 * 64.0 * mass / temperature**2
            r_new = r_new - h * c * inverse_mass * r + np.sqrt(2 * (c - b) * h) * noise.normal
        np.testing.assert_allclose(after.position, theta, rtol=1e-10)
        np.testing.assert_allclose(after.momentum, r_new, rtol=1e-10)


def test_sgnht_is_algorithm_2_of_ding_and_others():
    """``p -= xi p h + grad U h - sqrt(2 A) N(0, h)``, ``xi += (p.p / n - 1) h``; with a mass, in whitened coordinates."""
    h, friction, temperature, inverse_mass = 0.03125, 2.0, 1.5, np.array([0.5, 0.25])
    options = {"friction": friction, "temperature": temperature, "inverse_mass": torch.as_tensor(inverse_mass)}
    sampler = _double(samplers.sgnht(posterior, step_size=h, **options, **BATCHES))
    for i, (state, noise, after) in enumerate(_walk(sampler, sampler.init(DATA, CENTRE))):
        root = np.sqrt(inverse_mass)
        p, xi = state.momentum * root if i > 0 else noise.normal, friction + state.thermostat
        theta = state.position + h * root * p
        p_new = p - h * root * _gradient(theta, noise.indices) / temperature
        if i > 0:
            p_new = p_new - xi * p * h + np.sqrt(2 * friction * h) * noise.normal
        np.testing.assert_allclose(after.position, theta, rtol=1e-10)
        np.testing.assert_allclose(after.momentum * root, p_new, rtol=1e-10)
        np.testing.assert_allclose(friction + after.thermostat, xi + (p_new @ p_new / DIM - 1) * h, rtol=1e-10)


@pytest.mark.parametrize("preconditioner", [None, torch.tensor([[0.8, 0.3], [0.3, 0.5]])])
def test_sgld_without_noise_is_langevin(preconditioner):
    energy, params = lambda params, x: params * (x**4).sum() + torch.sin(x).sum(), torch.tensor(0.7)
    options = {"step_size": 0.05, "preconditioner": preconditioner, "temperature": 0.8}
    langevin, sgld = samplers.langevin(energy, **options), samplers.sgld(energy, **options)
    noise = sgld.draw(random.key(0), torch.zeros(2))
    positions = [torch.tensor([0.5, -1.0])] * 2
    for _ in range(3):
        positions[0] = langevin.step(params, langevin.tuning, langevin.init(params, positions[0]), noise.normal)[0][0]
        positions[1] = sgld.step(params, sgld.tuning, sgld.init(params, positions[1]), noise)[0].position
    torch.testing.assert_close(positions[0], positions[1], rtol=1e-6, atol=1e-6)


# -- distributions ---------------------------------------------------------------------------------------------------------


def _noisy(params, x):
    """A Gaussian of stiffness ``k`` whose gradient is off by ``c``, the noise of the gradient."""
    k, c = params
    return k * (x**2).sum() / 2 + (c * x).sum()


def _stationary(sampler, k, variance):
    """The stationary covariance of a step in one dimension: its Jacobians in state, noise and gradient noise are constant."""
    zero = torch.zeros(1, dtype=torch.float64)
    sampler = _double(sampler)

    def step(state, normal, c):
        parts, is_fresh = {"position": state[:1], "momentum": state[1:]}, torch.tensor(False)
        if len(state) == 1:
            state = sampler.init((k, zero), zero)._replace(position=state)
        else:
            state = SGHMCState(**parts, is_fresh=is_fresh)
        noise = sampler.draw(random.key(0), zero)._replace(normal=normal)
        after, _ = sampler.step((k, c), sampler.tuning, state, noise)
        return torch.cat([after.position, getattr(after, "momentum", zero[:0])])

    size = 1 if sampler.init((k, zero), zero)._fields == ("position",) else 2
    start = torch.zeros(size, dtype=torch.float64)
    forward, gain, noise = (part.numpy() for part in jacrev(step, (0, 1, 2))(start, zero, zero))
    return solve_discrete_lyapunov(forward, gain @ gain.T + variance * noise @ noise.T)


SG = {
    "sgld": lambda h, v: samplers.sgld(_noisy, step_size=h, temperature=0.8, gradient_noise=v),
    "sghmc": lambda h, v: samplers.sghmc(_noisy, step_size=h, friction=1.5, temperature=0.8, gradient_noise=v),
}


@pytest.mark.parametrize(("name", "expected"), [("sgld", 1), ("sghmc", 2)])
def test_the_order_of_the_bias_of_positions(name, expected):
    """With the noise of the gradient known, and as large as ``V = 0.5 / h``: it must not show up at all."""
    k, steps = torch.tensor(1.3, dtype=torch.float64), np.array([0.1, 0.05, 0.025, 0.0125])
    errors = [_stationary(SG[name](h, 0.5 / h), k, 0.5 / h)[0, 0] / (0.8 / 1.3) - 1 for h in steps]
    order = np.polyfit(np.log(steps), np.log(np.abs(errors)), 1)[0]
    assert abs(order - expected) < 0.1, (errors, order)
    assert abs(errors[-1]) < 0.02


def test_sghmc_on_a_gaussian_has_the_variance_of_its_docstring():
    """``T / (k (1 - h^2 k / (4 T (1 - h gamma / 2))))``."""
    for h in (0.05, 0.2, 0.5):
        variance = _stationary(SG["sghmc"](h, 0.7), torch.tensor(1.3, dtype=torch.float64), 0.7)[0, 0]
        np.testing.assert_allclose(variance, 0.8 / (1.3 * (1 - h**2 * 1.3 / (3.2 * (1 - h * 0.75)))), rtol=1e-6)


def test_noise_that_is_not_taken_away_warms_the_chain_as_documented():
    k, h, v = torch.tensor(1.3, dtype=torch.float64), 1e-3, 200.0
    warm = _stationary(SG["sgld"](h, 0.0), k, v)[0, 0] * 1.3
    np.testing.assert_allclose(warm, 0.8 + h * v / 2, rtol=2e-3)
    warm = _stationary(SG["sghmc"](h, 0.0), k, v)
    np.testing.assert_allclose(warm[0, 0] * 1.3, 0.8 + h * v / (2 * 1.5 * 0.8), rtol=2e-3)
    np.testing.assert_allclose(warm[1, 1], warm[0, 0] * 1.3 / 0.8, rtol=2e-3)


def test_sgld_on_a_gaussian_has_exactly_the_variance_of_langevin():
    for h in (0.1, 0.5, 1.0):
        variance = _stationary(SG["sgld"](h, 0.7), torch.tensor(1.3, dtype=torch.float64), 0.7)[0, 0]
        np.testing.assert_allclose(variance, 0.8 / (1.3 * (1 - h * 1.3 / 2)), rtol=1e-6)


@pytest.mark.parametrize("gradient_noise", [V, 0.0])
def test_sgld_samples_a_posterior_from_minibatches(gradient_noise):
    """The stationary variance of the recursion, ``(2 h - h^2 Vhat + h^2 V) / (1 - (1 - h k)^2)``, and the right mean."""
    h = 0.005
    sampler = samplers.sgld(posterior, step_size=h, gradient_noise=gradient_noise, **BATCHES)
    variance = (2 * h - h**2 * gradient_noise + h**2 * V) / (1 - (1 - h * K) ** 2)
    start = CENTRE + variance**0.5 * random.normal(random.key(4), (16000, DIM), dtype=torch.float64)
    draws = ebm.sample(random.key(5), sampler, DATA, start, num_samples=1, thin=8, jit=False).draws[:, 0]
    assert_mean(draws, CENTRE)
    assert_covariance(draws, variance * torch.eye(DIM))


def test_sghmc_samples_a_posterior_from_minibatches():
    h, friction = 0.02, 8.0
    sampler = samplers.sghmc(posterior, step_size=h, friction=friction, gradient_noise=V, **BATCHES)
    forward = np.array([[1, h], [-h * K, 1 - h * friction - h * h * K]])
    stationary = solve_discrete_lyapunov(forward, np.diag([0, 2 * h * friction]))
    start = random.normal(random.key(6), (12000, DIM, 2), dtype=torch.float64)
    start = start @ torch.linalg.cholesky(torch.as_tensor(stationary)).mT
    is_fresh = torch.zeros(12000, dtype=torch.bool)
    state, step = SGHMCState(CENTRE + start[..., 0], start[..., 1], is_fresh), vmap(sampler.step, (None, None, 0, 0))
    for i in range(8):
        keys = random.split(random.key(10 + i), 12000)
        state, _ = step(DATA, sampler.tuning, state, vmap(sampler.draw)(keys, state.position))
    for d in range(DIM):
        draws = torch.stack([state.position[:, d], state.momentum[:, d]], 1)
        assert_mean(draws, torch.tensor([float(CENTRE[d]), 0.0]))
        assert_covariance(draws, torch.as_tensor(stationary))


def test_the_thermostat_finds_the_noise_of_the_gradient():
    """In many dimensions it stands where the recursion has ``E p^2 = 1``; the temperature is right, and SGHMC's is not."""
    k, h, friction, dim, num_chains, temperature = 1.0, 0.02, 1.0, 100, 60, 0.8
    v = 2 * 2.0 * temperature**2 / h  # asks for a friction of 2 more
    gain = np.diag([0, 2 * h * friction + h**2 * v / temperature**2])

    def moments(xi):
        stiffness = h * k / temperature
        return solve_discrete_lyapunov(np.array([[1, h], [-stiffness, 1 - h * xi - h * stiffness]]), gain)

    expected = brentq(lambda xi: moments(xi)[1, 1] - 1, 1.5, 8.0)
    assert abs(expected - friction - h * (v / temperature**2 + friction**2) / 2) < 0.15 * expected

    sampler, params = samplers.sgnht(_noisy, step_size=h, friction=friction, temperature=temperature), torch.tensor(k)
    state = vmap(sampler.init, (None, 0))((params, torch.tensor(0.0)), torch.zeros(num_chains, dim))
    step = vmap(sampler.step, ((None, 0), None, 0, 0))
    squares, thermostats = [], []
    for i in range(700):
        normal, errors = random.normal(random.fold_in(random.key(20), i), (2, num_chains, dim))
        noise = MinibatchNoise(normal, ())
        state, _ = step((params, v**0.5 * errors), sampler.tuning, state, noise)
        if i >= 400:
            squares.append((state.position**2).mean(1))
            thermostats.append(state.thermostat)
    assert_mean(torch.stack(thermostats).mean(0), expected - friction, bias=0.05 * expected)
    assert_mean(torch.stack(squares).mean(0), moments(expected)[0, 0], bias=0.02 * temperature / k)
    assert abs(moments(expected)[0, 0] * k / temperature - (1 - h * expected / 2)) < 2e-3  # as the docstring says
    assert moments(friction)[0, 0] > 2.5 * temperature / k  # where SGHMC would be


# -- the door -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        *((name, {"num_data": 10}, "num_data and batch_size go together") for name in ("sgld", "sghmc", "sgnht")),
        *((name, {"batch_size": 10}, "num_data and batch_size go together") for name in ("sgld", "sghmc", "sgnht")),
        ("sgld", {"num_data": 0, "batch_size": 1}, "num_data must be an integer of at least 1"),
        ("sghmc", {"num_data": 10, "batch_size": 2.0}, "batch_size must be an integer"),
        ("sgld", {"step_size": 0.0}, "step_size must be positive"),
        ("sgld", {"step_size": 0.1, "gradient_noise": 20.0}, "gradient_noise must be at least 0 and below"),
        ("sgld", {"gradient_noise": -1.0}, "gradient_noise must be at least 0"),
        ("sghmc", {"step_size": 0.1, "friction": 2.0, "gradient_noise": 41.0}, "gradient_noise must be at least 0"),
        ("sghmc", {"step_size": 0.1, "friction": 10.0}, "step_size \\* friction must be below 1"),
        ("sghmc", {"temperature": 0.0}, "temperature must be positive"),
        ("sgnht", {"friction": -1.0}, "friction must be positive"),
        ("sgnht", {"step_size": 0.1, "friction": 10.0}, "step_size \\* friction must be below 1"),
    ],
)
def test_numbers_that_make_no_sense_are_errors(name, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(samplers, name)(posterior, **options)


@pytest.mark.parametrize("name", ["sgld", "sghmc", "sgnht"])
def test_a_chain_that_starts_outside_is_an_error_that_names_it(name):
    batched = getattr(samplers, name)(lambda data, x, indices: (x**1.5 * data[indices]).sum(), **BATCHES)
    plain = getattr(samplers, name)(lambda data, x: (x**1.5).sum())
    start = torch.tensor([[1.0], [-1.0]])
    for sampler in (batched, plain):
        with pytest.raises(ValueError, match=r"Got chains 1\."):
            ebm.sample(random.key(0), sampler, torch.ones(NUM_DATA), start, num_samples=2, jit=False)


def test_thermostats_start_at_nothing_and_a_momentum_is_drawn_first():
    state = samplers.sgnht(posterior, **BATCHES).init(DATA, CENTRE)
    assert isinstance(state, SGNHTState)
    assert float(state.thermostat) == 0
    assert bool(state.is_fresh)
    assert not state.momentum.any()
