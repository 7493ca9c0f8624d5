"""DDIM, DPM-Solver++ and EDM: orders on exact predictions, exactness where they promise it, distributions of the noisy ones."""

from __future__ import annotations

import math

import pytest
import torch
from torch.func import vmap

import funcebm as ebm
from funcebm import paths, random, solvers

from ..distributions import assert_covariance, assert_mean
from ..flows.gaussians import MEAN, PARAMS, SCALE, velocity
from .problems import slopes

PATHS = {
    "linear": paths.linear(),
    "variance_preserving": paths.variance_preserving(),
}
START = torch.tensor([0.3, 1.0, -0.7], dtype=torch.float64)


def _exact(path, t0, t1, x):
    """The flow of a Gaussian: standard scores are kept."""
    a, b = paths.at(path, t0), paths.at(path, t1)
    spread = lambda c: ((c.alpha * SCALE) ** 2 + c.sigma**2).sqrt()  # noqa: E731
    return b.alpha * MEAN + spread(b) / spread(a) * (x - a.alpha * MEAN)


def _errors(integrator, path, last: float, counts: tuple[int, ...]) -> list[float]:
    field, errors = velocity(path), []
    for num in counts:
        times = torch.linspace(0.3, last, num + 1, dtype=torch.float64)
        goal = _exact(path, times[0], times[-1], START)
        errors.append(float((solvers.solve(integrator, field, PARAMS, START, times).value - goal).norm()))
    return errors


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=name, marks=() if name == "linear" else pytest.mark.slow) for name, path in PATHS.items()],
)
@pytest.mark.parametrize("name", ["ddim", "dpm_solver", "edm_heun"])
def test_order(name, path):
    integrator = getattr(solvers, name)(path)
    errors = _errors(integrator, path, 0.9, (12, 24, 48))
    # on the variance preserving path the errors of two orders cancel at these steps
    assert slopes(errors) > integrator.order - 0.3, (errors, slopes(errors))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddim", "dpm_solver", "edm_heun"])
def test_last_step_to_data(name):
    """The step that ends without noise is of order 1 in a step that shrinks: the whole is of order 1 at least."""
    errors = _errors(getattr(solvers, name)(PATHS["linear"]), PATHS["linear"], 1.0, (20, 80))
    assert errors[1] < 0.35 * errors[0] and errors[1] < 0.03, errors


@pytest.mark.parametrize("path", list(PATHS.values()), ids=list(PATHS))
@pytest.mark.parametrize("name", ["ddim", "dpm_solver"])
def test_point_mass_is_exact_in_one_step(name, path):
    """Where the prediction of the data is constant the step is exact, from noise to data."""
    params = (MEAN, torch.zeros((), dtype=torch.float64))
    times = torch.tensor([0.0, 0.37, 1.0], dtype=torch.float64)
    along = solvers.solve(
        getattr(solvers, name)(path), velocity(path), params, START, times, save=lambda state: state.position
    ).saved
    c, first = paths.at(path, times[1]), paths.at(path, times[0])
    noise = (START - first.alpha * MEAN) / first.sigma
    torch.testing.assert_close(along[1], c.alpha * MEAN + c.sigma * noise, rtol=0, atol=1e-12)
    torch.testing.assert_close(along[2], MEAN, rtol=0, atol=1e-10)


def test_ddim_runs_backwards():
    path, field = paths.linear(), velocity(paths.linear())
    times = torch.linspace(0, 1, 81, dtype=torch.float64)
    there = solvers.solve(solvers.ddim(path), field, PARAMS, START, times).value
    back = solvers.solve(solvers.ddim(path), field, PARAMS, there, times.flip(0)).value
    torch.testing.assert_close(back, START, rtol=0, atol=0.06)
    torch.testing.assert_close(there, MEAN + SCALE * START, rtol=0, atol=0.04)


def test_predictions_agree():
    """Velocity, data, noise and score of one model make the same steps."""
    path, field = paths.trigonometric(), velocity(paths.trigonometric())
    times = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    ends = [
        solvers.solve(
            solvers.dpm_solver(path, prediction=kind),
            paths.convert(path, field, "velocity", kind),
            PARAMS,
            START,
            times,
        ).value
        for kind in ("velocity", "data", "noise", "score")
    ]
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=0, atol=1e-12)


def _variance(integrator, path, times, start: float):
    """The variance after linear steps, from that of the start: each unit of noise goes through alone."""
    field, params = velocity(path), (torch.zeros(1, dtype=torch.float64), SCALE)
    noise = solvers.draw_path(random.key(0), integrator, torch.zeros(1, dtype=torch.float64), len(times) - 1)
    end = lambda x, z: solvers.solve(integrator, field, params, x, times, z).value[0]  # noqa: E731
    units = torch.func.jacrev(end, (0, 1))(torch.zeros(1, dtype=torch.float64), noise)
    return start * float(units[0].square().sum()) + float(units[1].square().sum())


