"""``warm_up``: runs a sampler while an adaptation tunes it, from all chains together."""

from __future__ import annotations

import contextlib
import os
from functools import partial
from typing import Any, Callable

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, loops, random, tree
from .._chunks import drive, make_loop, until_interrupted, weight_of
from .._progress import progress_bar
from ..chains import _checks
from ..chains._loop import (
    LANES,
    chain_axis,
    chains_first,
    chunks,
    compiled_part,
    draw_inside,
    kernel_of,
    name_of,
    over_chains,
    to_inside,
)
from ..chains._ranks import enter_whole
from ..distributed.agreement import failing_together, patient, together
from ..distributed.mesh import Mesh, Shard, single
from ..distributed.pool import Pool, make_pool
from ..transforms import explained, is_worth_it
from ..types import Adaptation, Key, NamedTuple, Params, Position, Sampler, Tree, TuningT, step_of_chains
from ._checkpoint import Checkpoint, Where, open_checkpoint
from ._ranks import over_ranks, takes_pool, with_pool
from .default import default
from .report import LATE, STUCK, Report, WarmUp

__all__ = ["warm_up"]

_LEAST_PART = 10  # steps, after which it is known whether a chain moves
_RESTART = 2**20  # of keys, beyond those of windows
_NO_TRACE = tuple(torch.zeros(0) for _ in range(5))
_MOST = 4096  # chains whose energies are compared


def warm_up(
    key: Key,
    sampler: Sampler[Any, Any, TuningT],
    params: Params,
    positions: Position | Shard,
    *,
    num_steps: int,
    adaptation: Adaptation | None = None,
    jit: bool | None = None,
    progress: bool = False,
    mesh: Mesh | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 100,
) -> WarmUp[TuningT]:
    """Moves chains towards the bulk of the density, and finds good numbers for the sampler on the way.

    The chains are independent copies of one kernel, so they are tuned together: acceptance rates and covariances are over
    all of them. Draw with what comes back: ``sample(key, sampler, params, positions, tuning=tuning, ...)``.

    Args:
        key: ``(2,)``.
        sampler: the kernel; its ``tuning`` is where the adaptation begins.
        params: the parameters of its energy.
        positions: where the chains start; every leaf leads with the chain axis ``C``.
        num_steps: steps of the warm-up, of each chain.
        adaptation: how; by default what suits the sampler, :func:`funcebm.adaptation.default`.
        jit: compile; None decides as for :func:`funcebm.sample`. With ``jit=False`` this is a pure function, which can be used
            inside ``vmap`` over params, keys, starts or the tuning of the sampler: many energies are warmed up at once, each as
            it would be alone, and ``funcebm.jit`` compiles the whole.
        progress: show a bar (tqdm). Ctrl-C ends the warm-up, which gives back what it has found, and says so in the report.
        mesh: from :func:`funcebm.distributed.mesh`: each rank steps its share of the chains, and the adaptation sees all of them
            through a :class:`funcebm.distributed.Pool`. What is tuned from them, and what comes back, is the same on all ranks
            and as in one process, bit for bit.
        checkpoint: a file in which the warm-up writes where it is, after each ``checkpoint_every`` steps, at Ctrl-C and at the
            end. The same call goes on from there, bit for bit, in another process too; one with other arguments refuses the file
            (functions are in none: energy and adaptation are taken as they come). With several ranks a folder, for as many ranks.
        checkpoint_every: steps.

    Returns:
        :class:`WarmUp`: ``(positions, tuning, report)``; positions are those of all chains.

    Raises:
        ValueError: a bad count or shape, an energy that is not finite at the start, an adaptation for another sampler, the
            checkpoint of another warm-up.
        TypeError: an adaptation that is not one, positions that are not floating point.

    >>> from funcebm import samplers
    >>> sampler = samplers.mala(lambda params, x: (x**2 / torch.tensor([1.0, 9.0])).sum() / 2)
    >>> starts = random.normal(random.key(0), (16, 2))
    >>> positions, tuning, report = warm_up(random.key(1), sampler, (), starts, num_steps=200, jit=False)
    >>> bool(tuning.step_size > 0.1)
    True
    """
    mesh = single if mesh is None else mesh

    def given() -> dict[str, Tree]:
        random.check_key(key)
        checks.positive_int("num_steps", num_steps)
        _checks.is_sampler(sampler)
        fix = "Make one with funcebm.adaptation, for example window_adaptation(), or leave it out."
        is_one = adaptation is None or isinstance(adaptation, Adaptation)
        checks.require(is_one, "adaptation must be an Adaptation", adaptation, fix, error=TypeError)
        same: dict[str, Tree] = {
            "num_steps": num_steps,
            "jit": jit,
            "checkpoint": (checkpoint is None, checkpoint_every),
        }
        same |= {"adaptation": () if adaptation is None else adaptation, "sampler": kernel_of(sampler)}
        return {"key": key, "params": params, "tuning": sampler.tuning, **same}

    with failing_together(mesh):
        starts = enter_whole(mesh, positions, given)
        saved = (checkpoint, checkpoint_every)
        return _warm_up(key, sampler, params, starts, num_steps, adaptation, jit, progress, mesh, saved)


