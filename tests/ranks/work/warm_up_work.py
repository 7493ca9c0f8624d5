"""Warm-ups over ranks."""

from __future__ import annotations

import pathlib
import time

import torch

import funcebm as ebm
from funcebm import distributed, random, samplers
from funcebm.adaptation._checkpoint import Checkpoint
from tests.ranks.work.common import KEY, energy


def sampler_of(which):
    """A sampler, and an adaptation that sees all chains."""
    adaptation = ebm.adaptation
    return {
        "chees": (samplers.dynamic_hmc(energy), adaptation.chees()),
        "meads": (samplers.ghmc(energy), adaptation.meads()),
        "window": (samplers.hmc(energy, step_size=0.2, num_leapfrog=3), adaptation.window_adaptation()),
        "dense": (samplers.nuts(energy), adaptation.window_adaptation(metric="dense", average="harmonic")),
        "dense hmc": (samplers.hmc(energy, num_leapfrog=3), adaptation.window_adaptation(metric="dense")),
        "mclmc": (samplers.mclmc(energy), adaptation.mclmc_adaptation()),
        "langevin": (samplers.langevin(energy), adaptation.window_adaptation()),
        "mala": (samplers.mala(energy), adaptation.window_adaptation()),
    }[which]


def warm_up(mesh, which, num_chains=20, num_steps=40, jit=False, is_shard=False, is_alone=False, size=3):
    """What a warm-up in so many dimensions finds, and how many bytes each step sends; ``is_alone`` makes it in a group of one."""
    mesh = distributed.mesh(chains=mesh.size, alone=1).axes["alone"] if is_alone else mesh
    sampler, adaptation = sampler_of(which)
    scale = torch.tensor([0.3, 1.0, 3.0]) if size == 3 else torch.logspace(-0.5, 0.5, size)
    positions = random.normal(random.key(1), (num_chains, size)) * scale
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


def warm_up_cut(mesh, which, path):
    """What a warm-up finds that ends once 15 steps are written, and goes on; and without a file of one rank."""
    sampler, adaptation = sampler_of(which)
    positions = random.normal(random.key(1), (20, 3)) * torch.tensor([0.3, 1.0, 3.0])
    arguments = (KEY, sampler, torch.tensor(0.5), positions)
    options = {"num_steps": 40, "adaptation": adaptation, "jit": False, "checkpoint": path}
    save = Checkpoint.save

    def saving(self, where, *rest):
        save(self, where, *rest)
        if where.done >= 15:
            raise KeyError("enough")

    Checkpoint.save = saving
    try:
        ebm.warm_up(*arguments, checkpoint_every=5, mesh=distributed.mesh(), **options)
    except (KeyError, distributed.RankError):
        pass
    finally:
        Checkpoint.save = save
    ours = distributed.mesh()
    found = ebm.warm_up(*arguments, **{**options, "mesh": ours})
    ours.agree(False)
    if ours.rank == 1:
        next(pathlib.Path(path).glob("*/1-of-2.safetensors")).unlink()
    try:
        ebm.warm_up(*arguments, **{**options, "mesh": ours})
    except ValueError as error:
        return (found.positions, found.tuning, tuple(found.report)), str(error)
    return found, ""
