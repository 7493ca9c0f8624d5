"""The likelihood of a flow, by the change of density along it."""

from __future__ import annotations

import math
from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, random, solvers, tree
from ..fields import require_scalar
from ..paths import Field
from ..solvers import Integrator, SolveInfo
from ..solvers.adaptive import check_tolerances
from ..types import Key, Params, Position, Tree
from .flow import DIVERGENCES, augmented, check_divergence, discrete_inverse, normal_log_density
from .integrate import check_particles, conditioned_field, run, times_of, warn_unfinished

__all__ = ["LogLikelihood", "log_likelihood"]


class LogLikelihood(NamedTuple):
    """What :func:`log_likelihood` returns, of N particles.

    Attributes:
        value: the log density at each of them, in nats. ``(N,)``.
        standard_error: of the estimate, with two probes or more; 0 where the divergence is exact, NaN with one probe. ``(N,)``.
        positions: the noise that they came from. ``(N, *event)``.
        info: how the solves went. ``(N,)``.
    """

    value: Tensor
    standard_error: Tensor
    positions: Position
    info: SolveInfo


def log_likelihood(
    field: Field,
    params: Params,
    positions: Position,
    *,
    key: Key | None = None,
    divergence: str = "exact",
    num_probes: int = 1,
    base: Callable[[Position], Tensor] | None = None,
    times: Tensor | tuple[float, float] = (0.0, 1.0),
    solver: Integrator | None = None,
    num_steps: int | None = None,
    rtol: float | Tensor = 1e-5,
    atol: float | Tensor = 1e-5,
    max_steps: int = 1000,
    conditions: Tree = (),
    jit: bool | None = None,
) -> LogLikelihood:
    r"""The log density of particles under a flow.

    .. math:: \log p_1(x_1) = \log p_0(x_0) - \int_0^1 \nabla \cdot u(t, x_t)\,dt

    along the path through :math:`x_1`, which is solved backwards together with the integral; both count in the error of a step.

    Args:
        field: ``(params, t, x) -> like x``; with ``conditions``, ``(params, t, x, condition)``.
        params: of the field.
        positions: ``(N, *event)``.
        key: for the probes of ``"hutchinson"``. ``(2,)``.
        divergence: ``"exact"``, the trace by D backward passes; ``"hutchinson"``, its unbiased estimate by random signs, the same
            for the whole of a solve; ``"discrete"``, the exact density of the map that the fixed steps make, for small D: each
            step is inverted by Newton's method, and its determinant taken.
        num_probes: of ``"hutchinson"``, for each particle.
        base: the log density of the noise, ``x -> ()``; standard normal by default.
        times: of noise and of data.
        solver: without noise; ``dopri5()`` by default, ``rk4()`` for ``"discrete"``.
        num_steps: equal steps; None takes adaptive ones where the solver can, else 100.
        rtol: relative tolerance of adaptive steps. ``()``.
        atol: absolute tolerance of adaptive steps. ``()``.
        max_steps: adaptive steps of a particle at most.
        conditions: one for each particle, on the leading axis.
        jit: compile the whole. None decides as for :func:`funcebm.sample`.

    Returns:
        :class:`LogLikelihood`. The exponential of an unbiased log likelihood is too large on average: no ``"hutchinson"``
        inside of importance weights. Bits per dimension of images in [-1, 1] with 8 bits are ``7 - value / (D log 2)``.

    Raises:
        ValueError: an unknown divergence, ``"hutchinson"`` without key, a solver with noise or memory, or one of a path
            (``ddim``, ``edm_heun``) where a divergence is integrated, times that are not noise and data, a base that is not a
            scalar, positions ``(N,)``, which might be one particle or N, and as of :func:`integrate`.

    Reference: Chen et al. (2018), arXiv:1806.07366; the estimate, Grathwohl et al. (2019), arXiv:1810.01367.

    >>> field = lambda params, t, x: params * x  # carries N(0, 1) to N(0, exp(2 params))
    >>> result = log_likelihood(field, torch.tensor(0.5), torch.zeros(1, 1), jit=False)
    >>> bool((result.value + 0.5 + math.log(2 * math.pi) / 2).abs() < 1e-4)
    True
    """
    fix = f"Use one of {', '.join(DIVERGENCES)}."
    checks.require(divergence in DIVERGENCES, "divergence must be known", divergence, fix)
    is_discrete = divergence == "discrete"
    checks.function("field", field, "Write lambda params, t, x: ...")
    if base is not None:
        checks.function("base", base, "Write lambda x: -(x**2).sum() / 2 - ..., the log density of the noise.")
    solver = (solvers.rk4() if is_discrete else solvers.dopri5()) if solver is None else solver
    checks.require(
        solver.strong_order is None, "a likelihood needs a solver without noise", "an SDE solver", "Use rk4()."
    )
    check_divergence(solver, divergence)
    checks.positive_int("max_steps", max_steps)
    num = check_particles(positions, conditions)
    like = tree.first(positions)
    right = not isinstance(positions, Tensor) or positions.ndim > 1
    fix = "Write positions[None] for one particle, positions[:, None] for particles of one number each."
    checks.require(right, "positions must be (N, *event), with an axis of the event", tuple(like.shape), fix)
    span = times_of(torch.as_tensor(times), like)
    right = len(span) == 2 and (not checks.is_concrete(span) or bool(span[0] < span[1]))
    must = "times must be two, of noise and of data, in this order"
    checks.require(right, must, str(torch.as_tensor(times).tolist()), "Write (0.0, 1.0).")
    probes: Tree = ()
    if divergence == "hutchinson":
        checks.positive_int("num_probes", num_probes)
        checks.require(key is not None, "hutchinson needs a key", "none", "Pass key=random.key(0), say.")
        random.check_key(key)
        probes = _probes(key, positions, num_probes)  # type: ignore[arg-type]
    is_adaptive = num_steps is None and solver.attempt is not None and not is_discrete
    if is_adaptive:
        check_tolerances(rtol, atol, like)
    if num_steps is not None:
        checks.positive_int("num_steps", num_steps)
    grid = torch.linspace(0, 1, (100 if num_steps is None else num_steps) + 1, dtype=like.dtype, device=like.device)
    grid = span[-1] + (span[0] - span[-1]) * grid

    def log_base(noise: Position) -> Tensor:
        return normal_log_density(noise) if base is None else require_scalar(base(noise), noise, "a base")

    def one(params: Params, x: Position, condition: Tree, probe: Tree, grid: Tensor, tolerances: Any) -> LogLikelihood:
        along = conditioned_field(field, condition)
        if is_discrete:
            noise, log_det, info = discrete_inverse(solver, along, params, x, grid.flip(0))
            return LogLikelihood(log_base(noise) + log_det, torch.zeros_like(log_det), noise, info)
        joint, start = augmented(along, divergence), (x, _zeros(probe, divergence, like))
        if is_adaptive:
            solution = solvers.solve_adaptive(
                solver,
                joint,
                (params, probe),
                start,
                grid[0],
                grid[-1],
                rtol=tolerances[0],
                atol=tolerances[1],
                max_steps=max_steps,
            )
        else:
            solution = solvers.solve(solver, joint, (params, probe), start, grid)
        noise, change = solution.value
        values = log_base(noise) + change
        if divergence == "exact":
            return LogLikelihood(values, torch.zeros_like(values), noise, solution.info)
        nan = torch.full_like(values[0], torch.nan)
        error = values.std(0) / math.sqrt(num_probes) if num_probes > 1 else nan
        return LogLikelihood(values.mean(0), error, noise, solution.info)

    many = vmap(one, (None, 0, 0, 0, None, None))
    tolerances = tuple(torch.as_tensor(value, dtype=like.dtype, device=like.device) for value in (rtol, atol))
    size = tree.size(positions) // num
    weight = solver.num_evaluations * (10 if is_adaptive else len(grid)) * (1 + size // 8)
    result = run(many, (params, positions, conditions, probes, grid, tolerances), jit, weight)
    warn_unfinished(result.info, max_steps, is_discrete)
    return result


def _probes(key: Key, positions: Position, num_probes: int) -> Tree:
    """Random signs, ``(N, num_probes, *event)``."""
    parts, structure = tree.flatten(positions)
    keys = random.split(key.to(parts[0].device), len(parts)).unbind(0)
    drawn = [
        random.rademacher(one, (part.shape[0], num_probes, *part.shape[1:]), dtype=part.dtype)
        for one, part in zip(keys, parts, strict=True)
    ]
    return tree.unflatten(structure, drawn)


def _zeros(probe: Tree, divergence: str, like: Tensor) -> Tensor:
    shape = (tree.first(probe).shape[0],) if divergence == "hutchinson" else ()
    return torch.zeros(shape, dtype=like.dtype, device=like.device)