def _warm_up(
    key: Key,
    sampler: Sampler,
    params: Params,
    positions: Position,
    num_steps: int,
    adaptation: Adaptation | None,
    jit: bool | None,
    progress: bool,
    mesh: Mesh,
    saved: tuple[str | os.PathLike[str] | None, int],
) -> WarmUp:
    is_long = is_worth_it(jit, num_steps, weight_of(sampler)) and (jit or not checks.is_traced((key, positions)))
    jit = bool(is_long) and not loops.is_compiling()
    like = tree.first(positions)
    if not loops.is_compiling():
        _checks.outermost(jit, (key, params, positions))
        params = _checks.no_graph(params, jit)
        positions = _checks.no_graph(positions, jit, "positions")
        checks.same_device(params=params, positions=positions)
    if sampler.unconstrained is not None:
        free = sampler.unconstrained._replace(tuning=sampler.tuning)
        starts = _checks.free_positions(sampler.bijection, positions)
        result = _warm_up(key, free, params, starts, num_steps, adaptation, jit, progress, mesh, saved)
        report = result.report._replace(sampler=_letters(kernel_of(sampler), like))
        return result._replace(positions=vmap(sampler.bijection.forward)(result.positions), report=report)
    if adaptation is None:
        adaptation = default(sampler, tree.batch_size(positions))
    checkpoint = None
    if saved[0] is not None:
        is_inside = loops.is_compiling() or checks.is_traced((key, positions))
        must, fix = (
            "a warm-up with a checkpoint must not be inside of a transform",
            "Call it outside of vmap, grad and jit.",
        )
        checks.require(not is_inside, must, "one that is", fix)
        given = {"key": key, "params": params, "positions": positions, "tuning": sampler.tuning, "num_steps": num_steps}
        given["sampler"] = kernel_of(sampler)
        checkpoint = open_checkpoint(saved[0], saved[1], mesh, {**given, "jit": jit})
    windows = (num_steps,) if adaptation.windows is None else adaptation.windows(num_steps)

    sampler = sampler._replace(tuning=tree.cast_like(sampler.tuning, like))
    key_chains, key_adapt = random.split(key.to(like.device))
    with torch.no_grad() if jit else contextlib.nullcontext():
        is_pooled = takes_pool(adaptation)
        width = LANES if jit and like.device.type == "cpu" else 1
        options: Any = {"device": like.device, "width": width}
        pool = make_pool(tree.batch_size(positions), mesh if is_pooled else single, **options)
        positions, chain_keys = pool.take(positions), pool.split(key_chains)
        with together(mesh):
            with explained(jit):
                state = vmap(sampler.init, (None, 0))(params, tree.map(torch.clone, positions))
            _checks.start(state, partial(sampler.init, params), positions, pool.first)
        stepping, searching = sampler, sampler
        if is_pooled:
            adaptation = with_pool(adaptation, pool)
        elif mesh.size > 1:
            stepping, searching = (over_ranks(sampler, mesh, flag) for flag in (adaptation.is_per_chain, False))
            adaptation = adaptation._replace(is_per_chain=False)
        memory = adaptation.init(random.fold_in(key_adapt, 0), searching, params, state)
        run = _Run(adaptation, stepping, searching, pool, mesh, params, chain_keys, key_adapt, windows, jit, checkpoint)
        with progress_bar(num_steps, "warming up", progress and mesh.rank == 0) as bar:
            return _steps(run, state, memory, bar)