@pytest.mark.parametrize("name", ["ddim", "ancestral", "edm"])
def test_noisy_solvers_keep_the_marginals(name):
    """On Gaussian data each step is linear: the variance at t = 1 tends to that of the data, with first order."""
    path = paths.linear()
    integrator = {
        "ddim": solvers.ddim(path, torch.tensor(0.5, dtype=torch.float64)),
        "ancestral": solvers.ancestral(path),
        "edm": solvers.edm_heun(path, torch.tensor(0.05, dtype=torch.float64)),
    }[name]
    errors = []
    for num in (16, 32, 64):
        times = torch.linspace(0.02, 1, num + 1, dtype=torch.float64)
        start = float((times[0] * SCALE) ** 2 + (1 - times[0]) ** 2)
        errors.append(abs(_variance(integrator, path, times, start) - float(SCALE**2)))
    assert errors[-1] < 0.03, errors
    # churn of a fixed size each step has no limit of small steps; its error is that of Heun's step
    assert name == "edm" or slopes(errors) > 0.7, (errors, slopes(errors))


def test_ancestral_is_the_posterior():
    """One step is a draw of p(x_t | x_r, x_1), whose mean and variance are known by Gaussian conditioning."""
    path = paths.linear()
    r, t = torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.45, dtype=torch.float64)
    x1 = torch.tensor([2.0], dtype=torch.float64)
    x_r = torch.tensor([0.4], dtype=torch.float64)
    known = lambda params, t, x: x1  # noqa: E731
    integrator = solvers.ancestral(path, prediction="data")
    noise = random.normal(random.key(0), (20_000, 1, 1), dtype=torch.float64)
    times = torch.stack([r, t])
    draws = vmap(lambda z: solvers.solve(integrator, known, (), x_r, times, z).value)(noise)
    # x_t = a x1 + s e, x_r = (a_r / a_t) x_t + fresh noise: the forward kernel of t to r
    scale, own = r / t, (1 - t) ** 2
    forward = (1 - r) ** 2 - scale**2 * own
    precision = 1 / own + scale**2 / forward
    mean = (t * x1 / own + scale * x_r / forward) / precision
    assert_mean(draws, mean)
    assert_covariance(draws, (1 / precision).reshape(1, 1))


def test_grids_of_times():
    path = paths.trigonometric()
    times = solvers.log_snr_times(path, 11, dtype=torch.float64)
    assert times[-1] == 1 and (times.diff() > 0).all()
    lengths = paths.at(path, times[:-1]).log_snr.diff()
    torch.testing.assert_close(lengths, torch.full_like(lengths, 1.0), rtol=0, atol=1e-8)
    levels = paths.at(path, solvers.edm_times(path, 18, dtype=torch.float64)[:-1])
    expected = (80 ** (1 / 7) + torch.arange(18, dtype=torch.float64) / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(levels.sigma / levels.alpha, expected, rtol=1e-8, atol=0)


def test_edm_in_18_steps():
    """Second order in the number of levels, from the first one at which they are used."""
    path, errors = paths.linear(), []
    for num in (18, 36, 72):
        times = solvers.edm_times(path, num, dtype=torch.float64)
        start = _exact(path, torch.zeros((), dtype=torch.float64), times[0], START)
        value = solvers.solve(solvers.edm_heun(path), velocity(path), PARAMS, start, times).value
        errors.append(float((value - MEAN - SCALE * START).abs().max()))
    assert errors[0] < 0.03 and abs(slopes(errors) - 2) < 0.25, errors


@pytest.mark.slow
@pytest.mark.compiled
def test_compiled_is_eager():
    path, times = paths.linear(), torch.linspace(0.0, 1, 9, dtype=torch.float64)
    starts = random.normal(random.key(0), (4, 3), dtype=torch.float64)
    integrator = solvers.dpm_solver(path)
    run = lambda x, times: vmap(lambda x: solvers.solve(integrator, velocity(path), PARAMS, x, times).value)(x)  # noqa: E731
    torch.testing.assert_close(ebm.jit(run)(starts, times), run(starts, times), rtol=0, atol=1e-12)


def test_bad_input():
    with pytest.raises(ValueError, match="no further noise"):
        solvers.ddim(paths.brownian_bridge())
    with pytest.raises(ValueError, match="eta must be in"):
        solvers.ddim(paths.linear(), 1.5)
    with pytest.raises(ValueError, match="churn must be in"):
        solvers.edm_heun(paths.linear(), 0.9)
    with pytest.raises(ValueError, match="prediction must be"):
        solvers.dpm_solver(paths.linear(), prediction="epsilon")
    with pytest.raises(ValueError, match="noise levels must fall"):
        solvers.edm_times(paths.linear(), 5, sigma_max=0.001)
    with pytest.raises(ValueError, match="low must be below high"):
        solvers.log_snr_times(paths.linear(), 5, low=2.0, high=math.nan)
