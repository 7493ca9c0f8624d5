"""Discrete Langevin proposals (DMALA, and DULA without a test): all sites at once, by one gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ..spaces.space import Space
from ..types import Energy, MetricLike, Number, Sampler, Tree
from ._factorised import DiscreteLangevinNoise, DiscreteLangevinTuning, changes, factorised
from ._heat_bath import DiscreteInfo
from ._kernel import EnergyState

__all__ = ["DiscreteLangevinNoise", "DiscreteLangevinTuning", "discrete_langevin"]


def discrete_langevin(
    energy: Energy,
    space: Tree | None = None,
    *,
    step_size: Number = 0.2,
    adjusted: bool = True,
    preconditioner: MetricLike = None,
    temperature: Number = 1.0,
) -> Sampler[EnergyState, DiscreteInfo, DiscreteLangevinTuning]:
    r"""Discrete Metropolis-adjusted Langevin algorithm.

    The Langevin proposal, restricted to the values of the space, factorises over sites: with :math:`g = -\nabla E(x) / T`,

    .. math:: q_i(v \mid x) \propto \exp\Big(\tfrac12\, g_i \cdot (v - x_i) - \frac{|v - x_i|^2}{2 \alpha_i}\Big),

    for bits flips with probability :math:`\sigma(g_i (1 - 2 x_i) / 2 - 1 / (2 \alpha_i))`; two one-hot rows have the squared
    distance 2. With the Metropolis-Hastings test :math:`e^{-E/T}` is invariant for every :math:`\alpha`. Without it (DULA) the
    distribution is right only as :math:`\alpha \to 0`, and then only for energies that are linear in each site: it depends on how
    the energy goes on *between* the levels, where it is never evaluated. One gradient a step; aim at an acceptance rate of 0.574.

    Args:
        energy: ``(params, x) -> ()``, differentiable.
        space: of the positions, from :mod:`funcebm.spaces`; None is that of the energy, if it has one that fits, else bits.
            Ordinals move by any number of levels.
        step_size: :math:`\alpha > 0`, in squared units of ``x``; 0.2 to 1 for bits, of which below 0.1 hardly one moves. ``()``.
        adjusted: with the test; static.
        preconditioner: :math:`\alpha_i / \alpha > 0`, one number for each site, like the sites of the position, or one for all.
        temperature: :math:`T > 0`, in units of energy. ``()``.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``MalaState`` (the gradient is kept), ``DiscreteInfo`` and
        :class:`DiscreteLangevinTuning`. :func:`funcebm.warm_up` finds the step size of the adjusted one.

    Raises:
        ValueError: a number that is not positive, a space with real leaves; from ``init`` and at the start of a run, a position
            off the levels, a preconditioner that does not fit.

    Reference: Zhang, Liu and Liu (2022), ICML, PMLR 162:26375-26396, arXiv:2206.09914.

    >>> from funcebm import random
    >>> params = torch.tensor([3.0, -3.0, 1.0])
    >>> sampler = discrete_langevin(lambda params, x: -(params * x).sum(), step_size=1.0)
    >>> state, info = sampler(random.key(0), params, sampler.init(params, torch.zeros(3)))
    >>> int(info.num_gradients), bool(info.acceptance_rate <= 1)
    (1, True)
    """

    def tables(part: Space, leaf: Tensor, gradient: Tensor, alpha: Tensor) -> Any:
        if part.kind == "binary":
            low, high = part.levels
            logit = (2 * leaf - (low + high)) * gradient / 2 - (high - low) ** 2 / (2 * alpha)
            return logsigmoid(-logit), logsigmoid(logit)
        change, squared, _ = changes(part, leaf, gradient)
        return torch.log_softmax(change / 2 - squared / (2 * alpha), -1)

    return factorised(
        "discrete_langevin",
        energy,
        space,
        tables,
        step_size=step_size,
        preconditioner=preconditioner,
        temperature=temperature,
        adjusted=adjusted,
        target_acceptance=0.574,
    )
