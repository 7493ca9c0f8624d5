"""Swendsen-Wang: clusters of equal sites, each given a fresh value."""

from __future__ import annotations

from typing import Callable, NamedTuple

import torch
from torch import Tensor

from .. import checks, graphs, random, tree
from ..spaces.space import Space
from ..types import Energy, Key, Number, Params, Position, Sampler
from ._clusters import ClusterState, ClusterTuning, check_model, cluster_model
from ._heat_bath import DiscreteInfo, value_of
from .metropolis import unadjusted_info

__all__ = ["SwendsenWangNoise", "swendsen_wang"]


class SwendsenWangNoise(NamedTuple):
    """A uniform number for each edge ``(M,)``, and one for the cluster of each site ``(N,)``."""

    bonds: Tensor
    values: Tensor


def swendsen_wang(
    edges: Tensor,
    coupling: Callable[[Params], Tensor],
    *,
    space: Space | None = None,
    field: Callable[[Params], Tensor] | None = None,
    energy: Energy | None = None,
    temperature: Number = 1.0,
) -> Sampler:
    r"""Swendsen-Wang for attractive Ising and Potts models.

    A bond joins the ends of an edge, if they are equal, with probability :math:`1 - e^{-K_{ij} / T}`; then every cluster of
    joined sites gets a fresh value. For Ising spins, :math:`E(s) = -\sum J_{ij} s_i s_j`, :math:`K = 2 J`; for Potts models,
    :math:`E(x) = -\sum K_{ij} \delta(x_i, x_j)`. At the critical point of the square lattice the time between independent draws
    hardly grows with its size, where that of single flips grows as :math:`L^{2.17}`. With a field a cluster takes the value v
    with probability :math:`\propto e^{\sum_i h_{iv} / T}`, which is right but slow where the field is strong. No gradient: a
    step costs passes over the edges, about :math:`\log_2 N` of them.

    Args:
        edges: ``(M, 2)`` integers over the flattened sites, each pair once; see :mod:`funcebm.graphs`.
        coupling: ``params -> (M,)`` or ``()``, not negative: :math:`J` for two levels, :math:`K` for categories.
        space: of the positions, one leaf: two levels, or categories with as many values everywhere. None is spins.
        field: ``params -> (N,)``, :math:`h` of :math:`-\sum_i h_i s_i`; for categories ``(N, V)``. None is none.
        energy: ``(params, x) -> ()``, the model's, to be compared with that of the couplings at the start. Optional.
        temperature: :math:`T > 0`, in units of energy. ``()``.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``ClusterState`` and ``DiscreteInfo``.

    Raises:
        TypeError: a coupling or a field that is no function of the params.
        ValueError: edges that are not pairs of different sites, each once, a space of another kind; from ``init`` and at the
            start of a run, a position off the levels, negative couplings, an energy that is not that of the couplings.

    Reference: Swendsen and Wang (1987), Physical Review Letters 58(2):86-88.

    >>> from funcebm import graphs
    >>> sampler = swendsen_wang(graphs.torus((4, 4)), lambda params: params)
    >>> state, info = sampler(random.key(0), torch.tensor(0.4), sampler.init(torch.tensor(0.4), torch.ones(4, 4)))
    >>> state.position.abs().sum()
    tensor(16.)
    """
    checks.positive("temperature", temperature, "Use 1.0 for the density exp(-E).")
    own = cluster_model(edges, coupling, space, field, None)
    model = own if energy is None else own._replace(energy=energy)
    num_values = 2 if space is None else space.num_values
    num_edge_sites = graphs.num_sites(edges) if len(edges) else 0

    def init(params: Params, position: Position) -> ClusterState:
        return check_model("swendsen_wang", model, own, space, params, position, num_edge_sites)

    def draw(key: Key, position: Position) -> SwendsenWangNoise:
        key_bonds, key_values = random.split(key)
        dtype, num = position.dtype, position.numel() // (num_values if _is_categorical(space) else 1)
        bonds = random.uniform(key_bonds, (len(edges),), dtype=dtype)
        return SwendsenWangNoise(bonds, random.uniform(key_values, (num,), dtype=dtype))

    def step(
        params: Params, tuning: ClusterTuning, state: ClusterState, noise: SwendsenWangNoise
    ) -> tuple[ClusterState, DiscreteInfo]:
        before = model.values(state.position)
        labels = model.labels(params, tuning.temperature, before, noise.bonds)
        fresh = noise.values.gather(0, labels)
        if model.fields is None:
            equal = torch.full((num_values,), 1 / num_values, dtype=fresh.dtype, device=fresh.device)
            after = value_of(fresh, equal)
        else:
            sites = (model.fields(params) / tuning.temperature).to(fresh.dtype).expand(len(before), num_values)
            sums = torch.zeros_like(sites).scatter_add(0, labels[:, None].expand_as(sites), sites)
            after = value_of(fresh, torch.softmax(sums.gather(0, labels[:, None].expand_as(sites)), -1))
        position = model.position(after, tree.first(state.position))
        value = model.energy(params, position)
        info = unadjusted_info(position, value, 0)
        changed = (before != after).to(fresh.dtype).sum()
        return ClusterState(position, value, state.fault), DiscreteInfo.of(info, changed)

    return Sampler(init, draw, step, ClusterTuning(torch.as_tensor(temperature)), adaptation="unchanged")


def _is_categorical(space: Space | None) -> bool:
    return space is not None and space.kind == "categorical"
