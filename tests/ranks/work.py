"""What the ranks of the tests run, by name."""

from __future__ import annotations

import os
import signal
import threading
import time

import torch
from torch.func import grad, vmap

import funcebm as ebm
from funcebm import distributed, random, samplers
from funcebm.distributed.agreement import digest

KEY = random.key(0)


def energy(params, x):
    """Not Gaussian, and without a product of matrices."""
    return params * (x**2).sum() / 2 + torch.cos(3 * x).sum() / 3


def network(params, x):
    return (x**2).sum() / 2 + torch.tanh(torch.nn.functional.silu(x @ params)).sum() / 10


# -- the mesh -----------------------------------------------------------------------------------------------------


def collect(mesh):
    x = torch.arange(10.0).reshape(5, 2)
    mixed = {"a": x.double() / 3, "b": torch.arange(5) - 2**40, "c": torch.arange(5) > 2, "d": x.half(), "e": -x}
    back = mesh.gather(mesh.take(mixed))
    return {
        "gather": torch.equal(mesh.gather(mesh.take(x)), x),
        "mixed": all(torch.equal(back[name], mixed[name]) for name in mixed),
        "sum": float(mesh.sum(torch.tensor(mesh.rank + 1.0))),
        "large sum": float(mesh.sum(torch.full((2**19,), mesh.rank + 1.0))[-1]),
        "vmap": torch.equal(vmap(mesh.sum)(x), mesh.size * x),
        "vmap twice": torch.equal(vmap(vmap(mesh.sum, 1), 0)(x[None])[0].T, mesh.size * x),
        "vmap gather": vmap(mesh.gather, 1, 1)(x).shape == (5 * mesh.size, 2),
        "agree": (mesh.agree(mesh.rank == mesh.size - 1), mesh.agree(False)),
    }


def differentiate(mesh, mapped):
    function = grad(lambda x: mesh.sum(x * x).sum())
    try:
        (vmap(function) if mapped else function)(torch.ones(3, 2))
    except RuntimeError as error:
        return str(error)
    return ""


def axes(mesh):
    both = distributed.mesh(chains=1, rungs=mesh.size)
    lines = {name: (axis.rank, axis.size, float(axis.sum(torch.tensor(1.0)))) for name, axis in both.axes.items()}
    try:
        distributed.mesh(chains=mesh.size + 1)
    except ValueError as error:
        return lines, str(error)
    return lines, ""


def scan(mesh):
    """A sum over ranks in each iteration of a loop, eager and compiled."""

    def body(carry, x):
        both = mesh.sum({"a": carry * x, "n": torch.ones((), dtype=torch.int64), "d": x.double()})
        return carry + both["a"] / 10 + both["d"].float(), both["n"]

    def run(carry, xs):
        return ebm.loops.scan(body, carry, xs)

    arguments = (torch.ones(3), torch.linspace(0, 1, 20))
    return run(*arguments), ebm.jit(run)(*arguments)


# -- chains -------------------------------------------------------------------------------------------------------


def draws(mesh, num_chains, jit=False, gather="summary", num_samples=6):
    """All draws of a run that is cut once, as one process would give them; what reducers gave; and bytes sent."""
    positions = random.normal(random.key(1), (num_chains, 4))
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


def interrupted(mesh, rank):
    """SIGINT to one rank in the middle of a run; what all of them return, against a run that is not interrupted."""
    positions = random.normal(random.key(1), (6, 2))
    sampler = samplers.mala(energy, step_size=0.1)
    options = {"jit": False, "mesh": mesh, "chunk_size": 20}
    if mesh.rank == rank:
        timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
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


# -- adaptation ---------------------------------------------------------------------------------------------------


def sampler_of(which):
    """A sampler, and an adaptation that sees all chains."""
    adaptation = ebm.adaptation
    return {
        "chees": (samplers.dynamic_hmc(energy), adaptation.chees()),
        "meads": (samplers.ghmc(energy), adaptation.meads()),
        "window": (samplers.hmc(energy, step_size=0.2, num_leapfrog=3), adaptation.window_adaptation()),
        "dense": (samplers.nuts(energy), adaptation.window_adaptation(metric="dense", average="harmonic")),
        "mclmc": (samplers.mclmc(energy), adaptation.mclmc_adaptation()),
        "langevin": (samplers.langevin(energy), adaptation.window_adaptation()),
        "mala": (samplers.mala(energy), adaptation.window_adaptation()),
    }[which]


