"""Exact gradients of a solve in two loops, forwards and backwards, that compile."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor

from .. import loops, tree
from ..types import Params, Position, Tree
from .integrator import Field, Integrator, SolverState, check_solve
from .solve import Solution, SolveInfo, check_noise, check_times, start, step_between

__all__ = ["SolveGradients", "discrete_adjoint"]


class SolveGradients(NamedTuple):
    """What a cotangent of the last position becomes.

    Attributes:
        params: with respect to the params; zeros for leaves that are not floating point.
        position: with respect to the first position.
        times: with respect to the times. ``(T,)``.
    """

    params: Params
    position: Position
    times: Tensor


def discrete_adjoint(
    integrator: Integrator, field: Field, params: Params, x: Position, times: Tensor, noise: Tree = ()
) -> tuple[Solution, Callable[..., SolveGradients]]:
    r"""Solves as :func:`solve`, and returns the function that pulls cotangents back through all steps.

    The first loop keeps the position :math:`x_k` before each step :math:`x_{k+1} = \Phi_k(\theta, x_k)`; the second one goes
    back,

    .. math:: \lambda_k = (\partial_x \Phi_k)^\top \lambda_{k+1}, \qquad
        \nabla_\theta = \sum_k (\partial_\theta \Phi_k)^\top \lambda_{k+1}.

    So it is the exact gradient of the numbers that were computed (discretise, then optimise), equal to that of
    ``torch.func.grad`` through :func:`solve`. But both loops compile whole, whatever their length, and only one step at a time is
    recorded: memory holds T positions. After :func:`solve_adaptive` with ``record=True``, its ``grid`` as ``times`` replays the
    adaptive solve; the steps of length zero at its end change nothing.

    Args:
        integrator: as for :func:`solve`.
        field: as for :func:`solve`.
        params: as for :func:`solve`.
        x: as for :func:`solve`.
        times: as for :func:`solve`; with equal times at its end allowed. ``(T,)``.
        noise: as for :func:`solve`.

    Returns:
        The :class:`Solution`, whose ``saved`` are the positions at all times, ``(T, *event)``; and ``pull(cotangent,
        saved=None) ->`` :class:`SolveGradients`, for cotangents of ``value`` and, optionally, of ``saved``.

    Reference: Onken and Ruthotto (2020), "Discretize-optimize vs. optimize-discretize for time-series regression and continuous
    normalizing flows", arXiv:2005.13420.

    >>> from funcebm import solvers
    >>> solution, pull = discrete_adjoint(solvers.rk4(), lambda params, t, x: params * x, torch.tensor(1.0), torch.ones(1),
    ...     torch.linspace(0, 1, 11))
    >>> pull(torch.ones(1)).params  # d/da exp(a) at 1
    tensor(2.7183)
    """
    check_solve(integrator, field, x)
    check_times(times, integrator.strong_order is not None, are_equal_allowed=True)
    check_noise(integrator, noise, len(times) - 1)
    times = times.to(tree.first(x))
    leaves, structure = tree.flatten(params)
    moves = [isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in leaves]
    floating = [leaf for leaf, is_moving in zip(leaves, moves, strict=True) if is_moving]

    def whole(parts: list[Tensor]) -> Params:
        rest = iter(parts)
        return tree.unflatten(structure, [next(rest) if m else leaf for m, leaf in zip(moves, leaves, strict=True)])

    def begin(parts: list[Tensor], x: Position, time: Tensor) -> tuple[Position, Tree]:
        state, _ = start(integrator, field, whole(parts), time, x)
        return state.position, state.memory

    def move(
        parts: list[Tensor], x: Position, memory: Tree, time: Tensor, end: Tensor, step_noise: Tree
    ) -> tuple[tuple[Position, Tree], Any]:
        state = SolverState(x, time, memory)
        state, info = step_between(integrator, field, whole(parts), state, time, end, step_noise)
        return (state.position, state.memory), info

    def forwards(carry: Tree, xs: Tree) -> tuple[Tree, Tree]:
        after, info = move(floating, *carry, *xs)
        return after, (carry, info.is_divergent, info.num_gradients)

    first = begin(floating, x, times[0])
    steps = (times[:-1], times[1:], noise)
    last, (before, is_divergent, counts) = loops.scan(forwards, first, steps)
    saved = tree.map(lambda a, b: torch.cat([a, b[None]]), before[0], last[0])
    info = SolveInfo(
        num_steps=torch.full_like(counts[0], len(times) - 1),
        num_rejected=torch.zeros_like(counts[0]),
        num_evaluations=counts.sum(0, dtype=torch.int32) + int(integrator.reuses_slope),
        is_finished=torch.ones_like(is_divergent[0]),
        is_divergent=is_divergent.any(0),
    )

    def pull(cotangent: Position, saved_cotangent: Tree | None = None) -> SolveGradients:
        along = tree.zeros_like(saved) if saved_cotangent is None else saved_cotangent
        after = tree.map(lambda leaf: leaf[1:], along)

        def backwards(carry: Tree, xs: Tree) -> tuple[Tree, Tree]:
            (back_x, back_memory), totals = carry
            (at, memory), time, end, step_noise, here = xs
            back_x = tree.add(back_x, here)
            pulled = torch.func.vjp(
                lambda parts, x, memory, time, end: move(parts, x, memory, time, end, step_noise)[0],
                floating,
                at,
                memory,
                time,
                end,
            )[1]((back_x, back_memory))
            parts, back_x, back_memory, back_time, back_end = pulled
            return ((back_x, back_memory), tree.add(totals, parts)), (back_time, back_end)

        flipped = tree.map(lambda leaf: leaf.flip(0), (before, *steps, after))
        zero = [torch.zeros_like(leaf) for leaf in floating]
        begin_carry = ((tree.map(torch.clone, cotangent), tree.zeros_like(last[1])), zero)
        ((back_x, back_memory), totals), (back_times, back_ends) = loops.scan(backwards, begin_carry, flipped)
        back_x = tree.add(back_x, tree.map(lambda leaf: leaf[0], along))
        parts, back_x, back_start = torch.func.vjp(begin, floating, x, times[0])[1]((back_x, back_memory))
        totals = tree.add(totals, parts)
        nothing = back_times.new_zeros(1)
        back = torch.cat([back_times.flip(0), nothing]) + torch.cat([nothing, back_ends.flip(0)])
        back = torch.cat([(back[0] + back_start)[None], back[1:]])
        rest = iter(totals)
        gradients = [next(rest) if m else torch.zeros_like(leaf) for m, leaf in zip(moves, leaves, strict=True)]
        return SolveGradients(tree.unflatten(structure, gradients), back_x, back)

    return Solution(last[0], saved, info), pull
