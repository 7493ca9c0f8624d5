"""A run in parts, each of which goes into a folder: draws that no memory need hold, from any number of ranks."""

from __future__ import annotations

import os
from typing import Any, Callable

from .. import checks, tree
from ..distributed.checkpoint import draws_of, save
from ..distributed.mesh import Mesh, single
from ._run import Samples

__all__ = ["in_parts"]


def in_parts(
    begin: Callable[[int], Samples],
    go_on: Callable[[Samples, int], Samples],
    num_samples: int,
    folder: str | os.PathLike[str] | None,
    every: int,
    mesh: Mesh | None,
    gather: str,
) -> Samples:
    """A run whose ranks write their draws, and where they are, after each ``every`` of them.

    Args:
        begin: makes the first draws.
        go_on: makes more of them.
        num_samples: how many all together.
        folder: where to.
        every: draws in a part.
        mesh: of the run.
        gather: ``"files"`` keeps nothing else; with ``"summary"`` or ``"none"`` the draws of this rank come back too.
    """
    fix = 'Write sample(..., gather="files", checkpoint=folder).'
    checks.require(folder is not None, 'gather="files" must have a folder', "checkpoint=None", fix)
    fix = "Leave gather out, or read all draws from the folder: funcebm.distributed.draws_of(folder)."
    checks.require(gather != "draws", "a run of ranks with checkpoints must leave draws where they are", gather, fix)
    assert folder is not None
    mesh = single if mesh is None else mesh
    done = min(every, num_samples)
    samples = begin(done)
    while True:
        save(folder, samples, mesh=mesh, is_part=True)
        if not samples.is_complete or done >= num_samples:
            break
        size = min(every, num_samples - done)
        samples = go_on(samples, size)
        done += size
    samples = samples._replace(is_complete=bool(samples.is_complete) and done >= num_samples)
    has_draws = bool(tree.leaves(samples.draws))
    if gather == "files" or not has_draws:
        nothing: Any = ()
        return samples._replace(draws=nothing, info=nothing) if has_draws else samples
    draws, info = draws_of(folder, mesh=mesh, like=(samples.draws, samples.info))
    device = tree.first(samples.draws).device
    draws, info = tree.map(lambda leaf: leaf.to(device), (draws, info))
    return samples._replace(draws=draws, info=info)