def warm_up(mesh, which, num_chains=20, num_steps=40, jit=False, is_shard=False, is_alone=False):
    """What a warm-up finds, and how many bytes each step sends; ``is_alone`` makes it in a group of one rank."""
    mesh = distributed.mesh(chains=mesh.size, alone=1).axes["alone"] if is_alone else mesh
    sampler, adaptation = sampler_of(which)
    positions = random.normal(random.key(1), (num_chains, 3)) * torch.tensor([0.3, 1.0, 3.0])
    before = distributed.num_bytes_sent()
    options = {"num_steps": num_steps, "adaptation": adaptation, "jit": jit, "mesh": mesh}
    given = mesh.shard(mesh.take(positions)) if is_shard else positions
    found = ebm.warm_up(KEY, sampler, torch.tensor(0.5), given, **options)
    sent = (distributed.num_bytes_sent() - before) / num_steps
    return found.positions, found.tuning, tuple(found.report), sent


def warm_up_fails(mesh, rank):
    """An error of one rank in the middle of a warm-up, and a new mesh after it."""
    calls = []

    def fragile(params, x):
        calls.append(0)
        if mesh.rank == rank and len(calls) > 30:
            raise LookupError("no such file")
        return energy(params, x)

    ours, start = distributed.mesh(), time.monotonic()
    positions = random.normal(random.key(1), (8, 2))
    try:
        ebm.warm_up(KEY, samplers.mala(fragile), torch.tensor(0.5), positions, num_steps=100, jit=False, mesh=ours)
        text = ""
    except (LookupError, distributed.RankError) as error:
        text = f"{type(error).__name__}: {error}"
    seconds = time.monotonic() - start
    return text, seconds, float(distributed.mesh().sum(torch.tensor(1.0)))


# -- training -----------------------------------------------------------------------------------------------------


def _model(key):
    keys = random.split(key, 2)
    return {"a": random.normal(keys[0], (2, 16)) / 2, "b": random.normal(keys[1], (16,)) / 4}


def _neural(params, x):
    return (x**2).sum() / 2 + (torch.nn.functional.softplus(x @ params["a"]) * params["b"]).sum()


def loss_of(which):
    if which == "score":
        return ebm.losses.denoising_score_matching(_neural, 0.3)
    sampler = samplers.langevin(_neural, step_size=0.05)
    if which == "cd":
        return ebm.losses.contrastive_divergence(_neural, sampler, 3)
    return ebm.losses.persistent_contrastive_divergence(_neural, sampler, 3, buffer_size=64)


def fit(mesh, which, deterministic, num_steps=12, jit=False, path=None, is_alone=False, cut=0):
    """The end of a training, which ``cut`` resumes from a file after so many steps."""
    mesh = distributed.mesh(ranks=mesh.size, alone=1).axes["alone"] if is_alone else mesh
    data = random.normal(random.key(5), (96, 2)) * torch.tensor([1.0, 0.3])
    params, loss = _model(random.key(2)), loss_of(which)
    options = {
        "optimizer": ebm.optimizers.adam(0.01),
        "batch_size": 32,
        "jit": jit,
        "mesh": mesh,
        "deterministic": deterministic,
        "validation": ebm.training.Validation(data[:16], every=4),
    }
    if cut:
        ebm.fit(KEY, loss, params, data, num_steps=cut, checkpoint=path, **options)
        mesh.agree(False)  # the first rank writes
        before = ebm.training.load(path, params)
        found = ebm.fit(KEY, loss, params, data, num_steps=num_steps - cut, resume=before, **options)
    else:
        found = ebm.fit(KEY, loss, params, data, num_steps=num_steps, checkpoint=path, **options)
    return found.params, found.metrics, found.memory, found.validation.values


def resume_fit(mesh, which, path, num_steps):
    """Goes on from a file that another number of ranks wrote."""
    data = random.normal(random.key(5), (96, 2)) * torch.tensor([1.0, 0.3])
    params = _model(random.key(2))
    options = {
        "optimizer": ebm.optimizers.adam(0.01),
        "batch_size": 32,
        "jit": False,
        "mesh": mesh,
        "deterministic": True,
    }
    options["validation"] = ebm.training.Validation(data[:16], every=4)
    before = ebm.training.load(path, params)
    found = ebm.fit(KEY, loss_of(which), params, data, num_steps=num_steps, resume=before, **options)
    return found.params, found.metrics, found.memory, found.validation.values


