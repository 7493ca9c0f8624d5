"""Microcanonical Langevin: directions of length one, uniform and forgotten at the right rate; no bias as steps shrink."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.distributions import assert_covariance, assert_mean, assert_same_distribution, assert_uniform, order_of
from tests.references import isokinetic_kick_in_numpy
from tests.targets import draw_skewed, skewed
from torch.func import vmap

import funcebm as ebm
from funcebm import random, samplers, tree


def _flat(params, x):
    return 0.0 * sum(leaf.sum() for leaf in tree.leaves(x))


def test_the_velocity_has_length_one_over_the_whole_tree():
    energy = lambda params, x: (x["a"] ** 4).sum() + torch.exp(x["b"]).sum() + (x["b"] ** 2).sum()  # noqa: E731
    sampler = samplers.mclmc(energy, step_size=0.3)
    state = sampler.init((), {"a": torch.ones(2, 2, dtype=torch.float64), "b": torch.zeros(3, dtype=torch.float64)})
    for i in range(20):
        state, info = sampler(random.key(i), (), state)
        torch.testing.assert_close(tree.squared_norm(state.velocity), torch.ones((), dtype=torch.float64))
        assert not bool(info.is_divergent)


def test_the_first_direction_is_uniform():
    """Without a force the first step of size ``h`` ends on the circle of radius ``h``, anywhere on it."""
    sampler = samplers.mclmc(_flat, step_size=0.7, decoherence_length=1.3)
    samples = ebm.sample(random.key(0), sampler, (), torch.zeros(20000, 2), num_samples=2, jit=False)
    torch.testing.assert_close(samples.draws[:, 0].norm(dim=-1), torch.full((20000,), 0.7))
    for directions in (samples.draws[:, 0], samples.state.velocity):
        angles = torch.atan2(directions[:, 1], directions[:, 0])
        assert_uniform(torch.histc(angles, 40, -math.pi, math.pi))


@pytest.mark.parametrize("dimension", [3, 7])
def test_directions_stay_uniform(dimension):
    sampler = samplers.mclmc(_flat, step_size=0.5)
    start = torch.zeros(8000, dimension)
    velocity = ebm.sample(random.key(1), sampler, (), start, num_samples=1, thin=4, jit=False).state.velocity
    assert_mean(velocity, 0.0)
    assert_covariance(velocity, torch.eye(dimension) / dimension)


@pytest.mark.parametrize("num_steps", [1, 3])
def test_directions_are_forgotten_over_the_decoherence_length(num_steps):
    """In many dimensions ``E[u_0 . u_n] = exp(-n h / L)``, but for terms of order ``1 / d``."""
    dimension, step_size, length = 400, 0.4, 1.6
    sampler = samplers.mclmc(_flat, step_size=step_size, decoherence_length=length)
    run = ebm.sample(random.key(2), sampler, (), torch.zeros(500, dimension), num_samples=1, jit=False)
    before = run.state.velocity
    after = ebm.resume(run, num_samples=num_steps).state.velocity
    cosines = (before * after).sum(-1)
    assert_mean(cosines, math.exp(-num_steps * step_size / length), bias=2 / dimension)


@pytest.mark.parametrize("integrator", ["leapfrog", "mclachlan"])
def test_a_skewed_target_is_invariant_in_the_limit_of_small_steps_only(integrator):
    start, other = (draw_skewed(random.key(seed), 16000) for seed in (11, 12))
    for step_size, num_steps in ((0.15, 25), (2.0, 4)):
        sampler = samplers.mclmc(skewed, step_size=step_size, decoherence_length=2.0, integrator=integrator)
        options = {"num_samples": 1, "thin": num_steps, "jit": False}
        draws = ebm.sample(random.key(13), sampler, torch.tensor(1.0), start, **options).draws[:, 0]
        if step_size < 1:
            assert_same_distribution(draws, other)
        else:
            with pytest.raises(AssertionError):
                assert_same_distribution(draws, other)


def test_on_a_gaussian_the_bias_of_the_variance_shrinks_with_the_square_of_the_step():
    stiffness = torch.tensor([0.5, 1.0, 2.0, 1.0])
    energy = lambda params, x: (stiffness * x**2).sum() / 2  # noqa: E731
    start = random.normal(random.key(3), (20000, 4)) / stiffness.sqrt()
    sizes, biases = [1.0, 1.4, 2.0], []
    for step_size in sizes:
        sampler = samplers.mclmc(energy, step_size=step_size, decoherence_length=2.0, integrator="leapfrog")
        draws = ebm.sample(
            random.key(4), sampler, (), start, num_samples=1, thin=round(24 / step_size), jit=False
        ).draws
        biases.append(float(abs((stiffness * draws[:, 0] ** 2).mean() - 1)))
    assert biases[0] > 5 * math.sqrt(2 / (4 * 20000))
    assert abs(order_of(sizes, biases) - 2) < 0.6


def test_the_energy_error_is_of_third_order_in_a_step():
    start = draw_skewed(random.key(5), 2000).double()
    sizes, errors = [0.4, 0.2, 0.1, 0.05], []
    for step_size in sizes:
        sampler = samplers.mclmc(skewed, step_size=step_size, decoherence_length=2.0)
        info = ebm.sample(random.key(6), sampler, torch.tensor(1.0).double(), start, num_samples=1, jit=False).info
        errors.append(float(info.energy_error.abs().median()))
    assert abs(order_of(sizes, errors) - 3) < 0.2


def _numpy_step(energy, gradient, h, length, scale, integrator, x, u, before, after):
    refresh = lambda u, z: (lambda v: v / np.linalg.norm(v))(u + np.sqrt((np.exp(h / length) - 1) / len(u)) * z)  # noqa: E731
    b = 0.1931833275037836
    plan = {"leapfrog": [0.5, 1.0, 0.5], "mclachlan": [b, 0.5, 1 - 2 * b, 0.5, b]}[integrator]
    start, total, u = energy(x), 0.0, refresh(u, before)
    for index, part in enumerate(plan):
        if index % 2 == 0:
            u, change = isokinetic_kick_in_numpy(part * h, u, scale * gradient(x))
            total += change
        else:
            x = x + part * h * scale * u
    return x, refresh(u, after), total + energy(x) - start


@pytest.mark.parametrize("integrator", ["leapfrog", "mclachlan"])
def test_it_is_its_definition(integrator):
    energy = lambda params, x: params * (x**2).sum() / 2 + 0.2 * (x**4).sum() + torch.sin(x[0] + 2 * x[1])  # noqa: E731
    energy_np = lambda x: 1.3 * (x**2).sum() / 2 + 0.2 * (x**4).sum() + np.sin(x[0] + 2 * x[1])  # noqa: E731
    gradient_np = lambda x: 1.3 * x + 0.8 * x**3 + np.cos(x[0] + 2 * x[1]) * np.array([1.0, 2.0, 0.0])  # noqa: E731
    inverse_mass = torch.tensor([0.25, 1.0, 4.0], dtype=torch.float64)
    options = {"step_size": 0.375, "decoherence_length": 1.5, "integrator": integrator}
    sampler = samplers.mclmc(energy, inverse_mass=inverse_mass, **options)
    sampler = sampler._replace(tuning=tree.map(torch.Tensor.double, sampler.tuning))
    params = torch.tensor(1.3, dtype=torch.float64)
    state = sampler.init(params, torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64))
    scale = np.array([0.5, 1.0, 2.0])
    for i in range(12):
        noise = sampler.draw(random.fold_in(random.key(7), i), state.position)
        arrays = [part.numpy() for part in (state.position, state.velocity, noise.before, noise.after)]
        expected = _numpy_step(energy_np, gradient_np, 0.375, 1.5, scale, integrator, *arrays)
        state, info = sampler.step(params, sampler.tuning, state, noise)
        got = (state.position, state.velocity, info.energy_error)
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a.numpy(), b, rtol=1e-10, atol=1e-10)
        assert int(info.num_gradients) == {"leapfrog": 1, "mclachlan": 2}[integrator]


@pytest.mark.parametrize("outside", [math.inf, math.nan])
def test_a_step_out_of_the_support_is_given_up_and_flagged_and_the_chain_goes_on(outside):
    energy = lambda params, x: torch.where(x.norm() < 1, (x**2).sum(), outside)  # noqa: E731
    sampler = samplers.mclmc(energy, step_size=0.5)
    samples = ebm.sample(random.key(8), sampler, (), 0.1 * torch.ones(200, 3), num_samples=30, jit=False)
    info, draws = samples.info, samples.draws
    assert 0.05 < float(info.is_divergent.float().mean()) < 0.7
    assert torch.isfinite(draws).all()
    assert torch.isfinite(info.energy).all()
    assert float(draws.norm(dim=-1).max()) < 1
    stays = (draws[:, 1:] == draws[:, :-1]).all(-1)
    assert torch.equal(stays, info.is_divergent[:, 1:])
    assert torch.equal(info.is_accepted, ~info.is_divergent)
    assert torch.equal(torch.isfinite(info.energy_error), ~info.is_divergent)
    assert (info.is_divergent[:, 1:] & ~info.is_divergent[:, :-1]).any()  # some are stopped,
    assert (~info.is_divergent[:, 1:] & info.is_divergent[:, :-1]).any()  # and get away


def test_after_a_step_that_was_given_up_the_direction_is_drawn_anew():
    energy = lambda params, x: torch.where(x[0] < 1, 0.0 * x.sum(), torch.inf)  # noqa: E731
    sampler = samplers.mclmc(energy, step_size=0.5, decoherence_length=1e6)
    start = torch.tensor([0.9, 0.0]).expand(20000, 2)
    state = vmap(sampler.init, (None, 0))((), start)
    state = state._replace(velocity=torch.tensor([1.0, 0.0]).expand(20000, 2).clone())  # towards the wall
    noise = vmap(sampler.draw)(random.split(random.key(0), 20000), start)
    step = vmap(sampler.step, (None, None, 0, 0))
    state, info = step((), sampler.tuning, state, noise)
    assert info.is_divergent.all()
    noise = vmap(sampler.draw)(random.split(random.key(1), 20000), start)
    state, info = step((), sampler.tuning, state, noise)
    assert_mean(info.is_divergent.float(), math.acos(0.1 / 0.5) / math.pi)  # the part of the circle beyond the wall
    angles = torch.atan2(state.velocity[:, 1], state.velocity[:, 0])[~info.is_divergent].abs()
    assert_uniform(torch.histc(angles, 20, math.acos(0.2) + 1e-4, math.pi))


@pytest.mark.parametrize("factory", [samplers.mclmc, samplers.adjusted_mclmc])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_size": 0.0}, "step_size must be positive"),
        ({"integrator": "yoshida"}, "integrator must be 'mclachlan' or 'leapfrog'"),
        ({"inverse_mass": torch.tensor([1.0, -1.0])}, "inverse_mass must be positive"),
        ({"inverse_mass": torch.ones(3)}, "inverse_mass must have the shapes"),
    ],
)
def test_numbers_that_make_no_sense_are_errors(factory, options, message):
    with pytest.raises(ValueError, match=message):
        factory(_flat, **options).init((), torch.zeros(2))


@pytest.mark.parametrize("factory", [samplers.mclmc, samplers.adjusted_mclmc])
def test_one_dimension_is_an_error(factory):
    with pytest.raises(ValueError, match=r"needs at least 2 dimensions\. Got 1\. Take another sampler"):
        factory(_flat).init((), {"a": torch.zeros(1)})


def test_a_decoherence_length_must_be_positive():
    with pytest.raises(ValueError, match="decoherence_length must be positive"):
        samplers.mclmc(_flat, decoherence_length=-1.0)
