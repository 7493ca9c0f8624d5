"""Runs in files."""

from __future__ import annotations

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
