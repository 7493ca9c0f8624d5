"""A warm-up without ``jit`` is a pure function: ``vmap`` over parameters, keys, starts and first numbers is each alone."""

from __future__ import annotations

import pytest
import torch
from torch.func import vmap

import funcebm as ebm
from funcebm import adaptation, random, samplers, tree

STIFFNESS = torch.tensor([0.25, 1.0, 16.0])
NUM_CHAINS, NUM_STEPS = 8, 30  # three windows: the metric changes once


def _energy(params, x):
    return params * (x**2 * torch.tensor([1.0, 4.0])).sum() / 2 + 0.1 * torch.sin(x[0])


CASES = {
    "hmc": lambda: samplers.hmc(_energy, num_leapfrog=3),
    "nuts": lambda: samplers.nuts(_energy, max_depth=3),
    "langevin": lambda: samplers.langevin(_energy),
    "dynamic_hmc": lambda: samplers.dynamic_hmc(_energy),
    "ghmc": lambda: samplers.ghmc(_energy),
    "mclmc": lambda: samplers.mclmc(_energy),
}


def _starts(params):
    return random.normal(random.key(0), (NUM_CHAINS, 2)) / params.sqrt()


def _warm_up(sampler, key, params, **options):
    return ebm.warm_up(key, sampler, params, _starts(params), num_steps=NUM_STEPS, jit=False, **options)


def _assert_each_alone(mapped, alone):
    for i, expected in enumerate(alone):
        assert tree.structure(mapped) == tree.structure(expected)
        for a, b in zip(tree.leaves(mapped), tree.leaves(expected), strict=True):
            torch.testing.assert_close(a[i], b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", list(CASES))
def test_mapped_over_parameters_and_keys_it_is_each_alone(name):
    sampler, keys = CASES[name](), random.split(random.key(1), 3)
    mapped = vmap(lambda key, params: _warm_up(sampler, key, params))(keys, STIFFNESS)
    _assert_each_alone(mapped, [_warm_up(sampler, keys[i], STIFFNESS[i]) for i in range(3)])
    assert len(set(mapped.tuning.step_size.tolist())) == 3


def test_mapped_over_the_first_step_size_and_the_target_too():
    sampler = samplers.mala(_energy)
    first, target, params = torch.tensor([0.01, 1.0]), torch.tensor([0.4, 0.9]), torch.tensor(1.0)

    def one(first, target):
        started = sampler._replace(tuning=sampler.tuning._replace(step_size=first), target_acceptance=target)
        return _warm_up(started, random.key(2), params, adaptation=adaptation.window_adaptation())

    mapped = vmap(one)(first, target)
    _assert_each_alone(mapped, [one(first[i], target[i]) for i in range(2)])
    assert float(mapped.tuning.step_size[0]) > float(mapped.tuning.step_size[1])


def test_what_comes_back_goes_on_into_sample():
    sampler = samplers.hmc(_energy, num_leapfrog=3)

    def whole(params):
        positions, tuning, _ = _warm_up(sampler, random.key(1), params)
        options = {"num_samples": 4, "tuning": tuning, "jit": False}
        return ebm.sample(random.key(3), sampler, params, positions, **options).draws

    draws = vmap(whole)(STIFFNESS)
    assert draws.shape == (3, NUM_CHAINS, 4, 2)
    for i in range(3):
        torch.testing.assert_close(draws[i], whole(STIFFNESS[i]), rtol=1e-3, atol=1e-5)


def test_compiling_inside_of_vmap_is_an_error_with_the_fix():
    sampler = samplers.mala(_energy)
    with pytest.raises(ValueError, match=r"jit=True must be outermost.*Pass jit=False"):
        vmap(lambda params: ebm.warm_up(random.key(0), sampler, params, _starts(params), num_steps=20, jit=True))(
            STIFFNESS
        )


def test_what_was_not_asked_for_is_not_compiled_inside_of_vmap():
    sampler, key = samplers.mala(_energy), random.key(0)

    def warm(params, **options):
        return ebm.warm_up(key, sampler, params, _starts(params), num_steps=20, **options).positions

    assert torch.equal(vmap(warm)(STIFFNESS), vmap(lambda params: warm(params, jit=False))(STIFFNESS))


@pytest.mark.compiled
@pytest.mark.usefixtures("op_by_op")
@pytest.mark.parametrize("name", [pytest.param("hmc", marks=pytest.mark.slow), "nuts", "langevin"])
def test_inside_of_jit_it_is_compiled_whole(name):
    sampler, keys = CASES[name](), random.split(random.key(3), 3)
    whole = vmap(lambda key, params: _warm_up(sampler, key, params))
    _assert_each_alone(ebm.jit(whole)(keys, STIFFNESS), [_warm_up(sampler, keys[i], STIFFNESS[i]) for i in range(3)])
