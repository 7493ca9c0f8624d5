"""Gaussians carried both ways, SDEs that keep marginals, conditions, warnings, bad input."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.func import grad, vmap

import funcebm as ebm
from funcebm import flows, paths, random, solvers, tree

from ..distributions import assert_covariance, assert_mean
from .gaussians import MEAN, PARAMS, SCALE, linear_velocity, velocity

PATHS = {
    "linear": paths.linear(),
    "trigonometric": paths.trigonometric(),
    "linear_variance_preserving": paths.linear_variance_preserving(),
}
NOISE = random.normal(random.key(0), (6, 3), dtype=torch.float64)


@pytest.mark.parametrize("solver", ["dopri5", "tsit5", "rk4"])
def test_noise_to_data_and_back(solver):
    """The flow of the linear path carries x to m + s x; and back, with times that decrease."""
    options = {"solver": getattr(solvers, solver)(), "rtol": 1e-9, "atol": 1e-9, "jit": False}
    if solver == "rk4":
        options["num_steps"] = 200
    there = flows.integrate(linear_velocity, PARAMS, NOISE, **options)
    torch.testing.assert_close(there.value, MEAN + SCALE * NOISE, rtol=0, atol=1e-6)
    back = flows.integrate(linear_velocity, PARAMS, there.value, [1.0, 0.0], **options)
    torch.testing.assert_close(back.value, NOISE, rtol=0, atol=1e-6)
    assert there.info.is_finished.all() and there.saved == ()


@pytest.mark.parametrize("name", list(PATHS))
def test_grid_of_times(name):
    """Positions at all times are those of the exact flow, adaptive by dense output and by fixed steps alike."""
    path = PATHS[name]
    times = torch.tensor([0.1, 0.35, 0.6, 0.9], dtype=torch.float64)
    c = paths.at(path, times)
    spread = ((c.alpha * SCALE) ** 2 + c.sigma**2).sqrt()
    start = c.alpha[0] * MEAN + spread[0] * NOISE
    expected = c.alpha[:, None] * MEAN + spread[:, None] * NOISE[:, None]
    for times_, order in ((times, slice(None)), (times.flip(0), slice(None, None, -1))):
        want = expected.flip(1) if order.step else expected
        first = want[:, 0] if order.step else start
        for options in ({"rtol": 1e-8, "atol": 1e-8}, {"solver": solvers.rk4(), "num_steps": 10}):
            solution = flows.integrate(velocity(path), PARAMS, first, times_, jit=False, **options)
            torch.testing.assert_close(solution.saved, want, rtol=0, atol=2e-5)
            torch.testing.assert_close(solution.saved[:, -1], solution.value, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["euler_maruyama", "stochastic_heun", "shark"])
@pytest.mark.parametrize(
    "kind", ["sigma", pytest.param("bump", marks=pytest.mark.slow), pytest.param("constant", marks=pytest.mark.slow)]
)
def test_every_diffusion_has_the_marginals_of_the_flow(name, kind):
    """x_1 is N(m, s^2 I) for every diffusion coefficient; known bias of the steps apart."""
    path = paths.linear()
    diffusion = {"sigma": path.sigma, "bump": lambda t: t * (1 - t), "constant": lambda t: 0.5 + 0 * t}[kind]
    last = 0.98 if kind == "constant" else 1.0  # the score of a velocity is singular at t = 1
    drift = flows.sde_drift(linear_velocity, path, None if kind == "sigma" else diffusion)
    solver = getattr(solvers, name)(diffusion)
    ends = flows.sample(
        random.key(1), drift, PARAMS, 4000, event_shape=(3,), times=(0.0, last), solver=solver, num_steps=40, jit=False
    )
    spread = (last * SCALE) ** 2 + (1 - last) ** 2
    assert_mean(ends, last * MEAN, bias=0.02)
    # Euler's table at N = 50: .4962 for sigma, .4925 for t (1 - t), .5063 for a constant in place of .5
    assert_covariance(
        ends, spread * torch.eye(3, dtype=torch.float64), bias=0.02 if name == "euler_maruyama" else 0.006
    )


def test_sampling_an_sde_by_ebm_sample():
    """A solver is a sampler: its clock runs from 0 to 1, and its last draw has the distribution of the data."""
    path = paths.linear()
    sampler = solvers.shark(path.sigma)(flows.sde_drift(linear_velocity, path), step_size=1 / 32)
    starts = random.normal(random.key(2), (2000, 3), dtype=torch.float64)
    last = ebm.sample(random.key(3), sampler, PARAMS, starts, num_samples=1, num_burn_in=31, jit=False)
    assert_mean(last.draws[:, 0], MEAN, bias=0.01)
    assert_covariance(last.draws[:, 0], SCALE**2 * torch.eye(3, dtype=torch.float64), bias=0.005)


def test_conditions_trees_and_dtype():
    def field(params, t, x, label):
        return {"a": params * label * torch.ones_like(x["a"]), "b": (x["b"][0] * 0,)}

    positions = {"a": torch.zeros(3, 2), "b": (torch.ones(3),)}
    labels = torch.tensor([0.0, 1.0, 5.0])
    end = flows.integrate(field, torch.tensor(2.0), positions, conditions=labels, jit=False).value
    assert tree.structure(end) == tree.structure(positions) and end["a"].dtype == torch.float32
    torch.testing.assert_close(end["a"], 2 * labels[:, None].expand(3, 2))


@pytest.mark.slow
def test_predictor_corrector_mends_the_predictor():
    """With few Euler steps the flow is too narrow; Langevin steps at the same times bring it closer."""
    path = paths.linear()
    wide = []
    for solver in (
        solvers.euler(),
        flows.predictor_corrector(solvers.euler(), path, num_corrections=5, step_size=0.1),
    ):
        ends = flows.sample(
            random.key(1), linear_velocity, PARAMS, 3000, event_shape=(3,), solver=solver, num_steps=12, jit=False
        )
        wide.append(float(ends.std(0).mean()))
    assert abs(wide[0] - 0.5) > 0.05 > 0.6 * abs(wide[0] - 0.5) > abs(wide[1] - 0.5), wide


def test_composed_and_reversed():
    times = torch.linspace(0, 1, 9, dtype=torch.float64)
    there = solvers.solve(solvers.rk4(), linear_velocity, PARAMS, NOISE[0], times).value
    backwards = solvers.solve(solvers.rk4(), linear_velocity, PARAMS, there, times.flip(0)).value
    reverse = solvers.solve(solvers.rk4(), flows.reversed_in_time(linear_velocity), PARAMS, there, times).value
    torch.testing.assert_close(reverse, backwards, rtol=0, atol=1e-13)
    other = (MEAN + 1, SCALE)
    both = flows.composed([linear_velocity, linear_velocity], [1.5, 0.5], base=linear_velocity)
    value = both((other, other, PARAMS), times[3], NOISE[0])
    plain, moved = (linear_velocity(p, times[3], NOISE[0]) for p in (PARAMS, other))
    torch.testing.assert_close(value, plain + 2 * (moved - plain))


def test_vmap_and_grad_go_through():
    """A pure function with jit=False: over params, tolerances and times; derivatives of the map are known."""

    def end(mean, scale, last, rtol):
        times = torch.stack([torch.zeros_like(last), last])
        return flows.integrate(linear_velocity, (mean, scale), NOISE[:2], times, rtol=rtol, atol=1e-9, jit=False).value

    lasts = torch.tensor([0.5, 1.0], dtype=torch.float64)
    rtols = torch.tensor([1e-6, 1e-9], dtype=torch.float64)
    both = vmap(end, (None, None, 0, 0))(MEAN, SCALE, lasts, rtols)
    torch.testing.assert_close(both[1], MEAN + SCALE * NOISE[:2], rtol=0, atol=1e-6)
    slope = grad(lambda scale: end(MEAN, scale, lasts[1], rtols[1]).sum())(SCALE)
    torch.testing.assert_close(slope, NOISE[:2].sum(), rtol=0, atol=1e-5)


def test_warnings_and_bad_input():
    good = {"jit": False}
    with pytest.warns(UserWarning, match=r"2 of 2 particles \(0, 1\) did not reach"):
        flows.integrate(lambda params, t, x: 1 / (1 - t) ** 2 + x, (), torch.zeros(2, 1), max_steps=5, **good)
    with pytest.warns(UserWarning, match="not finite"):
        flows.integrate(
            lambda params, t, x: x * torch.inf, (), torch.zeros(2, 1), solver=solvers.euler(), num_steps=2, **good
        )
    still = lambda params, t, x: 0 * x  # noqa: E731
    x = torch.zeros(3, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flows.integrate(still, (), x, **good)
    for error, match, call in (
        (ValueError, r"times must be in \[0, 1\]", lambda: flows.integrate(still, (), x, [0.0, 1.5])),
        (ValueError, "times must increase", lambda: flows.integrate(still, (), x, [0.0, 0.5, 0.2])),
        (ValueError, "share one axis", lambda: flows.integrate(still, (), x, conditions=torch.zeros(2))),
        (ValueError, "floating point", lambda: flows.integrate(still, (), x.long())),
        (ValueError, "needs a key", lambda: flows.integrate(still, (), x, solver=solvers.shark())),
        (TypeError, "solver must be an Integrator", lambda: flows.integrate(still, (), x, solver="rk4")),
        (ValueError, "shapes of the position", lambda: flows.integrate(lambda p, t, x: x[:1], (), x, **good)),
        (ValueError, "give event_shape", lambda: flows.sample(random.key(0), still, (), 3)),
        (ValueError, "one weight for each", lambda: flows.composed([still], [1.0, 2.0])),
    ):
        with pytest.raises(error, match=match):
            call()


@pytest.mark.slow
@pytest.mark.compiled
def test_compiled_is_eager():
    for options in ({"rtol": 1e-5}, {"solver": solvers.heun(), "num_steps": 5}):
        runs = [
            flows.integrate(linear_velocity, PARAMS, NOISE, [0.0, 0.5, 1.0], jit=jit, **options)
            for jit in (False, True)
        ]
        for a, b in zip(tree.leaves(runs[0]), tree.leaves(runs[1]), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
