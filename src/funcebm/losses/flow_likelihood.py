"""The likelihood of a continuous flow itself, as a loss."""

from __future__ import annotations

import math
from typing import Callable

from torch import Tensor
from torch.func import vmap

from .. import checks, tree
from ..flows import Flow, flow_energy
from ..types import Batch, Key, Loss, LossAux, Params, Position, Tree
from ._probes import draw_probes
from ._staged import without_memory

__all__ = ["flow_likelihood"]


def flow_likelihood(
    flow: Flow, base: Callable[[Position], Tensor] | None = None, *, num_probes: int = 0
) -> Loss[tuple[()]]:
    r"""Maximum likelihood of a flow: discretise, then differentiate.

    With the map :math:`F_\theta` that the steps make, from noise to data,

    .. math:: L = -\overline{\log p_0\bigl(F_\theta^{-1}(x)\bigr) + \log \lvert\det \partial F_\theta^{-1}(x)\rvert},

    whose gradient is that of the discretised flow, through all its steps. Each evaluation solves the flow, so that it costs some
    ten times as much as :func:`~funcebm.losses.flow_matching`, which is where to begin; a few steps of this end at the field
    with the best likelihood. The value is in nats and can be compared between models.

    Args:
        flow: from :func:`funcebm.flows.flow`; best with few steps, ``divergence="exact"`` in small dimensions and
            ``"hutchinson"`` in large ones (``"discrete"`` differentiates the iterations of its inverse as well).
        base: the log density of the noise, ``x -> ()``; standard normal by default.
        num_probes: of signs, for each particle, whose estimates are averaged: 1 or more for a flow by ``"hutchinson"``, and 0 for
            others.

    Returns:
        A :class:`~funcebm.types.Loss` over batches of data ``(B, *event)``, with the metric ``bits_per_number``.

    Raises:
        ValueError: a negative number of probes; when called, probes for a flow that takes none, or none for one that does.

    Reference: Chen, Rubanova, Bettencourt and Duvenaud (2018), NeurIPS, arXiv:1806.07366; Grathwohl et al. (2019), ICLR,
    arXiv:1810.01367, for the probes.

    >>> import torch
    >>> from funcebm import flows, random
    >>> stretch = flows.flow(lambda params, t, x: params * x, times=8, divergence="exact")
    >>> loss = flow_likelihood(stretch)
    >>> value, aux = loss(random.key(0), torch.tensor(0.0), torch.zeros(4, 2))
    >>> round(float(value), 4), round(math.log(2 * math.pi), 4)  # two numbers at the mode of N(0, 1)
    (1.8379, 1.8379)
    """
    checks.positive_int("num_probes", num_probes, minimum=0)
    by_base = flow_energy(flow, base)

    def draw(key: Key, batch: Batch) -> Tree:
        return draw_probes(key, batch, num_probes, "rademacher") if num_probes else ()

    def estimate(params: Params, x: Position, probe: Tree) -> Tensor:
        along = flow._replace(
            inverse=lambda params, y: flow.inverse(params, y, probe),
            log_density=lambda params, y: flow.log_density(params, y, probe),
        )
        return flow_energy(along, base)(params, x)

    def value(params: Params, memory: tuple[()], batch: Batch, noise: Tree) -> tuple[Tensor, LossAux[tuple[()]]]:
        if num_probes:
            numbers = vmap(vmap(estimate, (None, None, 0)), (None, 0, 0))(params, batch, noise)
        else:
            numbers = vmap(by_base, (None, 0))(params, batch)
        mean = numbers.mean()
        size = sum(leaf[0].numel() for leaf in tree.leaves(batch))
        return mean, LossAux((), {"bits_per_number": mean.detach() / (size * math.log(2))})

    return Loss(without_memory, draw, value)
