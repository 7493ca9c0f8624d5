"""Clusters of equal sites: bonds, labels by hooking and pointer jumping, and the door of cluster samplers."""

from __future__ import annotations

from typing import Callable, NamedTuple

import torch
from torch import Tensor

from .. import checks, graphs, loops, spaces
from .._torch import cluster_kernels
from ..spaces.space import Space
from ..types import Energy, Params, Position
from ._moves import on_levels

__all__ = ["ClusterModel", "ClusterState", "ClusterTuning", "check_model", "cluster_labels", "cluster_model"]


class ClusterState(NamedTuple):
    """A position, with the energy ``()`` there.

    Attributes:
        fault: 0; NaN where ``init`` found couplings that repel, or an energy that is not theirs. ``()``.
    """

    position: Position
    energy: Tensor
    fault: Tensor


class ClusterTuning(NamedTuple):
    """The temperature ``()``."""

    temperature: Tensor


class ClusterModel(NamedTuple):
    """What both cluster samplers ask of a model.

    Attributes:
        values: ``position -> (N,)`` int64, the value of each site.
        position: ``(values, like) -> position``.
        weights: ``params -> (M,)``, by how much the log density is larger where the ends of an edge are equal.
        fields: ``params -> (N, V)``, log weights of the values, or None.
        energy: ``(params, position) -> ()``.
        labels: ``(params, temperature, values, uniform (M,)) -> (N,)``, the clusters of one set of bonds.
    """

    values: Callable[[Position], Tensor]
    position: Callable[[Tensor, Tensor], Position]
    weights: Callable[[Params], Tensor]
    fields: Callable[[Params], Tensor] | None
    energy: Energy
    labels: Callable[[Params, Tensor, Tensor, Tensor], Tensor]


def cluster_model(
    edges: Tensor,
    coupling: Callable[[Params], Tensor],
    space: Space | None,
    field: Callable[[Params], Tensor] | None,
    energy: Energy | None,
) -> ClusterModel:
    """The model of edges and couplings; ``J s s`` for two levels, else ``K`` where both ends are equal."""
    graphs.check_edges(edges, None if space is None else space.num_sites)
    for name, function in (("coupling", coupling), ("field", field)):
        right = callable(function) or (name == "field" and function is None)
        fix = "Write lambda params: params, or lambda params: torch.full((num_edges,), 0.4)."
        checks.require(right, f"{name} must be a function of the params", repr(function), fix, TypeError)
    if space is not None:
        right = isinstance(space, Space) and space.kind in ("binary", "categorical") and len(set(space.sizes)) == 1
        fix = "Use spaces.spins or spaces.categorical, with as many values at every site."
        checks.require(right, "a cluster sampler needs spins or categories", repr(space), fix)
    is_categorical = space is not None and space.kind == "categorical"
    levels = (-1.0, 1.0) if space is None else space.levels

    def values(position: Position) -> Tensor:
        value = position.argmax(-1) if is_categorical else position > sum(levels) / 2
        return value.reshape(-1).to(torch.int64)

    def back(value: Tensor, like: Tensor) -> Tensor:
        if is_categorical:
            order = torch.arange(like.shape[-1], device=like.device)
            return (value[:, None] == order).to(like.dtype).reshape(like.shape)
        return (levels[0] + (levels[1] - levels[0]) * value.to(like.dtype)).reshape(like.shape)

    def weights(params: Params) -> Tensor:
        strength = torch.as_tensor(coupling(params))
        fix = "Return one number, or one for each edge."
        got, right = str(tuple(strength.shape)), tuple(strength.shape) in ((), (1,), (len(edges),))
        checks.require(right, f"coupling must return () or ({len(edges)},), one for each edge", got, fix)
        strength = strength.expand(len(edges))
        return strength if is_categorical else 2 * strength

    def fields(params: Params) -> Tensor:
        assert field is not None
        strength = torch.as_tensor(field(params))
        most = 2 if is_categorical else 1
        fix = "Flatten the sites: field=lambda params: params.reshape(-1), of categories params.reshape(-1, V)."
        checks.require(
            strength.ndim <= most, "field must return (N,), of categories (N, V)", tuple(strength.shape), fix
        )
        return strength if is_categorical else torch.stack([-strength, strength], -1)

    def ends(value: Tensor) -> Tensor:
        first, second = edges.to(value.device).unbind(1)
        return value.gather(0, first) == value.gather(0, second)

    def own_energy(params: Params, position: Position) -> Tensor:
        value, weight = values(position), weights(params)
        equal = ends(value).to(weight.dtype)
        total = -(weight * equal).sum() if is_categorical else -(weight * (equal - 0.5)).sum()
        if field is None:
            return total
        every = fields(params).expand(len(value), -1)
        return total - every.gather(1, value[:, None]).sum()

    def labels(params: Params, temperature: Tensor, value: Tensor, uniform: Tensor) -> Tensor:
        is_open = ends(value) & (uniform < -torch.expm1(-weights(params) / temperature))
        return cluster_labels(edges, is_open, len(value))

    return ClusterModel(values, back, weights, None if field is None else fields, energy or own_energy, labels)


