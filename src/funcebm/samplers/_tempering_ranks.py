"""Parallel tempering whose replicas ranks share: temperatures move from one to another, and positions stay where they are."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, random, tree
from ..distributed.agreement import failing_together, nan_unless_same, starting_together
from ..distributed.mesh import Mesh
from ..types import Key, Params, Position, Sampler, Tree

__all__ = ["SharedTemperingInfo", "SharedTemperingState", "shared_tempering", "swaps", "target_draws"]


class SharedTemperingState(NamedTuple):
    """The replicas of one rank of a ladder of K rungs.

    Attributes:
        position: of the target's replica where this rank has it, of another one elsewhere: ``info.is_here`` tells.
        replicas: the states of the local sampler; every leaf leads with the axis of the replicas of this rank, ``K / W``.
        computed_at: the inverse temperatures that energies and gradients in ``replicas`` were computed with. ``(K / W,)``.
        rung: on which rung each replica of all ranks is. ``(K,)`` int64.
        num_scans: the number of steps so far. ``()`` int64.
    """

    position: Position
    replicas: Any
    computed_at: Tensor
    rung: Tensor
    num_scans: Tensor


class SharedTemperingNoise(NamedTuple):
    """A key for each rung ``(K, 2)``, and a uniform for each pair of neighbours ``(K - 1,)``."""

    keys: Key
    uniform: Tensor


class SharedTemperingInfo(NamedTuple):
    """The fields of ``ParallelTemperingInfo``, the same on all ranks, and whether the target's replica is on this one."""

    acceptance_rate: Tensor
    is_accepted: Tensor
    is_divergent: Tensor
    num_gradients: Tensor
    energy: Tensor
    swap_rate: Tensor
    is_swapped: Tensor
    rung_acceptance_rate: Tensor
    replica: Tensor
    is_here: Tensor


class Parts(NamedTuple):
    """What the ladder of one process is made of."""

    local: Sampler
    ladder: Tensor
    tuning: Any
    at_ladder: Callable[[tuple[Params, Tensor], Any, Tensor], Any]
    differences: Callable[[Params, Any, Any, Tensor], tuple[Tensor, Tensor]]
    num_moves: Callable[[Any], int]


