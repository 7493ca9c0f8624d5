"""Minimum probability flow: how fast probability leaves the data under a dynamics that the model leaves invariant."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import checks
from ..types import Energy, Loss, Tree
from ._constrained import of_positions
from ._neighbours import Ratios, neighbour_loss

__all__ = ["minimum_probability_flow"]


@of_positions
def minimum_probability_flow(
    energy: Energy, space: Tree, *, num_sites: int | None = None, ceiling: float = 20.0
) -> Loss:
    r"""Minimum probability flow of discrete states.

    .. math:: L = \overline{\sum_{n \sim x} e^{(E_\theta(x) - E_\theta(n)) / 2}}

    over all states :math:`n` that differ from :math:`x` at one site. The terms are exponentials of energies, which may overflow
    before training has found its way: from :math:`(E(x) - E(n)) / 2 = c` on the exponential is continued by its tangent, so that
    the gradient stays finite and keeps its sign.

    Args:
        energy: ``(params, x) -> ()``.
        space: a tree of discrete :mod:`funcebm.spaces`.
        num_sites: how many sites of each example to use, chosen again each time and weighted so that the mean is the whole sum;
            by default all. Static.
        ceiling: :math:`c > 0`, static.

    Returns:
        A :class:`~funcebm.types.Loss` over batches ``(B, *event)``, with the metric ``ceiling_rate``: how many terms were beyond
        :math:`c`; where it is not 0, the loss is not the one above.

    Raises:
        ValueError: a bad number, or a space with real leaves; when called, data off the levels of the space, or an energy that
            is not a scalar.

    Reference: Sohl-Dickstein, Battaglino and DeWeese (2011), ICML, arXiv:0906.4779. There neighbours that are themselves data
    are left out of the sum; here not, which changes nothing in the limit of many data.

    >>> from funcebm import random, spaces
    >>> loss = minimum_probability_flow(lambda params, x: -params * x.sum(), spaces.binary(3))
    >>> loss(random.key(0), torch.tensor(0.0), torch.ones(4, 3))[0]
    tensor(3.)
    """
    checks.positive("ceiling", ceiling, "Try 20.0.")

    def of_ratios(ratios: Ratios) -> tuple[Tensor, dict[str, Tensor]]:
        half = ratios.log_ratios / 2
        flow = torch.exp(half.clamp(max=ceiling)) * (1 + (half - ceiling).clamp(min=0))
        is_beyond = (half > ceiling) & ratios.is_neighbour
        return torch.where(ratios.is_neighbour, flow, 0.0).sum(1), {"ceiling_rate": is_beyond.to(half.dtype).mean()}

    return neighbour_loss(energy, space, num_sites, of_ratios)
