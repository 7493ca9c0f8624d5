"""Runs in files."""

from __future__ import annotations

import os

import torch

import funcebm as ebm
from funcebm import distributed, random, samplers
from tests.ranks.work.common import KEY, energy


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


def loaded_plainly(mesh, path, num_chains):
    """The other half of a run in a folder, by ``funcebm.load`` from the sampler alone."""
    again = ebm.load(path, samplers.mala(_of_tree, step_size=0.1), mesh=mesh)
    more = ebm.resume(again, num_samples=3)
    return mesh.gather(again.draws), mesh.gather(more.draws), more.chains


def resumed_in_folder(mesh, path, gather, is_written=False):
    """A run in a folder that goes on there from a file, then from an earlier moment; into another folder; and what is refused."""
    positions = random.normal(random.key(1), (5, 2))
    sampler = samplers.mala(energy, step_size=0.1)
    options = {"num_burn_in": 4, "jit": False, "mesh": mesh, "checkpoint_every": 3, "gather": gather}
    arguments = (sampler, torch.tensor(0.5), positions)
    if not is_written:
        first = ebm.sample(KEY, *arguments, num_samples=7, checkpoint=path, **options)
    again = ebm.load(path, sampler, mesh=mesh)
    rest = ebm.resume(again, num_samples=5, checkpoint=path, checkpoint_every=2)
    found = [distributed.draws_of(path)[0], rest.draws if gather == "files" else mesh.gather(rest.draws)]
    if is_written:
        return found
    mesh.agree(False)  # all have read
    ebm.resume(first, num_samples=3, checkpoint=path)
    found.append(distributed.draws_of(path)[0])
    other = ebm.sample(random.key(7), *arguments, num_samples=6, jit=False, mesh=mesh)
    os.makedirs(f"{path}-new", exist_ok=True)
    ebm.resume(other, num_samples=4, checkpoint=f"{path}-new", checkpoint_every=3)
    found.append(distributed.draws_of(f"{path}-new")[0])
    texts = []
    for samples in (other, ebm.resume(other, num_samples=8)):  # 6 steps; and 14, as many as the run there
        try:
            ebm.resume(samples, num_samples=1, checkpoint=path)
        except ValueError as error:
            texts.append(str(error))
    return found, texts
