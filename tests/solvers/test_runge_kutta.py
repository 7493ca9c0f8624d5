"""Orders of convergence by regression, exactness on polynomials, dense output."""

from __future__ import annotations

import pytest
import torch
from torch.func import vmap

import funcebm as ebm
from funcebm import random, solvers, tree

from .problems import cubic, cubic_solution, pendulum, slopes, turning

METHODS = ["euler", "midpoint", "heun", "ralston", "bosh3", "rk4", "dopri5", "tsit5"]
START = torch.tensor([1.0, 0.0], dtype=torch.float64)


STARTS = torch.stack([START, -1.3 * START, START.flip(0), START + 0.5, START.flip(0) - 0.5])


def _ends(integrator, starts, times):
    return vmap(lambda x: solvers.solve(integrator, pendulum, (), x, times).value)(starts)


@pytest.fixture(scope="module")
def reference():
    return _ends(solvers.dopri5(), STARTS, torch.linspace(0, 1, 1001, dtype=torch.float64))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("backwards", [False, True])
def test_order(name, backwards, reference):
    integrator = getattr(solvers, name)()
    start, goal = (reference, STARTS) if backwards else (STARTS, reference)
    errors = []
    for num in (16, 32, 64, 128):
        times = torch.linspace(0, 1, num + 1, dtype=torch.float64)
        errors.append(float((_ends(integrator, start, times.flip(0) if backwards else times) - goal).norm()))
    # the first halving of the methods of order 5 is not asymptotic yet
    assert abs(slopes(errors[1:]) - integrator.order) < 0.25, (errors, slopes(errors[1:]))


@pytest.mark.parametrize("name", METHODS)
def test_quadrature_is_exact_up_to_the_order(name):
    integrator = getattr(solvers, name)()
    times = torch.linspace(0, 1, 4, dtype=torch.float64)
    for power in range(integrator.order):
        field = lambda params, t, x: t**power * torch.ones_like(x)  # noqa: B023, E731
        value = solvers.solve(integrator, field, (), torch.zeros(1, dtype=torch.float64), times).value
        assert float((value - 1 / (power + 1)).abs()) < 1e-12, power


@pytest.mark.parametrize(("name", "local_order"), [("heun", 3), ("bosh3", 4), ("dopri5", 5), ("tsit5", 5)])
def test_dense_output(name, local_order):
    integrator, start, zero = getattr(solvers, name)(), torch.tensor([0.5], dtype=torch.float64), torch.zeros(())
    errors = []
    for h in (0.4, 0.2, 0.1, 0.05):
        h = torch.tensor(h, dtype=torch.float64)
        attempt = integrator.attempt(cubic, (), zero.double(), h, start, ())
        at = lambda share: integrator.interpolate(attempt, start, h, share)  # noqa: B023, E731
        share = torch.tensor([0.3, 0.77], dtype=torch.float64)
        errors.append(float((vmap(at)(share)[:, 0] - cubic_solution(share * h)).abs().max()))
        ends = vmap(at)(torch.tensor([0.0, 1.0], dtype=torch.float64))
        torch.testing.assert_close(ends, torch.stack([start, attempt.position]), rtol=0, atol=1e-14)
    assert slopes(errors) > local_order - 0.4, errors


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_trees_dtypes_and_counts(name, dtype):
    integrator = getattr(solvers, name)()
    field = lambda params, t, x: tree.map(lambda leaf: -leaf * t, x)  # noqa: E731
    start = {"a": torch.ones(2, 3, dtype=dtype), "b": (torch.ones((), dtype=dtype),)}
    times = torch.linspace(0, 1, 33)
    solution = solvers.solve(
        integrator, field, (), start, times, save=lambda state: (state.time, state.position["b"][0])
    )
    assert tree.structure(solution.value) == tree.structure(start)
    assert all(leaf.dtype == dtype for leaf in tree.leaves(solution.value))
    assert solution.saved[0].tolist() == times.to(dtype).tolist()
    assert float(solution.saved[1][0]) == 1 and solution.saved[1][-1] == solution.value["b"][0]
    evaluations = integrator.num_evaluations * 32 + integrator.reuses_slope
    assert int(solution.info.num_evaluations) == evaluations
    torch.testing.assert_close(
        solution.value["b"][0],
        torch.tensor(-0.5, dtype=dtype).exp(),
        rtol=0,
        atol=0.6 * (1 / 32) ** integrator.order + 1e-6,
    )


