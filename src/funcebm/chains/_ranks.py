"""Chains over ranks: which rows a rank runs, how ranks stop together, and what they tell each other at the end.

Nothing is sent while chains are run: a rank that stops leaves a note, which the others look for between chunks.
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, loops, tree
from .._torch import collectives
from ..distributed.agreement import check_equal, check_mesh, digest, together
from ..distributed.mesh import Mesh, Shard, bounds, single
from ..distributed.parameters import check_whole
from ..types import Position, Sampler, Tree
from . import _checks, reducers
from .reducers import Reducer

__all__ = [
    "Place",
    "alone",
    "begin_run",
    "check_memory",
    "enter",
    "enter_whole",
    "gathered",
    "meet",
    "own_rows",
    "reduced",
    "stop",
    "stops",
]

_CHUNK_BYTES = 2**26  # of draws in one message
POLICIES = ("summary", "draws", "none")


class Place(NamedTuple):
    """Where the chains of this rank are among all: those from ``first`` to before ``last`` of ``total``.

    ``spare`` is the state of the chain that a rank without any runs, and drops.
    """

    mesh: Mesh
    first: int
    last: int
    total: int
    policy: str = "none"
    spare: Any = ()

    @property
    def chains(self) -> tuple[int, int, int]:
        """First, end, and how many on all ranks."""
        return self.first, self.last, self.total


def alone(num_chains: int) -> Place:
    """The place of all chains in one process."""
    return Place(single, 0, num_chains, num_chains)


def enter(
    mesh: Mesh | None,
    policy: str,
    positions: Position | Shard,
    given: Callable[[], dict[str, Tree]],
    sampler: Sampler | None = None,
) -> tuple[Position, Place]:
    """The rows of this rank, after all have told that they were given the same.

    Args:
        mesh: of the run.
        policy: what is gathered.
        positions: of all chains, or a :class:`Shard` of them.
        given: checks the arguments, and says what must be the same on all ranks, by name; an error is one of all ranks.
        sampler: for which positions may be no floats, where it needs none.
    """
    rows = positions.rows if isinstance(positions, Shard) else positions
    if mesh is not None:
        check_mesh(mesh)
    if mesh is None or mesh.size == 1:
        collectives.tell_alone()
        params = given()["params"]
        check_whole(params, "chains")
        if not loops.is_compiling():  # the check is for a person, the compiler cannot follow its message
            _checks.positions(rows, sampler, params)
        return rows, alone(tree.batch_size(rows))
    fix = 'Write "summary", "draws", "none" or, with checkpoint=folder, "files".'
    news: dict[str, Any] = {}
    begin_run(mesh)
    with together(mesh, news) as found:
        known = given()
        check_whole(known["params"], "chains")
        _checks.positions(rows, sampler, known["params"])
        checks.require(policy in POLICIES, "gather must be one of four", policy, fix)
        is_shard = isinstance(positions, Shard)
        same = {name: digest(value) for name, value in known.items()}
        kind = tree.map(lambda leaf: torch.empty(0, *leaf.shape[1:], dtype=leaf.dtype), rows)
        same["the kind of positions, whole or a shard,"] = f"{is_shard} {digest(kind)}"
        if not is_shard:
            same["positions"] = digest(rows)
        news.update(digests=same, count=tree.batch_size(rows))
    check_equal(mesh, found)
    if isinstance(positions, Shard):
        counts = [news["count"] for news in found]
        first = sum(counts[: mesh.rank])
        return rows, Place(mesh, first, first + counts[mesh.rank], sum(counts), policy)
    total = tree.batch_size(rows)
    first, last = bounds(total, mesh.rank, mesh.size)
    place = Place(mesh, first, last, total, policy)
    if first == last:  # more ranks than chains: one that is dropped, so that every rank does the same
        return tree.map(lambda leaf: leaf[-1:], rows), place
    return tree.map(lambda leaf: leaf[first:last].contiguous(), rows), place


def enter_whole(mesh: Mesh | None, positions: Position | Shard, given: Callable[[], dict[str, Tree]]) -> Position:
    """The positions of all chains, on all ranks, after all have told that they were given the same."""
    rows, place = enter(mesh, "none", positions, given)
    if isinstance(positions, Shard):
        return place.mesh.gather(rows)
    return positions


def begin_run(mesh: Mesh) -> None:
    """Notes of earlier runs count no more."""
    if mesh.size > 1:
        collectives.peers_of(mesh.name).num_runs += 1


def check_memory(place: Place, num_samples: int, positions: Position) -> None:
    """Refuses draws that would not fit, before they are made."""
    if place.mesh.size == 1:
        return
    each = num_samples * sum(leaf[0].numel() * leaf.element_size() for leaf in tree.leaves(positions))
    most = max(bounds(place.total, 0, place.mesh.size)[1], place.last - place.first)
    num = each * (place.total if place.policy == "draws" else most)
    must = f"the draws of one rank must fit into mesh(memory={place.mesh.memory})"
    fix = (
        "Keep statistics in place of draws (reduce=reducers.variance()), collect less, write them to files (gather='files',"
        " checkpoint=folder), use more ranks, or give mesh(memory=...) more bytes."
    )
    checks.require(num <= place.mesh.memory, must, f"{num:,} bytes", fix)


# -- while chains are run -----------------------------------------------------------------------------------------


def stop(place: Place) -> None:
    """Tells the other ranks that this one was interrupted."""
    if place.mesh.size > 1:
        collectives.peers_of(place.mesh.name).post("stop")


def stops(place: Place) -> bool:
    """Whether another rank was interrupted or failed; nothing is waited for."""
    return place.mesh.size > 1 and bool(collectives.peers_of(place.mesh.name).note("stop"))


def meet(place: Place, num_done: int) -> int:
    """How many draws all ranks make, once every one has stopped: where one was interrupted, as many as the fastest has made."""
    if place.mesh.size == 1:
        return num_done
    news = {"num_done": num_done}
    with together(place.mesh, news) as found:
        pass
    return max(other["num_done"] for other in found)


# -- the end ------------------------------------------------------------------------------------------------------


def own_rows(place: Place, value: Tree, axis: int = 0) -> Tree:
    """Without the chain of a rank that has none."""
    if place.mesh.size == 1 or place.last > place.first:
        return value
    return tree.map(lambda leaf: leaf.narrow(axis, 0, 0), value)


def gathered(place: Place, draws: Tree, info: Tree) -> tuple[Tree, Tree, Place]:
    """Draws and their info: those of all chains on the first rank where the policy says so; and whose they are."""
    if place.mesh.size == 1 or place.policy != "draws":
        return draws, info, place
    draws, info = _to_first(place.mesh, (draws, info))
    return draws, info, place if place.mesh.rank > 0 else place._replace(first=0, last=place.total)


def reduced(place: Place, reducer: Reducer, info: Any, accumulator: Any) -> tuple[Tree, Tree, Place]:
    """The mean info of chains and the results of reducers, of all ranks where the policy does not say otherwise."""
    everyone = place if place.policy == "none" else place._replace(first=0, last=place.total)
    mesh = single if place.policy == "none" else place.mesh
    means = own_rows(place, vmap(reducers.mean().final)(info))
    return mesh.gather(means), _results(place, mesh, reducer, accumulator), everyone


def _results(place: Place, mesh: Mesh, reducer: Reducer, accumulator: Any) -> Tree:
    if reducer.parts:
        return {name: _results(place, mesh, part, accumulator[name]) for name, part in reducer.parts}
    if not reducer.is_pooled:
        return mesh.gather(own_rows(place, vmap(reducer.final)(accumulator)))
    must, fix = "a reducer over chains must have merge", "Give Reducer(..., merge=...), or leave out is_pooled."
    checks.require(reducer.merge is not None, must, "None", fix)
    assert reducer.merge is not None
    accumulator = own_rows(place, accumulator)
    accumulator = accumulator if reducer.close is None else vmap(reducer.close)(accumulator)
    own = reducers.merged(reducer.merge, accumulator, keeps_axis=True)
    return reducer.final(reducers.merged(reducer.merge, mesh.gather(own)))


def _to_first(mesh: Mesh, value: Tree) -> Tree:
    """``(C_r, N, ...)`` of all ranks as ``(C, N, ...)`` on the first, in messages of bounded size; others keep their own."""
    leaves, structure = tree.flatten(value)
    num = leaves[0].shape[1]
    row = sum(leaf[:, :1].numel() * leaf.element_size() for leaf in leaves)
    most = int(mesh.gather(torch.tensor([row])).max())
    step = max(1, _CHUNK_BYTES // max(most * mesh.size, 1))
    kept: list[Tensor] = []
    for start in range(0, num, step):
        parts = tree.leaves(mesh.gather([leaf[:, start : start + step].contiguous() for leaf in leaves]))
        if mesh.rank > 0:
            continue
        if not kept:
            kept = [part.new_empty(part.shape[0], num, *part.shape[2:]) for part in parts]
        for whole, part in zip(kept, parts, strict=True):
            whole[:, start : start + step] = part
    return tree.unflatten(structure, kept) if mesh.rank == 0 else value
