"""A flow as an invertible map with a log determinant, and as a normalised energy."""

from __future__ import annotations

import math
from typing import Any, Callable, NamedTuple, Sequence

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, loops, random, solvers, tree
from ..fields import require_scalar
from ..paths import Field
from ..solvers import Integrator, SolveInfo, SolverTuning
from ..solvers.integrator import evaluate
from ..solvers.solve import check_times
from ..types import Key, Params, Position, Tree

__all__ = [
    "DIVERGENCES",
    "Flow",
    "augmented",
    "check_divergence",
    "discrete_inverse",
    "flow",
    "flow_energy",
    "normal_log_density",
]

DIVERGENCES = ("exact", "hutchinson", "discrete")
_NEWTON_STEPS = 8


class Flow(NamedTuple):
    """An invertible map of one particle, from noise to data, as pure functions.

    Attributes:
        forward: ``(params, x[, probe]) -> (y, log_det)``, noise to data, with the log of the determinant of ``dy/dx``, ``()``.
        inverse: ``(params, y[, probe]) -> (x, log_det)``, data to noise, with that of ``dx/dy``.
        log_density: ``(params, y[, probe]) -> ()``, of data where the noise is standard normal.
    """

    forward: Callable[..., tuple[Position, Tensor]]
    inverse: Callable[..., tuple[Position, Tensor]]
    log_density: Callable[..., Tensor]


def flow(
    field: Field,
    integrator: Integrator | None = None,
    times: Tensor | Sequence[float] | int = 20,
    divergence: str = "discrete",
) -> Flow:
    r"""The map that fixed steps along a field make, with its log determinant.

    With ``"discrete"`` the determinants are those of the steps themselves, so that it is a density model without any error of
    discretisation: what Boltzmann generators and independence proposals need. Its inverse solves each step by Newton's method,
    and wants steps short enough to be injective. The other two integrate the divergence, and are exact as the steps go to zero.

    Args:
        field: ``(params, t, x) -> like x``.
        integrator: without noise or memory, such as ``rk4()``, the default.
        times: from noise to data, ``(T,)``; or how many equal steps from 0 to 1.
        divergence: ``"discrete"`` (D backward passes and a D x D determinant for each step), ``"exact"`` (the trace), or
            ``"hutchinson"``, with a probe for the whole solve as last argument of all functions.

    Returns:
        A :class:`Flow`. ``lambda y: flow.forward(params, y)`` is what :func:`funcebm.energies.pullback` takes, for chains that
        move in the noise.

    Raises:
        ValueError: an unknown divergence, an integrator with noise or memory, or one of a path (``ddim``, ``edm_heun``) where a
            divergence is integrated, bad times.
        TypeError: what is no solver or no field.

    >>> stretch = flow(lambda params, t, x: params * x, times=5)
    >>> y, log_det = stretch.forward(torch.tensor(1.0), torch.ones(2))
    >>> log_det
    tensor(2.0000)
    >>> x, back = stretch.inverse(torch.tensor(1.0), y)
    >>> bool((x - 1).abs().max() < 1e-6 and (log_det + back).abs() < 1e-6)
    True
    """
    integrator = solvers.rk4() if integrator is None else integrator
    checks.instance("integrator", integrator, Integrator, "Use solvers.rk4().")
    checks.function("field", field, "Write lambda params, t, x: ...")
    checks.require(divergence in DIVERGENCES, "divergence must be known", divergence, f"Use {', '.join(DIVERGENCES)}.")
    must = "a flow needs a solver without noise and without memory"
    checks.require(integrator.strong_order is None, must, "an SDE solver", "Use solvers.rk4().")
    if isinstance(times, int):
        checks.positive_int("times", times)
        times = torch.linspace(0, 1, times + 1, dtype=torch.float64)
    check_divergence(integrator, divergence)
    grid = torch.as_tensor(times)
    check_times(grid)
    must = "times must increase, from noise to data"
    is_rising = not checks.is_concrete(grid) or bool(grid[0] < grid[-1])
    checks.require(is_rising, must, str(grid.tolist())[:200], "The way back is inverse.")

    def on(x: Position) -> Tensor:
        return grid.to(tree.first(x))

    def check_probe(probe: tuple[Tree, ...]) -> None:
        fix = "Pass a probe of signs like the position as last argument, and only with hutchinson."
        right = len(probe) == (divergence == "hutchinson")
        checks.require(right, "hutchinson takes a probe, others do not", f"{len(probe)} probes", fix)

    def solved(params: Params, x: Position, times: Tensor, probe: tuple[Tree, ...]) -> tuple[Position, Tensor]:
        start = (x, torch.zeros((), dtype=times.dtype, device=times.device))
        value = solvers.solve(integrator, _one_probe(field, divergence), (params, probe), start, times).value
        return value

    def forward(params: Params, x: Position, *probe: Tree) -> tuple[Position, Tensor]:
        check_probe(probe)
        if divergence == "discrete":
            return discrete_forward(integrator, field, params, x, on(x))
        return solved(params, x, on(x), probe)

    def inverse(params: Params, y: Position, *probe: Tree) -> tuple[Position, Tensor]:
        check_probe(probe)
        if divergence == "discrete":
            return discrete_inverse(integrator, field, params, y, on(y))[:2]
        return solved(params, y, on(y).flip(0), probe)

    def log_density(params: Params, y: Position, *probe: Tree) -> Tensor:
        x, log_det = inverse(params, y, *probe)
        return normal_log_density(x) + log_det

    return Flow(forward, inverse, log_density)


