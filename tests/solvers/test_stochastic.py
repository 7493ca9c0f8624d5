"""Strong and weak orders of the SDE solvers on one Brownian path, and the distributions of their noise."""

from __future__ import annotations

import math

import pytest
import torch
from torch.func import vmap

import funcebm as ebm
from funcebm import random, solvers

from ..distributions import assert_covariance, assert_mean
from .problems import slopes

SOLVERS = ["euler_maruyama", "stochastic_heun", "sra1", "shark"]


def _drift(params, t, x):
    return -x + torch.sin(2 * x) * (1 + t)


def _diffusion(t):
    return (0.4 + t) ** 2 / 2  # c = 0.4 + t


def _end(integrator, noise, times, starts):
    if integrator.draw(random.key(0), starts[0]).area.__class__ is not torch.Tensor:
        noise = noise._replace(area=())
    one = lambda x, z: solvers.solve(integrator, _drift, (), x, times, z).value  # noqa: E731
    return vmap(one)(starts, noise)


@pytest.fixture(scope="module")
def levels():
    """One Brownian path for each of many particles, at five resolutions."""
    num, particles = 512, 400
    times = torch.linspace(0, 1, num + 1, dtype=torch.float64)
    starts = random.normal(random.key(0), (particles, 1), dtype=torch.float64)
    keys = random.split(random.key(1), particles)
    noise = vmap(lambda key, x: solvers.draw_path(key, solvers.shark(), x, num))(keys, starts)
    found = []
    for _ in range(7):
        found.append((noise, times))
        noise = vmap(lambda z: solvers.coarsen(z, times)[0])(noise)  # noqa: B023
        times = times[::2]
    return starts, found


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("constant", [True, False])
def test_strong_order(name, constant, levels):
    starts, found = levels
    integrator = getattr(solvers, name)(0.3 if constant else _diffusion)
    fine = solvers.shark(0.3 if constant else _diffusion)
    reference = _end(fine, *found[0], starts)
    errors = [float((_end(integrator, *found[i], starts) - reference).square().mean().sqrt()) for i in (6, 5, 4, 3)]
    assert abs(slopes(errors) - integrator.strong_order) < 0.4, (errors, slopes(errors))


@pytest.mark.parametrize("name", SOLVERS)
def test_weak_order(name):
    """On an Ornstein-Uhlenbeck process a step is linear in its noise: the variance is known without sampling."""
    integrator, errors = getattr(solvers, name)(1.0), []
    field = lambda params, t, x: -2 * x  # noqa: E731
    for num in (4, 8, 16, 32):
        times = torch.linspace(0, 1, num + 1, dtype=torch.float64)
        zero = torch.zeros(1, dtype=torch.float64)
        noise = solvers.draw_path(random.key(0), integrator, zero, num)
        end = lambda noise: solvers.solve(integrator, field, (), zero, times, noise).value[0]  # noqa: B023, E731
        unit = torch.func.jacrev(end)(noise)  # linear: the variance is the sum of squares
        variance = sum(float(leaf.square().sum()) for leaf in ebm.tree.leaves(unit))
        errors.append(abs(variance - (1 - math.exp(-4)) / 2))
    assert slopes(errors) > integrator.order - 0.25, (errors, slopes(errors))


def test_coarsened_noise_is_standard_normal():
    times = torch.tensor([0.0, 0.1, 0.4, 0.5, 1.3], dtype=torch.float64)
    keys = random.split(random.key(3), 40_000)
    noise = vmap(lambda key: solvers.draw_path(key, solvers.sra1(), torch.zeros(1, dtype=torch.float64), 4))(keys)
    coarse = vmap(lambda z: solvers.coarsen(z, times)[0])(noise)
    rows = torch.cat([coarse.displacement[..., 0], coarse.area[..., 0]], 1)
    assert_mean(rows, 0.0)
    assert_covariance(rows, torch.eye(4, dtype=torch.float64))