def test_a_solver_is_a_sampler():
    """``sample`` runs it: the draws are the positions along the way, those of ``solve``."""
    sampler = solvers.rk4()(turning, step_size=torch.tensor(0.1, dtype=torch.float64))
    starts = torch.stack([START, 2 * START])
    samples = ebm.sample(random.key(0), sampler, (), starts, num_samples=10, jit=False)
    along = solvers.solve(
        solvers.rk4(),
        turning,
        (),
        START,
        torch.linspace(0, 1, 11, dtype=torch.float64),
        save=lambda state: state.position,
    )
    torch.testing.assert_close(samples.draws[0], along.saved[1:], rtol=0, atol=1e-14)
    torch.testing.assert_close(samples.draws[1], 2 * along.saved[1:], rtol=0, atol=1e-14)
    assert samples.info.num_gradients.unique().tolist() == [4]
    assert samples.info.is_accepted.all() and not samples.info.is_divergent.any()
    torch.testing.assert_close(samples.state.time, torch.ones(2, dtype=torch.float64))


def test_cycle_keeps_the_clock_and_moves_the_particle():
    """A solver beside another sampler: its clock goes on, and it starts where the other left the particle."""
    solver = solvers.euler()(lambda params, t, x: torch.ones_like(x) * t, step_size=0.5)
    shift = solvers.euler()(lambda params, t, x: torch.ones_like(x), step_size=10.0)
    samples = ebm.sample(
        random.key(0), ebm.samplers.cycle(solver, shift), (), torch.zeros(1, 1), num_samples=3, jit=False
    )
    # t = 0, 0.5, 1: adds t / 2 each time, and the other adds 10
    torch.testing.assert_close(samples.draws[0, :, 0], torch.tensor([10.0, 20.25, 30.75]))


@pytest.mark.compiled
def test_compiled_is_eager():
    starts = torch.stack([START, 2 * START, -START])
    times = torch.linspace(0, 1, 21, dtype=torch.float64)

    def run(times, starts):
        return vmap(lambda x: solvers.solve(solvers.dopri5(), turning, (), x, times).value)(starts)

    torch.testing.assert_close(ebm.jit(run)(times, starts), run(times, starts), rtol=0, atol=1e-14)


def test_bad_input():
    with pytest.raises(ValueError, match=r"dtype of the position\. Got torch\.float64"):
        solvers.solve(solvers.rk4(), lambda params, t, x: x.double(), (), torch.ones(2), torch.linspace(0, 1, 3))
    x = torch.zeros(2)
    still = lambda params, t, x: x  # noqa: E731
    for times in (torch.tensor([0.0, 0.5, 0.5]), torch.tensor([0.0, 1.0, 0.5]), torch.zeros(1), torch.zeros(2, 2)):
        with pytest.raises(ValueError, match="times must"):
            solvers.solve(solvers.rk4(), still, (), x, times)
    times = torch.linspace(0, 1, 3)
    with pytest.raises(ValueError, match="shapes of the position"):
        solvers.solve(solvers.rk4(), lambda params, t, x: x.sum(), (), x, times)
    with pytest.raises(ValueError, match="same structure"):
        solvers.solve(solvers.rk4(), lambda params, t, x: {"a": x}, (), x, times)
    with pytest.raises(ValueError, match="step_size must be positive"):
        solvers.rk4()(still, step_size=-0.1)
    with pytest.raises(TypeError, match="field must be"):
        solvers.rk4()(3.0)
    diverged = solvers.solve(solvers.rk4(), lambda params, t, x: x / 0, (), x + 1, times)
    assert diverged.info.is_divergent
