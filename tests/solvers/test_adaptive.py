"""Adaptive steps: accuracy follows the tolerance, particles do not see one another, flags where it does not end."""

from __future__ import annotations

import pytest
import torch
from torch.func import vmap

import funcebm as ebm
from funcebm import random, solvers, tree

from .problems import cubic, cubic_solution, network, turned, turning

PAIRS = ["bosh3", "dopri5", "tsit5"]
HALF = torch.tensor([0.5], dtype=torch.float64)


def _params():
    return {"w": 2 * random.normal(random.key(0), (3, 3), dtype=torch.float64), "b": torch.ones(3, dtype=torch.float64)}


@pytest.mark.parametrize("name", PAIRS)
def test_error_follows_the_tolerance(name):
    for tolerance in (1e-4, 1e-6, 1e-8):
        solution = solvers.solve_adaptive(
            getattr(solvers, name)(), cubic, (), HALF, 0.0, 3.0, rtol=tolerance, atol=tolerance
        )
        assert solution.info.is_finished and not solution.info.is_divergent
        error = float((solution.value - cubic_solution(torch.tensor(3.0, dtype=torch.float64))).abs())
        assert error < 2 * tolerance, (tolerance, error)


@pytest.mark.parametrize("name", PAIRS)
def test_backwards_is_the_flipped_solve(name):
    integrator = getattr(solvers, name)()
    flipped = lambda params, t, x: -turning(params, 1 - t, x)  # noqa: E731
    start = turned(torch.ones((), dtype=torch.float64))
    at = torch.linspace(0, 1, 7, dtype=torch.float64)
    back = solvers.solve_adaptive(integrator, turning, (), start, 1.0, 0.0, rtol=1e-7, atol=1e-7, at=at.flip(0))
    forth = solvers.solve_adaptive(integrator, flipped, (), start, 0.0, 1.0, rtol=1e-7, atol=1e-7, at=at)
    assert back.info.num_steps == forth.info.num_steps
    torch.testing.assert_close(back.value, forth.value, rtol=0, atol=1e-12)
    torch.testing.assert_close(back.saved, forth.saved, rtol=0, atol=1e-10)
    torch.testing.assert_close(back.saved, torch.stack([turned(t) for t in at.flip(0)]), rtol=0, atol=3e-6)
    assert torch.equal(back.saved[0], start)


def test_each_particle_takes_its_own_steps():
    params, starts = _params(), 3 * random.normal(random.key(1), (20, 3), dtype=torch.float64)
    # tolerances differ from particle to particle too
    rtol = torch.logspace(-3, -8, 20, dtype=torch.float64)
    solver = lambda x, rtol: solvers.solve_adaptive(  # noqa: E731
        solvers.dopri5(), network, params, x, 0.0, 4.0, rtol=rtol, atol=1e-9, at=torch.tensor([1.0, 2.5, 4.0])
    )
    together = vmap(solver)(starts, rtol)
    assert len(together.info.num_steps.unique()) > 5
    for i in range(20):
        alone = solver(starts[i], rtol[i])
        assert alone.info.num_steps == together.info.num_steps[i]
        assert alone.info.num_evaluations == together.info.num_evaluations[i]
        torch.testing.assert_close(alone.value, together.value[i], rtol=0, atol=1e-13)
        torch.testing.assert_close(alone.saved, together.saved[i], rtol=0, atol=1e-13)


def test_rejections_and_counts():
    """A kick in the middle is found: steps are rejected there, and evaluations are counted one by one."""
    calls = []

    def kicked(params, t, x):
        calls.append(1)
        return torch.exp(-(((t - 0.6) / 0.01) ** 2)) * torch.ones_like(x)

    solution = solvers.solve_adaptive(
        solvers.tsit5(),
        kicked,
        (),
        torch.zeros(1, dtype=torch.float64),
        0.0,
        1.0,
        rtol=1e-6,
        atol=1e-8,
        at=torch.linspace(0, 1, 11),
    )
    assert int(solution.info.num_rejected) > 0
    assert int(solution.info.num_evaluations) == len(calls)
    assert abs(float(solution.value) - 0.01 * torch.pi**0.5) < 1e-6


def test_flags():
    ones = torch.ones(1, dtype=torch.float64)
    short = solvers.solve_adaptive(
        solvers.dopri5(),
        turning,
        (),
        torch.ones(2, dtype=torch.float64),
        0.0,
        50.0,
        max_steps=7,
        at=torch.tensor([0.0, 40.0]),
    )
    assert not short.info.is_finished and int(short.info.num_steps + short.info.num_rejected) == 7
    assert torch.isfinite(short.saved[0]).all() and torch.isnan(short.saved[1]).all()
    explodes = solvers.solve_adaptive(solvers.dopri5(), lambda params, t, x: x**2, (), ones, 0.0, 2.0, rtol=1e-6)
    assert not explodes.info.is_finished and torch.isfinite(explodes.value).all() and float(explodes.value) > 1e3
    nan = solvers.solve_adaptive(solvers.dopri5(), lambda params, t, x: x * torch.nan, (), ones, 0.0, 1.0)
    assert not nan.info.is_finished and nan.info.is_divergent and nan.value == 1


def test_bad_input():
    x = torch.zeros(2)
    still = lambda params, t, x: x  # noqa: E731
    with pytest.raises(ValueError, match="must estimate its error"):
        solvers.solve_adaptive(solvers.rk4(), still, (), x)
    with pytest.raises(ValueError, match="rtol must be positive"):
        solvers.solve_adaptive(solvers.dopri5(), still, (), x, rtol=-1.0)
    with pytest.raises(ValueError, match=r"precision of torch\.float32"):
        solvers.solve_adaptive(solvers.dopri5(), still, (), x, rtol=1e-9, atol=1e-9)


@pytest.mark.compiled
def test_compiled_is_eager_step_by_step():
    params, starts = _params(), random.normal(random.key(1), (7, 3), dtype=torch.float64)

    def run(params, starts, rtol):
        solver = lambda x: solvers.solve_adaptive(  # noqa: E731
            solvers.bosh3(), network, params, x, 0.0, 4.0, rtol=rtol, atol=1e-6, at=torch.tensor([2.0])
        )
        return vmap(solver)(starts)

    rtol = torch.tensor(1e-4, dtype=torch.float64)
    eager, compiled = run(params, starts, rtol), ebm.jit(run)(params, starts, rtol)
    assert torch.equal(eager.info.num_steps, compiled.info.num_steps)
    for a, b in zip(tree.leaves(eager), tree.leaves(compiled), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)
