"""Ratio matching: the ratios of probabilities of neighbouring states."""

from __future__ import annotations

import torch
from torch import Tensor

from ..types import Energy, Loss, Tree
from ._constrained import of_positions
from ._neighbours import Ratios, neighbour_loss

__all__ = ["ratio_matching"]


@of_positions
def ratio_matching(energy: Energy, space: Tree, *, num_sites: int | None = None) -> Loss[tuple[()]]:
    r"""Ratio matching of discrete states.

    .. math:: L = \overline{\sum_{n \sim x} \sigma\bigl(E_\theta(x) - E_\theta(n)\bigr)^2}

    over all states :math:`n` that differ from :math:`x` at one site: the squared error of the probability of :math:`n`, if it
    could be :math:`x` or :math:`n` only. Each term is between 0 and 1, so that outliers of the data and bad starts do no harm.

    Args:
        energy: ``(params, x) -> ()``.
        space: a tree of discrete :mod:`funcebm.spaces`.
        num_sites: how many sites of each example to use, chosen again each time and weighted so that the mean is the whole sum;
            by default all. Static.

    Returns:
        A :class:`~funcebm.types.Loss` over batches ``(B, *event)``, without metrics.

    Raises:
        ValueError: a bad count, or a space with real leaves; when called, data off the levels of the space, or an energy that
            is not a scalar.

    Reference: Hyvarinen (2007), Computational Statistics and Data Analysis 51(5):2499-2512.

    >>> from funcebm import random, spaces
    >>> loss = ratio_matching(lambda params, x: -params * x.sum(), spaces.binary(3))
    >>> loss(random.key(0), torch.tensor(0.0), torch.ones(4, 3))[0]
    tensor(0.7500)
    """

    def of_ratios(ratios: Ratios) -> tuple[Tensor, dict[str, Tensor]]:
        squares = torch.sigmoid(ratios.log_ratios) ** 2
        return torch.where(ratios.is_neighbour, squares, 0.0).sum(1), {}

    return neighbour_loss(energy, space, num_sites, of_ratios)
