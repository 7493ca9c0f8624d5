"""Training over ranks."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings

import torch

import funcebm as ebm
from funcebm import distributed, random, samplers
from funcebm.distributed.agreement import digest
from tests.ranks.work.common import KEY


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


def optimizer_of(mesh, is_sharded):
    if not is_sharded:
        return ebm.optimizers.adam(0.01)
    sharded = distributed.sharded_optimizer(ebm.optimizers.adam(0.01), mesh)
    return ebm.optimizers.chain(ebm.optimizers.clip_by_global_norm(1e9), sharded)


def fit(mesh, which, deterministic, num_steps=12, jit=False, path=None, is_alone=False, cut=0, is_sharded=False):
    """The end of a training, which ``cut`` resumes from a file after so many steps."""
    mesh = distributed.mesh(ranks=mesh.size, alone=1).axes["alone"] if is_alone else mesh
    data = random.normal(random.key(5), (96, 2)) * torch.tensor([1.0, 0.3])
    params, loss = _model(random.key(2)), loss_of(which)
    options = {
        "optimizer": optimizer_of(mesh, is_sharded),
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


def resume_fit(mesh, which, path, num_steps, is_sharded=False):
    """Goes on from a file that another number of ranks wrote."""
    data = random.normal(random.key(5), (96, 2)) * torch.tensor([1.0, 0.3])
    params = _model(random.key(2))
    options = {
        "optimizer": optimizer_of(mesh, is_sharded),
        "batch_size": 32,
        "jit": False,
        "mesh": mesh,
        "deterministic": True,
    }
    options["validation"] = ebm.training.Validation(data[:16], every=4)
    before = ebm.training.load(path, params)
    found = ebm.fit(KEY, loss_of(which), params, data, num_steps=num_steps, resume=before, **options)
    return found.params, found.metrics, found.memory, found.validation.values


def clipped_inside(mesh):
    try:
        distributed.sharded_optimizer(ebm.optimizers.clip_by_global_norm(1.0), mesh)
    except ValueError as error:
        return str(error)
    return ""


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
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have told its children to ignore it
        threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    start = time.monotonic()
    options = {"optimizer": ebm.optimizers.sgd(0.01), "batch_size": 32, "chunk_size": 20, "jit": False, "mesh": mesh}
    found = ebm.fit(KEY, loss_of("score"), _model(random.key(2)), data, num_steps=10**5, **options)
    return found.num_steps, found.is_complete, digest(found.params), time.monotonic() - start


def fit_coupled(mesh, which, deterministic):
    """Flow matching whose noise is paired with data by a plan of the whole batch."""
    data = random.normal(random.key(5), (96, 2))
    params = {"w": torch.zeros(2, 2), "b": torch.zeros(2)}
    coupling = getattr(ebm.couplings, which)(**({"regularisation": 0.1} if which == "sinkhorn" else {}))
    loss = ebm.losses.flow_matching(lambda params, t, x: x @ params["w"] + params["b"] * t, coupling=coupling)
    options = {"optimizer": ebm.optimizers.adam(0.05), "batch_size": 16, "jit": False, "mesh": mesh}
    return ebm.fit(KEY, loss, params, data, num_steps=6, deterministic=deterministic, **options).params


def fit_not_finite(mesh):
    """A loss that is not a number at the last rows, which one rank has: what all say, and how long it takes."""
    data = random.normal(random.key(5), (32, 2))
    data[-4:] = 50.0

    def energy(params, x):
        return torch.where(x[0] > 20, torch.nan, 1.0) * (params * x**2).sum()

    start = time.monotonic()
    loss, options = ebm.losses.denoising_score_matching(energy, 0.3), {"batch_size": 32, "jit": False, "mesh": mesh}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        optimizer = ebm.optimizers.adam(0.05)
        found = ebm.fit(KEY, loss, torch.ones(2), data, optimizer=optimizer, num_steps=60, max_bad_steps=3, **options)
    return found.num_steps, found.report, found.params.tolist(), time.monotonic() - start
