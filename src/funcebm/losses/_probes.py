"""Random directions in the space of positions, and what an energy does along them."""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, fields, random, tree
from ..types import Batch, Energy, Key, Params, Position, Tree

__all__ = ["PROBES", "check_probes", "draw_probes", "slope_and_curvatures"]

PROBES = ("normal", "rademacher", "sphere")


def check_probes(num_probes: int, probe: str) -> None:
    """The count and the kind, at the door."""
    checks.positive_int("num_probes", num_probes)
    fix = 'Use "rademacher", which has the least variance in most cases.'
    checks.require(probe in PROBES, f"probe must be one of {', '.join(PROBES)}", probe, fix)


def draw_probes(key: Key, batch: Batch, num_probes: int, probe: str) -> Tree:
    r"""Directions :math:`v` with :math:`E[v v^\top] = I` over all numbers of a position, leaves ``(B, num_probes, *event)``.

    Standard normal; signs; or uniform on the sphere of radius :math:`\sqrt d`.
    """
    parts, structure = tree.flatten(batch)
    keys = random.split(key, len(parts)).unbind(0)
    make = random.rademacher if probe == "rademacher" else random.normal
    shapes = [(part.shape[0], num_probes, *part.shape[1:]) for part in parts]
    drawn = [make(k, s, dtype=p.dtype) for k, s, p in zip(keys, shapes, parts, strict=True)]
    probes = tree.unflatten(structure, drawn)
    return vmap(vmap(_onto_sphere))(probes) if probe == "sphere" else probes


def _onto_sphere(vector: Position) -> Position:
    size = sum(leaf.numel() for leaf in tree.leaves(vector))
    return tree.scale(torch.rsqrt(tree.squared_norm(vector) / size), vector)


def slope_and_curvatures(energy: Energy) -> Callable[[Params, Position, Tree], tuple[Position, Tensor]]:
    r"""``(params, x, probes)`` to the gradient of the energy and :math:`v^\top \nabla^2 E\, v` for each probe, ``(P,)``."""
    gradient = fields.gradient(energy)

    def one(params: Params, position: Position, probes: Tree) -> tuple[Position, Tensor]:
        slope, pull = torch.func.vjp(lambda at: gradient(params, at), position)[:2]
        return slope, vmap(lambda probe: tree.dot(pull(probe)[0], probe))(probes)

    return one
