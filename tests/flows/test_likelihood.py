"""Likelihoods against closed forms: exact to tolerance, unbiased by probes, without bias of discretisation."""

from __future__ import annotations

import math

import pytest
import torch
from torch.func import grad, vmap

import funcebm as ebm
from funcebm import flows, paths, random, solvers, tree

from ..distributions import assert_mean
from .gaussians import MEAN, PARAMS, SCALE, linear_velocity, log_density

DATA = MEAN + SCALE * random.normal(random.key(0), (6, 3), dtype=torch.float64)


def _swirl(params, t, x):
    """Nothing special, and its Jacobian is not symmetric."""
    return torch.tanh(params["w"] @ x + t) - 0.3 * x


def _swirl_params():
    return {"w": random.normal(random.key(5), (3, 3), dtype=torch.float64)}


def test_gaussian_to_tolerance():
    result = flows.log_likelihood(linear_velocity, PARAMS, DATA, rtol=1e-9, atol=1e-9, jit=False)
    torch.testing.assert_close(result.value, log_density(DATA, *PARAMS), rtol=0, atol=1e-6)
    torch.testing.assert_close(result.positions, (DATA - MEAN) / SCALE, rtol=0, atol=1e-6)
    assert not result.standard_error.any()
    loose = flows.log_likelihood(linear_velocity, PARAMS, DATA, jit=False)
    torch.testing.assert_close(loose.value, log_density(DATA, *PARAMS), rtol=0, atol=1e-3)
    fixed = flows.log_likelihood(linear_velocity, PARAMS, DATA, solver=solvers.rk4(), num_steps=100, jit=False)
    torch.testing.assert_close(fixed.value, log_density(DATA, *PARAMS), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_mixture_to_tolerance():
    path = paths.linear()
    params = paths.exact.mixture_params(torch.tensor([[1.0], [-1.5]]).double(), torch.tensor(0.2).double())
    marginals, x = paths.exact.marginals(path), torch.linspace(-2, 2, 3, dtype=torch.float64)[:, None]
    result = flows.log_likelihood(marginals.velocity, params, x, rtol=1e-5, atol=1e-6, jit=False)
    expected = vmap(lambda one: marginals.log_density(params, torch.ones((), dtype=torch.float64), one))(x)
    torch.testing.assert_close(result.value, expected, rtol=0, atol=2e-4)


def test_hutchinson_is_unbiased_and_its_error_bar_right():
    """The same point many times, each with probes of its own; one probe serves the whole of a solve."""
    params, point = _swirl_params(), torch.tensor([[0.3, -0.5, 1.0]], dtype=torch.float64)
    options = {"solver": solvers.rk4(), "num_steps": 10, "jit": False}
    exact = flows.log_likelihood(_swirl, params, point, **options)
    many = flows.log_likelihood(
        _swirl, params, point.expand(2000, 3), divergence="hutchinson", key=random.key(1), num_probes=4, **options
    )
    assert_mean(many.value[:, None], float(exact.value))
    # the mean of the squared error bars is the variance of the estimates
    ratio = many.value.var() / many.standard_error.square().mean()
    assert abs(float(ratio) - 1) < 5 * math.sqrt(2 / 2000) * 2
    assert torch.isnan(
        flows.log_likelihood(
            _swirl, params, point, divergence="hutchinson", key=random.key(1), **options
        ).standard_error
    ).all()
    # a symmetric Jacobian without off-diagonal has no variance with signs
    quiet = flows.log_likelihood(
        linear_velocity, PARAMS, DATA, divergence="hutchinson", key=random.key(1), num_probes=2, jit=False
    )
    assert float(quiet.standard_error.max()) < 1e-12


@pytest.mark.parametrize("solver", ["euler", "heun", "rk4", "dopri5"])
def test_discrete_density_is_that_of_the_steps(solver):
    """With few, coarse steps: the log determinant of the whole map by autograd, and inverse after forward is the identity."""
    params, grid = _swirl_params(), torch.linspace(0, 1, 5, dtype=torch.float64)
    flow = flows.flow(_swirl, getattr(solvers, solver)(), grid)
    x = torch.tensor([0.3, -0.5, 1.0], dtype=torch.float64)
    y, log_det = flow.forward(params, x)
    jacobian = torch.func.jacrev(lambda x: flow.forward(params, x)[0])(x)
    torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobian)[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(y, solvers.solve(getattr(solvers, solver)(), _swirl, params, x, grid).value)
    back, minus = flow.inverse(params, y)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-11)
    torch.testing.assert_close(minus, -log_det, rtol=0, atol=1e-11)
    result = flows.log_likelihood(
        _swirl, params, y[None], divergence="discrete", solver=getattr(solvers, solver)(), num_steps=4, jit=False
    )
    torch.testing.assert_close(result.value[0], flow.log_density(params, y), rtol=0, atol=1e-11)


