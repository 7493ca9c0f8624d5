"""Exact draws of attractive spin models, by coupling from the past."""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor
from torch.func import vmap

from ... import checks, fields, graphs, random, spaces, tree
from ...types import Energy, Key, Params

__all__ = ["coupling_from_the_past"]


def coupling_from_the_past(
    key: Key, energy: Energy, space: spaces.Space, blocks: Tensor, params: Params, num: int, *, max_sweeps: int = 2**16
) -> Tensor:
    r"""Exact independent draws of an attractive model of two levels, such as the Ising model with couplings :math:`J \ge 0`.

    Two chains of heat-bath sweeps, from all sites high and all sites low, are run with the same uniforms from sweep :math:`-T`
    to 0. Where they meet, every other start has met them too, and the state at 0 is an exact draw; where they do not, T is
    doubled, with the same uniforms for the same sweeps. This needs a monotone update: a higher state of the other sites must
    not make any site more likely to be low.

    Args:
        key: ``(2,)``.
        energy: ``(params, x) -> ()``, linear in each site given the rest, and attractive.
        space: binary.
        blocks: colours, bool ``(B, *event)``, without an interaction inside (``energy.blocks``).
        params: of the energy.
        num: how many draws.
        max_sweeps: the largest T; the time to meet grows fast in the ordered phase.

    Returns:
        ``(num, *event)``.

    Raises:
        ValueError: another space, blocks that do not partition the sites or have an edge inside, or an energy that is not
            attractive.
        RuntimeError: chains that have not met after ``max_sweeps``.

    Reference: Propp and Wilson (1996), Random Structures and Algorithms 9(1-2):223-252.

    >>> from funcebm import energies
    >>> ising = energies.ising_torus((4, 4))
    >>> params = ising.params(coupling=0.3)
    >>> coupling_from_the_past(random.key(0), ising, ising.space, ising.blocks, params, 3).shape
    torch.Size([3, 4, 4])
    """
    checks.positive_int("num", num)
    checks.positive_int("max_sweeps", max_sweeps)
    is_binary = isinstance(space, spaces.Space) and space.kind == "binary"
    checks.require(is_binary, "space must be binary", repr(space), "Use spaces.spins or spaces.binary.")
    graphs.check_blocks(blocks)
    right = tuple(blocks.shape[1:]) == space.shape
    fix = "Use energy.blocks, or graphs.colouring(edges, shape=shape)."
    checks.require(right, f"blocks must be (B, {str(space.shape)[1:-1].rstrip(',')})", str(tuple(blocks.shape)), fix)
    low, high = space.levels
    gradient = vmap(fields.gradient(energy), (None, 0))
    dtype = next((leaf.dtype for leaf in _floats(params)), torch.get_default_dtype())

    def chances(x: Tensor) -> Tensor:
        return torch.sigmoid(-(high - low) * gradient(params, x))

    def sweep(x: Tensor, uniform: Tensor) -> Tensor:
        for block in blocks.to(x.device):
            level = torch.where(uniform < chances(x), high, low)
            x = torch.where(block, level, x)
        return x

    def uniforms(keys: Key, age: int) -> Tensor:
        draw = lambda k: random.uniform(random.fold_in(k, age), space.shape, dtype=dtype)  # noqa: E731
        return vmap(draw)(keys)

    keys = random.split(key, num)
    _check_attractive(chances, spaces.sample(random.fold_in(key, 2**31), space, 8, dtype=dtype), blocks, low, high)
    draws = torch.full((num, *space.shape), high, dtype=dtype, device=key.device)
    waiting, num_sweeps = torch.arange(num, device=key.device), 1
    while num_sweeps <= max_sweeps:
        both = torch.stack([torch.full_like(draws[waiting], level) for level in space.levels])
        for age in range(num_sweeps, 0, -1):
            uniform = uniforms(keys[waiting], age)
            both = torch.stack([sweep(both[0], uniform), sweep(both[1], uniform)])
        have_met = (both[0] == both[1]).reshape(len(waiting), -1).all(1)
        draws = draws.index_copy(0, waiting[have_met], both[1][have_met])
        waiting = waiting[~have_met]
        if not len(waiting):
            return draws
        num_sweeps *= 2
    fix = "Raise max_sweeps, or weaken the couplings: an ordered model takes very long to meet."
    raise RuntimeError(checks.message(f"chains must meet within {max_sweeps} sweeps", "some that have not", fix))


def _floats(params: Params) -> list[Tensor]:
    return [leaf for leaf in tree.leaves(params) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _check_attractive(
    chances: Callable[[Tensor], Tensor], states: Tensor, blocks: Tensor, low: float, high: float
) -> None:
    """Raising a site may not lower the chance of another, nor change one in its block; tried on some states, site by site."""
    flat = states.reshape(len(states), -1)
    sites = torch.eye(flat.shape[1], dtype=torch.bool, device=flat.device)
    rows = blocks.to(flat.device).reshape(len(blocks), -1).to(flat.dtype)
    is_same = (rows.T @ rows) > 0  # two sites of one block, and each with itself
    for x in flat:
        # and between the levels: odd functions have equal slopes at both
        levels = (low, high, low + 0.37 * (high - low))
        moved = [torch.where(sites, level, x).reshape(-1, *states.shape[1:]) for level in levels]
        lowered, raised, middle = (chances(states).reshape(len(sites), -1) for states in moved)
        change = raised - lowered
        right = not bool(((change < -1e-6) & ~sites).any())
        fix = "Couplings must not be negative; flip one of two sublattices where that makes them so."
        checks.require(right, "the energy must be attractive", "a site that lowers another", fix)
        right = not bool(((torch.maximum(change.abs(), (middle - lowered).abs()) > 1e-5) & is_same).any())
        must = "sites of one block must not interact, and the energy must be linear in each of them"
        fix = "Use energy.blocks, or graphs.colouring(edges, shape=shape); of other energies use exact.sample."
        checks.require(right, must, "a block whose conditionals change when its own sites do", fix)
