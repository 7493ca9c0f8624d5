"""One energy of the members of an ensemble, whose params are stacked: their product, or their mixture."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, tree
from ..types import Energy, Params, Position
from ._carried import with_space_of

__all__ = ["mixture_of_members", "product_of_members"]


def _all(energy: Energy, params: Params, x: Position) -> Tensor:
    """The energies of all members. ``(M,)``."""
    return vmap(energy, (0, None))(params, x)


def product_of_members(energy: Energy, *, beta: float | Tensor | None = None) -> Energy:
    r"""The product of the densities of M members, :math:`E(x) = \beta \sum_m E(\theta_m, x)`.

    With :math:`\beta = 1/M` it is their geometric mean, which is as wide as one member; with :math:`\beta = 1` the product of
    experts, which is narrower than any.

    Args:
        energy: of one member, ``(params, x) -> ()``.
        beta: :math:`\beta > 0`; None for 1/M. ``()``.

    Returns:
        An energy whose params are those of the members, stacked: leaves ``(M, ...)``, such as ``fit_ensemble`` gives.

    Raises:
        ValueError: counts or an inverse temperature that are not positive; params of another number of members.

    Reference: Hinton (2002), Neural Computation 14(8):1771-1800, for products of experts.

    >>> energy = product_of_members(lambda params, x: params * (x**2).sum())
    >>> energy(torch.tensor([1.0, 3.0]), torch.ones(1))
    tensor(2.)
    """
    if beta is not None:
        checks.positive("beta", beta)

    def product(params: Params, x: Position) -> Tensor:
        energies = _all(energy, params, x)
        return energies.mean() if beta is None else beta * energies.sum()

    return with_space_of(product, energy)


def mixture_of_members(energy: Energy, *, logits: Tensor | None = None) -> Energy:
    r"""The mixture of the densities of M members, :math:`E(x) = -\log \sum_m e^{l_m - E(\theta_m, x)}`.

    Member m has the weight :math:`w_m \propto e^{l_m} Z_m`: equal weights need :math:`l_m = -\log Z_m`. Without logits, all
    :math:`l_m = -\log M`: equal weights where the members have learned one normalizer, and else more of those with larger
    :math:`Z_m`.

    Args:
        energy: of one member, ``(params, x) -> ()``.
        logits: :math:`l_m`. ``(M,)``.

    Returns:
        An energy whose params are those of the members, stacked: leaves ``(M, ...)``, such as ``fit_ensemble`` gives.

    Raises:
        ValueError: when called, logits of another length than the params.

    >>> energy = mixture_of_members(lambda params, x: params + 0 * x.sum())
    >>> energy(torch.tensor([2.0, 2.0, 2.0]), torch.ones(1))
    tensor(2.)
    """

    def mixture(params: Params, x: Position) -> Tensor:
        energies = _all(energy, params, x)
        if logits is None:
            return math.log(len(energies)) - torch.logsumexp(-energies, 0)
        must = "logits must have one number for each member"
        right = tuple(logits.shape) == (tree.batch_size(params),)
        checks.require(right, must, f"{tuple(logits.shape)} for {len(energies)} members", "Give M numbers.")
        return -torch.logsumexp(logits.to(energies) - energies, 0)

    return with_space_of(mixture, energy)
