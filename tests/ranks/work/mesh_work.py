"""What ranks do with the mesh itself."""

from __future__ import annotations

import time

import torch
from torch.func import grad, vmap

import funcebm as ebm
from funcebm import distributed
from funcebm._torch import collectives


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


def comes_alone(mesh, rank):
    """The errors of a mesh that one rank does not join, and of one that ranks make differently; then one of both."""
    found, start = [], time.monotonic()
    if mesh.rank != rank:
        try:
            distributed.mesh(timeout=0.5)
        except distributed.RankError as error:
            found.append(str(error))
    seconds = time.monotonic() - start
    mesh.agree(False)
    try:
        distributed.mesh(chains=mesh.size, **({"rungs": 1} if mesh.rank == 1 else {}))
    except ValueError as error:
        found.append(str(error))
    again = distributed.mesh(chains=1, rungs=2).axes["rungs"]
    return found, seconds, int(again.sum(torch.tensor(1)))


def notes(mesh):
    """What a rank of an earlier attempt has left in the store of torchrun is read by none of this one."""
    again = distributed.mesh()
    collectives.peers_of(mesh.name).post("stop")
    mesh.agree(False)
    return collectives.peers_of(mesh.name).note("stop"), collectives.peers_of(again.name).note("stop")
