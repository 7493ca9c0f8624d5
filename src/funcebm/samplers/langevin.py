"""Unadjusted Langevin dynamics."""

from __future__ import annotations

import torch

from .. import checks, metrics, tree
from ..types import Energy, Info, MetricLike, Number, Params, Position, Sampler, Tree
from ._kernel import GradientState, StepTuning, evaluated, step_tuning
from .constraints import takes_energy
from .metropolis import nan_outside, unadjusted_info

__all__ = ["LangevinState", "LangevinTuning", "langevin", "langevin_proposal", "langevin_tuning"]

LangevinState = GradientState

LangevinTuning = StepTuning
"""The step size is in squared units of the position over those of the metric, which is the preconditioner."""


def langevin_tuning(
    step_size: Number, preconditioner: MetricLike, temperature: Number, step_hint: str | None = None
) -> LangevinTuning:
    """Checks the numbers and makes tensors of them; ``step_hint`` is what others than Langevin dynamics should try."""
    if step_hint is None:
        step_hint = "Try 0.01, and smaller where chains diverge."
        checks.positive(
            "temperature", temperature, "Use 1.0 for the density exp(-E), gradient_descent for temperature 0."
        )
    return step_tuning(step_size, preconditioner, temperature, "preconditioner", step_hint)


def langevin_proposal(tuning: LangevinTuning, position: Position, gradient: Tree, noise: Tree) -> Position:
    """``x - h P grad E(x) + sqrt(2 h T) A xi`` with ``P = A A^T``."""
    step_size = tuning.step_size
    if metrics.is_scalar(tuning.metric):  # a factor of the step size, which costs nothing for each coordinate
        step_size = step_size * tuning.metric.inverse_mass
    else:
        gradient, noise = metrics.velocity(tuning.metric, gradient), metrics.displacement(tuning.metric, noise)
    spread = torch.sqrt(2 * step_size * tuning.temperature)
    return tree.map(lambda x, g, z: x - step_size * g + spread * z, position, gradient, noise)


@takes_energy
def langevin(
    energy: Energy, *, step_size: Number = 0.01, preconditioner: MetricLike = None, temperature: Number = 1.0
) -> Sampler[GradientState, Info, LangevinTuning]:
    r"""Unadjusted Langevin algorithm.

    .. math:: x' = x - h P \nabla E(x) + \sqrt{2 h T}\, A \xi, \qquad \xi \sim N(0, I), \quad P = A A^\top

    Its distribution tends to :math:`e^{-E/T}` as :math:`h \to 0`, with a bias of order :math:`h`: on :math:`E = k x^2 / 2` the
    stationary variance is :math:`T / (k (1 - h P k / 2))`. :func:`mala` removes the bias. One gradient a step.

    Args:
        energy: ``(params, x) -> ()``.
        step_size: :math:`h > 0`, in squared units of ``x`` over those of :math:`P`. ``()``.
        preconditioner: :math:`P`, the scales and correlations of ``x``; the covariance of the target is a good one. None
            is the identity, a matrix ``(D, D)`` is dense over the ravelled position, anything else (a number, a vector, a
            tree like one position) is diagonal. :mod:`funcebm.metrics` makes the choice explicit.
        temperature: :math:`T > 0`, in units of energy. ``()``.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``GradientState``, ``Info`` and ``LangevinTuning``.

    Raises:
        ValueError: a number that is not positive, or a preconditioner that is not symmetric and positive definite.

    Reference: Roberts and Tweedie (1996), Bernoulli 2(4):341-363; with a preconditioner, Roberts and Stramer
    (2002), Methodology and Computing in Applied Probability 4:337-357.

    >>> from funcebm import random
    >>> sampler = langevin(lambda params, x: (x**2).sum() / 2, step_size=0.1)
    >>> state = sampler.init((), torch.zeros(2))
    >>> state, info = sampler(random.key(0), (), state)
    >>> state.position.shape
    torch.Size([2])
    """
    tuning = langevin_tuning(step_size, preconditioner, temperature)
    evaluate, start = evaluated(energy, tuning.metric, "preconditioner")

    def init(params: Params, position: Position) -> GradientState:
        position, value, gradient = start(params, position)
        return GradientState(position, nan_outside(value, gradient))

    def step(params: Params, tuning: LangevinTuning, state: GradientState, noise: Tree) -> tuple[GradientState, Info]:
        position = langevin_proposal(tuning, state.position, state.gradient, noise)
        value, gradient = evaluate(params, position)
        return GradientState(position, gradient), unadjusted_info(position, value, num_gradients=1)

    return Sampler(init, tree.normal_like, step, tuning)
