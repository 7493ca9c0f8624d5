"""Rößler's SRA1, of strong order 1.5."""

from __future__ import annotations

import math

from torch import Tensor

from .. import tree
from ..types import Params, Schedule
from .brownian import check_increment, draw_area
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

__all__ = ["sra1"]


def sra1(diffusion: float | Tensor | Schedule = 1.0) -> Integrator:
    r"""SRA1 for :math:`dx = f(t, x)\,dt + c(t)\,dW`, with :math:`c = \sqrt{2 w}`.

    With the displacement :math:`W` and the space-time area :math:`H` of the Brownian motion, and :math:`c' = c(t + h)`,

    .. math:: k_1 = f(t, x), \quad k_2 = f\bigl(t + \tfrac34 h,\; x + \tfrac34 h k_1 + \tfrac32 c' (\tfrac W2 + H)\bigr), \quad
        x' = x + h \bigl(\tfrac13 k_1 + \tfrac23 k_2\bigr) + c' W + (c - c') \bigl(\tfrac W2 + H\bigr).

    Strong order 1.5, weak order 2; two evaluations.

    Args:
        diffusion: :math:`w \ge 0`, a number, which is traced, or a function of the time ``()``.

    Returns:
        An :class:`Integrator` with noise.

    Raises:
        ValueError: a negative number.

    Reference: Rößler (2010), SIAM Journal on Numerical Analysis 48(3):922-952.

    >>> import torch
    >>> from funcebm import random
    >>> sampler = sra1(1.0)(lambda params, t, x: -x, step_size=0.1)
    >>> state, info = sampler(random.key(0), (), sampler.init((), torch.zeros(2)))
    >>> int(info.num_gradients)
    2
    """
    coefficient, numbers = coefficient_of(diffusion)

    def step(
        field: Field, params: Params, tuning: SolverTuning, state: SolverState, noise: BrownianIncrement
    ) -> tuple[SolverState, SolverInfo]:
        check_increment(noise, state.position, True)
        t, h = state.time, tuning.step_size.to(state.time)
        before, after = coefficient(tuning.numbers, t), coefficient(tuning.numbers, t + h)
        root = h.sqrt()
        middle = tree.map(lambda w, a: root * (w / 2 + a / math.sqrt(12)), noise.displacement, noise.area)
        slope = evaluate(field, params, t, state.position)
        at = tree.map(lambda x, k, m: x + 0.75 * h * k + 1.5 * after * m, state.position, slope, middle)
        second = evaluate(field, params, t + 0.75 * h, at)
        position = tree.map(
            lambda x, k, l, w, m: x + h / 3 * (k + 2 * l) + after * root * w + (before - after) * m,
            state.position,
            slope,
            second,
            noise.displacement,
            middle,
        )
        return finished_step(position, t + h, (), 2)

    return Integrator(without_memory, draw_area, step, order=2, tuning=numbers, strong_order=1.5, num_evaluations=2)