def swaps(betas: Tensor, difference: Tensor, num_scans: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The swaps of a scan.

    Args:
        betas: the ladder. ``(K,)``.
        difference: the energy of the target above that of the reference, on each rung. ``(K,)``.
        num_scans: so far; even scans swap the pairs (1, 2), (3, 4), ... ``()``.
        uniform: ``(K - 1,)``.

    Returns:
        The probability that each pair would swap, and whether it did, ``(K - 1,)``; from which rung each one takes ``(K,)``.
    """
    swap_rate = (betas.diff() * difference.diff()).clamp(max=0).exp()
    order = torch.arange(len(betas), device=betas.device)
    is_turn = (order[:-1] + num_scans) % 2 == 0
    is_swapped = is_turn & (uniform < swap_rate)
    never = torch.zeros_like(is_swapped[:1])
    source = order + torch.cat([is_swapped, never]).long() - torch.cat([never, is_swapped]).long()
    return swap_rate, is_swapped, source


def shared_tempering(parts: Parts, mesh: Mesh) -> Sampler:
    """The sampler of one rank: it moves its replicas, and one message of seven numbers a replica tells all ranks who swaps.

    The swaps, and what is on the target's rung, are those of one process. Where ranks draw by different keys the energy is NaN,
    and the step divergent.
    """
    local, ladder, num_rungs = parts.local, parts.ladder, len(parts.ladder)
    must = f"the {mesh.size} ranks of a ladder must hold as many of its {num_rungs} replicas each"
    fix = f"Take {-(-num_rungs // mesh.size) * mesh.size} rungs, or another number of ranks."
    checks.require(num_rungs % mesh.size == 0, must, num_rungs / mesh.size, fix)
    num_own = num_rungs // mesh.size
    first = mesh.rank * num_own
    in_rungs = (None, 0)

    def own(leaf: Tensor) -> Tensor:
        return leaf[first : first + num_own]

    def init(params: Params, position: Any) -> SharedTemperingState:
        with starting_together(mesh):
            state = start(params, position)
        given = {"params": params, "positions": position, "the ladder and its tuning": parts.tuning}
        cached = "energy" if hasattr(state.replicas, "energy") else "gradient"
        known = {cached: nan_unless_same(mesh, given, getattr(state.replicas, cached))}
        return state._replace(replicas=state.replicas._replace(**known))

    def start(params: Params, position: Any) -> SharedTemperingState:
        betas = own(ladder.to(tree.first(position)))
        rung = torch.arange(num_rungs, device=betas.device)
        is_ladder = hasattr(position, "num_scans")
        positions = tree.map(own, position.positions) if is_ladder else tree.broadcast(position, num_own)
        replicas = vmap(local.init, (in_rungs, 0))((params, betas), positions)
        kept = set(getattr(replicas, "_fields", ())) - {"position", "energy", "gradient"}
        fix = "Take one that keeps nothing between steps, such as hmc or mala, or leave mesh out."
        checks.require(not kept, "a ladder on ranks needs a local sampler without persistent parts", sorted(kept), fix)
        num_scans = position.num_scans if is_ladder else torch.zeros_like(rung[0])
        at = tree.map(lambda leaf: leaf[-1], positions)
        return SharedTemperingState(at, replicas, betas, rung, num_scans)

    def draw(key: Key, position: Position) -> SharedTemperingNoise:
        key_rungs, key_swap = random.split(key)
        uniform = random.uniform(key_swap, (num_rungs - 1,), dtype=tree.first(position).dtype)
        return SharedTemperingNoise(random.split(key_rungs, num_rungs), uniform)

    def step(
        params: Params, tuning: Any, state: SharedTemperingState, noise: SharedTemperingNoise
    ) -> tuple[SharedTemperingState, SharedTemperingInfo]:
        with failing_together(mesh):
            return scan(params, tuning, state, noise)

    def scan(
        params: Params, tuning: Any, state: SharedTemperingState, noise: SharedTemperingNoise
    ) -> tuple[SharedTemperingState, SharedTemperingInfo]:
        all_betas, rung = tuning.inverse_temperatures, own(state.rung)
        betas, tunings, keys = tree.map(lambda leaf: leaf[rung], (all_betas, tuning.rungs, noise.keys))
        path_params = (params, betas)
        replicas = vmap(parts.at_ladder, (in_rungs, 0, 0))(path_params, state.replicas, betas / state.computed_at)
        drawn = vmap(local.draw)(keys, replicas.position)
        replicas, infos = vmap(local.step, (in_rungs, 0, 0, 0))(path_params, tunings, replicas, drawn)
        target, difference = parts.differences(params, replicas, infos, betas)

        flags = (infos.acceptance_rate, infos.is_accepted, infos.is_divergent, infos.num_gradients)
        drawn = noise.uniform.sum().expand(num_own)  # of another key where it is another number
        told = torch.stack([difference, target, *(flag.to(target.dtype) for flag in (*flags, drawn))], -1)
        replica = state.rung.argsort()  # on each rung
        by_rung = mesh.gather(told)[replica]
        difference, target, acceptance, accepted, divergent, gradients, drawn = by_rung.unbind(-1)
        is_same = (drawn == drawn[:1]).all()
        swap_rate, is_swapped, source = swaps(all_betas, difference, state.num_scans, noise.uniform)
        replica = replica[source]

        cold = replica[-1:] - first
        is_here = (cold >= 0) & (cold < num_own)
        index = torch.where(is_here, cold, 0)
        position = tree.map(lambda leaf: leaf[index][0], replicas.position)
        after = SharedTemperingState(position, replicas, betas, replica.argsort(), state.num_scans + 1)
        info = SharedTemperingInfo(
            acceptance_rate=acceptance[-1],
            is_accepted=accepted[-1] > 0,
            is_divergent=(divergent[-1] > 0) | ~is_same,
            num_gradients=gradients.sum().to(torch.int32) + parts.num_moves(replicas),
            energy=torch.where(is_same, target[source][-1], torch.nan),
            swap_rate=swap_rate,
            is_swapped=is_swapped,
            rung_acceptance_rate=acceptance,
            replica=replica,
            is_here=is_here[0],
        )
        return after, info

    return Sampler(init, draw, step, parts.tuning)


def target_draws(samples: Any, mesh: Mesh) -> Tree:
    """The draws of the target, ``(C, N, *event)`` on all ranks, of a ladder that ranks share.

    The target's replica is now on one rank and now on another; here the draws of all are put together, by one sum.

    Args:
        samples: of :func:`funcebm.sample` on this rank, with a sampler of ``parallel_tempering(..., mesh=mesh)``.
        mesh: the same.

    Returns:
        The draws; those of one process.

    Raises:
        ValueError: samples of another sampler.

    >>> from funcebm import random, samplers
    >>> from funcebm import sample as draw
    >>> from funcebm.distributed import single
    >>> sampler = samplers.mala(lambda params, x: (x**2).sum() / 2)
    >>> samples = draw(random.key(0), sampler, (), torch.zeros(3, 2), num_samples=5, jit=False)
    >>> target_draws(samples, single).shape
    torch.Size([3, 5, 2])
    """
    if mesh.size == 1:
        return samples.draws
    is_here = getattr(samples.info, "is_here", None)
    fix = "Pass what funcebm.sample gave for parallel_tempering(..., mesh=mesh)."
    checks.require(is_here is not None, "samples must be of a ladder on ranks", type(samples.info).__name__, fix)
    return mesh.sum(tree.map(lambda leaf: _masked(leaf, is_here), samples.draws))


def _masked(leaf: Tensor, is_here: Any) -> Tensor:
    return torch.where(is_here.reshape(*is_here.shape, *[1] * (leaf.ndim - 2)), leaf, 0)
