"""Particles along a field: from noise to data, back, or on a grid of times."""

from __future__ import annotations

import warnings
from typing import Any, Callable, Sequence

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, random, solvers, tree
from ..paths import Field
from ..solvers import Integrator, Solution
from ..solvers.adaptive import check_tolerances
from ..solvers.solve import check_times
from ..transforms import is_worth_it
from ..transforms import jit as compiled
from ..types import Key, Params, Position, Tree

__all__ = ["check_particles", "conditioned_field", "integrate", "run", "sample", "times_of", "warn_unfinished"]


def integrate(
    field: Field,
    params: Params,
    positions: Position,
    times: Tensor | Sequence[float] | None = None,
    *,
    solver: Integrator | None = None,
    num_steps: int | None = None,
    rtol: float | Tensor = 1e-4,
    atol: float | Tensor = 1e-5,
    max_steps: int = 1000,
    conditions: Tree = (),
    key: Key | None = None,
    jit: bool | None = None,
) -> Solution:
    r"""Moves particles along :math:`\dot x = u(t, x)` from the first of some times to the last.

    Times that increase lead from noise (0) to data (1), times that decrease back again. Adaptive solvers choose their steps
    for each particle alone, so that its result does not depend on the others.

    Args:
        field: ``(params, t, x) -> like x`` of one particle; with ``conditions``, ``(params, t, x, condition) -> like x``.
        params: of the field.
        positions: at the first time, ``(N, *event)``; a tensor or a tree.
        times: two or more, strictly increasing or decreasing in [0, 1]; (0, 1) by default. With more than two, the positions
            at all of them are returned as ``saved``. ``(T,)``.
        solver: from :mod:`funcebm.solvers`; ``dopri5()`` by default. An SDE solver needs ``key``, and as field a drift such as
            :func:`sde_drift`.
        num_steps: equal steps between neighbouring times. None takes adaptive steps where the solver estimates its error, else
            100 in all.
        rtol: relative tolerance of adaptive steps. ``()``.
        atol: absolute tolerance of adaptive steps. ``()``.
        max_steps: adaptive steps of a particle at most.
        conditions: one for each particle, such as labels, on the leading axis of every leaf.
        key: for the noise of an SDE. ``(2,)``.
        jit: compile the whole. None decides as for :func:`funcebm.sample`. With ``jit=False`` it is a pure function.

    Returns:
        A :class:`~funcebm.solvers.Solution` with a leading axis N everywhere; ``saved`` is ``(N, T, *event)``, or ``()`` for two
        times. Particles that did not reach the last time have ``info.is_finished`` False, and a warning tells of them.

    Raises:
        ValueError: times outside of [0, 1] or not in order, positions or conditions of different lengths, a field whose output
            does not fit, an SDE without key, tolerances beyond the precision of the positions.
        TypeError: what is no solver or no field.

    >>> field = lambda params, t, x: params * x
    >>> solution = integrate(field, torch.tensor(1.0), torch.tensor([[1.0], [2.0]]), rtol=1e-5, jit=False)
    >>> back = integrate(field, torch.tensor(1.0), solution.value, [1.0, 0.0], rtol=1e-5, jit=False)
    >>> bool((back.value - torch.tensor([[1.0], [2.0]])).abs().max() < 1e-3)
    True
    """
    solver = solvers.dopri5() if solver is None else solver
    checks.instance("solver", solver, Integrator, "Write solvers.heun(), say.")
    checks.function("field", field, "Write lambda params, t, x: ...")
    num = check_particles(positions, conditions)
    like = tree.first(positions)
    times = times_of(times, like)
    is_stochastic = solver.strong_order is not None
    if is_stochastic:
        must = "an SDE solver needs a key and increasing times"
        right = key is not None and (not checks.is_concrete(times) or bool(times[0] < times[-1]))
        checks.require(right, must, "no key" if key is None else "decreasing times", "Pass key=random.key(0), say.")
    checks.positive_int("max_steps", max_steps)
    is_adaptive = num_steps is None and solver.attempt is not None
    if is_adaptive:
        check_tolerances(rtol, atol, like)
    per = max(1, 100 // (len(times) - 1)) if num_steps is None else num_steps
    checks.positive_int("num_steps", per)
    noise: Tree = ()
    if is_stochastic:
        keys = random.split(_checked(key).to(like.device), num)
        particle = tree.map(lambda leaf: leaf[0], positions)
        noise = vmap(lambda one: solvers.draw_path(one, solver, particle, per * (len(times) - 1)))(keys)

    def one(params: Params, x: Position, condition: Tree, noise: Tree, times: Tensor, tolerances: Any) -> Solution:
        along = conditioned_field(field, condition)
        if is_adaptive:
            return solvers.solve_adaptive(
                solver,
                along,
                params,
                x,
                times[0],
                times[-1],
                rtol=tolerances[0],
                atol=tolerances[1],
                max_steps=max_steps,
                at=times if len(times) > 2 else None,
            )
        grid = _refined(times, per)
        save = (lambda state: state.position) if len(times) > 2 else None
        solution = solvers.solve(solver, along, params, x, grid, noise, save)
        return solution._replace(saved=tree.map(lambda leaf: leaf[::per], solution.saved))

    many = vmap(one, (None, 0, 0, 0, None, None))
    tolerances = tuple(torch.as_tensor(value, dtype=like.dtype, device=like.device) for value in (rtol, atol))
    weight = solver.num_evaluations * (len(times) - 1) * (per if not is_adaptive else 10)
    solution = run(many, (params, positions, conditions, noise, times, tolerances), jit, weight)
    warn_unfinished(solution.info, max_steps)
    return solution


def sample(
    key: Key,
    field: Field,
    params: Params,
    num_samples: int,
    *,
    event_shape: Sequence[int] | None = None,
    source: Callable[[Key, int], Position] | None = None,
    times: Tensor | Sequence[float] | None = None,
    solver: Integrator | None = None,
    num_steps: int | None = None,
    rtol: float | Tensor = 1e-4,
    atol: float | Tensor = 1e-5,
    max_steps: int = 1000,
    conditions: Tree = (),
    dtype: torch.dtype | None = None,
    jit: bool | None = None,
) -> Position:
    """Draws noise and carries it to data along a field.

    Args:
        key: for the noise at the start, and along an SDE. ``(2,)``.
        field: as for :func:`integrate`.
        params: of the field.
        num_samples: N.
        event_shape: of one particle, which starts standard normal; or give ``source``.
        source: ``(key, N) -> (N, *event)``, where particles start.
        times: as for :func:`integrate`.
        solver: as for :func:`integrate`.
        num_steps: as for :func:`integrate`.
        rtol: as for :func:`integrate`.
        atol: as for :func:`integrate`.
        max_steps: as for :func:`integrate`.
        conditions: as for :func:`integrate`.
        dtype: of the particles; by default that of the params, where they are floating point.
        jit: as for :func:`integrate`.

    Returns:
        The particles at the last time, ``(N, *event)``.

    Raises:
        ValueError: a bad count, neither ``event_shape`` nor ``source``, and as of :func:`integrate`.

    >>> drift = lambda params, t, x: params - 0 * x  # N(0, I) moved by params
    >>> sample(random.key(0), drift, torch.tensor(3.0), 5, event_shape=(2,), jit=False).shape
    torch.Size([5, 2])
    """
    random.check_key(key)
    checks.positive_int("num_samples", num_samples)
    right = (event_shape is None) != (source is None)
    got = "neither" if event_shape is None else "both"
    checks.require(right, "give event_shape or source", got, "Write event_shape=(2,), for example.")
    floating = [leaf for leaf in tree.leaves(params) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    like = floating[0] if floating else torch.zeros((), device=key.device)
    key_source, key_noise = random.split(key.to(like.device))
    if source is not None:
        checks.function("source", source, "Write lambda key, num: random.normal(key, (num, 2)), say.")
        positions = source(key_source, num_samples)
        made = check_particles(positions)
        checks.require(made == num_samples, f"source must make {num_samples} particles", made, "Use the number given.")
    else:
        positions = random.normal(key_source, (num_samples, *(event_shape or ())), dtype=dtype or like.dtype)
    return integrate(
        field,
        params,
        positions,
        times,
        solver=solver,
        num_steps=num_steps,
        rtol=rtol,
        atol=atol,
        max_steps=max_steps,
        conditions=conditions,
        key=key_noise,
        jit=jit,
    ).value


# -- parts that other functions of this package use ---------------------------------------------------------------


def check_particles(positions: Position, conditions: Tree = ()) -> int:
    """How many particles there are; all leaves must agree."""
    leaves = tree.leaves(positions)
    fix = "Stack particles on a leading axis, for example torch.zeros(num, dim)."
    right = bool(leaves) and all(
        isinstance(leaf, Tensor) and leaf.ndim > 0 and leaf.is_floating_point() for leaf in leaves
    )
    checks.require(right, "positions must be floating point and lead with an axis of particles", _kinds(leaves), fix)
    given = tree.leaves(conditions)
    right = all(isinstance(leaf, Tensor) and leaf.ndim > 0 for leaf in given)
    checks.require(right, "conditions must be tensors that lead with an axis of particles", _kinds(given), fix)
    lengths = {leaf.shape[0] for leaf in (*leaves, *tree.leaves(conditions))}
    must = "positions and conditions must share one axis of particles"
    checks.require(len(lengths) == 1, must, f"lengths {sorted(lengths)}", "Give one condition for each particle.")
    num = lengths.pop()
    checks.require(num > 0, "there must be a particle", "none", fix)
    return num


def _kinds(leaves: Sequence[Any]) -> str:
    """What leaves are, in words."""
    kinds = [f"{leaf.dtype} {tuple(leaf.shape)}" if isinstance(leaf, Tensor) else repr(leaf) for leaf in leaves]
    return ", ".join(kinds)[:200] or "none"


def times_of(times: Tensor | Sequence[float] | None, like: Tensor) -> Tensor:
    """Two or more times in [0, 1], in order."""
    right = not isinstance(times, str)
    checks.require(right, "times must be numbers", times, "Write [0.0, 1.0], or torch.linspace(0, 1, 11).", TypeError)
    times = torch.as_tensor([0.0, 1.0] if times is None else times, dtype=like.dtype, device=like.device)
    check_times(times)
    if checks.is_concrete(times):
        right = bool((times >= 0).all() and (times <= 1).all())
        fix = "t = 0 is noise, t = 1 is data. Outside, use solvers.solve or solvers.solve_adaptive."
        checks.require(right, "times must be in [0, 1]", str(times.tolist())[:200], fix)
    return times


def conditioned_field(field: Field, condition: Tree) -> Field:
    """The field given a condition, where there is one."""
    if not tree.leaves(condition):
        return field
    return lambda params, t, x: field(params, t, x, condition)


def run(function: Callable[..., Any], arguments: tuple[Any, ...], jit: bool | None, weight: int) -> Any:
    """A function of a whole batch, compiled where that is asked for or pays."""
    return compiled(function)(*arguments) if is_worth_it(jit, 1, weight) else function(*arguments)


def warn_unfinished(info: Any, max_steps: int, is_inverted: bool = False) -> None:
    """Warnings of particles that did not reach the last time, and why, or left the finite numbers.

    Args:
        info: of many particles.
        max_steps: that were allowed.
        is_inverted: whether steps were inverted by Newton's method, and that is what did not finish.
    """
    if not checks.is_concrete(info.is_finished):
        return
    is_lost, is_worn = info.is_divergent, info.num_steps + info.num_rejected >= max_steps
    stopped = ~info.is_finished & ~is_lost
    where = "where the field is singular at an end, begin or end a little before it."
    reasons = (
        (
            is_lost,
            "met numbers that are not finite",
            "Take smaller steps, or look at the field near the ends of its times.",
        ),
        (
            stopped & torch.full_like(stopped, is_inverted),
            "have steps that Newton's method did not invert",
            "Take more steps: they must be short enough to be injective.",
        ),
        (
            stopped & is_worn & ~torch.full_like(stopped, is_inverted),
            f"did not reach the last time within max_steps={max_steps} steps",
            f"Raise max_steps, or rtol and atol; {where}",
        ),
        (
            stopped & ~is_worn & ~torch.full_like(stopped, is_inverted),
            "did not reach the last time: their steps became shorter than their dtype can tell times apart",
            f"Raise rtol and atol, or give positions in float64; {where}",
        ),
    )
    for is_one, what, fix in reasons:
        found = is_one.nonzero()[:, 0].tolist()
        if found:
            those = ", ".join(str(index) for index in found[:5]) + (", ..." if len(found) > 5 else "")
            warnings.warn(f"{len(found)} of {is_one.numel()} particles ({those}) {what}. {fix}", stacklevel=3)


def _checked(key: Key | None) -> Key:
    random.check_key(key)
    assert key is not None
    return key


def _refined(times: Tensor, num_steps: int) -> Tensor:
    """``num_steps`` equal steps between neighbouring times; the times themselves are kept exactly."""
    share = torch.arange(num_steps, dtype=times.dtype, device=times.device) / num_steps
    inner = times[:-1, None] + times.diff()[:, None] * share
    return torch.cat([inner.reshape(-1), times[-1:]])
