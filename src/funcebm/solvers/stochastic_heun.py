"""Heun's method for SDEs."""

from __future__ import annotations

from torch import Tensor

from .. import tree
from ..types import Params, Schedule
from .brownian import check_increment, draw_displacement
from .euler_maruyama import without_memory
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

__all__ = ["stochastic_heun"]


def stochastic_heun(diffusion: float | Tensor | Schedule = 1.0) -> Integrator:
    r"""Heun's method for :math:`dx = f(t, x)\,dt + c(t)\,dW`, with :math:`c = \sqrt{2 w}`.

    .. math:: \tilde x = x + h f + c W, \qquad x' = x + \tfrac h2 (f + \tilde f) + \tfrac12 (c + c') W, \qquad W = \sqrt h\,\xi

    Strong order 1, weak order 2; two evaluations. Without noise it is :func:`heun`.

    Args:
        diffusion: :math:`w \ge 0`, a number, which is traced, or a function of the time ``()``.

    Returns:
        An :class:`Integrator` with noise.

    Raises:
        ValueError: a negative number.

    Reference: Kloeden and Platen (1992), Numerical Solution of Stochastic Differential Equations, section 15.1.

    >>> import torch
    >>> from funcebm import random
    >>> sampler = stochastic_heun(1.0)(lambda params, t, x: -x, step_size=0.1)
    >>> state, info = sampler(random.key(0), (), sampler.init((), torch.zeros(2)))
    >>> int(info.num_gradients)
    2
    """
    coefficient, numbers = coefficient_of(diffusion)

    def step(
        field: Field, params: Params, tuning: SolverTuning, state: SolverState, noise: BrownianIncrement
    ) -> tuple[SolverState, SolverInfo]:
        check_increment(noise, state.position, False)
        t, h = state.time, tuning.step_size.to(state.time)
        before = coefficient(tuning.numbers, t) * h.sqrt()
        after = coefficient(tuning.numbers, t + h) * h.sqrt()
        slope = evaluate(field, params, t, state.position)
        ahead = tree.map(lambda x, f, z: x + h * f + before * z, state.position, slope, noise.displacement)
        next_slope = evaluate(field, params, t + h, ahead)
        position = tree.map(
            lambda x, f, g, z: x + h / 2 * (f + g) + (before + after) / 2 * z,
            state.position,
            slope,
            next_slope,
            noise.displacement,
        )
        return finished_step(position, t + h, (), 2)

    return Integrator(
        without_memory, draw_displacement, step, order=2, tuning=numbers, strong_order=1, num_evaluations=2
    )
