"""Random fields of categories: Potts, and any table of couplings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import checks, graphs, spaces
from ..types import Key, Params, Position
from ._discrete import DiscreteEnergy, carrying, number_or, sites
from .closed_forms import Number, cast_params, to_tensor
from .exact.trees import is_forest, tree_log_normalizer, tree_sample

__all__ = ["categorical_field", "potts"]


def _on_trees(edges: Tensor, count: int, tables: Any) -> dict[str, Any]:
    """A normalizer and draws of a graph without circles, from ``tables: params -> (fields, couplings)``."""
    if not is_forest(edges, count):
        return {}

    def log_normalizer(params: Params) -> Tensor:
        return tree_log_normalizer(edges, *tables(params))

    def sample(key: Key, params: Params, num: int) -> Tensor:
        fields, couplings = tables(params)
        values = tree_sample(key, edges, fields, couplings, num)
        return spaces.from_integers(spaces.categorical(*fields.shape), values, fields.dtype)

    return {"log_normalizer": log_normalizer, "sample": sample}


def potts(edges: Tensor, num_values: int, num_sites: int | None = None) -> DiscreteEnergy:
    r"""The Potts model on a graph, :math:`E(x) = -\sum_{(i,j)} K_{ij}\,\delta(x_i, x_j) - \sum_i h_i(x_i)`, over one-hot rows.

    With two values it is the Ising model of half the coupling, up to a constant. Without a field it is critical on the square
    lattice at :math:`K = \log(1 + \sqrt q)`.

    Args:
        edges: ``(M, 2)`` integers, each pair of sites once; see :mod:`funcebm.graphs`.
        num_values: q, at least 2.
        num_sites: N; by default up to the last site with an edge.

    Returns:
        A :class:`DiscreteEnergy` over positions ``(N, q)``. ``params(coupling=1.0, field=0.0)`` makes its params:
        ``{"coupling": () or (M,), "field": () or (N, q)}``. On a tree it has a ``log_normalizer`` and ``sample``.

    Raises:
        ValueError: bad edges or numbers; when called, a position of another size.

    Reference: Potts (1952), Mathematical Proceedings of the Cambridge Philosophical Society 48(1):106-109.

    >>> energy = potts(graphs.torus((3, 3)), 3)
    >>> energy(energy.params(coupling=0.5), torch.eye(3)[torch.zeros(9, dtype=torch.int64)])
    tensor(-9.)
    """
    checks.positive_int("num_values", num_values, 2)
    count = graphs.num_sites(edges, num_sites)
    shape = (count, num_values)

    def make_params(coupling: Number = 1.0, field: Number = 0.0) -> Params:
        strength = number_or("coupling", coupling, (len(edges),))
        return {"coupling": strength, "field": number_or("field", field, shape, strength)}

    def energy(params: Params, x: Position) -> Tensor:
        rows = sites(x, shape)
        params = cast_params(params, rows)
        ends = rows[edges.to(rows.device)]
        agree = (ends[:, 0] * ends[:, 1]).sum(1)
        return -(params["coupling"] * agree).sum() - (params["field"] * rows).sum()

    def tables(params: Params) -> tuple[Tensor, Tensor]:
        same = torch.eye(num_values, dtype=params["coupling"].dtype, device=params["coupling"].device)
        strength = params["coupling"].expand(len(edges))
        return params["field"].expand(shape), strength[:, None, None] * same

    return carrying(
        energy,
        params=make_params,
        space=spaces.categorical(count, num_values),
        edges=edges,
        blocks=graphs.colouring(edges, count),
        **_on_trees(edges, count, tables),
    )


def categorical_field(edges: Tensor, num_values: int, num_sites: int | None = None) -> DiscreteEnergy:
    r"""A random field of categories, :math:`E(x) = -\sum_i h_i(x_i) - \sum_{(i,j)} J_{ij}(x_i, x_j)`, over one-hot rows.

    Args:
        edges: ``(M, 2)`` integers, each pair of sites once; see :mod:`funcebm.graphs`.
        num_values: K, at least 2.
        num_sites: N; by default up to the last site with an edge.

    Returns:
        A :class:`DiscreteEnergy` over positions ``(N, K)``. ``params(coupling, field=0.0)`` makes its params:
        ``{"coupling": (M, K, K), "field": (N, K)}``, from one table ``(K, K)`` too; the first index of a table is the value of
        the first site of the edge. On a tree it has a ``log_normalizer`` and ``sample``, in :math:`O(N K^2)`.

    Raises:
        ValueError: bad edges or numbers; when called, a position of another size.

    Reference: Besag (1974), Journal of the Royal Statistical Society B 36(2):192-236.

    >>> energy = categorical_field(graphs.grid(3), 2)
    >>> params = energy.params(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    >>> energy(params, torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    tensor(-1.)
    """
    checks.positive_int("num_values", num_values, 2)
    count = graphs.num_sites(edges, num_sites)
    shape, wide = (count, num_values), (len(edges), num_values, num_values)

    def make_params(coupling: Number, field: Number = 0.0) -> Params:
        table = to_tensor(coupling)
        right = tuple(table.shape) in (wide, wide[1:])
        checks.require(right, f"coupling must be {wide} or {wide[1:]}", str(tuple(table.shape)), "One table an edge.")
        return {
            "coupling": table.expand(wide).clone(),
            "field": number_or("field", field, shape, table).expand(shape).clone(),
        }

    def energy(params: Params, x: Position) -> Tensor:
        rows = sites(x, shape)
        params = cast_params(params, rows)
        ends = rows[edges.to(rows.device)]
        pairs = (ends[:, 0, :, None] * ends[:, 1, None, :] * params["coupling"]).sum()
        return -pairs - (params["field"] * rows).sum()

    return carrying(
        energy,
        params=make_params,
        space=spaces.categorical(count, num_values),
        edges=edges,
        blocks=graphs.colouring(edges, count),
        **_on_trees(edges, count, lambda params: (params["field"], params["coupling"])),
    )
