"""The two loops give the gradient of autograd, eager and compiled, with respect to everything."""

from __future__ import annotations

import pytest
import torch
from torch.func import grad, vmap

import funcebm as ebm
from funcebm import random, solvers, tree

from .problems import network


def _case():
    params = {"w": random.normal(random.key(0), (3, 3), dtype=torch.float64), "b": torch.ones(3, dtype=torch.float64)}
    return (
        params,
        random.normal(random.key(1), (3,), dtype=torch.float64),
        torch.linspace(0.1, 1, 6, dtype=torch.float64),
    )


def _weights(name: str):
    integrator = getattr(solvers, name)()
    noise = solvers.draw_path(random.key(4), integrator, torch.zeros(3, dtype=torch.float64), 5)
    return integrator, noise


def _by_autograd(integrator, noise, params, x, times):
    def loss(params, x, times):
        solution = solvers.solve(integrator, network, params, x, times, noise, save=lambda state: state.position)
        return (solution.value**3).sum() + (solution.saved**2).sum()

    return grad(loss, (0, 1, 2))(params, x, times)


def _by_hand(integrator, noise, params, x, times):
    solution, pull = solvers.discrete_adjoint(integrator, network, params, x, times, noise)
    return tuple(pull(3 * solution.value**2, 2 * solution.saved))


@pytest.mark.parametrize("name", ["euler", "rk4", "dopri5", "tsit5", "stochastic_heun", "shark"])
def test_equals_autograd(name):
    case = (*_weights(name), *_case())
    for a, b in zip(tree.leaves(_by_autograd(*case)), tree.leaves(_by_hand(*case)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_equals_finite_differences():
    integrator, noise = _weights("rk4")
    params, x, times = _case()
    gradients = _by_hand(integrator, noise, params, x, times)

    def loss(times):
        solution = solvers.solve(integrator, network, params, x, times, save=lambda state: state.position)
        return float((solution.value**3).sum() + (solution.saved**2).sum())

    for i in range(len(times)):
        h = torch.zeros_like(times)
        h[i] = 1e-6
        assert abs((loss(times + h) - loss(times - h)) / 2e-6 - float(gradients[2][i])) < 1e-7


def test_adaptive_solve_is_replayed():
    """The gradient through the adaptive loop is that of its steps, replayed with the zero steps at the end."""
    params, x, _ = _case()
    options = {"rtol": 1e-5, "atol": 1e-7, "max_steps": 40}

    def loss(params, x, t1):
        return (solvers.solve_adaptive(solvers.dopri5(), network, params, x, 0.0, t1, **options).value ** 2).sum()

    t1 = torch.tensor(2.0, dtype=torch.float64)
    expected = grad(loss, (0, 1, 2))(params, x, t1)
    recorded = solvers.solve_adaptive(solvers.dopri5(), network, params, x, 0.0, t1, record=True, **options)
    solution, pull = solvers.discrete_adjoint(solvers.dopri5(), network, params, x, recorded.grid)
    torch.testing.assert_close(solution.value, recorded.value, rtol=0, atol=1e-14)
    found = pull(2 * solution.value)
    for a, b in zip(tree.leaves(expected[:2]), tree.leaves(found[:2]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
    # the last time is where the last step and all the empty ones end
    num = int(recorded.info.num_steps)
    torch.testing.assert_close(found.times[num:].sum(), expected[2], rtol=1e-12, atol=1e-13)


def test_integer_params_have_zero_gradients():
    params = {"a": torch.tensor(2.0), "label": torch.tensor(3)}
    field = lambda params, t, x: params["a"] * params["label"] * torch.ones_like(x)  # noqa: E731
    solution, pull = solvers.discrete_adjoint(solvers.euler(), field, params, torch.zeros(1), torch.linspace(0, 1, 5))
    gradients = pull(torch.ones(1)).params
    assert float(gradients["a"]) == 3 and int(gradients["label"]) == 0 and float(solution.value) == 6


@pytest.mark.compiled
def test_compiled_equals_autograd():
    integrator, noise = _weights("heun")
    params, x, times = _case()
    starts = torch.stack([x, -x])

    def many(params, starts, times):
        return vmap(lambda x: _by_hand(integrator, noise, params, x, times))(starts)

    compiled = ebm.jit(many)(params, starts, times)
    for i, start in enumerate(starts):
        expected = _by_autograd(integrator, noise, params, start, times)
        found = tree.map(lambda leaf: leaf[i], compiled)  # noqa: B023
        for a, b in zip(tree.leaves(expected), tree.leaves(found), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
