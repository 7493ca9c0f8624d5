"""Discrete Langevin in continuous time: every site runs a jump process of its own for a while."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .. import checks
from ..spaces.space import Space
from ..types import Energy, MetricLike, Number, Sampler, Tree
from ._balance import balancing
from ._factorised import DiscreteLangevinNoise as DLMCNoise
from ._factorised import DiscreteLangevinTuning as DLMCTuning
from ._factorised import changes, factorised
from ._heat_bath import DiscreteInfo
from ._kernel import EnergyState

__all__ = ["DLMCNoise", "DLMCTuning", "dlmc"]


def dlmc(
    energy: Energy,
    space: Tree | None = None,
    *,
    step_size: Number = 0.5,
    balance: str = "sqrt",
    solver: str = "interpolate",
    adjusted: bool = True,
    preconditioner: MetricLike = None,
    temperature: Number = 1.0,
) -> Sampler[EnergyState, DiscreteInfo, DLMCTuning]:
    r"""Discrete Langevin Monte Carlo: locally balanced jump processes of all sites, frozen at the start, for a time :math:`\tau`.

    With first-order changes :math:`d_{iv}` of the log density, a site leaves its value with the rate
    :math:`W_i = \sum_v g(e^{d_{iv}})`, and in the long run with the probability :math:`\nu_i = \sum_v e^{d_{iv}} / (1 + \sum_v
    e^{d_{iv}})`. It leaves with

    .. math:: \nu_i (1 - e^{-\tau W_i / \nu_i}) \quad \text{(interpolate; exact for two values)}, \qquad
              \min(\tau W_i, \nu_i) \quad \text{(Euler)},

    for the value v with probability :math:`g(e^{d_{iv}}) / W_i`. The Metropolis-Hastings test makes :math:`e^{-E/T}` invariant
    for every :math:`\tau`. One gradient a step; aim at an acceptance rate of 0.574.

    Args:
        energy: ``(params, x) -> ()``, differentiable.
        space: as for :func:`~funcebm.samplers.discrete_langevin`.
        step_size: :math:`\tau > 0`, a time. ``()``.
        balance: :math:`g`: ``"sqrt"``, ``"barker"``, ``"min"`` or ``"max"``. Static.
        solver: ``"interpolate"`` or ``"euler"``. Static.
        adjusted: with the test; static.
        preconditioner: factors of the time of each site, like the sites of the position, or one for all.
        temperature: :math:`T > 0`, in units of energy. ``()``.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``MalaState``, ``DiscreteInfo`` and :class:`DLMCTuning`.

    Raises:
        ValueError: a number that is not positive, a balance or a solver that is none of these, a space with real leaves; from
            ``init`` and at the start of a run, a position off the levels.

    Reference: Sun, Dai, Dai, Zhou and Schuurmans (2023), AISTATS, PMLR 206:1321-1345, arXiv:2206.14897.

    >>> from funcebm import random
    >>> params = torch.tensor([3.0, -3.0, 1.0])
    >>> sampler = dlmc(lambda params, x: -(params * x).sum(), step_size=1.0)
    >>> state, info = sampler(random.key(0), params, sampler.init(params, torch.zeros(3)))
    >>> int(info.num_gradients)
    1
    """
    log_balance = balancing(balance)
    fix = 'Write solver="interpolate", the exact one for two values, or "euler".'
    checks.require(solver in ("interpolate", "euler"), "solver must be one of two", repr(solver), fix)

    def leave(log_odds: Tensor, log_rate: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """The log chances to stay and to leave."""
        most = logsigmoid(log_odds)
        if solver == "interpolate":
            passed = time * (log_rate - most).exp()
            return torch.logaddexp(logsigmoid(-log_odds), most - passed), most + torch.log(-torch.expm1(-passed))
        early = log_rate + torch.log(time)
        is_early = early < most
        stay = torch.where(is_early, torch.log(-torch.expm1(torch.where(is_early, early, -1))), logsigmoid(-log_odds))
        return stay, torch.where(is_early, early, most)

    def tables(part: Space, leaf: Tensor, gradient: Tensor, time: Tensor) -> Any:
        if part.kind == "binary":
            change = (2 * leaf - sum(part.levels)) * gradient
            return leave(change, log_balance(change), time)
        change, _, is_current = changes(part, leaf, gradient)
        change = torch.where(is_current, -torch.inf, change)
        weights = log_balance(change)
        log_rate = torch.logsumexp(weights, -1, keepdim=True)
        stay, away = leave(torch.logsumexp(change, -1, keepdim=True), log_rate, time)
        return torch.where(is_current, stay, away + weights - log_rate)

    return factorised(
        "dlmc",
        energy,
        space,
        tables,
        step_size=step_size,
        preconditioner=preconditioner,
        temperature=temperature,
        adjusted=adjusted,
        target_acceptance=0.574,
    )
