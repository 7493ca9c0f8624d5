"""What all solvers have in common: a step as pure functions, its state, its info."""

from __future__ import annotations

from typing import Callable, NamedTuple

import torch
from torch import Tensor

from .. import checks, loops, tree
from ..types import Key, Params, Position, Sampler, Schedule, Tree

__all__ = [
    "Attempt",
    "BrownianIncrement",
    "Field",
    "Integrator",
    "SolverInfo",
    "SolverState",
    "SolverTuning",
    "check_solve",
    "coefficient_of",
    "evaluate",
    "finished_step",
]

Field = Callable[[Params, Tensor, Position], Position]
"""``(params, t, x) -> like x``, a vector field of one particle; ``t`` is ``()``."""


class SolverState(NamedTuple):
    """A position, the time ``()`` there, and what the solver remembers (a slope, a history); often nothing, ``()``."""

    position: Position
    time: Tensor
    memory: Tree = ()

    def carry_over(self, fresh: SolverState) -> SolverState:
        """Where a sampler beside this one moved the particle: the clock goes on, the memory starts again."""
        return SolverState(fresh.position, self.time, fresh.memory)


class SolverTuning(NamedTuple):
    """``step_size`` ``()`` in units of time, negative backwards; and the solver's own numbers."""

    step_size: Tensor
    numbers: Tree = ()


class SolverInfo(NamedTuple):
    """As :class:`funcebm.types.Info`, for a step that always moves.

    Attributes:
        acceptance_rate: 1. ``()``.
        is_accepted: True. ``()`` bool.
        is_divergent: whether the new position has a number that is not finite. ``()`` bool.
        num_gradients: how often the field was evaluated. ``()`` int32.
        energy: NaN: a field has none. ``()``.
    """

    acceptance_rate: Tensor
    is_accepted: Tensor
    is_divergent: Tensor
    num_gradients: Tensor
    energy: Tensor


class BrownianIncrement(NamedTuple):
    r"""Standard normal numbers like the position, from which a step of length h makes its Brownian motion.

    Attributes:
        displacement: :math:`W / \sqrt h`.
        area: :math:`H / \sqrt{h / 12}`, of the space-time area :math:`H = \tfrac1h \int (W_r - \tfrac rh W)\,dr`, which is
            independent of :math:`W`; ``()`` for solvers that do not need it.
    """

    displacement: Tree
    area: Tree = ()


class Attempt(NamedTuple):
    """A step of a solver that estimates its error.

    Attributes:
        position: at the end of the step.
        error: the estimate of its local error, like the position.
        slopes: of all stages, for dense output.
        last_slope: the field at the new position where a stage was there, else ``()``.
    """

    position: Position
    error: Tree
    slopes: tuple[Tree, ...]
    last_slope: Tree


class Integrator(NamedTuple):
    r"""A solver of :math:`\dot x = u(t, x)`, or of an SDE with additive noise, as pure functions of one particle.

    Calling it with a field gives a :class:`~funcebm.types.Sampler`, whose step is ``(params, tuning, state, noise) ->
    (state, info)``: :func:`funcebm.sample` runs it, ``cycle`` and ``mix`` compose it with others. :func:`solve` and
    :func:`solve_adaptive` run it from one time to another.

    Attributes:
        init: ``(field, params, t, x) -> state``.
        draw: ``(key, x) -> noise``, all the random numbers of one step; ``()`` for an ODE.
        step: ``(field, params, tuning, state, noise) -> (state, info)``.
        order: of convergence; for an SDE the weak one.
        tuning: the parameters of the solver, a tree of 0-d tensors.
        strong_order: of an SDE solver, for additive noise; None for an ODE.
        error_order: one more than that of the embedded formula, for step control; None where no error is estimated.
        attempt: ``(field, params, t, h, x, slope) -> Attempt``, where the error is estimated; ``slope`` may be ``()``.
        interpolate: ``(attempt, x, h, theta) -> x(t + theta h)`` for ``theta`` in [0, 1], ``()``.
        num_evaluations: of the field in a step.
        reuses_slope: whether the last stage is the field at the new position, which the state may carry as its memory.
        is_of_path: whether the steps are made for the prediction of one path, and solve no other field.
    """

    init: Callable[..., SolverState]
    draw: Callable[[Key, Position], Tree]
    step: Callable[..., tuple[SolverState, SolverInfo]]
    order: float
    tuning: Tree = ()
    strong_order: float | None = None
    error_order: int | None = None
    attempt: Callable[..., Attempt] | None = None
    interpolate: Callable[..., Position] | None = None
    num_evaluations: int = 1
    reuses_slope: bool = False
    is_of_path: bool = False

    def __call__(self, field: Field, *, step_size: float | Tensor = 0.01, time: float | Tensor = 0.0) -> Sampler:
        """The sampler whose every step advances the clock by ``step_size``, from ``time`` on.

        Args:
            field: ``(params, t, x) -> like x``: a velocity, or the drift of an SDE.
            step_size: above zero, in units of time. ``()``.
            time: where the clock starts. ``()``.

        Returns:
            A :class:`~funcebm.types.Sampler` with ``SolverState``, ``SolverInfo`` and ``SolverTuning``.

        Raises:
            TypeError: a field that is not a function.
            ValueError: a step size that is not positive; when called, a field whose output does not fit.
        """
        checks.function("field", field, "Write lambda params, t, x: ...")
        checks.positive("step_size", step_size, "Try 0.01; backwards in time use flows.integrate.")
        start = torch.as_tensor(time)

        def init(params: Params, position: Position) -> SolverState:
            like = tree.first(position)
            now = start.to(like).clone() if like.is_floating_point() else start.to(like.device)
            return self.init(field, params, now, position)

        def step(
            params: Params, tuning: SolverTuning, state: SolverState, noise: Tree
        ) -> tuple[SolverState, SolverInfo]:
            return self.step(field, params, tuning, state, noise)

        return Sampler(init, self.draw, step, SolverTuning(torch.as_tensor(step_size), self.tuning))


