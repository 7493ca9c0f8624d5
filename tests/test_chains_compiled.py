"""Compiled chains give the numbers of eager ones; three samplers, compiled once each for the whole file."""

from __future__ import annotations

import pytest
import torch

import funcebm as ebm
from funcebm import random, reducers, samplers, schedules, tree

from .cases import quartic, quartic_params
from .helpers import compiles_nothing

pytestmark = pytest.mark.compiled

PARAMS = quartic_params()
DENSE = torch.tensor([[0.8, 0.3, 0.0], [0.3, 0.6, -0.1], [0.0, -0.1, 0.5]])


def _positions(name: str):
    key_a, key_b = random.split(random.key(1))
    if name == "hmc":
        return {"b": random.normal(key_a, (5, 2)), "a": random.normal(key_b, (5,))}
    return random.normal(key_a, (5, 3))


STEP_SIZE = schedules.linear(0.3, 0.1, 20)
SAMPLERS = {
    "langevin": samplers.langevin(quartic, step_size=0.1),
    "mala": samplers.mala(quartic, step_size=0.3),
    "hmc": samplers.hmc(quartic, step_size=0.3, num_leapfrog=4, inverse_mass=DENSE, jitter=0.5),
}


def _shrinking(index):
    return SAMPLERS["mala"].tuning._replace(step_size=STEP_SIZE(index))


REDUCER = reducers.covariance()
OPTIONS = {
    "langevin": {"reduce": REDUCER},
    "mala": {"num_burn_in": 4, "thin": 2, "tuning": _shrinking},
    "hmc": {},
}


def _run(name: str, num_samples: int = 8, **options):
    options = {**OPTIONS[name], "num_samples": num_samples, "jit": True, **options}
    return ebm.sample(random.key(2), SAMPLERS[name], PARAMS, _positions(name), **options)


@pytest.fixture(scope="module", params=list(SAMPLERS))
def run(request):
    """The name of a sampler, and its run once compiled."""
    return request.param, _run(request.param)


def _close(a, b) -> None:
    assert tree.structure(a) == tree.structure(b)
    for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        torch.testing.assert_close(x, y, rtol=2e-4, atol=2e-5)


def _same(a, b) -> None:
    assert tree.structure(a) == tree.structure(b)
    assert all(torch.equal(x, y) for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True))


def test_the_compiled_run_is_the_eager_one(run):
    name, samples = run
    eager = _run(name, jit=False)
    for field in ("draws", "info", "state", "reduced"):
        _close(getattr(samples, field), getattr(eager, field))


def test_a_second_run_compiles_nothing(run):
    """Other lengths, burn-ins, thinnings, keys, numbers and starts; resumed, and in chunks."""
    name, _ = run
    with compiles_nothing():
        longer = _run(name, 13)
        ebm.resume(longer, num_samples=4)
        _run(name, 12, chunk_size=4)
        _run(name, 5, num_burn_in=7)
        if "reduce" not in OPTIONS[name]:
            _run(name, 3, thin=3)
        params = tree.map(lambda leaf: 1.1 * leaf, PARAMS)
        positions = tree.map(lambda leaf: leaf + 1, _positions(name))
        options = {**OPTIONS[name], "num_samples": 8, "jit": True}
        ebm.sample(random.key(9), SAMPLERS[name], params, positions, **options)


def test_a_compiled_run_does_not_depend_on_how_it_is_cut(run):
    name, samples = run
    first = _run(name, 3, chunk_size=2)
    second = ebm.resume(first, num_samples=5)
    if first.draws != ():
        join = lambda a, b: torch.cat([a, b], 1)  # noqa: E731
        _same(tree.map(join, first.draws, second.draws), samples.draws)
        _same(tree.map(join, first.info, second.info), samples.info)
    _same(second.state, samples.state)
    _same(second.reduced, samples.reduced)


def test_another_number_of_the_tuning_compiles_nothing():
    sampler = SAMPLERS["hmc"]
    _run("hmc")
    tuning = sampler.tuning._replace(step_size=torch.tensor(0.05))
    with compiles_nothing():
        samples = _run("hmc", tuning=tuning)
    _close(samples.draws, _run("hmc", tuning=tuning, jit=False).draws)


def test_a_sampler_built_anew_with_other_numbers_compiles_nothing():
    _run("hmc")
    anew = samplers.hmc(quartic, step_size=0.1, num_leapfrog=4, inverse_mass=DENSE / 2, jitter=0.5)
    with compiles_nothing():
        samples = ebm.sample(random.key(2), anew, PARAMS, _positions("hmc"), num_samples=8, jit=True)
    eager = ebm.sample(random.key(2), anew, PARAMS, _positions("hmc"), num_samples=8, jit=False)
    _close(samples.draws, eager.draws)
