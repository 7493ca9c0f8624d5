"""Stochastic-gradient Hamiltonian Monte Carlo."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor

from .. import checks, fields, metrics, tree
from ..types import Energy, Info, MetricLike, Number, Params, Position, Sampler, StateT, Tree
from .constraints import takes_energy
from .metropolis import nan_outside, unadjusted_info
from .sgld import Minibatches, MinibatchNoise, check_gradient_noise, minibatches
from .underdamped_langevin import UnderdampedTuning, underdamped_tuning

__all__ = ["SGHMCState", "SGHMCTuning", "sghmc"]


class SGHMCState(NamedTuple):
    """A position, the momentum, and whether the momentum is still to be drawn, ``()`` bool."""

    position: Position
    momentum: Tree
    is_fresh: Tensor


class SGHMCTuning(NamedTuple):
    """As :class:`~funcebm.samplers.underdamped_langevin.UnderdampedTuning`, and ``gradient_noise``, the variance of a
    gradient."""

    step_size: Tensor
    metric: Any
    friction: Tensor
    temperature: Tensor
    gradient_noise: Tensor


@takes_energy
def sghmc(
    energy: Energy | Callable[..., Tensor],
    *,
    step_size: Number = 0.01,
    friction: Number = 1.0,
    inverse_mass: MetricLike = None,
    temperature: Number = 1.0,
    gradient_noise: Number = 0.0,
    num_data: int | None = None,
    batch_size: int | None = None,
) -> Sampler[SGHMCState, Info, SGHMCTuning]:
    r"""Stochastic-gradient Hamiltonian Monte Carlo.

    .. math:: x' = x + h M^{-1} p, \qquad
              p' = (1 - h \gamma) p - h \hat g(x') / T + \sqrt{h (2 \gamma - h V / T^2)}\, A^{-\top} \xi,
              \qquad M^{-1} = A A^\top

    Underdamped Langevin dynamics with a noisy gradient :math:`\hat g`, of mean :math:`\nabla E`. What the noise of the
    gradient adds is taken from the noise that is injected, where its variance :math:`V` is known: then positions have a
    bias of order :math:`h^2` (on :math:`E = k x^2 / 2` with unit mass the variance is
    :math:`T / (k (1 - h^2 k / (4 T (1 - h \gamma / 2))))`), momenta one of order :math:`h`. With 0 in the place of :math:`V`
    the chain is at the temperature :math:`T + h V / (2 \gamma T)`. One gradient a step. Without noise and with
    :math:`v = h M^{-1} p` this is gradient descent with the learning rate :math:`h^2 / T` and the momentum
    :math:`1 - h \gamma`; the step size of :func:`~funcebm.samplers.langevin` that it amounts to is
    :math:`h / (\gamma T)`.

    ``init`` has no key: the first step draws :math:`p \sim N(0, M)`, in place of friction and injected noise.

    Args:
        energy: ``(params, x, indices) -> ()`` with ``num_data`` and ``batch_size``, else ``(params, x) -> ()``; see
            :func:`~funcebm.samplers.sgld`.
        step_size: :math:`h > 0`, in units of time, as that of :func:`~funcebm.samplers.hmc`. ``()``.
        friction: :math:`\gamma > 0`, in units of one over time, with :math:`h \gamma < 1`. ``()``.
        inverse_mass: :math:`M^{-1}`, as in :func:`~funcebm.samplers.hmc`.
        temperature: :math:`T > 0`, in units of energy; it divides the energy. ``()``.
        gradient_noise: :math:`V \ge 0`, the variance of one coordinate of :math:`\hat g` (of :math:`A^\top \hat g` with an
            inverse mass), with :math:`h V < 2 \gamma T^2`. ``()``.
        num_data: how many data there are; static.
        batch_size: how many of them, drawn uniformly with replacement, make a minibatch; static.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``SGHMCState``, ``Info`` and ``SGHMCTuning``.

    Raises:
        ValueError: a number out of its range, an inverse mass that is not a metric, or one of ``num_data`` and
            ``batch_size`` without the other.

    Reference: Chen, Fox and Guestrin (2014), ICML, eq. 13 and algorithm 2. Their friction matrix :math:`C` is
    :math:`\gamma M`, their :math:`\hat B` is :math:`h V / 2`; we do not draw the momentum again every so often.

    >>> from funcebm import random
    >>> sampler = sghmc(lambda params, x: (x**2).sum() / 2, step_size=0.1, friction=0.5)
    >>> state, info = sampler(random.key(0), (), sampler.init((), torch.zeros(2)))
    >>> state.momentum.shape
    torch.Size([2])
    """
    tuning = SGHMCTuning(
        *stochastic_tuning(step_size, friction, inverse_mass, temperature), torch.as_tensor(gradient_noise)
    )
    most = 2 * tuning.friction * tuning.temperature**2 / tuning.step_size
    check_gradient_noise(tuning.gradient_noise, most, "2 friction temperature^2 / step_size")
    batches = minibatches(energy, num_data, batch_size, tuning.metric)

    def init(params: Params, position: Position) -> SGHMCState:
        return SGHMCState(position, *fresh_momentum(batches, params, position))

    def step(params: Params, tuning: SGHMCTuning, state: SGHMCState, noise: MinibatchNoise) -> tuple[SGHMCState, Info]:
        h = tuning.step_size
        injected = h * (2 * tuning.friction - h * tuning.gradient_noise / tuning.temperature**2)
        energy = batches.on(noise.indices)
        return noisy_step(energy, params, tuning, state, noise.normal, tuning.friction, injected)

    return Sampler(init, batches.draw, step, tuning)


def noisy_step(
    energy: Energy, params: Params, tuning: Any, state: StateT, normal: Tree, friction: Tensor, injected: Tensor
) -> tuple[StateT, Info]:
    """A drift, and a kick with friction and noise of the variance ``injected``; a fresh momentum is drawn in their place."""
    before: Any = state
    h, is_fresh = tuning.step_size, before.is_fresh
    normal = metrics.momentum(tuning.metric, normal)
    momentum = tree.where(is_fresh, normal, before.momentum)
    position = tree.add_scaled(before.position, h, metrics.velocity(tuning.metric, momentum))
    value, gradient = fields.value_and_gradient(energy)(params, position)
    decay = torch.where(is_fresh, 1, 1 - h * friction)
    spread = torch.where(is_fresh, 0, torch.sqrt(injected))
    pull = h / tuning.temperature
    momentum = tree.map(lambda p, g, z: decay * p - pull * g + spread * z, momentum, gradient, normal)
    after = before._replace(position=position, momentum=momentum, is_fresh=torch.zeros_like(is_fresh))
    return after, unadjusted_info(position, value, num_gradients=1)


def fresh_momentum(batches: Minibatches, params: Params, position: Position) -> tuple[Tree, Tensor]:
    """A momentum that is still to be drawn, NaN outside of the support, and the flag that says so."""
    value = batches.at_start(params, position)
    return nan_outside(value, tree.zeros_like(position)), torch.ones_like(value, dtype=torch.bool)


def stochastic_tuning(
    step_size: Number, friction: Number, inverse_mass: MetricLike, temperature: Number
) -> UnderdampedTuning:
    """The tuning, where friction takes only a part of the momentum in one step."""
    hint = "Try 0.01, and smaller where chains diverge."
    tuning = underdamped_tuning(step_size, friction, inverse_mass, temperature, hint)
    product = tuning.step_size * tuning.friction
    if checks.is_concrete(product):
        fix = "Take a smaller step_size or less friction."
        checks.require(bool((product < 1).all()), "step_size * friction must be below 1", str(product.tolist()), fix)
    return tuning