def test_stochastic_heun_without_noise_is_heun():
    times = torch.linspace(0, 1, 6, dtype=torch.float64)
    x = torch.ones(1, dtype=torch.float64)
    for name, other in (("stochastic_heun", "heun"), ("euler_maruyama", "euler")):
        integrator = getattr(solvers, name)(0.0)
        noise = solvers.draw_path(random.key(0), integrator, x, 5)
        quiet = solvers.solve(integrator, _drift, (), x, times, noise).value
        assert torch.equal(quiet, solvers.solve(getattr(solvers, other)(), _drift, (), x, times).value)


def test_euler_maruyama_is_unadjusted_langevin():
    energy = lambda params, x: (x**4).sum() / 4 + x.sum()  # noqa: E731
    drift = lambda params, t, x: -(x**3) - 1  # noqa: E731
    starts = random.normal(random.key(0), (4, 3), dtype=torch.float64)
    runs = [
        ebm.sample(random.key(1), sampler, (), starts, num_samples=6, jit=False).draws
        for sampler in (
            solvers.euler_maruyama(1.0)(drift, step_size=0.05),
            ebm.samplers.langevin(energy, step_size=0.05),
        )
    ]
    torch.testing.assert_close(*runs, rtol=0, atol=1e-13)


@pytest.mark.compiled
def test_compiled_sampling_is_eager():
    sampler = solvers.sra1(0.5)(_drift, step_size=0.1)
    starts = random.normal(random.key(0), (5, 2), dtype=torch.float64)
    runs = [
        ebm.sample(random.key(1), sampler, (), starts, num_samples=6, jit=jit, chunk_size=size).draws
        for jit, size in ((False, None), (True, None), (True, 2))
    ]
    for run in runs[1:]:
        torch.testing.assert_close(run, runs[0], rtol=0, atol=1e-13)


def test_bad_input():
    x, times = torch.zeros(2), torch.linspace(0, 1, 5)
    drift = lambda params, t, x: -x  # noqa: E731
    integrator = solvers.euler_maruyama()
    noise = solvers.draw_path(random.key(0), integrator, x, 4)
    with pytest.raises(ValueError, match="5 times take the noise of 4 steps"):
        solvers.solve(integrator, drift, (), x, times)
    with pytest.raises(ValueError, match="5 times take the noise of 4 steps"):
        solvers.solve(integrator, drift, (), x, times, ebm.tree.map(lambda z: z[:3], noise))
    with pytest.raises(ValueError, match="an SDE runs forwards"):
        solvers.solve(integrator, drift, (), x, times.flip(0), noise)
    with pytest.raises(ValueError, match="diffusion must not be negative"):
        solvers.shark(-1.0)
    with pytest.raises(ValueError, match="must be even"):
        solvers.coarsen(ebm.tree.map(lambda z: z[:3], noise), times[:4])


@pytest.mark.parametrize("name", ["sra1", "shark"])
def test_a_linear_step_has_the_exact_double_integral(name):
    """On f = a x a step is x (1 + a h + (a h)^2 / 2) + c W + a c I10, with I10 = h (W / 2 + H): what order 1.5 takes."""
    a, c, h = -1.3, 0.8, 0.25
    integrator = getattr(solvers, name)(torch.tensor(c**2 / 2, dtype=torch.float64))
    x = torch.tensor([0.7], dtype=torch.float64)
    noise = integrator.draw(random.key(0), x)
    times = torch.tensor([0.0, h], dtype=torch.float64)
    end = solvers.solve(integrator, lambda params, t, x: a * x, (), x, times, ebm.tree.map(lambda z: z[None], noise))
    w, area = math.sqrt(h) * noise.displacement, math.sqrt(h / 12) * noise.area
    expected = x * (1 + a * h + (a * h) ** 2 / 2) + c * w + a * c * h * (w / 2 + area)
    if name == "shark":  # its first stage is shifted by the area, which adds a term of higher order
        expected = expected + (a * h) ** 2 / 2 * c * area
    torch.testing.assert_close(end.value, expected, rtol=0, atol=1e-14)
