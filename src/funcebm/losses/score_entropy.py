"""Score entropy: the concrete score of discrete states, by a divergence that keeps ratios positive."""

from __future__ import annotations

import torch
from torch import Tensor

from ..types import Energy, Loss, Tree
from ._constrained import of_positions
from ._neighbours import Ratios, neighbour_loss

__all__ = ["score_entropy"]


@of_positions
def score_entropy(energy: Energy, space: Tree, *, num_sites: int | None = None) -> Loss:
    r"""Score entropy of discrete states, in its implicit form.

    .. math:: L = \overline{\sum_{n \sim x} e^{l_n} + l_n}, \qquad l_n = E_\theta(x) - E_\theta(n)

    over all states :math:`n` that differ from :math:`x` at one site. Up to a constant it is the mean Bregman divergence, by
    :math:`-\log`, of the ratios of the model from those of the data. It has far less variance than matching the concrete score by
    least squares, and is unbounded all the same: early in training :func:`ratio_matching` is the safer choice.

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

    Reference: Lou, Meng and Ermon (2024), ICML, arXiv:2310.16834; Meng, Choi, Song and Ermon (2022), NeurIPS,
    arXiv:2211.00802, for the concrete score.

    >>> from funcebm import random, spaces
    >>> loss = score_entropy(lambda params, x: -params * x.sum(), spaces.binary(3))
    >>> loss(random.key(0), torch.tensor(0.0), torch.ones(4, 3))[0]
    tensor(3.)
    """

    def of_ratios(ratios: Ratios) -> tuple[Tensor, dict[str, Tensor]]:
        terms = torch.exp(ratios.log_ratios) + ratios.log_ratios
        return torch.where(ratios.is_neighbour, terms, 0.0).sum(1), {}

    return neighbour_loss(energy, space, num_sites, of_ratios)
