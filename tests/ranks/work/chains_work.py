"""Chains over ranks."""

from __future__ import annotations

import os
import signal
import threading
import time

import torch

import funcebm as ebm
from funcebm import distributed, random, samplers
from funcebm.distributed.agreement import digest
from tests.ranks.work.common import KEY, energy


def draws(mesh, num_chains, jit=False, gather="summary", num_samples=6, size=4):
    """All draws of a run that is cut once, as one process would give them; what reducers gave; and bytes sent."""
    positions = random.normal(random.key(1), (num_chains, size))
    sampler = samplers.hmc(energy, step_size=0.2, num_leapfrog=4)
    options = {"num_burn_in": 3, "jit": jit, "mesh": mesh, "gather": gather}
    before = distributed.num_bytes_sent()
    first = ebm.sample(KEY, sampler, torch.tensor(0.5), positions, num_samples=num_samples, **options)
    sent = distributed.num_bytes_sent() - before
    second = ebm.resume(first, num_samples=2)
    reduce = {"each": ebm.reducers.variance(), "all": ebm.reducers.variance(across_chains=True)}
    reduced = ebm.sample(KEY, sampler, torch.tensor(0.5), positions, num_samples=8, reduce=reduce, **options)
    own = torch.cat([first.draws, second.draws], 1)
    return {
        "draws": own if gather == "draws" else mesh.gather(own),
        "chains": first.chains,
        "sent": sent,
        "info": reduced.info.acceptance_rate,
        "each": reduced.reduced["each"]["variance"],
        "all": reduced.reduced["all"]["variance"],
    }


def shard(mesh, num_chains):
    """Rows that only this rank has."""
    positions = random.normal(random.key(1), (num_chains, 4))
    first = 0 if mesh.rank == 0 else num_chains - 2
    rows = positions[first : num_chains - 2] if mesh.rank == 0 else positions[first:]
    sampler = samplers.mala(energy, step_size=0.1)
    options = {"num_samples": 3, "jit": False, "mesh": mesh}
    whole = ebm.sample(KEY, sampler, torch.tensor(0.5), positions, **options)
    parts = ebm.sample(KEY, sampler, torch.tensor(0.5), mesh.shard(rows), **options)
    return parts.chains, torch.equal(mesh.gather(parts.draws), mesh.gather(whole.draws))


def refused(mesh, what):
    """What ranks say of arguments that do not fit together; the seconds it took."""
    positions = random.normal(random.key(1), (5, 2))
    params, options, start = torch.tensor(0.5), {"num_samples": 2}, time.monotonic()
    if what == "params":
        params = params + mesh.rank
    elif what == "positions":
        positions = positions + mesh.rank
    elif what == "shard on one rank":
        positions = mesh.shard(positions) if mesh.rank else positions
    elif what == "start":
        positions[3] = torch.nan
    elif what == "counts":
        options = {"num_samples": 2 + mesh.rank}
    elif what == "one bad rank":
        options = {"num_samples": 2, "gather": "everything" if mesh.rank else "summary"}
    elif what == "memory":
        mesh = mesh._replace(memory=30)
    try:
        ebm.sample(KEY, samplers.mala(energy), params, positions, mesh=mesh, jit=False, **options)
    except ValueError as error:
        return str(error), time.monotonic() - start
    return "", 0.0


def interrupted(mesh, rank, delay=0.5):
    """SIGINT to one rank in the middle of a run; what all of them return, against a run that is not interrupted."""
    positions = random.normal(random.key(1), (6, 2))
    sampler = samplers.mala(energy, step_size=0.1)
    options = {"jit": False, "mesh": mesh, "chunk_size": 20}
    ebm.sample(
        KEY, sampler, torch.tensor(0.5), positions, num_samples=2, **options
    )  # torch imports parts of itself late
    if mesh.rank == rank:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have told its children to ignore it
        timer = threading.Timer(delay, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
    start = time.monotonic()
    samples = ebm.sample(KEY, sampler, torch.tensor(0.5), positions, num_samples=10**6, **options)
    seconds, num = time.monotonic() - start, samples.draws.shape[1]
    more = ebm.resume(samples, num_samples=2)
    whole = ebm.sample(KEY, sampler, torch.tensor(0.5), positions, num_samples=num + 2, **options)
    both = torch.cat([samples.draws, more.draws], 1)
    return num, seconds, samples.is_complete, torch.equal(both, whole.draws)


def fails_later(mesh, rank):
    """An error of one rank in the middle of a run."""

    def fragile(params, x):
        return energy(params, x)

    sampler = samplers.mala(fragile, step_size=0.1)
    calls = []

    def collect(state, info):
        calls.append(0)
        if mesh.rank == rank and len(calls) > 50:
            raise LookupError("the disk is full")
        return state.position

    start = time.monotonic()
    try:
        positions = random.normal(random.key(1), (6, 2))
        ebm.sample(
            KEY, sampler, torch.tensor(0.5), positions, num_samples=2000, collect=collect, chunk_size=20, mesh=mesh, jit=False
        )  # fmt: skip
    except LookupError as error:
        return str(error), time.monotonic() - start
    return "", 0.0


def name(mesh, value):
    return digest(value)


def reduced_of_all(mesh, num_chains):
    """Statistics of all chains of all ranks, by name."""
    positions = random.normal(random.key(1), (num_chains, 4)).double()
    sampler = samplers.hmc(energy, step_size=0.2, num_leapfrog=4)
    reduce = {
        "convergence": ebm.reducers.convergence(num_samples=20, max_lag=20),
        "mean": ebm.reducers.mean(across_chains=True),
        "covariance": ebm.reducers.covariance(across_chains=True),
    }
    params = torch.tensor(0.5, dtype=torch.float64)
    return ebm.sample(
        KEY, sampler, params, positions, num_samples=20, reduce=reduce, jit=False, mesh=mesh, gather="summary"
    ).reduced


def in_files(mesh, path, num_chains, gather):
    """A run whose ranks write their draws."""
    positions = {"x": random.normal(random.key(1), (num_chains, 4))}
    sampler = samplers.mala(lambda params, x: energy(params, x["x"]), step_size=0.1)
    options = {"num_burn_in": 5, "jit": False, "mesh": mesh, "num_samples": 7, "checkpoint_every": 3}
    return ebm.sample(KEY, sampler, torch.tensor(0.5), positions, gather=gather, checkpoint=path, **options)[:4]


def no_folder(mesh):
    try:
        ebm.sample(
            KEY, samplers.mala(energy), torch.tensor(0.5), torch.zeros(4, 2), num_samples=1, gather="files", mesh=mesh
        )
    except ValueError as error:
        return str(error)
    return ""


def another_size(mesh, rank):
    """A mesh that one rank, or all of them, took for another; what they say, how long it took."""
    ours = distributed.mesh()
    given = ours._replace(size=3) if rank in (None, mesh.rank) else ours
    start = time.monotonic()
    try:
        ebm.sample(
            KEY, samplers.mala(energy), torch.tensor(0.5), torch.ones(6, 2), num_samples=2, jit=False, mesh=given
        )
    except (ValueError, distributed.RankError) as error:
        return str(error), time.monotonic() - start
    return "", 0.0
