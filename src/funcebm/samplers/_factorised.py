"""Proposals that choose the value of every site by itself, given one gradient: the common part of discrete Langevin kernels."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor

from .. import checks, fields, random, tree
from ..spaces.space import Space, is_value
from ..types import Energy, Key, MetricLike, Number, Params, Position, Sampler, Tree
from ._heat_bath import DiscreteInfo
from ._kernel import EnergyState as InformedState
from ._moves import checked, door, num_changed, space_for
from .metropolis import metropolis_hastings, unadjusted_info

__all__ = ["DiscreteLangevinNoise", "DiscreteLangevinTuning", "changes", "factorised"]


class DiscreteLangevinNoise(NamedTuple):
    """For each site of two levels a uniform number, of more Gumbel numbers ``(V,)``; a uniform ``()`` for the test, if any."""

    sites: Tree
    uniform: Tree


class DiscreteLangevinTuning(NamedTuple):
    """The step size ``()``, factors of it for each site, or one ``()``, and the temperature ``()``."""

    step_size: Tensor
    preconditioner: Tree
    temperature: Tensor


Tables = Callable[[Space, Tensor, Tensor, Tensor], Any]


def changes(space: Space, leaf: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What each value of each site would change in the log density, to first order, its squared distance, and which is current.

    Each ``(*sites, V)``; ``-inf`` for what is no value of a site. Not for two levels.
    """
    if space.kind == "categorical":
        change = (leaf * gradient).sum(-1, keepdim=True) - gradient
        return torch.where(is_value(space, leaf.device), change, -torch.inf), 2 * (1 - leaf), leaf == 1
    away = torch.arange(space.num_values, device=leaf.device) - leaf[..., None]
    return -away * gradient[..., None], away**2, away == 0


def factorised(
    name: str,
    energy: Energy,
    space: Tree | None,
    tables: Tables,
    *,
    step_size: Number,
    preconditioner: MetricLike,
    temperature: Number,
    adjusted: bool,
    target_acceptance: float,
) -> Sampler:
    """The sampler of a proposal.

    Args:
        tables: ``(space, leaf, gradient over temperature, step size of each site) -> log chances`` of each value,
            ``(*sites, V)``; for two levels the pair of those to stay and to flip, ``(*sites)``.
    """
    checks.positive("step_size", step_size, "Try 0.2.")
    checks.positive("temperature", temperature, "Use 1.0 for the density exp(-E).")
    for leaf in tree.leaves(preconditioner):
        checks.positive("preconditioner", leaf, "Give factors of the step size above zero, one for each site.")
    space_of = space_for(name, space, energy)
    value_and_gradient = fields.value_and_gradient(energy)

    def init(params: Params, position: Position) -> InformedState:
        own = checked(space_of, position)
        _check_preconditioner(preconditioner, own)
        value, gradient = value_and_gradient(params, position)
        return InformedState(position, door(own, position, value), gradient)

    def draw(key: Key, position: Position) -> DiscreteLangevinNoise:
        key_sites, key_accept = random.split(key)
        leaves, structure = tree.flatten(position)
        keys = [key_sites] if len(leaves) == 1 else list(random.split(key_sites, len(leaves)).unbind(0))
        drawn = []
        for part, k, leaf in zip(tree.leaves(space_of(position)), keys, leaves, strict=True):
            if part.kind == "binary":
                drawn.append(random.uniform(k, part.sites, dtype=leaf.dtype))
            else:
                drawn.append(random.gumbel(k, (*part.sites, part.num_values), dtype=leaf.dtype))
        uniform = random.uniform(key_accept, dtype=leaves[0].dtype) if adjusted else ()
        return DiscreteLangevinNoise(tree.unflatten(structure, drawn), uniform)

    def log_tables(tuning: DiscreteLangevinTuning, parts: list[Space], state: InformedState) -> list[Any]:
        leaves = zip(parts, tree.leaves(state.position), tree.leaves(state.gradient), strict=True)
        factors = _factors(tuning.preconditioner, parts)
        return [
            tables(part, leaf, slope / tuning.temperature, tuning.step_size * factor)
            for (part, leaf, slope), factor in zip(leaves, factors, strict=True)
        ]

    def step(
        params: Params, tuning: DiscreteLangevinTuning, state: InformedState, noise: DiscreteLangevinNoise
    ) -> tuple[InformedState, DiscreteInfo]:
        own = space_of(state.position)
        parts = tree.leaves(own)
        forth = log_tables(tuning, parts, state)
        before, structure = tree.flatten(state.position)
        after = [_choose(*site) for site in zip(parts, before, forth, tree.leaves(noise.sites), strict=True)]
        position = tree.unflatten(structure, after)
        proposal = InformedState(position, *value_and_gradient(params, position))
        changed = num_changed(own, state.position, position)
        if not adjusted:
            return proposal, DiscreteInfo.of(unadjusted_info(position, proposal.energy, 1), changed)
        back = log_tables(tuning, parts, proposal)
        log_ratio = (state.energy - proposal.energy) / tuning.temperature
        for part, x, y, there, home in zip(parts, before, after, forth, back, strict=True):
            log_ratio = log_ratio + _log_chance(part, y, x, home) - _log_chance(part, x, y, there)
        new_state, info = metropolis_hastings(log_ratio, noise.uniform, proposal, state, num_gradients=1)
        return new_state, DiscreteInfo.of(info, info.acceptance_rate * changed)

    one = torch.ones(()) if preconditioner is None else tree.map(torch.as_tensor, preconditioner)
    tuning = DiscreteLangevinTuning(torch.as_tensor(step_size), one, torch.as_tensor(temperature))
    rest: Any = {"target_acceptance": target_acceptance} if adjusted else {"adaptation": "unchanged"}
    step.__qualname__ = f"{name}.step"
    return Sampler(init, draw, step, tuning, **rest)


