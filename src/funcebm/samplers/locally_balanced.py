"""Locally balanced proposals: one move of many, weighted by what it changes, exactly; with a test, or with holding times."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import checks, fields, random, tree
from ..types import Energy, Key, Number, Params, Position, Sampler, Tree
from ._balance import balancing
from ._heat_bath import DiscreteInfo
from ._moves import (
    apply,
    argmax_mask,
    checked,
    differences,
    door,
    masked_sum,
    num_changed,
    num_moves,
    reverse,
    space_for,
)
from .metropolis import metropolis_hastings, unadjusted_info

__all__ = [
    "JumpInfo",
    "LocallyBalancedNoise",
    "LocallyBalancedState",
    "LocallyBalancedTuning",
    "locally_balanced",
]


class LocallyBalancedState(NamedTuple):
    """A position, with the energy ``()`` and what each move changes in minus the energy, ``(T,)``."""

    position: Position
    energy: Tensor
    differences: Tensor

    def carry_over(self, fresh: LocallyBalancedState) -> LocallyBalancedState:
        """Everything belongs to the position."""
        return fresh


class LocallyBalancedNoise(NamedTuple):
    """A Gumbel number for each move, ``(T,)``, and a uniform ``()`` for the test, ``()`` without."""

    gumbel: Tensor
    uniform: Tree


class LocallyBalancedTuning(NamedTuple):
    """The temperature ``()``."""

    temperature: Tensor


class JumpInfo(NamedTuple):
    """The fields of ``DiscreteInfo``, and how long the chain stays where it came.

    Attributes:
        holding_time: the mean time until the next jump, the weight of the new position in averages. ``()``; infinite in float32
            where all moves cost more than about 180 temperatures (``"sqrt"``) or 90 (``"barker"``, ``"min"``).
        log_holding_time: its logarithm, which holds them all: ``torch.softmax(log_holding_time, 0)`` are the weights of draws.
    """

    acceptance_rate: Tensor
    is_accepted: Tensor
    is_divergent: Tensor
    num_gradients: Tensor
    energy: Tensor
    num_changed: Tensor
    holding_time: Tensor
    log_holding_time: Tensor


def locally_balanced(
    energy: Energy,
    space: Tree | None = None,
    *,
    balance: str = "sqrt",
    rejection_free: bool = False,
    temperature: Number = 1.0,
) -> Sampler:
    r"""Locally balanced proposal by exact differences, for any energy.

    With :math:`d_m = (E(x) - E(y_m)) / T` of each move :math:`x \to y_m` (another value of one site, one level up or down) and a
    balancing function, :math:`g(t) = t\, g(1/t)`, it proposes the move m with probability

    .. math:: q(m \mid x) = g(e^{d_m}) / Z(x), \qquad Z(x) = \sum_m g(e^{d_m}),

    and accepts with :math:`\min(1, Z(x) / Z(y))`. *Rejection-free*, every move is made: the chain is the skeleton of the jump
    process with the rates :math:`g(e^{d_m})`, whose invariant distribution is :math:`\propto e^{-E/T} Z`. So averages must be
    weighted by ``info.holding_time``, :math:`w_n = 1 / Z(x_n)`, and are wrong without:
    :math:`\mathrm{E} f \approx \sum_n w_n f(x_n) / \sum_n w_n`, from ``info.log_holding_time`` where energies are far apart.
    Such a kernel is for :func:`funcebm.sample` alone: cycles, tempering, annealing and contrastive losses refuse it.
    T energies a step, for all moves, at once.

    Args:
        energy: ``(params, x) -> ()``; it need not be differentiable.
        space: of the positions, from :mod:`funcebm.spaces`; None is that of the energy, if it has one that fits, else bits.
        balance: ``"sqrt"`` :math:`\sqrt t`, ``"barker"`` :math:`t / (1 + t)`, ``"min"`` :math:`\min(1, t)` or ``"max"``
            :math:`\max(1, t)`. Static.
        rejection_free: static.
        temperature: :math:`T > 0`, in units of energy. ``()``.

    Returns:
        A :class:`~funcebm.types.Sampler` with :class:`LocallyBalancedState` and ``DiscreteInfo``, or :class:`JumpInfo`. The
        differences are kept, so that a step costs those of one position.

    Raises:
        ValueError: a balance that is none of these, a temperature that is not positive, a space with real leaves; from ``init``
            and at the start of a run, a position off the levels.

    Reference: Zanella (2020), Journal of the American Statistical Association 115(530):852-865, arXiv:1711.07424; jump
    processes, Power and Goldman (2019), arXiv:1912.04681.

    >>> sampler = locally_balanced(lambda params, x: -(params * x).sum(), balance="barker")
    >>> params = torch.tensor([3.0, -3.0, 1.0])
    >>> state, info = sampler(random.key(0), params, sampler.init(params, torch.zeros(3)))
    >>> state.differences.shape
    torch.Size([3])
    """
    checks.positive("temperature", temperature, "Use 1.0 for the density exp(-E).")
    log_balance = balancing(balance)
    space_of = space_for("locally_balanced", space, energy)

    scalar = fields.value(energy)

    def at(params: Params, position: Position) -> LocallyBalancedState:
        value = scalar(params, position)
        return LocallyBalancedState(position, value, differences(scalar, space_of(position), params, position, value))

    def init(params: Params, position: Position) -> LocallyBalancedState:
        own = checked(space_of, position)
        state = at(params, position)
        value = door(own, position, state.energy)
        # where a move is not allowed there is no difference; a start must hold finite numbers only
        return state._replace(energy=value, differences=_finite(state.differences))

    def draw(key: Key, position: Position) -> LocallyBalancedNoise:
        key_gumbel, key_accept = random.split(key)
        dtype = tree.first(position).dtype
        gumbel = random.gumbel(key_gumbel, (num_moves(space_of(position)),), dtype=dtype)
        return LocallyBalancedNoise(gumbel, () if rejection_free else random.uniform(key_accept, dtype=dtype))

    def step(
        params: Params, tuning: LocallyBalancedTuning, state: LocallyBalancedState, noise: LocallyBalancedNoise
    ) -> tuple[LocallyBalancedState, DiscreteInfo | JumpInfo]:
        own = space_of(state.position)

        def weights(state: LocallyBalancedState) -> Tensor:
            change = torch.where(state.differences <= _NEVER, -torch.inf, state.differences)
            return log_balance(change / tuning.temperature)

        forth = weights(state)
        chosen = argmax_mask(forth + noise.gumbel)
        proposal = at(params, apply(own, state.position, chosen))
        proposal = proposal._replace(differences=_finite(proposal.differences))
        back = weights(proposal)
        if rejection_free:
            always = unadjusted_info(proposal.position, proposal.energy, 0)
            one = torch.ones_like(proposal.energy)
            log_time = -torch.logsumexp(back, -1)
            return proposal, JumpInfo(*always, one, log_time.exp(), log_time)
        log_ratio = (state.energy - proposal.energy) / tuning.temperature
        log_ratio = log_ratio + masked_sum(reverse(own, state.position, chosen), torch.log_softmax(back, -1))
        log_ratio = log_ratio - masked_sum(chosen, torch.log_softmax(forth, -1))
        after, info = metropolis_hastings(log_ratio, noise.uniform, proposal, state, num_gradients=0)
        return after, DiscreteInfo.of(info, info.acceptance_rate * num_changed(own, state.position, proposal.position))

    tuning = LocallyBalancedTuning(torch.as_tensor(temperature))
    return Sampler(init, draw, step, tuning, adaptation="unchanged", is_weighted=rejection_free)


_NEVER = -1e30  # in a state, in place of minus infinity


def _finite(change: Tensor) -> Tensor:
    return change.clamp(min=_NEVER)
