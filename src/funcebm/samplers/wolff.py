"""Wolff: the cluster of one site, always given another value."""

from __future__ import annotations

from typing import Callable, NamedTuple

import torch
from torch import Tensor

from .. import checks, graphs, random
from ..spaces.space import Space
from ..types import Energy, Key, Number, Params, Position, Sampler
from ._clusters import ClusterState, ClusterTuning, check_model, cluster_model
from ._heat_bath import DiscreteInfo
from .metropolis import unadjusted_info

__all__ = ["WolffNoise", "wolff"]


class WolffNoise(NamedTuple):
    """A uniform number for each edge ``(M,)``, the site ``(1,)`` int64, and how far its value moves ``()`` int64."""

    bonds: Tensor
    site: Tensor
    shift: Tensor


def wolff(
    edges: Tensor,
    coupling: Callable[[Params], Tensor],
    *,
    space: Space | None = None,
    energy: Energy | None = None,
    temperature: Number = 1.0,
) -> Sampler:
    r"""Wolff's algorithm for attractive Ising and Potts models without a field.

    Bonds as in :func:`~funcebm.samplers.swendsen_wang`; the cluster of one uniform site takes another value: a spin is flipped, a
    category becomes any other one. Large clusters are chosen more often, so a step decorrelates more than one cluster of
    Swendsen-Wang does. Here all clusters are labelled, and a step costs as much as one of Swendsen-Wang, which
    moves them all: on parallel hardware that one is usually the better.

    Args:
        edges: as for :func:`~funcebm.samplers.swendsen_wang`.
        coupling: ``params -> (M,)`` or ``()``, not negative.
        space: of the positions, one leaf: two levels, or categories with as many values everywhere. None is spins.
        energy: ``(params, x) -> ()``, the model's, to be compared with that of the couplings at the start. Optional.
        temperature: :math:`T > 0`, in units of energy. ``()``.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``ClusterState`` and ``DiscreteInfo``; ``num_changed`` is the size of the cluster.

    Raises:
        TypeError: a coupling that is no function of the params.
        ValueError: as for :func:`~funcebm.samplers.swendsen_wang`; an energy with an external field.

    Reference: Wolff (1989), Physical Review Letters 62(4):361-364.

    >>> from funcebm import graphs
    >>> sampler = wolff(graphs.torus((4, 4)), lambda params: params)
    >>> state, info = sampler(random.key(0), torch.tensor(0.4), sampler.init(torch.tensor(0.4), torch.ones(4, 4)))
    >>> bool(info.num_changed == (state.position == -1).sum())
    True
    """
    checks.positive("temperature", temperature, "Use 1.0 for the density exp(-E).")
    own = cluster_model(edges, coupling, space, None, None)
    model = own if energy is None else own._replace(energy=energy)
    num_values = 2 if space is None else space.num_values
    num_edge_sites = graphs.num_sites(edges) if len(edges) else 0

    def init(params: Params, position: Position) -> ClusterState:
        return check_model("wolff", model, own, space, params, position, num_edge_sites)

    def draw(key: Key, position: Position) -> WolffNoise:
        key_bonds, key_site, key_shift = random.split(key, 3)
        num = position.numel() // (num_values if space is not None and space.kind == "categorical" else 1)
        bonds = random.uniform(key_bonds, (len(edges),), dtype=position.dtype)
        return WolffNoise(bonds, random.randint(key_site, (1,), 0, num), random.randint(key_shift, (), 1, num_values))

    def step(
        params: Params, tuning: ClusterTuning, state: ClusterState, noise: WolffNoise
    ) -> tuple[ClusterState, DiscreteInfo]:
        before = model.values(state.position)
        labels = model.labels(params, tuning.temperature, before, noise.bonds)
        is_chosen = labels == labels.gather(0, noise.site)
        after = torch.where(is_chosen, (before + noise.shift) % num_values, before)
        position = model.position(after, state.position)
        value = model.energy(params, position)
        info = unadjusted_info(position, value, 0)
        return ClusterState(position, value, state.fault), DiscreteInfo.of(info, is_chosen.to(value.dtype).sum())

    return Sampler(init, draw, step, ClusterTuning(torch.as_tensor(temperature)), adaptation="unchanged")