# -- parts --------------------------------------------------------------------------------------------------------


def _values(space: Space, leaf: Tensor) -> Tensor:
    """Which value each site has, ``(*sites, V)`` bool."""
    if space.kind == "categorical":
        return leaf == 1
    return leaf[..., None] == torch.arange(space.num_values, device=leaf.device)


def _choose(space: Space, leaf: Tensor, table: Any, noise: Tensor) -> Tensor:
    if space.kind == "binary":
        return torch.where(noise < table[1].exp(), sum(space.levels) - leaf, leaf)
    value = (table + noise).argmax(-1)
    if space.kind == "ordinal":
        return value.to(leaf.dtype)
    return (value[..., None] == torch.arange(space.num_values, device=leaf.device)).to(leaf.dtype)


def _log_chance(space: Space, before: Tensor, after: Tensor, table: Any) -> Tensor:
    """Of a leaf to go from where its table was made to ``after``. ``()``."""
    if space.kind == "binary":
        stay, flip = table
        return torch.where(before == after, stay, flip).sum()
    return torch.where(_values(space, after), table, 0).sum()


def _factors(preconditioner: Tree, parts: list[Space]) -> list[Tensor]:
    """The preconditioner of each leaf, ``(*sites)`` or ``()``, ready for tables."""
    leaves = tree.leaves(preconditioner)
    leaves = leaves * len(parts) if len(leaves) < len(parts) else leaves
    return [f if part.kind == "binary" or f.ndim == 0 else f[..., None] for part, f in zip(parts, leaves, strict=True)]


def _check_preconditioner(preconditioner: MetricLike, space: Tree) -> None:
    leaves = [torch.as_tensor(leaf) for leaf in tree.leaves(preconditioner)]
    if len(leaves) == 0 or (len(leaves) == 1 and leaves[0].ndim == 0):
        return
    sites = [part.sites for part in tree.leaves(space)]
    shapes = [tuple(leaf.shape) for leaf in leaves]
    fits = len(shapes) == len(sites) and all(shape in ((), own) for shape, own in zip(shapes, sites, strict=True))
    fix = "Give one number for each site, or one for all."
    checks.require(fits, f"preconditioner must have the shapes of the sites, {sites}", str(shapes), fix)