def flow_energy(flow: Flow, base: Callable[[Position], Tensor] | None = None) -> Any:
    r"""A flow as an energy, :math:`-\log q(x)`: normalised, with exact draws.

    So it serves wherever an exact energy does: as the noise of noise-contrastive estimation (``losses.exact_noise``), the
    reference of annealed importance sampling, a factor of a product.

    Args:
        flow: from :func:`flow`, but not by ``"hutchinson"``.
        base: the log density of the noise, ``x -> ()``; standard normal by default, and then draws are known.

    Returns:
        An energy ``(params, x) -> ()`` with ``log_normalizer(params, shape=None)``, which is 0, and ``sample(key, params, num,
        shape)``, which takes the shape of one particle.

    Raises:
        TypeError: something that is not a flow.
        ValueError: when called, a base that is not a scalar; when drawing, one that is not standard normal.

    >>> energy = flow_energy(flow(lambda params, t, x: params * x, times=5))
    >>> round(float(energy(torch.tensor(1.0), torch.zeros(1))), 4)  # log(sqrt(2 pi)) + 1
    1.9189
    >>> energy.sample(random.key(0), torch.tensor(1.0), 4, (2,)).shape
    torch.Size([4, 2])
    """
    checks.instance("flow", flow, Flow, "Use flows.flow(field).")
    if base is not None:
        checks.function("base", base, "Write lambda x: -(x**2).sum() / 2 - ..., the log density of the noise.")

    def energy(params: Params, x: Position) -> Tensor:
        if base is None:
            return -flow.log_density(params, x)
        noise, log_det = flow.inverse(params, x)
        return -(require_scalar(base(noise), noise, "a base") + log_det)

    def log_normalizer(params: Params, shape: Sequence[int] | None = None) -> Tensor:
        leaves = [leaf for leaf in tree.leaves(params) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        return torch.zeros((), dtype=leaves[0].dtype, device=leaves[0].device) if leaves else torch.zeros(())

    def sample(key: Key, params: Params, num: int, shape: Sequence[int] | None = (2,)) -> Position:
        must, fix = "draws need the shape of one particle", "Pass it: event_shape=(2,), or shape=(2,)."
        checks.require(shape is not None, must, "none", fix)
        assert shape is not None
        must = "draws need a standard normal base"
        checks.require(base is None, must, "another base", "Draw the noise yourself and call flow.forward.")
        like = log_normalizer(params)
        noise = random.normal(key.to(like.device), (num, *shape), dtype=like.dtype)
        return vmap(lambda x: flow.forward(params, x)[0])(noise)

    energy.log_normalizer, energy.sample = log_normalizer, sample  # type: ignore[attr-defined]
    return energy


def normal_log_density(x: Position) -> Tensor:
    """The standard normal log density of all numbers of a particle. ``()``."""
    size = tree.size(x)
    return -tree.squared_norm(x) / 2 - size * math.log(2 * math.pi) / 2


def check_divergence(integrator: Integrator, divergence: str) -> None:
    """A divergence is integrated beside the position by solvers of any field alone."""
    must = f"the divergence {divergence} is integrated by solvers of any field"
    fix = 'Use rk4() or dopri5(); divergence="discrete" takes ddim and edm_heun too.'
    right = divergence == "discrete" or not integrator.is_of_path
    checks.require(right, must, "one that is made for the prediction of a path", fix)


def augmented(field: Field, divergence: str) -> Callable[..., tuple[Position, Tensor]]:
    """``((params, probes), t, (x, change)) -> (u, div u)``; probes ``(P, *event)`` give ``(P,)`` estimates."""

    def joint(params: Any, t: Tensor, state: tuple[Position, Tensor]) -> tuple[Position, Tensor]:
        own, probes = params
        x = state[0]
        vector, back = tree.ravel(x)
        value, pull = torch.func.vjp(lambda flat: tree.ravel(evaluate(field, own, t, back(flat)))[0], vector)[:2]
        if divergence == "exact":
            eye = torch.eye(vector.numel(), dtype=vector.dtype, device=vector.device)
            return back(value), vmap(lambda row: pull(row)[0])(eye).diagonal().sum()
        flat = vmap(lambda probe: tree.ravel(probe)[0])(probes)
        return back(value), vmap(lambda probe: torch.dot(pull(probe)[0], probe))(flat)

    return joint


def _one_probe(field: Field, divergence: str) -> Callable[..., tuple[Position, Tensor]]:
    joint = augmented(field, divergence)

    def single(params: Any, t: Tensor, state: tuple[Position, Tensor]) -> tuple[Position, Tensor]:
        own, probe = params
        if divergence == "exact":
            return joint((own, ()), t, state)
        value, estimates = joint((own, tree.map(lambda leaf: leaf[None], probe[0])), t, state)
        return value, estimates[0]

    return single


def _step_map(
    integrator: Integrator, field: Field, params: Params, back: Callable[[Tensor], Position], time: Tensor, end: Tensor
) -> Callable[[Tensor], Tensor]:
    """One step as a map of ravelled positions."""

    def move(vector: Tensor) -> Tensor:
        state = integrator.init(field, params, time, back(vector))
        must = "a discrete density needs a solver without memory"
        checks.require(not tree.leaves(state.memory), must, "one with memory", "Use solvers.rk4().")
        tuning = SolverTuning(end - time, integrator.tuning)
        return tree.ravel(integrator.step(field, params, tuning, state, ())[0].position)[0]

    return move


def discrete_forward(
    integrator: Integrator, field: Field, params: Params, x: Position, times: Tensor
) -> tuple[Position, Tensor]:
    """All steps, and the sum of the log determinants of their Jacobians."""
    vector, back = tree.ravel(x)

    def body(carry: tuple[Tensor, Tensor], xs: tuple[Tensor, Tensor]) -> tuple[tuple[Tensor, Tensor], Tree]:
        at, total = carry
        move = _step_map(integrator, field, params, back, *xs)
        log_det = torch.linalg.slogdet(torch.func.jacrev(move)(at))[1]
        return (move(at), total + log_det), ()

    start = (vector.clone(), torch.zeros((), dtype=vector.dtype, device=vector.device))
    last, total = loops.scan(body, start, (times[:-1], times[1:]))[0]
    return back(last), total


def discrete_inverse(
    integrator: Integrator, field: Field, params: Params, y: Position, times: Tensor
) -> tuple[Position, Tensor, SolveInfo]:
    """The inverse of all steps by Newton's method, the sum of the log determinants of theirs, and whether it converged."""
    vector, back = tree.ravel(y)
    tolerance = 1e3 * torch.finfo(vector.dtype).eps

    def body(carry: tuple[Tensor, Tensor], xs: tuple[Tensor, Tensor]) -> tuple[tuple[Tensor, Tensor], Tensor]:
        goal, total = carry
        time, end = xs
        move = _step_map(integrator, field, params, back, time, end)

        def newton(at: Tensor) -> Tensor:
            return at - torch.linalg.solve(torch.func.jacrev(move)(at), move(at) - goal)

        guess = _step_map(integrator, field, params, back, end, time)(goal)
        at = loops.repeat(newton, guess, _NEWTON_STEPS)
        log_det = torch.linalg.slogdet(torch.func.jacrev(move)(at))[1]
        is_there = (move(at) - goal).abs().max() <= tolerance * (1 + goal.abs().max())
        return (at, total - log_det), is_there

    start = (vector.clone(), torch.zeros((), dtype=vector.dtype, device=vector.device))
    (last, total), flags = loops.scan(body, start, (times[:-1].flip(0), times[1:].flip(0)))
    count = torch.full((), len(times) - 1, dtype=torch.int32, device=vector.device)
    evaluations = count * integrator.num_evaluations * (_NEWTON_STEPS + 2)
    info = SolveInfo(count, torch.zeros_like(count), evaluations, flags.all(0), ~torch.isfinite(total))
    return back(last), total, info
