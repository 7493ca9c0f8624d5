"""The Euler-Maruyama method."""

from __future__ import annotations

from torch import Tensor

from .. import tree
from ..types import Params, Position, Schedule
from .brownian import check_increment, draw_displacement
from .integrator import (
    BrownianIncrement,
    Field,
    Integrator,
    SolverInfo,
    SolverState,
    SolverTuning,
    coefficient_of,
    evaluate,
    finished_step,
)

__all__ = ["euler_maruyama", "without_memory"]


def without_memory(field: Field, params: Params, t: Tensor, x: Position) -> SolverState:
    """The state of a solver that remembers nothing."""
    return SolverState(x, t, ())


def euler_maruyama(diffusion: float | Tensor | Schedule = 1.0) -> Integrator:
    r"""Euler-Maruyama for :math:`dx = f(t, x)\,dt + \sqrt{2 w(t)}\,dW`.

    .. math:: x' = x + h f(t, x) + \sqrt{2 w(t) h}\, \xi, \qquad \xi \sim N(0, I)

    Strong order 1 and weak order 1, as the noise is additive; one evaluation. With a drift :math:`-\nabla E` and :math:`w = 1`
    it is unadjusted Langevin.

    Args:
        diffusion: :math:`w \ge 0`, a number, which is traced, or a function of the time ``()``. In squared units of ``x`` over
            time.

    Returns:
        An :class:`Integrator` with noise.

    Raises:
        ValueError: a negative number.

    Reference: Kloeden and Platen (1992), Numerical Solution of Stochastic Differential Equations, section 10.2.

    >>> import torch
    >>> from funcebm import random
    >>> sampler = euler_maruyama(1.0)(lambda params, t, x: -x, step_size=0.1)
    >>> state, info = sampler(random.key(0), (), sampler.init((), torch.zeros(2)))
    >>> state.time
    tensor(0.1000)
    """
    coefficient, numbers = coefficient_of(diffusion)

    def step(
        field: Field, params: Params, tuning: SolverTuning, state: SolverState, noise: BrownianIncrement
    ) -> tuple[SolverState, SolverInfo]:
        check_increment(noise, state.position, False)
        h = tuning.step_size.to(state.time)
        slope = evaluate(field, params, state.time, state.position)
        spread = coefficient(tuning.numbers, state.time) * h.sqrt()
        position = tree.map(lambda x, f, z: x + h * f + spread * z, state.position, slope, noise.displacement)
        return finished_step(position, state.time + h, (), 1)

    return Integrator(without_memory, draw_displacement, step, order=1, tuning=numbers, strong_order=1)
