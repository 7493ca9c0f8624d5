"""The Ising model, on any graph and on the torus."""

from __future__ import annotations

import math
from typing import Sequence

import torch
from torch import Tensor

from .. import checks, graphs, spaces
from ..types import Key, Params, Position
from ._discrete import DiscreteEnergy, carrying, number_or, sites
from .closed_forms import Number, cast_params
from .exact.kaufman import kaufman
from .exact.transfer import transfer_matrix
from .exact.trees import is_forest, tree_log_normalizer, tree_sample

__all__ = ["ising", "ising_torus"]


def ising(edges: Tensor, num_sites: int | None = None) -> DiscreteEnergy:
    r"""The Ising model on a graph, over spins of minus and plus one.

    .. math:: E(s) = -\sum_{(i,j)} J_{ij}\,s_i s_j - \sum_i h_i s_i

    Couplings and fields are over temperature. Each edge counts once.

    Args:
        edges: ``(M, 2)`` integers, each pair of sites once; see :mod:`funcebm.graphs`.
        num_sites: N; by default up to the last site with an edge.

    Returns:
        A :class:`DiscreteEnergy` over positions ``(N,)``. ``params(coupling=1.0, field=0.0)`` makes its params:
        ``{"coupling": () or (M,), "field": () or (N,)}``; ``blocks`` are the colours of the graph. On a tree it has a
        ``log_normalizer`` and ``sample``.

    Raises:
        ValueError: edges that are not pairs of different sites, each once; when called, a position of another size.

    Reference: Ising (1925), Zeitschrift fuer Physik 31:253-258.

    >>> import torch
    >>> energy = ising(graphs.torus(3))
    >>> energy(energy.params(coupling=0.5), torch.tensor([1.0, 1.0, -1.0]))
    tensor(0.5000)
    """
    count = graphs.num_sites(edges, num_sites)

    def make_params(coupling: Number = 1.0, field: Number = 0.0) -> Params:
        strength = number_or("coupling", coupling, (len(edges),))
        return {"coupling": strength, "field": number_or("field", field, (count,), strength)}

    def energy(params: Params, x: Position) -> Tensor:
        spins = sites(x, (count,))
        params = cast_params(params, spins)
        ends = spins[edges.to(spins.device)]
        return -(params["coupling"] * ends[:, 0] * ends[:, 1]).sum() - (params["field"] * spins).sum()

    def tables(params: Params) -> tuple[Tensor, Tensor]:
        signs = torch.tensor([-1.0, 1.0]).to(params["coupling"])
        strength = params["coupling"].expand(len(edges))
        field = params["field"].to(strength).expand(count)
        return field[:, None] * signs, strength[:, None, None] * signs[:, None] * signs

    def log_normalizer(params: Params) -> Tensor:
        return tree_log_normalizer(edges, *tables(params))

    def sample(key: Key, params: Params, num: int) -> Tensor:
        fields, couplings = tables(params)
        return 2 * tree_sample(key, edges, fields, couplings, num).to(fields.dtype) - 1

    is_tree = is_forest(edges, count)
    return carrying(
        energy,
        params=make_params,
        space=spaces.spins(count),
        edges=edges,
        blocks=graphs.colouring(edges, count),
        log_normalizer=log_normalizer if is_tree else None,
        sample=sample if is_tree else None,
    )


def ising_torus(shape: Sequence[int]) -> DiscreteEnergy:
    r"""The Ising model on a lattice whose opposite sides are joined, by shifts of the whole lattice.

    The same as :func:`ising` over :func:`funcebm.graphs.torus` with one coupling, on positions of the shape of the lattice:
    faster, since it gathers nothing.

    Args:
        shape: of the lattice, one to any number of sides, each at least 3 (a side of 2 would have its bonds twice).

    Returns:
        A :class:`DiscreteEnergy` over positions ``(*shape)``. ``params(coupling=1.0, field=0.0)`` makes
        ``{"coupling": (), "field": () or shape}``. In two dimensions it has a ``log_normalizer``: the transfer matrix where the
        shorter side is at most 10, else Kaufman's formula, which needs a field of zero.

    Raises:
        ValueError: a side below 3; when called, a position of another size.

    >>> import torch
    >>> energy = ising_torus((4, 4))
    >>> energy(energy.params(coupling=0.5), torch.ones(4, 4))
    tensor(-16.)
    """
    shape = tuple(shape)
    for side in shape:
        checks.positive_int("each side", side, 3)

    def make_params(coupling: Number = 1.0, field: Number = 0.0) -> Params:
        strength = number_or("coupling", coupling, ())
        return {"coupling": strength, "field": number_or("field", field, shape, strength)}

    def energy(params: Params, x: Position) -> Tensor:
        spins = sites(x, shape)
        params = cast_params(params, spins)
        bonds = sum((spins * spins.roll(1, axis)).sum() for axis in range(len(shape)))
        return -params["coupling"] * bonds - (params["field"] * spins).sum()

    def log_normalizer(params: Params) -> Tensor:
        coupling, field = params["coupling"], params["field"]
        if min(shape) <= 10:
            whole = coupling.expand(shape)
            return transfer_matrix(whole, whole, field.expand(shape))
        none = not checks.is_concrete(field) or not bool(field.any())
        fix = "Use funcebm.normalizers to estimate it."
        checks.require(none, "Kaufman's normalizer needs a field of zero", "a field", fix)
        return kaufman(shape, coupling)

    edges, is_even = graphs.torus(shape), all(side % 2 == 0 for side in shape)
    return carrying(
        energy,
        params=make_params,
        space=spaces.spins(shape),
        edges=edges,
        blocks=graphs.checkerboard(shape) if is_even else graphs.colouring(edges, math.prod(shape), shape),
        log_normalizer=log_normalizer if len(shape) == 2 else None,
        torus=shape,
    )
