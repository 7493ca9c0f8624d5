"""A run in parts, of which each is saved: whenever it is killed, it goes on from the last one, bit for bit."""

from __future__ import annotations

import os
from typing import Any, Callable, Iterator

import torch

from .. import checks, tree
from ..distributed import checkpoint
from ..types import Tree
from ._run import Samples
from .files import need_file, save

__all__ = ["in_file", "in_folder"]

GoOn = Callable[[Samples, int, int], Samples]  # (samples, num_samples, most): at most so many steps of the burn-in


def in_file(samples: Samples, go_on: GoOn, num_samples: int, path: str | os.PathLike[str], every: int) -> Samples:
    """A run whose file holds, after each part, all draws so far.

    Args:
        samples: where it begins; the file keeps their draws too.
        go_on: goes on with it.
        num_samples: how many draws more.
        path: where to.
        every: draws in a part.
    """
    need_file(path, samples)
    whole, num_before = samples, tree.leaves(samples.draws)[0].shape[1] if tree.leaves(samples.draws) else 0
    for part in _parts(samples, go_on, num_samples, every):
        if part.run.reducer is None:  # type: ignore[union-attr]
            draws, info = _appended(whole.draws, part.draws), _appended(whole.info, part.info)
            whole = part._replace(draws=draws, info=info)
        else:
            whole = part
        save(whole, path)
    if num_before == 0:
        return whole
    draws, info = tree.map(lambda leaf: leaf[:, num_before:], (whole.draws, whole.info))
    return whole._replace(draws=draws, info=info)


def in_folder(
    samples: Samples,
    go_on: GoOn,
    num_samples: int,
    folder: str | os.PathLike[str] | None,
    every: int,
    gather: str,
    is_new: bool = True,
) -> Samples:
    """A run whose ranks write their draws, and where they are, after each part: draws that no memory need hold.

    Args:
        samples: where it begins; of a new run without draws.
        go_on: goes on with it.
        num_samples: how many draws more.
        folder: where to.
        every: draws in a part.
        gather: ``"files"`` keeps nothing else; with ``"summary"`` or ``"none"`` the draws of this rank come back too.
        is_new: whether another run in the folder is written over; one that goes on adds to what the folder has of it.
    """
    fix = 'Write sample(..., gather="files", checkpoint=folder).'
    checks.require(folder is not None, 'gather="files" must have a folder', "checkpoint=None", fix)
    fix = "Leave gather out, or read all draws from the folder: funcebm.distributed.draws_of(folder)."
    checks.require(gather != "draws", "a run of ranks with checkpoints must leave draws where they are", gather, fix)
    assert folder is not None
    run: Any = samples.run
    mesh, is_first, num_before = run.place.mesh, is_new, run.num_steps + run.num_burn_in
    samples = samples._replace(run=run._replace(place=run.place._replace(policy=gather)))
    checkpoint.see_folder(folder, mesh)
    if not is_new:
        checkpoint.open_folder(folder, samples, mesh=mesh)
    like: Any = ((), ())
    for samples in _parts(samples, go_on, num_samples, every):  # noqa: B020
        is_burnt_in = samples.run.num_burn_in == 0  # type: ignore[union-attr]
        checkpoint.save(folder, samples, mesh=mesh, is_part=is_burnt_in and not is_first)
        like, is_first = (samples.draws, samples.info) if tree.leaves(samples.draws) else like, False
    if not tree.leaves(like):
        return samples
    nothing: Any = ()
    draws, info = nothing, nothing
    if gather != "files":
        draws, info = checkpoint.draws_of(folder, mesh=mesh, like=like)
        num_draws, device = (samples.run.num_steps - num_before) // run.thin, tree.first(like).device  # type: ignore[union-attr]
        draws, info = tree.map(lambda leaf: leaf[:, -num_draws:].to(device), (draws, info))
    return samples._replace(draws=draws, info=info)


def _parts(samples: Samples, go_on: GoOn, num_samples: int, every: int) -> Iterator[Samples]:
    """The run after each ``every`` draws, and after as many steps of its burn-in, until there are enough, or Ctrl-C."""
    run: Any = samples.run
    fix = "Call sample outside of vmap, grad and jit."
    checks.require(run != (), "a run with checkpoints must not be inside of a transform", "one that is", fix)
    num_steps, num_done = every * run.thin, 0
    while num_done < num_samples:
        num_left, num_draws = run.num_burn_in, min(every, num_samples - num_done)
        samples = go_on(samples, num_draws, num_steps)
        run = samples.run
        is_burnt_in = num_left <= num_steps
        is_whole = bool(samples.is_complete) if is_burnt_in else run.num_burn_in == num_left - num_steps
        num_done += num_draws if is_burnt_in else 0
        yield samples._replace(is_complete=is_whole and num_done >= num_samples)
        if not is_whole:
            return


def _appended(before: Tree, after: Tree) -> Tree:
    if not tree.leaves(before):
        return after
    return tree.map(lambda a, b: torch.cat([a, b], 1), before, after) if tree.leaves(after) else before
