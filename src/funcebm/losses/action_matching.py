"""Action matching: the potential whose flow carries one given distribution to the next with the least kinetic energy."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import couplings, paths, tree
from ..couplings import Coupling
from ..fields import require_scalar
from ..paths import Path, TimeEnergy
from ..paths.path import has_latent
from ..types import Batch, Key, Loss, LossAux, Params, Position, Tree
from ._staged import staged, without_memory
from ._transport import Source, TransportNoise, check_parts, draw_ends, map_field, pair_ends, paired
from .times import Times, stratified_times

__all__ = ["action_matching"]


class _Prepared(NamedTuple):
    time: Tensor
    position: Position
    source: Position
    data: Position
    weight: Tensor
    label: Tree


def action_matching(
    potential: TimeEnergy,
    path: Path | None = None,
    *,
    coupling: Coupling | None = None,
    source: Source | None = None,
    time: Times | None = None,
) -> Loss:
    r"""Action matching: a potential :math:`\phi` from draws of the distributions at each time, without velocities of points.

    .. math:: L = \mathrm{E}\,\phi_0(x_0) - \mathrm{E}\,\phi_1(x_1)
        + \int_0^1 \mathrm{E}\big[\tfrac12 |\nabla \phi_t(x_t)|^2 + \partial_t \phi_t(x_t)\big] dt,

    whose minimiser has the velocity :math:`u = \nabla \phi_t`, the one of all that carry these marginals with the least kinetic
    energy; there the loss is minus the integral of half of it. A constant added to the potential changes nothing. The
    derivative in time makes the value noisy: the default times are stratified.

    Args:
        potential: :math:`\phi`, ``(params, t, x) -> ()``, or with labels ``(params, t, x, label)``. The sign is that of
            the velocity: :math:`u = +\nabla \phi`.
        path: whose marginals are to be followed, by default :func:`funcebm.paths.linear`.
        coupling: of the ends, by default :func:`funcebm.couplings.independent`; it changes the marginals between them.
        source: ``key -> x0``; by default standard normal, or what the batch brings.
        time: on [0, 1], by default :func:`~funcebm.losses.stratified_times`.

    Returns:
        A :class:`~funcebm.types.Loss` over batches of data, or :class:`~funcebm.losses.TransportBatch`, with the metric
        ``kinetic_energy``, the mean of :math:`|\nabla\phi|^2`.

    Raises:
        ValueError: when called, a potential that is not a scalar, ends or labels that do not fit.
        TypeError: a potential, a coupling, times or a source that is none.

    Reference: Neklyudov, Brekelmans, Severo and Makhzani (2023), ICML, arXiv:2210.06662.

    >>> from funcebm import random
    >>> loss = action_matching(lambda params, t, x: params * x.sum())
    >>> loss(random.key(0), torch.tensor(1.0), torch.ones(4, 2))[0].shape
    torch.Size([])
    """
    check_parts(potential, coupling, source, time, name="potential")
    route = paths.linear() if path is None else path
    pairs = couplings.independent() if coupling is None else coupling
    times = stratified_times() if time is None else time
    is_latent = has_latent(route)

    def draw(key: Key, batch: Batch) -> TransportNoise:
        return draw_ends(key, batch, times, pairs, source, is_latent)

    def prepare(params: Params, memory: Tree, batch: Batch, noise: TransportNoise) -> _Prepared:
        ends = pair_ends(pairs, batch, noise)
        make = lambda t, x0, x1, z: paths.sample_path(route, t, x0, x1, z).position  # noqa: E731
        position = vmap(make)(noise.time, ends.source, ends.data, noise.latent)
        return _Prepared(noise.time, position, ends.source, ends.data, ends.weight, ends.label)

    def one(params: Params, t: Tensor, x: Position, x0: Position, x1: Position, *condition: Tree) -> Tensor:
        def value(t: Tensor, x: Position) -> Tensor:
            return require_scalar(potential(params, t, x, *condition), x, "a potential")

        rate, slope = torch.func.grad(value, (0, 1))(t, x)
        squared = tree.squared_norm(slope)
        ends = value(torch.zeros_like(t), x0) - value(torch.ones_like(t), x1)
        return torch.stack([ends + squared / 2 + rate, squared])

    def objective(params: Params, prepared: _Prepared) -> tuple[Tensor, LossAux]:
        time, position, x0, x1, weight, label = prepared
        action, squared = map_field(one, params, time, position, x0, x1, label=label).unbind(1)
        return (weight * action).mean(), LossAux((), {"kinetic_energy": squared.mean().detach()})

    return staged(without_memory, draw, prepare, objective, paired(pairs))