class _Run(NamedTuple):
    """What all steps of a warm-up have; an adaptation that searches for numbers steps with a sampler of its own."""

    adaptation: Adaptation
    sampler: Sampler
    searching: Sampler
    pool: Pool
    mesh: Mesh
    params: Params
    chain_keys: Key
    key_adapt: Key
    windows: tuple[int, ...]
    jit: bool
    checkpoint: Checkpoint | None


def _steps(run: _Run, state: Any, memory: Any, bar: Any) -> WarmUp:
    """The steps of all windows, each cut where chains may restart."""
    adaptation, pool, chain_keys, num_steps = run.adaptation, run.pool, run.chain_keys, sum(run.windows)
    restarts = {num_steps * part // 4 for part in (1, 2, 3)} if num_steps >= 4 * _LEAST_PART else set()
    axis, num_chains = chain_axis(state.position), tree.batch_size(state.position)
    body = make_body(compiled_part(run.sampler), adaptation.update, adaptation.is_per_chain, axis)
    name = f"the warm-up of {name_of(run.sampler)}, {num_chains} chains, its state"
    loop = make_loop(body, draw_inside(run.sampler, axis), jit=run.jit, name=name)
    late = torch.zeros(3, num_chains, device=chain_keys.device)
    start_of_late = num_steps - max(round(LATE * num_steps), 1)

    def is_late(indices: Tensor) -> Tensor:
        return (indices >= start_of_late).to(late.dtype)

    where, begun = Where(), 0
    carry: Any = (to_inside(state, axis), memory, late)
    traces: list[Tree] = []
    if run.checkpoint is not None:
        found = run.checkpoint.load(carry, _NO_TRACE)
        if found is not None:
            where, carry, trace = found
            traces = [trace]
            bar.update(where.done)
    done, last_restart, first_window = where.done, where.last_restart, where.window
    kept: Any = (where, carry, len(traces))  # where the last chunk ended
    # what a transform runs cannot say that it was cut short
    is_on = not checks.is_traced((chain_keys, state))
    with until_interrupted(is_on=is_on), patient(run.mesh) as is_interrupted:
        for index, length in enumerate(run.windows):
            start_of_window = sum(run.windows[:index])
            begun, end_of_window = start_of_window if length > 0 else begun, start_of_window + length
            if index < first_window:
                continue
            if index > first_window or done == 0:
                inside, memory, late = carry
                state = chains_first(inside, axis)
                if index > 0 and adaptation.refresh is not None:
                    key = random.fold_in(run.key_adapt, index)
                    memory = adaptation.refresh(key, run.searching, run.params, memory, state)
                # leaves of their own: compiled code is made for what is one tensor and what are two
                carry = (to_inside(state, axis), tree.map(torch.clone, memory), late)
            places = {end_of_window, *(place for place in restarts if place < end_of_window)}
            if run.checkpoint is not None:
                places.update(range(0, end_of_window, run.checkpoint.every))
            for end in sorted(place for place in places if place > done):
                if done in restarts:
                    inside, memory, late = carry
                    key = random.fold_in(run.key_adapt, _RESTART + done)
                    state, rate = pool.gather((chains_first(inside, axis), late[2] / (done - last_restart)))
                    state = pool.take(_restarted(key, state, rate))
                    last_restart = done
                    carry = (to_inside(state, axis), memory, torch.cat([late[:2], torch.zeros_like(late[2:])]))
                options: Any = {"first": done, "like": chain_keys, "given": is_late, "bar": bar}
                sizes = chunks(state.position, end - done, jit=run.jit or run.mesh.size > 1)  # equal on all ranks
                for carry, trace, size in drive(loop, (run.params, chain_keys), carry, sizes, **options):  # noqa: B020
                    traces.append(_of_all(trace, pool))
                    done += size
                    kept = (Where(done, index, last_restart), carry, len(traces))
                    if run.mesh.size > 1 and is_interrupted():
                        raise KeyboardInterrupt
                if run.checkpoint is not None and (done % run.checkpoint.every == 0 or done == num_steps):
                    where = _saved(run.checkpoint, kept, traces)
    if run.checkpoint is not None and kept[0].done > where.done:  # an interrupt
        _saved(run.checkpoint, kept, traces)
    if not traces:
        raise KeyboardInterrupt
    inside, memory, late = carry
    positions, late = pool.gather((chains_first(inside, axis).position, late.mT))
    late, tuning = late.mT, adaptation.final(memory)
    rate, acceptance, divergent, gradients, energy = _joined(traces)
    report = Report(
        step_size=rate,
        acceptance_rate=acceptance,
        num_divergent=divergent,
        num_gradients=gradients,
        late_acceptance_rate=(
            late[0] / (done - start_of_late) if done > start_of_late else late[2] / (done - last_restart)
        ),
        late_divergent=late[1],
        final_step_size=getattr(tuning, "step_size", rate[-1]).mean(),
        num_last=torch.full((), done - begun, device=chain_keys.device),
        energy=energy,
        is_complete=torch.full((), done == num_steps, device=chain_keys.device),
        sampler=_letters(kernel_of(run.sampler), chain_keys),
    )
    return WarmUp(positions, tuning, report)


def _letters(name: str, like: Tensor) -> Tensor:
    return torch.tensor(list(name.encode()), dtype=torch.uint8, device=like.device)


def _joined(traces: list[Tree]) -> Tree:
    return tree.map(lambda *leaves: torch.cat(leaves), *traces)


def _saved(checkpoint: Checkpoint, kept: tuple[Where, Tree, int], traces: list[Tree]) -> Where:
    """Writes where the last chunk ended, which is what comes back."""
    where, carry, num_chunks = kept
    checkpoint.save(where, carry, _joined(traces[:num_chunks]))
    return where


def _of_all(trace: Tree, pool: Pool) -> Tree:
    """What a chunk of steps emitted for each chain, ``(n, C)``, over all chains, ``(n,)``; ``trace`` is like that of the body."""
    used, *counted, energy = (leaf if leaf.ndim == 1 else leaf.mT for leaf in trace)  # one step size may be for all
    means = pool.mean([counted[0], *([used] if used.ndim > 1 else [])])
    sums = pool.sum([leaf.to(torch.int64) for leaf in counted[1:]])
    is_large = pool.count > _MOST
    energy = pool.join(pool.blocks(energy).nanmedian(1).values) if is_large else pool.gather(energy)
    return (means[1] if used.ndim > 1 else used, means[0], *sums, energy.median(0).values)


def _restarted(key: Key, state: Any, rate: Tensor) -> Any:
    """The states of all chains, with those that did not move in the place of none: each takes the state of one that moved."""
    moved = rate >= STUCK
    num_chains = rate.shape[0]
    rank = random.uniform(key, (num_chains, num_chains), dtype=torch.float32)
    other = torch.where(moved, rank, -1.0).argmax(1)
    index = torch.where(moved | ~moved.any(), torch.arange(num_chains, device=rate.device), other)
    return tree.map(lambda leaf: leaf[index], state)


def make_body(
    sampler: Sampler, update: Callable[[Any, Any, Any], Any], is_per_chain: bool, axis: int
) -> Callable[..., Any]:
    """The iteration that a warm-up repeats: ``(shared, carry, x) -> (carry, trace)``.

    ``shared`` are the params and the keys of the chains; the carry is ``(state, memory, late)``; ``x`` is the index of the step,
    whether it is a late one, 0 or 1, and its noise, ``()`` where it is to be drawn here.
    """
    step = vmap(sampler.step, (None, 0, 0, 0)) if is_per_chain else step_of_chains(sampler)
    step, draw = over_chains(step, axis, num_shared=2), draw_inside(sampler, axis)

    def body(shared: Tree, carry: Tree, x: Tree) -> tuple[Tree, Tree]:
        state, memory, late = carry
        index, is_late, noise = x
        noise = noise if tree.leaves(noise) else draw(shared, carry, index)
        state, info = step(shared[0], memory.tuning, state, noise)
        info = chains_first(info, axis)
        used = getattr(memory.tuning, "step_size", info.energy.new_zeros(()))
        trace = (used, info.acceptance_rate, info.is_divergent.to(torch.int32), info.num_gradients, info.energy)
        seen = torch.stack([info.acceptance_rate.to(late.dtype), info.is_divergent.to(late.dtype)])
        seen_state = chains_first(state, axis)
        if (
            not loops.is_compiling()
        ):  # sums over chains go by the order of memory, which must not depend on who made them
            seen_state = tree.map(torch.Tensor.contiguous, seen_state)
        memory = update(memory, seen_state, info)
        late = late + torch.cat([is_late * seen, seen[:1]])
        return (state, memory, late), trace

    return body