def fit_refused(mesh, what):
    data = random.normal(random.key(5), (96, 2))
    params, loss = _model(random.key(2)), loss_of("score")
    options = {"optimizer": ebm.optimizers.sgd(0.01), "batch_size": 32, "num_steps": 2, "jit": False, "mesh": mesh}
    if what == "params":
        params = ebm.tree.scale(1.0 + mesh.rank, params)
    elif what == "rows":
        loss = ebm.Loss(
            lambda key, params, batch: (),
            lambda key, batch: (),
            lambda params, memory, batch, noise: (
                params["b"].sum() * (batch @ batch.T).square().sum(),
                ebm.LossAux((), {}),
            ),
        )
    elif what == "batch_size":
        options.update(batch_size=30, deterministic=True)
    elif what == "one bad rank":
        data = data.clone()
        data[0, 0] = torch.nan if mesh.rank else 0
    start = time.monotonic()
    try:
        ebm.fit(KEY, loss, params, data, **options)
    except ValueError as error:
        return str(error), time.monotonic() - start
    return "", 0.0


def fit_interrupted(mesh, rank):
    data = random.normal(random.key(5), (96, 2))
    if mesh.rank == rank:
        threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    start = time.monotonic()
    options = {"optimizer": ebm.optimizers.sgd(0.01), "batch_size": 32, "chunk_size": 20, "jit": False, "mesh": mesh}
    found = ebm.fit(KEY, loss_of("score"), _model(random.key(2)), data, num_steps=10**5, **options)
    return found.num_steps, found.is_complete, digest(found.params), time.monotonic() - start


# -- runs in files ------------------------------------------------------------------------------------------------


def saved(mesh, path, num_chains, reduce=False):
    """Half of a run, in files."""
    samples = _part(mesh, num_chains, 4, reduce)
    distributed.save(path, samples, mesh=mesh)
    return samples.chains


def loaded(mesh, path, num_chains, reduce=False):
    """The other half, from files; and what a reducer gives over both."""
    again = distributed.load(path, _part(mesh, num_chains, 1, reduce).run, mesh=mesh)
    more = ebm.resume(again, num_samples=3)
    return mesh.gather(again.draws), mesh.gather(more.draws), more.reduced, more.chains


def _part(mesh, num_chains, num_samples, reduce):
    positions = {"a": random.normal(random.key(1), (num_chains, 2)), "b": random.normal(random.key(2), (num_chains,))}
    params = torch.tensor(0.5)
    options = {"jit": False, "mesh": mesh, "reduce": ebm.reducers.variance() if reduce else None}
    return ebm.sample(
        KEY, samplers.mala(_of_tree, step_size=0.1), params, positions, num_samples=num_samples, **options
    )


def _of_tree(params, x):
    return energy(params, x["a"]) + x["b"] ** 2


def refuses_to_load(mesh, path, num_chains):
    try:
        distributed.load(path, _part(mesh, num_chains, 1, False).run, mesh=mesh)
    except ValueError as error:
        return str(error)
    return ""


# -- data over ranks ----------------------------------------------------------------------------------------------


def _squares(params, x):
    return ((params["y"] - params["a"] @ x) ** 2).sum() / 2


def sharded(mesh):
    """An energy over parts of the data, against that over all of them: values, gradients, draws; and what it refuses."""
    whole = {"a": random.normal(random.key(1), (12, 3)), "y": random.normal(random.key(2), (12,))}
    part, x = mesh.take(whole), random.normal(random.key(3), (4, 3))
    energy = ebm.fields.sharded(_squares, mesh)
    mapped = [vmap(grad(function, 1), (None, 0)) for function in (energy, _squares)]
    found = [(energy(part, x[0]), _squares(whole, x[0])), (mapped[0](part, x), mapped[1](whole, x))]
    for function, params in ((energy, part), (_squares, whole)):
        sampler = samplers.hmc(function, step_size=0.1, num_leapfrog=3)
        found.append(ebm.sample(KEY, sampler, params, x, num_samples=5, jit=False).draws)
    refused = []
    for function in (
        grad(energy, 0),
        torch.func.hessian(energy, 1),
        torch.func.jacrev(torch.func.jacrev(energy, 1), 1),
    ):
        try:
            function(part, x[0])
        except RuntimeError as error:
            refused.append(str(error))
    return found[:2], tuple(found[2:]), refused
