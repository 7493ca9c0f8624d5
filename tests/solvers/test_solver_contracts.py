"""What every solver promises as a sampler, swept over a table: replay, chunks, cut runs, particles that are alone or not."""

from __future__ import annotations

import pytest
import torch
from torch.func import grad, vmap

import funcebm as ebm
from funcebm import paths, random, solvers, tree

PATH = paths.trigonometric()
SOLVERS = {
    "euler": solvers.euler(),
    "midpoint": solvers.midpoint(),
    "heun": solvers.heun(),
    "ralston": solvers.ralston(),
    "bosh3": solvers.bosh3(),
    "rk4": solvers.rk4(),
    "dopri5": solvers.dopri5(),
    "tsit5": solvers.tsit5(),
    "euler_maruyama": solvers.euler_maruyama(0.3),
    "stochastic_heun": solvers.stochastic_heun(0.3),
    "sra1": solvers.sra1(lambda t: 0.2 + t),
    "shark": solvers.shark(lambda t: 0.2 + t),
    "ddim": solvers.ddim(PATH),
    "ddim_noisy": solvers.ddim(PATH, 0.5),
    "ancestral": solvers.ancestral(PATH),
    "dpm_solver": solvers.dpm_solver(PATH),
    "edm_heun": solvers.edm_heun(PATH, 0.1),
}
PARAMS = {"k": torch.tensor(0.7).double(), "shift": torch.tensor(0.4).double()}
NUM = 4

sweep = pytest.mark.parametrize("name", list(SOLVERS))


def field(params, t, x):
    """Not linear, not even, and different at every time, on any tree."""
    total = sum(leaf.sum() for leaf in tree.leaves(x))
    push = params["shift"] * torch.sin(total + t)
    return tree.map(lambda leaf: push - params["k"] * (1 + t) * torch.tanh(leaf), x)


def sampler_of(name):
    return SOLVERS[name](field, step_size=torch.tensor(0.05).double(), time=0.1)


def starts(kind="tensor", dtype=torch.float64):
    key_a, key_b = random.split(random.key(5))
    if kind == "tensor":
        return random.normal(key_a, (NUM, 3), dtype=dtype)
    return {"b": random.normal(key_a, (NUM, 2, 2), dtype=dtype), "a": (random.normal(key_b, (NUM,), dtype=dtype),)}


def run(name, positions, num_samples=6, params=PARAMS, **options):
    return ebm.sample(random.key(3), sampler_of(name), params, positions, num_samples=num_samples, jit=False, **options)


def known(samples):
    """All of it but the energy, which no field has."""
    assert torch.isnan(samples.info.energy).all()
    return samples.draws, samples.info._replace(energy=()), samples.state


def assert_same(a, b, tolerance=0.0):
    assert tree.structure(a) == tree.structure(b)
    for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


@sweep
@pytest.mark.parametrize("kind", ["tensor", "tree"])
def test_chunks_and_cuts_change_nothing(name, kind):
    positions = starts(kind)
    whole = known(run(name, positions))
    for chunk_size in (1, 4):
        assert_same(known(run(name, positions, chunk_size=chunk_size)), whole)
    first = run(name, positions, 2)
    second = ebm.resume(first, num_samples=4)
    joined = tree.map(lambda a, b: torch.cat([a, b], 1), first.draws, second.draws)
    assert_same((joined, second.state), (whole[0], whole[2]))


@sweep
def test_a_particle_alone_takes_the_steps_that_it_takes_in_a_batch(name):
    alone, among = (run(name, starts()[:num]) for num in (1, NUM))
    assert_same(alone.draws[0], among.draws[0], 1e-13)
    assert_same(alone.info.num_gradients[0], among.info.num_gradients[0])


@sweep
def test_steps_keep_dtype_and_structure(name):
    positions = starts("tree", torch.float32)
    samples = ebm.sample(
        random.key(3), sampler_of(name), tree.cast_like(PARAMS, torch.zeros(())), positions, num_samples=2, jit=False
    )
    assert all(leaf.dtype == torch.float32 for leaf in tree.leaves((samples.draws, samples.state.time)))
    assert tree.structure(samples.draws) == tree.structure(positions)


@sweep
def test_vmap_over_params_and_steps_is_the_loop_and_derivatives_are_right(name):
    positions, sampler = starts(), sampler_of(name)

    def end(k, step_size):
        tuning = sampler.tuning._replace(step_size=step_size)
        samples = ebm.sample(
            random.key(3), sampler, {**PARAMS, "k": k}, positions, num_samples=3, tuning=tuning, jit=False
        )
        return samples.draws[:, -1]

    ks, sizes = torch.tensor([0.3, 0.9]).double(), torch.tensor([0.02, 0.06]).double()
    assert_same(vmap(end)(ks, sizes), torch.stack([end(*pair) for pair in zip(ks, sizes, strict=True)]), 1e-13)
    slope, h = grad(lambda k: end(k, sizes[1]).sum())(ks[0]), 1e-5
    difference = (end(ks[0] + h, sizes[1]) - end(ks[0] - h, sizes[1])).sum() / (2 * h)
    torch.testing.assert_close(slope, difference, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
@pytest.mark.compiled
@sweep
def test_compiled_is_eager(name):
    eager = run(name, starts())
    for chunk_size in (None, 4):
        compiled = ebm.sample(
            random.key(3), sampler_of(name), PARAMS, starts(), num_samples=6, jit=True, chunk_size=chunk_size
        )
        assert_same(known(compiled), known(eager), 1e-12)