def check_model(
    name: str,
    model: ClusterModel,
    own: ClusterModel,
    space: Space | None,
    params: Params,
    position: Position,
    num_edge_sites: int,
) -> ClusterState:
    """The state where a chain starts; a fault stops a run there, and where numbers can be looked at an error says why."""
    space = spaces.spins(tuple(position.shape)) if space is None else space
    spaces.check(space, position, "positions")
    fix = "Give the space of the positions, or edges over as many sites as they have."
    must = f"positions must have {num_edge_sites} sites, up to the last that has an edge"
    checks.require(space.num_sites >= num_edge_sites, must, f"{space.num_sites} of {tuple(position.shape)}", fix)
    weights = own.weights(params)
    value = model.energy(params, position)
    is_repelling = (weights < 0).any()
    if checks.is_concrete(is_repelling) and bool(is_repelling):
        fix = (
            "Turn the signs of sites (and couplings) of an unfrustrated model; for a frustrated one use gibbs or "
            "parallel_tempering, since clusters of a cluster sampler do not fit it."
        )
        lowest = float(weights.min()) / (1 if space.kind == "categorical" else 2)
        raise ValueError(checks.message(f"couplings of {name} must not be negative", f"{lowest:.4g}", fix))
    is_other = torch.zeros_like(is_repelling)
    if model is not own:
        # against the energy of the couplings, at this position, all sites changed, every second one, and a few sets without order
        every = own.values(position)
        num = 2 if space.kind == "binary" else space.num_values
        even = torch.arange(len(every), device=every.device) % 2
        order = torch.arange(len(every), device=every.device)
        mixed = [(torch.frac((order + 1) * step) < 0.5).long() for step in _STEPS]
        others = [own.position((every + shift) % num, position) for shift in (torch.ones_like(even), even, *mixed)]
        gaps = torch.stack([model.energy(params, x) - own.energy(params, x) for x in (position, *others)])
        size = gaps.abs().amax() + own.energy(params, position).abs() + weights.abs().sum() / len(weights)
        is_other = (gaps - gaps[0]).abs().amax() > torch.finfo(gaps.dtype).eps ** 0.6 * size
        if checks.is_concrete(is_other) and bool(is_other):
            has_field = (gaps[1] - gaps[0]).abs() > (gaps[2] - gaps[0]).abs() * 1e-3
            got = "one that changes when all sites do: an external field" if bool(has_field) else "another one"
            fix = "Give swendsen_wang the field, field=lambda params: ..., or leave the energy out."
            raise ValueError(checks.message(f"the energy of {name} must be that of its couplings", got, fix))
    right = on_levels(space, position)
    fault = torch.where(is_repelling | is_other, torch.nan, torch.zeros_like(value))
    return ClusterState(position, torch.where(right, value, torch.nan), fault)


_STEPS = (0.6180339887, 0.4142135624, 0.7320508076)  # of irrational numbers, whose multiples have no order


def cluster_labels(edges: Tensor, is_open: Tensor, num_sites: int) -> Tensor:
    r"""The smallest site of the cluster of each site.

    On the CPU by union and find. Elsewhere all sites at once: every site points to one of its cluster that is not larger. In a
    round each open edge between two trees hooks the larger root to the smaller one (of several edges that want the same root
    any one wins), and then pointers jump to the pointers of pointers. Only the smallest site of a cluster is never hooked, so
    the end does not depend on who won. The number of rounds grows as :math:`\log N`.

    Args:
        edges: ``(M, 2)`` integers.
        is_open: ``(M,)`` bool.
        num_sites: N.

    Returns:
        ``(N,)`` int64.

    Reference: Shiloach and Vishkin (1982), Journal of Algorithms 3(1):57-67.

    >>> cluster_labels(torch.tensor([[0, 1], [1, 2], [3, 4]]), torch.tensor([False, True, True]), 5).tolist()
    [0, 1, 1, 3, 3]
    """
    if cluster_kernels.has_kernel(is_open):
        return cluster_kernels.cluster_labels(edges, is_open, num_sites)
    return _hooked_labels(edges, is_open, num_sites)


def _hooked_labels(edges: Tensor, is_open: Tensor, num_sites: int) -> Tensor:
    first, second = edges.to(is_open.device).unbind(1)
    order = torch.arange(num_sites, device=is_open.device)

    def hook(carry: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        labels, _ = carry
        a, b = labels.gather(0, first), labels.gather(0, second)
        low, high = torch.minimum(a, b), torch.maximum(a, b)
        is_hooked = is_open & (low < high) & (labels.gather(0, high) == high)
        # edges that hook nothing write to a place of their own, behind the sites
        padded = torch.cat([labels, order[:1]]).scatter(0, torch.where(is_hooked, high, num_sites), low)
        labels = padded[:-1]
        for _ in range(2):
            labels = labels.gather(0, labels)
        is_done = (labels.gather(0, first) == labels.gather(0, second)) | ~is_open
        return labels, (~is_done).any() | (labels.gather(0, labels) != labels).any()

    return loops.while_loop(lambda carry: carry[1], hook, (order, is_open.any()))[0]