def test_discrete_density_is_normalised():
    """Three coarse steps in one dimension: the density integrates to one, as no integral of a divergence would."""
    field = lambda params, t, x: 1.5 * torch.sin(x) + t  # noqa: E731
    y = torch.linspace(-9, 12, 2001, dtype=torch.float64)[:, None]
    flow = flows.flow(field, solvers.euler(), torch.linspace(0, 1, 4, dtype=torch.float64))
    assert abs(float(torch.trapezoid(vmap(lambda y: flow.log_density((), y).exp())(y), y[:, 0])) - 1) < 1e-8
    smooth = flows.flow(field, solvers.euler(), torch.linspace(0, 1, 4, dtype=torch.float64), "exact")
    assert abs(float(torch.trapezoid(vmap(lambda y: smooth.log_density((), y).exp())(y), y[:, 0])) - 1) > 1e-2


def test_flow_energy_is_normalised_and_draws_follow_it():
    """-log q has log Z = 0; importance weights of its own draws against the data are right."""
    energy = flows.flow_energy(flows.flow(linear_velocity, times=16))
    torch.testing.assert_close(energy(PARAMS, DATA[0]), -log_density(DATA[:1], *PARAMS)[0], rtol=0, atol=1e-3)
    assert float(energy.log_normalizer(PARAMS)) == 0
    draws = energy.sample(random.key(0), PARAMS, 2000, (3,))
    assert_mean(draws, MEAN, bias=1e-4)
    pulled = ebm.energies.pullback(lambda params, x: ((x - MEAN) ** 2).sum() / (2 * SCALE**2), lambda y: y_of(y))
    flow = flows.flow(linear_velocity, times=16)
    y_of = lambda y: flow.forward(PARAMS, y)  # noqa: E731
    values = vmap(lambda z: pulled((), z) - (z**2).sum() / 2)(DATA[:, :])
    # the target pulled back through its own flow is standard normal
    torch.testing.assert_close(values, values[:1].expand(6), rtol=0, atol=2e-3)


def test_gradients_of_the_likelihood_reach_the_params():
    """Maximum likelihood: the gradient with respect to mean and scale is the score of a Gaussian."""

    def total(params):
        return flows.log_likelihood(linear_velocity, params, DATA, rtol=1e-9, atol=1e-9, jit=False).value.sum()

    found = grad(total)(PARAMS)
    expected = grad(lambda params: log_density(DATA, *params).sum())(PARAMS)
    for a, b in zip(tree.leaves(found), tree.leaves(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


def test_trees():
    positions = {"a": DATA[:, :2], "b": (DATA[:, 2],)}
    field = lambda params, t, x: tree.map(lambda leaf: params * leaf, x)  # noqa: E731
    rate = torch.tensor(0.3, dtype=torch.float64)
    expected = log_density(DATA, 0 * MEAN, rate.exp())
    for divergence in ("exact", "hutchinson", "discrete"):
        found = flows.log_likelihood(
            field,
            rate,
            positions,
            divergence=divergence,
            key=random.key(0),
            solver=solvers.dopri5(),
            num_steps=10,
            jit=False,
        )
        torch.testing.assert_close(found.value, expected, rtol=0, atol=1e-7)


def test_bad_input():
    still = lambda params, t, x: 0 * x  # noqa: E731
    x = torch.zeros(2, 2)
    for match, call in (
        ("divergence must be known", lambda: flows.log_likelihood(still, (), x, divergence="trace")),
        ("needs a key", lambda: flows.log_likelihood(still, (), x, divergence="hutchinson")),
        ("without noise", lambda: flows.log_likelihood(still, (), x, solver=solvers.shark())),
        (r"with an axis of the event. Got \(2,\)", lambda: flows.log_likelihood(still, (), x[0], jit=False)),
        ("takes a probe", lambda: flows.flow(still, divergence="hutchinson").forward((), x[0])),
        ("without memory", lambda: flows.flow(still, solvers.dpm_solver(paths.linear())).forward((), x[0])),
        ("times must increase", lambda: flows.flow(still, times=[0.0, 0.0])),
        (
            "standard normal base",
            lambda: flows.flow_energy(flows.flow(still), lambda x: 0.0).sample(random.key(0), (), 2),
        ),
    ):
        with pytest.raises(ValueError, match=match):
            call()


@pytest.mark.slow
@pytest.mark.compiled
def test_compiled_is_eager():
    for options in ({"divergence": "exact"}, {"divergence": "discrete", "num_steps": 4}):
        runs = [flows.log_likelihood(linear_velocity, PARAMS, DATA, jit=jit, **options) for jit in (False, True)]
        torch.testing.assert_close(runs[0].value, runs[1].value, rtol=0, atol=1e-11)
