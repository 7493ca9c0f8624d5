"""Pseudolikelihood: each site given all others."""

from __future__ import annotations

import torch
from torch import Tensor

from ..types import Energy, Loss, Tree
from ._constrained import of_positions
from ._neighbours import Ratios, neighbour_loss

__all__ = ["pseudolikelihood"]


@of_positions
def pseudolikelihood(energy: Energy, space: Tree, *, num_sites: int | None = None) -> Loss[tuple[()]]:
    r"""The negative log pseudolikelihood of discrete states: every site is predicted from all others.

    .. math:: L = -\overline{\sum_i \log p_\theta(x_i \mid x_{-i})}
        = \overline{\sum_i \log \sum_v e^{E_\theta(x) - E_\theta(x_{i \to v})}} ,

    for bits :math:`\sum_i \operatorname{softplus}(E(x) - E(x_{i \to 1 - x_i}))`. No normalizer and no samples; exact differences
    of energies, for any energy. The estimate is consistent: its minimum is where the model is the distribution of the data.

    Args:
        energy: ``(params, x) -> ()``.
        space: a tree of discrete :mod:`funcebm.spaces`.
        num_sites: how many sites of each example to predict, chosen again each time and weighted so that the mean is the whole
            sum; by default all, which costs one energy for each site and each other value. Static.

    Returns:
        A :class:`~funcebm.types.Loss` over batches ``(B, *event)``, with the metric ``accuracy``: of how many sites the value of
        the data is the most probable one.

    Raises:
        ValueError: a bad count, or a space with real leaves; when called, data off the levels of the space, or an energy that
            is not a scalar.

    Reference: Besag (1975), Journal of the Royal Statistical Society D 24(3):179-195.

    >>> from funcebm import random, spaces
    >>> loss = pseudolikelihood(lambda params, x: -params * x.sum(), spaces.binary(3))
    >>> loss(random.key(0), torch.tensor(0.0), torch.ones(4, 3))[0]  # 3 log(2)
    tensor(2.0794)
    """

    def of_ratios(ratios: Ratios) -> tuple[Tensor, dict[str, Tensor]]:
        others = torch.where(ratios.is_neighbour, ratios.log_ratios, -torch.inf)
        terms = torch.logsumexp(torch.cat([torch.zeros_like(others[:, :1]), others], 1), 1)
        is_right = (others < 0).all(1)
        return terms, {"accuracy": is_right.to(terms.dtype).mean()}

    return neighbour_loss(energy, space, num_sites, of_ratios)
