"""Data that ranks hold parts of."""

from __future__ import annotations

import torch
from torch.func import grad, vmap

import funcebm as ebm
from funcebm import random, samplers
from tests.ranks.work.common import KEY


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