def evaluate(field: Field, params: Params, t: Tensor, x: Position, *, name: str = "a field") -> Position:
    """The field at a point; its output must have the structure, the shapes and the dtypes of ``x``."""
    return loops.call(lambda x: _checked(name, field(params, t, x), x), x)


def _checked(name: str, value: Tree, x: Position) -> Position:
    fix = "Return one number for each number of one particle; torch.func.vmap adds the batch axis."
    checks.like_position(name, value, x, fix)
    for got, want in zip(tree.leaves(value), tree.leaves(x), strict=True):
        fix = "Cast the position, or the params with tree.cast_like."
        must = f"{name} must return the dtype of the position"
        checks.require(got.dtype == want.dtype, must, f"{got.dtype} for {want.dtype}", fix)
    return value


def check_solve(integrator: Integrator, field: Field, x: Position) -> None:
    """What every solve looks at first."""
    checks.instance("the solver", integrator, Integrator, "Call its factory: solvers.rk4(), say.")
    checks.function("field", field, "Write lambda params, t, x: ...")
    right = all(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in tree.leaves(x))
    got = ", ".join(str(getattr(leaf, "dtype", type(leaf).__name__)) for leaf in tree.leaves(x))
    must = "a position must be of floating-point tensors"
    checks.require(right and bool(tree.leaves(x)), must, got or "none", "Write torch.zeros(2), say.")


def finished_step(
    position: Position, time: Tensor, memory: Tree, num_evaluations: int
) -> tuple[SolverState, SolverInfo]:
    """The state and the info at the end of a step."""
    like = tree.first(position)
    one = torch.ones((), dtype=like.dtype, device=like.device)
    info = SolverInfo(
        acceptance_rate=one,
        is_accepted=torch.ones((), dtype=torch.bool, device=like.device),
        is_divergent=~tree.all_finite(position),
        num_gradients=torch.full((), num_evaluations, dtype=torch.int32, device=like.device),
        energy=torch.full_like(one, torch.nan),
    )
    return SolverState(position, time, memory), info


def coefficient_of(diffusion: float | Tensor | Schedule) -> tuple[Callable[[Tree, Tensor], Tensor], Tree]:
    r"""``(numbers, t) -> sqrt(2 w(t))`` and the numbers, of a diffusion coefficient that is a number or a function of time."""
    if callable(diffusion):
        return (lambda numbers, t: torch.sqrt(2 * diffusion(t)), ())
    fix = "Write a number such as 1.0, or a function of time such as lambda t: 1 - t."
    value = torch.as_tensor(diffusion)
    checks.require(
        not checks.is_concrete(value) or bool((value >= 0).all()), "diffusion must not be negative", diffusion, fix
    )
    return (lambda numbers, t: torch.sqrt(2 * numbers.to(t))), value
