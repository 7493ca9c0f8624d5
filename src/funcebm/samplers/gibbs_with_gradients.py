"""Gibbs-with-gradients: single flips chosen where the gradient says that they help."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import checks, fields, random, tree
from ..types import Energy, Key, Number, Params, Position, Sampler, Tree
from ._heat_bath import DiscreteInfo
from ._moves import (
    apply,
    argmax_mask,
    checked,
    door,
    estimates,
    masked_sum,
    num_changed,
    num_moves,
    reverse,
    same_sites,
    space_for,
)
from .mala import MalaState as InformedState
from .metropolis import metropolis_hastings

__all__ = ["GibbsWithGradientsNoise", "GibbsWithGradientsTuning", "InformedState", "gibbs_with_gradients"]


class GibbsWithGradientsNoise(NamedTuple):
    """Gumbel numbers for each draw and move, ``(R, T)``, and a uniform ``()`` for the test."""

    gumbel: Tensor
    uniform: Tensor


class GibbsWithGradientsTuning(NamedTuple):
    """The temperature of the proposal, and that of the target, each ``()``."""

    proposal_temperature: Tensor
    temperature: Tensor


def gibbs_with_gradients(
    energy: Energy, space: Tree | None = None, *, temperature: Number = 2.0, num_draws: int = 1
) -> Sampler:
    r"""Gibbs-with-gradients: a locally informed proposal by one gradient.

    With :math:`d_m = -\nabla E(x) \cdot (y_m - x)`, the first-order change of the log density by the move :math:`x \to y_m` (flip
    one bit, give one site another value, one level up or down), it draws

    .. math:: m \sim q(\cdot \mid x) = \mathrm{softmax}(d / \tau)

    and accepts by Metropolis-Hastings, with :math:`q` at :math:`y` for the move back: so :math:`e^{-E}` is invariant for every
    :math:`\tau` and however poor the estimates are. With several draws, from one :math:`q` with replacement, all the moves drawn
    are made, and the probabilities of the whole sequence enter the test; a sequence that gives one site two values is a
    rejection. One gradient a step.

    Args:
        energy: ``(params, x) -> ()``, differentiable: also between the levels, where it is never evaluated.
        space: of the positions, from :mod:`funcebm.spaces`; None is that of
            the energy, if it has one that fits (those of :mod:`funcebm.energies`), else bits, 0 and 1.
        temperature: :math:`\tau > 0` of the *proposal*; 2 is balanced (:math:`\sqrt t`), 1 can be many times slower. For another
            target :math:`e^{-E/T}` use :func:`~funcebm.samplers.tempered`. ``()``.
        num_draws: moves a step, where single flips are accepted nearly always. Static.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``InformedState`` (the gradient is kept), ``DiscreteInfo`` and
        ``GibbsWithGradientsTuning``.

    Raises:
        ValueError: a number that is not positive, a space with real leaves; from ``init`` and at the start of a run, a position
            off the levels.

    Reference: Grathwohl, Swersky, Hashemi, Duvenaud and Maddison (2021), ICML, PMLR 139:3831-3841, arXiv:2102.04509.

    >>> sampler = gibbs_with_gradients(lambda params, x: -(params * x).sum())
    >>> params = torch.tensor([3.0, -3.0, 1.0])
    >>> state, info = sampler(random.key(0), params, sampler.init(params, torch.zeros(3)))
    >>> int(info.num_gradients), bool(info.num_changed <= 1)
    (1, True)
    """
    checks.positive("temperature", temperature, "The balanced proposal has 2.0.")
    checks.positive_int("num_draws", num_draws)
    space_of = space_for("gibbs_with_gradients", space, energy)
    value_and_gradient = fields.value_and_gradient(energy)

    def init(params: Params, position: Position) -> InformedState:
        own = checked(space_of, position)
        value, gradient = value_and_gradient(params, position)
        return InformedState(position, door(own, position, value), gradient)

    def draw(key: Key, position: Position) -> GibbsWithGradientsNoise:
        key_gumbel, key_accept = random.split(key)
        dtype, num = tree.first(position).dtype, num_moves(space_of(position))
        gumbel = random.gumbel(key_gumbel, (num_draws, num), dtype=dtype)
        return GibbsWithGradientsNoise(gumbel, random.uniform(key_accept, dtype=dtype))

    def step(
        params: Params, tuning: GibbsWithGradientsTuning, state: InformedState, noise: GibbsWithGradientsNoise
    ) -> tuple[InformedState, DiscreteInfo]:
        own = space_of(state.position)
        scale = tuning.temperature * tuning.proposal_temperature

        def log_chances(state: InformedState) -> Tensor:
            return torch.log_softmax(estimates(own, state.position, state.gradient) / scale, -1)

        forth = log_chances(state)
        chosen = [argmax_mask(forth + gumbel) for gumbel in noise.gumbel.unbind(0)]
        union = torch.stack(chosen).any(0)
        position = apply(own, state.position, union)
        proposal = InformedState(position, *value_and_gradient(params, position))
        back = log_chances(proposal)
        log_ratio = (state.energy - proposal.energy) / tuning.temperature
        for mask in chosen:
            log_ratio = log_ratio + masked_sum(reverse(own, state.position, mask), back) - masked_sum(mask, forth)
        others = [(same_sites(own, mask) & union & ~mask).any() for mask in chosen]
        is_torn = torch.stack(others).any()  # a site with two values
        log_ratio = torch.where(is_torn, -torch.inf, log_ratio)
        after, info = metropolis_hastings(log_ratio, noise.uniform, proposal, state, num_gradients=1)
        info = info._replace(is_divergent=info.is_divergent & ~is_torn)
        return after, DiscreteInfo.of(info, info.acceptance_rate * num_changed(own, state.position, position))

    tuning = GibbsWithGradientsTuning(torch.as_tensor(temperature), torch.ones(()))
    return Sampler(init, draw, step, tuning, adaptation="unchanged")
