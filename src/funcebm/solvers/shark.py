"""Foster's ShARK, of strong order 1.5."""

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

__all__ = ["shark"]


def shark(diffusion: float | Tensor | Schedule = 1.0) -> Integrator:
    r"""ShARK (shifted additive-noise Runge-Kutta) for :math:`dx = f(t, x)\,dt + c(t)\,dW`, with :math:`c = \sqrt{2 w}`.

    With the displacement :math:`W` and the space-time area :math:`H` of the Brownian motion, and :math:`c' = c(t + h)`,

    .. math:: k_1 = f(t, x + c H), \quad k_2 = f\bigl(t + \tfrac56 h,\; x + \tfrac56 h k_1 + c (\tfrac56 W + H)\bigr), \quad
        x' = x + h (0.4 k_1 + 0.6 k_2) + c W + (c' - c) \bigl(\tfrac W2 - H\bigr).

    Strong order 1.5, weak order 2; two evaluations, and the smallest errors of the solvers here.

    Args:
        diffusion: :math:`w \ge 0`, a number, which is traced, or a function of the time ``()``.

    Returns:
        An :class:`Integrator` with noise.

    Raises:
        ValueError: a negative number.

    Reference: Foster, dos Reis and Strange (2024), SIAM Journal on Numerical Analysis 62(1):500-532, arXiv:2210.17543.

    >>> import torch
    >>> from funcebm import random
    >>> sampler = shark(1.0)(lambda params, t, x: -x, step_size=0.1)
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
        moved = tree.scale(root, noise.displacement)
        area = tree.scale(root / math.sqrt(12), noise.area)
        first = evaluate(field, params, t, tree.add_scaled(state.position, before, area))
        at = tree.map(
            lambda x, k, w, a: x + 5 / 6 * h * k + before * (5 / 6 * w + a), state.position, first, moved, area
        )
        second = evaluate(field, params, t + 5 / 6 * h, at)
        position = tree.map(
            lambda x, k, l, w, a: x + h * (0.4 * k + 0.6 * l) + before * w + (after - before) * (w / 2 - a),
            state.position,
            first,
            second,
            moved,
            area,
        )
        return finished_step(position, t + h, (), 2)

    return Integrator(without_memory, draw_area, step, order=2, tuning=numbers, strong_order=1.5, num_evaluations=2)
