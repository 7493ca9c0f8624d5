"""What one rank does otherwise than the others."""

from __future__ import annotations

import pathlib
import time

import torch

import funcebm as ebm
from funcebm import distributed, losses, optimizers, random, samplers
from funcebm.distributed import checkpoint
from tests.ranks.work.common import KEY, energy

PARAMS, STARTS, DATA = torch.tensor(0.5), random.normal(random.key(1), (7, 2)), random.normal(random.key(3), (64, 2))


def _sample(mesh, **options):
    return ebm.sample(
        KEY, samplers.mala(energy), PARAMS, STARTS, **{"num_samples": 4, "jit": False, "mesh": mesh, **options}
    )


def _fit(mesh, data=DATA, **options):
    loss = losses.denoising_score_matching(energy, 0.5)
    given = {
        "optimizer": optimizers.adam(0.01),
        "num_steps": 6,
        "batch_size": 16,
        "jit": False,
        "mesh": mesh,
        **options,
    }
    return ebm.fit(KEY, loss, PARAMS, data, **given)


def _warm_up(mesh, **options):
    return ebm.warm_up(KEY, samplers.mala(energy), PARAMS, STARTS, num_steps=20, jit=False, mesh=mesh, **options)


def forgotten(mesh):
    """What a rank says that waits for one that forgot its mesh."""
    own = distributed.mesh(timeout=2.0)
    try:
        _sample(own if mesh.rank == 0 else None)
    except distributed.RankError as error:
        return str(error)
    return ""


def misuse(mesh, what, path):
    """What this rank says, and after how long."""
    is_other, start = mesh.rank == 1, time.monotonic()
    try:
        if what == "gather":
            mesh.gather(torch.ones(3, 2 + mesh.rank))
        elif what == "sum":
            mesh.sum(torch.ones(3, dtype=torch.float64 if is_other else torch.float32))
        elif what == "tree":
            mesh.sum([torch.ones(3)] * mesh.rank)
        elif what == "adaptation":
            _warm_up(mesh, adaptation=ebm.adaptation.unchanged() if is_other else None)
        elif what == "no adaptation":
            _warm_up(mesh, adaptation="chees" if is_other else None)
        elif what == "checkpoint of one":
            _sample(mesh, checkpoint=path if is_other else None)
        elif what == "a file":
            pathlib.Path(f"{path}-file").write_text("")
            _sample(mesh, checkpoint=f"{path}-file")
        elif what == "folders":
            checkpoint._SEEN = 0.2
            _sample(mesh, checkpoint=f"{path}-{mesh.rank}")
        elif what == "gather of draws":
            _sample(mesh, gather="draws" if is_other else "summary")
        elif what == "resume":
            ebm.resume(_sample(mesh), num_samples=mesh.rank)
        elif what == "resume more":
            ebm.resume(_sample(mesh), num_samples=1 + mesh.rank)
        elif what == "length of data":
            _fit(mesh, data=DATA[: 64 - mesh.rank])
        elif what == "resumed fit":
            found = _fit(mesh)
            _fit(mesh, resume=found if is_other else None)
        elif what == "ema":
            _fit(mesh, ema_decay="much" if is_other else 0.9)
        elif what == "rate":
            _fit(mesh, optimizer=optimizers.sgd(0.01) if is_other else optimizers.adam(0.01))
        else:
            _sample("mesh")
    except (ValueError, TypeError, distributed.RankError) as error:
        return str(error), time.monotonic() - start
    finally:
        checkpoint._SEEN = 5.0
    return "", 0.0
