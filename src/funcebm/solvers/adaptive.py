"""Steps whose length each particle chooses for itself, from an estimate of its own error."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, loops, tree
from ..types import Params, Position, Tree
from .integrator import Attempt, Field, Integrator, check_solve, evaluate
from .solve import Solution, SolveInfo

__all__ = ["check_tolerances", "error_ratio", "first_step", "solve_adaptive"]

_SAFETY, _LEAST, _MOST = 0.9, 0.2, 10.0  # of the next step over this one
_RATIO_FLOOR = 1e-4  # of an error over its tolerance, as the control remembers it


class _Carry(NamedTuple):
    time: Tensor
    position: Position
    slope: Tree
    step_size: Tensor  # of the next step, positive
    ratio: Tensor  # of the last step that was made
    was_rejected: Tensor
    num_steps: Tensor
    num_tried: Tensor
    is_divergent: Tensor
    saved: Tree
    grid: Tree


def solve_adaptive(
    integrator: Integrator,
    field: Field,
    params: Params,
    x: Position,
    t0: float | Tensor = 0.0,
    t1: float | Tensor = 1.0,
    *,
    rtol: float | Tensor = 1e-3,
    atol: float | Tensor = 1e-6,
    max_steps: int = 4096,
    at: Tensor | None = None,
    record: bool = False,
    proportional: float = 0.3,
    integral: float = 0.4,
) -> Solution:
    r"""Solves :math:`\dot x = u(t, x)` of one particle, with steps as long as its own error allows.

    A step is taken where :math:`r \le 1`, the root mean square of :math:`e_i / (a + r_{tol} \max(|x_i|, |x'_i|))` over the
    numbers of this particle, and the next one is longer by a proportional-integral rule,

    .. math:: h' = h\,\mathrm{clip}\bigl(0.9\, r^{-(p + i)/q}\, r_{prev}^{\,p/q},\; 0.2,\; 10\bigr),

    with :math:`q` the order of the error; not longer after a rejection, 0.2 as long where a number is not finite. The first
    step is Hairer's. Under ``torch.func.vmap`` many particles go on in lock step until the last has ended, each with the steps
    that it takes alone. No gradient flows through the lengths of steps.

    Args:
        integrator: with an error estimate: ``dopri5()``, ``tsit5()``, ``bosh3()``, ``heun()``.
        field: ``(params, t, x) -> like x``.
        params: of the field.
        x: the position at ``t0``.
        t0: the first time. ``()``.
        t1: the last time, before or after ``t0``; it is reached exactly. ``()``.
        rtol: relative tolerance. ``()``.
        atol: absolute tolerance, in units of ``x``. ``()``.
        max_steps: that are tried at most; beyond, ``info.is_finished`` is False and the last position is returned.
        at: times between ``t0`` and ``t1`` at which the position is wanted, by dense output; NaN where they were not reached.
            ``(T,)``.
        record: whether the times of the steps are returned, as ``grid``, for :func:`discrete_adjoint`.
        proportional: :math:`p`; 0 makes an integral control.
        integral: :math:`i`.

    Returns:
        :class:`Solution`; ``saved`` are the positions at the times ``at``, ``(T, *event)``.

    Raises:
        ValueError: an integrator without error estimate, tolerances that are not positive or beyond the precision of ``x``,
            times ``at`` that are not between the first and the last, a field whose output does not fit.
        TypeError: what is no solver or no field.

    Reference: Hairer, Norsett and Wanner (1993), Solving Ordinary Differential Equations I, sections II.4 and IV.2 of volume II.

    >>> from funcebm import solvers
    >>> solution = solve_adaptive(solvers.tsit5(), lambda params, t, x: -x, (), torch.ones(1), rtol=1e-5, atol=1e-6)
    >>> bool((solution.value - torch.exp(torch.tensor(-1.0))).abs() < 1e-5), int(solution.info.num_steps) < 10
    (True, True)
    """
    check_solve(integrator, field, x)
    attempt, interpolate, order = integrator.attempt, integrator.interpolate, integrator.error_order
    if attempt is None or interpolate is None or order is None:
        fix = "Use dopri5(), tsit5(), bosh3() or heun(), or solve() over a grid of times."
        raise ValueError(checks.message("the integrator must estimate its error", "one that does not", fix))
    checks.positive_int("max_steps", max_steps)
    like = tree.first(x)
    check_tolerances(rtol, atol, like)
    t0, t1, rtol, atol = (_number(value, like) for value in (t0, t1, rtol, atol))
    if checks.is_concrete(t0) and checks.is_concrete(t1):
        is_finite = bool(torch.isfinite(t0) & torch.isfinite(t1))
        checks.require(is_finite, "t0 and t1 must be finite", f"{float(t0)} and {float(t1)}", "Write 0.0 and 1.0.")
    at = None if at is None else _wanted(at, t0, t1)
    direction = torch.where(t1 < t0, -torch.ones_like(t0), torch.ones_like(t0))
    least = 16 * torch.finfo(like.dtype).eps * torch.maximum(t0.abs(), t1.abs())

    def condition(carry: _Carry) -> Tensor:
        return (carry.time != t1) & (carry.num_tried < max_steps) & (carry.step_size > least)

    def body(carry: _Carry) -> _Carry:
        left = (t1 - carry.time).abs()
        is_last = 1.01 * carry.step_size >= left
        h = direction * torch.where(is_last, left, carry.step_size)
        tried = attempt(field, params, carry.time, h, carry.position, carry.slope)
        ratio = error_ratio(tried.error, carry.position, tried.position, rtol, atol)
        is_finite = torch.isfinite(ratio) & tree.all_finite(tried.position)
        is_made = is_finite & (ratio <= 1)
        end = torch.where(is_last, t1, carry.time + h)
        safe = torch.where(is_finite, ratio, 1.0).detach().clamp(min=_RATIO_FLOOR)
        factor = _SAFETY * safe ** (-(proportional + integral) / order) * carry.ratio ** (proportional / order)
        factor = torch.where(is_finite, factor, _LEAST)
        most = torch.where(carry.was_rejected | ~is_made, 1.0, _MOST).to(factor)
        factor = torch.minimum(factor.clamp(min=_LEAST), most)
        following = (h.abs().detach() * factor).to(like)
        keep = lambda new, old: tree.where(is_made, new, old)  # noqa: E731
        return _Carry(
            time=torch.where(is_made, end, carry.time),
            position=keep(tried.position, carry.position),
            slope=keep(tried.last_slope, carry.slope),
            # a last step that was cut short says nothing of the length of the next
            step_size=following,
            ratio=torch.where(is_made, safe, carry.ratio),
            was_rejected=~is_made,
            num_steps=carry.num_steps + is_made.to(torch.int32),
            num_tried=carry.num_tried + 1,
            is_divergent=~is_finite,
            saved=() if at is None else _saved(carry, tried, h, end, is_made, at, direction, interpolate),
            grid=_recorded(carry, end, is_made) if record else (),
        )

    slope = evaluate(field, params, t0, x)
    h, reuses = first_step(integrator, field, params, t0, t1, x, slope, rtol, atol).detach(), integrator.reuses_slope
    count = torch.zeros((), dtype=torch.int32, device=like.device)
    never = torch.zeros((), dtype=torch.bool, device=like.device)
    first = _Carry(
        time=t0.clone(),
        position=tree.map(torch.clone, x),
        slope=slope if reuses else (),
        step_size=h,
        ratio=torch.ones_like(h),
        was_rejected=never,
        num_steps=count,
        num_tried=count.clone(),
        is_divergent=never.clone(),
        saved=() if at is None else _first_saved(x, at, t0, direction),
        grid=torch.cat([t0[None], t1.expand(max_steps)]) if record else (),
    )
    last = loops.while_loop(condition, body, first)
    info = SolveInfo(
        num_steps=last.num_steps,
        num_rejected=last.num_tried - last.num_steps,
        num_evaluations=last.num_tried * integrator.num_evaluations + 2,
        is_finished=last.time == t1,
        is_divergent=last.is_divergent,
    )
    return Solution(last.position, last.saved, info, last.grid)


def error_ratio(error: Tree, x: Position, y: Position, rtol: Tensor, atol: Tensor) -> Tensor:
    """The root mean square of an error over its tolerance, over all numbers of one particle. ``()``."""
    scaled = tree.map(lambda e, a, b: e / (atol + rtol * torch.maximum(a.abs(), b.abs())), error, x, y)
    return _root_mean_square(scaled)


def first_step(
    integrator: Integrator,
    field: Field,
    params: Params,
    t0: Tensor,
    t1: Tensor,
    x: Position,
    slope: Position,
    rtol: Tensor,
    atol: Tensor,
) -> Tensor:
    """A first step, positive, from the sizes of the position, of the field and of its change. ``()``.

    Reference: Hairer, Norsett and Wanner (1993), section II.4.
    """
    direction = torch.where(t1 < t0, -torch.ones_like(t0), torch.ones_like(t0))
    scaled = lambda value: _root_mean_square(  # noqa: E731
        tree.map(lambda v, leaf: v / (atol + rtol * leaf.abs()), value, x)
    )
    d0, d1 = scaled(x), scaled(slope)
    is_small = (d0 < 1e-5) | (d1 < 1e-5)
    h0 = torch.where(is_small, 1e-6, 0.01 * d0 / torch.where(is_small, 1.0, d1)).to(d0)
    h0 = torch.minimum(h0, (t1 - t0).abs())
    h0 = torch.where(h0 > 0, h0, torch.ones_like(h0))
    ahead = evaluate(field, params, t0 + direction * h0, tree.add_scaled(x, direction * h0, slope))
    d2 = scaled(tree.sub(ahead, slope)) / h0
    largest = torch.maximum(d1, d2)
    is_flat = ~(largest > 1e-15)
    power = (0.01 / torch.where(is_flat, 1.0, largest)) ** (1.0 / (integrator.error_order or 1))
    # where nothing moves, a hundredth of the way
    found = torch.where(is_flat, 0.01 * (t1 - t0).abs(), torch.minimum(100 * h0, power.to(h0)))
    least = 64 * torch.finfo(t0.dtype).eps * torch.maximum(t0.abs(), t1.abs())  # what the clock can still tell apart
    return torch.maximum(torch.where(torch.isfinite(found), found, h0), least)


# -- parts --------------------------------------------------------------------------------------------------------


def _root_mean_square(value: Tree) -> Tensor:
    return torch.sqrt(tree.squared_norm(value) / max(tree.size(value), 1))


def _number(value: float | Tensor, like: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)


def _wanted(at: Tensor, t0: Tensor, t1: Tensor) -> Tensor:
    """The times at which positions are wanted: a vector between the first and the last."""
    at = torch.as_tensor(at, dtype=t0.dtype, device=t0.device)
    fix = "Write torch.linspace(0, 1, 11), say."
    checks.require(at.ndim == 1, "at must be a vector of times", f"the shape {tuple(at.shape)}", fix)
    if all(checks.is_concrete(value) for value in (at, t0, t1)):
        low, high = torch.minimum(t0, t1), torch.maximum(t0, t1)
        must = f"at must lie between the first and the last time, {float(low)} and {float(high)}"
        checks.require(bool(((at >= low) & (at <= high)).all()), must, str(at.tolist())[:200], fix)
    return at


def check_tolerances(rtol: float | Tensor, atol: float | Tensor, like: Tensor) -> None:
    """Positive, and one of them above what the dtype can tell apart."""
    checks.positive("rtol", rtol, "Try 1e-3 to sample, 1e-5 for likelihoods.")
    checks.positive("atol", atol, "Try 1e-6.")
    values = [torch.as_tensor(value) for value in (rtol, atol)]
    if all(checks.is_concrete(value) for value in values):
        eps = torch.finfo(like.dtype).eps
        largest = float(max(value.max() for value in values))
        must = f"rtol or atol must be above {4 * eps:.1e}, the precision of {like.dtype}"
        checks.require(largest >= 4 * eps, must, largest, "Use larger tolerances, or positions in float64.")


def _first_saved(x: Position, at: Tensor, t0: Tensor, direction: Tensor) -> Position:
    """The start at times up to ``t0``, NaN later."""
    is_there = direction * (at - t0) <= 0

    def leaf(value: Tensor) -> Tensor:
        flags = is_there.reshape(-1, *[1] * value.ndim)
        return torch.where(flags, value, torch.nan)

    return tree.map(leaf, x)


def _saved(
    carry: _Carry,
    tried: Attempt,
    h: Tensor,
    end: Tensor,
    is_made: Tensor,
    at: Tensor,
    direction: Tensor,
    interpolate: Any,
) -> Position:
    """Positions at the times inside of this step, by dense output; the others as they were."""
    is_inside = is_made & (direction * (at - carry.time) > 0) & (direction * (at - end) <= 0)
    theta = (at - carry.time) / h
    between = vmap(lambda share: interpolate(tried, carry.position, h, share))(theta)

    def leaf(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(is_inside.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return tree.map(leaf, between, carry.saved)


def _recorded(carry: _Carry, end: Tensor, is_made: Tensor) -> Tensor:
    indices = torch.arange(len(carry.grid), device=end.device)
    return torch.where(is_made & (indices == carry.num_steps + 1), end, carry.grid)
