"""The stochastic-gradient Nose-Hoover thermostat."""

from __future__ import annotations

from typing import Callable, NamedTuple

from torch import Tensor

from .. import metrics, tree
from ..types import Energy, Info, MetricLike, Number, Params, Position, Sampler, Tree
from .constraints import takes_energy
from .sghmc import fresh_momentum, noisy_step, stochastic_tuning
from .sgld import MinibatchNoise, minibatches
from .underdamped_langevin import UnderdampedTuning as SGNHTTuning

__all__ = ["SGNHTState", "SGNHTTuning", "sgnht"]


class SGNHTState(NamedTuple):
    """A position, the momentum, the ``thermostat`` ``()``, which is friction beyond that of the tuning, and whether the
    momentum is still to be drawn, ``()`` bool."""

    position: Position
    momentum: Tree
    thermostat: Tensor
    is_fresh: Tensor


@takes_energy
def sgnht(
    energy: Energy | Callable[..., Tensor],
    *,
    step_size: Number = 0.01,
    friction: Number = 1.0,
    inverse_mass: MetricLike = None,
    temperature: Number = 1.0,
    num_data: int | None = None,
    batch_size: int | None = None,
) -> Sampler[SGNHTState, Info, SGNHTTuning]:
    r"""Stochastic-gradient Nose-Hoover thermostat: noisy gradients whose noise need not be known.

    .. math:: x' = x + h M^{-1} p, \qquad
              p' = (1 - h (\gamma + \eta)) p - h \hat g(x') / T + \sqrt{2 h \gamma}\, A^{-\top} \xi, \qquad
              \eta' = \eta + h \left(\frac{p' \cdot M^{-1} p'}{D} - 1\right)

    with :math:`M^{-1} = A A^\top`. The thermostat :math:`\eta` adds friction while the momenta are too warm, and takes it away
    while they are too cold, so it finds by itself what the noise of the gradient asks for: with the variance :math:`V` of a
    coordinate of :math:`A^\top \hat g` it settles around :math:`h (V / T^2 + \gamma^2) / 2`. Positions are too cold by the
    fraction :math:`h (\gamma + \eta) / 2`. The noise must be about the same everywhere and in every coordinate of
    :math:`A^{-1} x`, and ``D``, the number of coordinates, not be small: in one dimension the thermostat is slow. One
    gradient a step.

    ``init`` has no key: the first step draws :math:`p \sim N(0, M)`, in place of friction and injected noise.

    Args:
        energy: ``(params, x, indices) -> ()`` with ``num_data`` and ``batch_size``, else ``(params, x) -> ()``; see
            :func:`~funcebm.samplers.sgld`.
        step_size: :math:`h > 0`, in units of time, as that of :func:`~funcebm.samplers.hmc`. ``()``.
        friction: :math:`\gamma > 0`, in units of one over time, with :math:`h \gamma < 1`: what the injected noise needs.
            ``()``.
        inverse_mass: :math:`M^{-1}`, as in :func:`~funcebm.samplers.hmc`.
        temperature: :math:`T > 0`, in units of energy; it divides the energy. ``()``.
        num_data: how many data there are; static.
        batch_size: how many of them, drawn uniformly with replacement, make a minibatch; static.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``SGNHTState``, ``Info`` and ``SGNHTTuning``.

    Raises:
        ValueError: a number out of its range, an inverse mass that is not a metric, or one of ``num_data`` and
            ``batch_size`` without the other.

    Reference: Ding, Fang, Babbush, Chen, Skeel and Neven (2014), NeurIPS. Their diffusion :math:`A` is
    :math:`\gamma`, their thermostat :math:`\xi` is :math:`\gamma + \eta`; we move the position first, so that the gradient is
    that of the new one.

    >>> import torch
    >>> from funcebm import random
    >>> sampler = sgnht(lambda params, x: (x**2).sum() / 2, step_size=0.1)
    >>> state, info = sampler(random.key(0), (), sampler.init((), torch.zeros(2)))
    >>> state.thermostat.shape
    torch.Size([])
    """
    tuning = stochastic_tuning(step_size, friction, inverse_mass, temperature)
    batches = minibatches(energy, num_data, batch_size, tuning.metric)

    def init(params: Params, position: Position) -> SGNHTState:
        momentum, is_fresh = fresh_momentum(batches, params, position)
        return SGNHTState(position, momentum, tree.first(position).new_zeros(()), is_fresh)

    def step(params: Params, tuning: SGNHTTuning, state: SGNHTState, noise: MinibatchNoise) -> tuple[SGNHTState, Info]:
        h, friction = tuning.step_size, tuning.friction + state.thermostat
        energy, injected = batches.on(noise.indices), 2 * h * tuning.friction
        after, info = noisy_step(energy, params, tuning, state, noise.normal, friction, injected)
        warmth = 2 * metrics.kinetic_energy(tuning.metric, after.momentum) / tree.size(after.position)
        return after._replace(thermostat=state.thermostat + h * (warmth - 1)), info

    return Sampler(init, batches.draw, step, tuning)
