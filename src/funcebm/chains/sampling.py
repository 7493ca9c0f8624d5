"""Many chains of one sampler: ``sample`` and ``resume``.

The key of chain ``c`` is ``split(key, C)[c]``, that of its step ``i`` is ``fold_in(chain_key, i)`` with ``i`` counted from
the start of the run, burn-in included. So the draws do not depend on the number of chains, on ``jit``, on ``chunk_size``,
on where a run was cut or on how many ranks share the chains. The chain axis is the last one inside a run: it is the long one,
which vectorises.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any, Callable

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, loops, random, tree
from .._chunks import weight_of
from ..distributed.agreement import check_same, together
from ..distributed.mesh import Mesh, Shard, single
from ..transforms import is_worth_it
from ..types import InfoT, Key, Params, Position, Sampler, StateT, Tree, TuningT
from . import _checks, _ranks, reducers
from ._loop import kernel_of, same_kernel
from ._parts import in_file, in_folder
from ._run import Run, Samples, begin, collect_position, finish, go_on, start
from .reducers import Reducer

__all__ = ["Run", "Samples", "resume", "sample"]


def sample(
    key: Key,
    sampler: Sampler[StateT, InfoT, TuningT],
    params: Params,
    positions: Position | Shard,
    *,
    num_samples: int,
    num_burn_in: int = 0,
    thin: int = 1,
    tuning: Tree | Callable[[Tensor], Tree] | None = None,
    collect: Callable[[Any, Any], Tree] | None = None,
    reduce: Reducer | dict[str, Reducer] | None = None,
    jit: bool | None = None,
    progress: bool = False,
    chunk_size: int | None = None,
    mesh: Mesh | None = None,
    gather: str = "summary",
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 1000,
) -> Samples[StateT, InfoT]:
    """Runs a sampler on many chains.

    Args:
        key: ``(2,)``.
        sampler: the kernel. One built again from the same code and constants does not recompile.
        params: the parameters of its energy; data may be among them: then all data of one shape share one program.
        positions: where the chains start; every leaf leads with the chain axis ``C``.
        num_samples: ``N``, the draws kept of each chain.
        num_burn_in: steps before the first draw.
        thin: steps for each draw.
        tuning: the tuning of the sampler, ``sampler.tuning`` by default, or a function from the step index ``()`` (burn-in
            included) to them.
        collect: ``(state, info) -> tree``, what is kept at each draw; by default the position. ``()`` keeps nothing.
        reduce: a streaming :class:`~funcebm.chains.reducers.Reducer` of what ``collect`` gives, or a dict of them; then no
            draws are kept and memory does not grow with ``num_samples``.
        jit: compile. With None a run is compiled where that pays, from 2,000 steps on, of which one of a sampler with a loop in
            it counts as more (HMC with ten leapfrog steps as 4, NUTS as 10). With ``jit=False`` this is a pure function, which
            can be used inside ``vmap`` and ``grad``.
        progress: show a bar (tqdm). Ctrl-C then, as always, ends the run and returns what is finished; in the burn-in that is
            a state without draws, and ``resume`` goes through the rest of the burn-in first.
        chunk_size: at most this many draws in one call, after which Ctrl-C is heard; it changes speed and memory only. By
            default a call of an eager run takes a quarter of a second.
        mesh: from :func:`funcebm.distributed.mesh`: the chains are shared out over its ranks, each of which makes this call with
            the same arguments (or with ``mesh.shard(rows)`` as positions). Chain ``c`` is the same whoever runs it. Nothing is
            sent while chains run; an error, or Ctrl-C, on one rank is one on all.
        gather: what ranks tell each other at the end. ``"summary"``: all get the results of ``reduce``, ``(C, ...)``; draws
            stay where they were made (``mesh.gather(samples.draws)`` has all of them). ``"draws"``: the first rank gets all
            draws. ``"none"``: nothing. ``"files"``: each rank writes its draws into the folder ``checkpoint``, and keeps none;
            :func:`funcebm.distributed.draws_of` reads them.
        checkpoint: a file in which the run is saved, with :func:`funcebm.save`, after each ``checkpoint_every`` draws, after as
            many steps of the burn-in, and at the end; ``resume(load(path, sampler), num_samples=...)`` makes the draws that are
            missing, bit for bit. With several ranks a folder: see :func:`funcebm.distributed.load`.
        checkpoint_every: draws.

    Returns:
        :class:`Samples`.

    Raises:
        ValueError: a bad count or shape, trees that do not fit, an energy that is not finite at the start; on ranks, arguments
            that differ between them, or draws that would not fit into ``mesh.memory``.
        TypeError: positions that are not floating point where the sampler needs a gradient.

    >>> from funcebm import random, samplers
    >>> sampler = samplers.mala(lambda params, x: (x**2).sum() / 2, step_size=0.5)
    >>> samples = sample(random.key(0), sampler, (), torch.zeros(3, 2), num_samples=5, jit=False)
    >>> samples.draws.shape
    torch.Size([3, 5, 2])
    """

    def given() -> dict[str, Tree]:
        random.check_key(key)
        checks.positive_int("num_samples", num_samples)
        checks.positive_int("num_burn_in", num_burn_in, minimum=0)
        checks.positive_int("thin", thin)
        if checkpoint is not None or gather == "files":
            checks.positive_int("checkpoint_every", checkpoint_every)
        if chunk_size is not None:
            checks.positive_int("chunk_size", chunk_size)
        _checks.is_sampler(sampler)
        _checks.params(params)
        _checks.reducer(reduce)
        numbers = sampler.tuning if tuning is None else tuning
        counts, files = (num_samples, num_burn_in, thin), (checkpoint is None, checkpoint_every)
        same = {"counts": counts, "gather": gather, "checkpoint": files, "reduce": reduce is None}
        same["sampler"] = kernel_of(sampler)
        return {"key": key, "params": params, "tuning": numbers, **same}

    policy = "summary" if gather == "files" else gather
    positions, place = _ranks.enter(mesh, policy, positions, given, sampler)
    tuning = sampler.tuning if tuning is None else tuning
    is_long = is_worth_it(jit, num_burn_in + num_samples * thin, weight_of(sampler)) and (
        jit or not checks.is_traced((key, positions))
    )
    jit = bool(is_long) and not loops.is_compiling()  # a compiled function is compiled whole
    with together(place.mesh):
        if not loops.is_compiling():  # the checks are for a person, the compiler cannot follow their messages
            _checks.outermost(jit, (key, params, positions, () if callable(tuning) else tuning))
            params = _checks.no_graph(params, jit)
            positions = _checks.no_graph(positions, jit, "positions")
            checks.same_device(params=params, positions=positions)
            if tuning is not sampler.tuning:
                like = positions if sampler.bijection is None else vmap(sampler.bijection.inverse)(positions)
                _checks.tuning(tuning, sampler.tuning, tree.map(lambda leaf: leaf[0], like))
            if reduce is None and collect is None:
                _ranks.check_memory(place, num_samples if checkpoint is None else checkpoint_every, positions)
        like = _checks.float_leaf(positions)
        tuning = tuning if callable(tuning) else tree.cast_like(tuning, like)

        with _gradients(jit):
            chain_keys = random.split(key.to(like.device), tree.batch_size(positions), start=place.first)
            reducer = reducers.combine(reduce) if isinstance(reduce, dict) else reduce
            collect = collect_position if collect is None else collect
            run = Run(
                chain_keys=chain_keys,
                sampler=sampler,
                params=params,
                tuning=tuning,
                accumulator=(),
                num_steps=0,
                thin=thin,
                collect=collect,
                reducer=reducer,
                jit=jit,
                progress=progress and place.mesh.rank == 0,
                chunk_size=chunk_size,
                place=place,
                num_burn_in=num_burn_in,
            )
            run, chains = start(run, positions)
    if checkpoint is None and gather != "files":
        with _gradients(jit):
            return finish(run, chains, num_samples)
    begun = begin(run, chains)
    if checkpoint is None or gather == "files" or place.mesh.size > 1:
        return in_folder(begun, _go_on, num_samples, checkpoint, checkpoint_every, gather)
    return in_file(begun, _go_on, num_samples, checkpoint, checkpoint_every)


def resume(
    samples: Samples[StateT, InfoT],
    *,
    num_samples: int,
    sampler: Sampler | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 1000,
) -> Samples[StateT, InfoT]:
    """Continues where a run ended, bit for bit as if it had not been cut.

    Args:
        samples: from :func:`sample` or :func:`resume`.
        num_samples: how many draws more.
        sampler: of samples that were pickled, which keep no functions: built as it was for that run.
        checkpoint: a file in which the run, the draws of ``samples`` included, is saved as :func:`sample` does. With several
            ranks a folder: that of this run, which then has all its draws, or one without a run.
        checkpoint_every: draws.

    Returns:
        :class:`Samples` with the new draws; what ``reduce`` gives covers the whole run.

    Raises:
        ValueError: a count below 1, pickled samples without a sampler, a folder of another run, or samples that were made
            inside of a transform or a compiled function.
        TypeError: something that is not a sampler.

    >>> from funcebm import random, samplers
    >>> sampler = samplers.mala(lambda params, x: (x**2).sum() / 2, step_size=0.5)
    >>> first = sample(random.key(0), sampler, (), torch.zeros(3, 2), num_samples=5, jit=False)
    >>> resume(first, num_samples=2).draws.shape
    torch.Size([3, 2, 2])
    """
    mesh = samples.run.place.mesh if isinstance(samples, Samples) and isinstance(samples.run, Run) else single
    with together(mesh):
        samples = _resumable(samples, num_samples, sampler, None if checkpoint is None else checkpoint_every)
    run: Any = samples.run
    check_same(mesh, {"counts": (num_samples, run.num_steps, run.num_burn_in)})
    if checkpoint is None:
        return _go_on(samples, num_samples)
    if mesh.size > 1 or run.place.policy == "files" or os.path.isdir(checkpoint):
        options: Any = {"gather": run.place.policy, "is_new": False}
        return in_folder(samples, _go_on, num_samples, checkpoint, checkpoint_every, **options)
    return in_file(samples, _go_on, num_samples, checkpoint, checkpoint_every)


def _resumable(samples: Samples, num_samples: int, sampler: Sampler | None, every: int | None) -> Samples:
    """What can be gone on with, with its sampler; after the checks at the door."""
    checks.positive_int("num_samples", num_samples)
    if every is not None:
        checks.positive_int("checkpoint_every", every)
    fix = "Pass all that funcebm.sample, funcebm.resume or funcebm.load returned."
    checks.require(isinstance(samples, Samples), "resume takes Samples", type(samples).__name__, fix, TypeError)
    if not isinstance(samples.run, Run):
        fix = (
            "Call funcebm.sample outside of vmap, grad and jit, and resume what it returns; keep runs by funcebm.save."
        )
        got = "samples of a transform, or of a pickle of a run with a schedule, collect or reduce"
        raise ValueError(checks.message("samples must hold what a run needs to go on", got, fix))
    if sampler is not None:
        _checks.is_sampler(sampler)
        own: Any = samples.run.sampler  # of a pickle its name
        same_kernel(sampler, own if isinstance(own, str) else kernel_of(own) if own else "", "that run")
        samples = samples._replace(run=samples.run._replace(sampler=sampler))
    run: Any = samples.run
    must, fix = "samples must have their sampler", "Call resume(samples, num_samples=..., sampler=sampler)."
    checks.require(isinstance(run.sampler, Sampler), must, "samples of a pickle, which keeps no functions", fix)
    return samples


def _go_on(samples: Samples, num_samples: int, most: int | None = None) -> Samples:
    """The rest of the burn-in, at most so many steps of it, and then draws."""
    run: Any = samples.run
    state = run.place.spare if tree.leaves(run.place.spare) else samples.state
    _ranks.begin_run(run.place.mesh)
    with _gradients(run.jit):
        return finish(run, go_on(run, state), num_samples, most)


def _gradients(jit: bool) -> contextlib.AbstractContextManager[Any]:
    """Compiled runs keep no graph of derivatives; the others are pure functions, through which ``grad`` goes."""
    return torch.no_grad() if jit else contextlib.nullcontext()
