"""A solver run over a grid of times: one compiled loop, exact replay, noise as data."""

from __future__ import annotations

from typing import Callable, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, loops, random, tree
from ..types import Key, Params, Position, Tree
from .integrator import Field, Integrator, SolverInfo, SolverState, SolverTuning, check_solve, evaluate

__all__ = ["Solution", "SolveInfo", "check_noise", "check_times", "draw_path", "solve", "start", "step_between"]


class SolveInfo(NamedTuple):
    """How a solve went.

    Attributes:
        num_steps: that were made. ``()`` int32.
        num_rejected: that were tried and not made. ``()`` int32.
        num_evaluations: of the field. ``()`` int32.
        is_finished: whether the last time was reached. ``()`` bool.
        is_divergent: whether a position had a number that is not finite. ``()`` bool.
    """

    num_steps: Tensor
    num_rejected: Tensor
    num_evaluations: Tensor
    is_finished: Tensor
    is_divergent: Tensor


class Solution(NamedTuple):
    """What a solve returns.

    Attributes:
        value: the position at the last time; where the solve is not finished, the last one that was reached.
        saved: what was asked for along the way, on a leading axis; ``()`` where nothing was.
        info: a :class:`SolveInfo`.
        grid: with ``record`` in :func:`solve_adaptive`, the times of its steps, ``(max_steps + 1,)``, filled up with the last
            one; else ``()``.
    """

    value: Position
    saved: Tree
    info: SolveInfo
    grid: Tree = ()


def check_times(times: Tensor, is_stochastic: bool = False, are_equal_allowed: bool = False) -> None:
    """Two or more times, strictly increasing, or (for an ODE) decreasing; with equal ones at the end where allowed."""
    right = isinstance(times, Tensor) and times.ndim == 1 and len(times) >= 2
    got = f"the shape {tuple(times.shape)}" if isinstance(times, Tensor) else repr(times)
    checks.require(right, "times must be a vector of two or more", got, "Try torch.linspace(0, 1, 51).")
    if checks.is_concrete(times):
        steps = times.diff()
        if are_equal_allowed:
            steps = steps[: max(int(steps.ne(0).sum()), 1)]
        grows, falls = bool((steps > 0).all()), bool((steps < 0).all())
        fix = "Try torch.linspace(0, 1, 51)." + ("" if is_stochastic else " Backwards, torch.linspace(1, 0, 51).")
        must = "times must increase strictly" + (
            ", an SDE runs forwards" if is_stochastic else ", or decrease strictly"
        )
        checks.require(grows or (falls and not is_stochastic), must, str(times.tolist())[:200], fix)


def check_noise(integrator: Integrator, noise: Tree, num_steps: int) -> None:
    """An SDE solver takes the noise of all its steps, an ODE solver none."""
    counts = sorted({leaf.shape[0] for leaf in tree.leaves(noise)})
    got = f"that of {' and '.join(str(count) for count in counts)}" if counts else "no noise"
    fix = "Use draw_path(key, integrator, x, len(times) - 1)."
    if integrator.strong_order is None:
        checks.require(not counts, "the solver of an ODE takes no noise", got, "Leave it out, or take an SDE solver.")
    else:
        must = f"{num_steps + 1} times take the noise of {num_steps} steps"
        checks.require(counts == [num_steps], must, got, fix)


def draw_path(key: Key, integrator: Integrator, x: Position, num_steps: int) -> Tree:
    """The noise of ``num_steps`` steps, on a leading axis of every leaf; step ``i`` uses ``split(key, num_steps)[i]``.

    Args:
        key: ``(2,)``.
        integrator: of an SDE; an ODE has no noise, ``()``.
        x: a position.
        num_steps: one less than there are times.

    Returns:
        What :func:`solve` takes as ``noise``.

    >>> from funcebm import solvers
    >>> draw_path(random.key(0), solvers.euler_maruyama(), torch.zeros(2), 5).displacement.shape
    torch.Size([5, 2])
    """
    return vmap(integrator.draw, (0, None))(random.split(key, num_steps), x)


def solve(
    integrator: Integrator,
    field: Field,
    params: Params,
    x: Position,
    times: Tensor,
    noise: Tree = (),
    save: Callable[[SolverState], Tree] | None = None,
) -> Solution:
    r"""Solves :math:`\dot x = u(t, x)` with one step between neighbouring times, of one particle.

    Add particles with ``torch.func.vmap``, gradients with ``torch.func.grad`` (eagerly, or compiled for some tens of steps;
    :func:`discrete_adjoint` for any number), and compile the whole with :func:`funcebm.jit`.

    Args:
        integrator: such as ``rk4()``.
        field: ``(params, t, x) -> like x``.
        params: of the field.
        x: the position at the first time.
        times: strictly increasing, or decreasing: an ODE is then solved backwards. ``(T,)``, traced.
        noise: that of the T - 1 steps of an SDE, from :func:`draw_path`.
        save: ``state -> tree``, kept at each of the T times; None keeps nothing.

    Returns:
        :class:`Solution`.

    Raises:
        ValueError: times that do not increase or decrease, noise of another length, a field whose output does not fit.

    >>> from funcebm import solvers
    >>> solution = solve(solvers.rk4(), lambda params, t, x: -params * x, torch.tensor(1.0), torch.ones(1),
    ...     torch.linspace(0, 1, 11))
    >>> bool((solution.value - torch.exp(torch.tensor(-1.0))).abs() < 1e-6), int(solution.info.num_evaluations)
    (True, 40)
    """
    check_solve(integrator, field, x)
    check_times(times, integrator.strong_order is not None)
    num_steps = len(times) - 1
    check_noise(integrator, noise, num_steps)
    times = times.to(tree.first(x))

    def body(state: SolverState, xs: Tree) -> tuple[SolverState, Tree]:
        time, end, step_noise = xs
        state, info = step_between(integrator, field, params, state, time, end, step_noise)
        kept = () if save is None else save(state)
        return state, (kept, info.is_divergent, info.num_gradients)

    first, num_first = start(integrator, field, params, times[0], x)
    last, (kept, is_divergent, counts) = loops.scan(body, first, (times[:-1], times[1:], noise))
    if save is not None:
        kept = tree.map(lambda a, b: torch.cat([a[None], b]), save(first), kept)
    info = SolveInfo(
        num_steps=torch.full_like(counts[0], num_steps),
        num_rejected=torch.zeros_like(counts[0]),
        num_evaluations=counts.sum(0, dtype=torch.int32) + num_first,
        is_finished=torch.ones_like(is_divergent[0]),
        is_divergent=is_divergent.any(0),
    )
    return Solution(last.position, kept, info)


def start(integrator: Integrator, field: Field, params: Params, t: Tensor, x: Position) -> tuple[SolverState, int]:
    """The state at the first time, with the slope there where the solver reuses slopes, and what that cost."""
    state = integrator.init(field, params, t.clone(), tree.map(torch.clone, x))
    if not integrator.reuses_slope:
        return state, 0
    return state._replace(memory=evaluate(field, params, t, x)), 1


def step_between(
    integrator: Integrator, field: Field, params: Params, state: SolverState, time: Tensor, end: Tensor, noise: Tree
) -> tuple[SolverState, SolverInfo]:
    """A step from one time to another, which it reaches exactly."""
    tuning = SolverTuning(end - time, integrator.tuning)
    state, info = integrator.step(field, params, tuning, state._replace(time=time), noise)
    return state._replace(time=end.clone()), info
