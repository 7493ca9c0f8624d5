"""A compiled warm-up gives the numbers of the eager one, and one of another length, or from other numbers, compiles nothing."""

from __future__ import annotations

import pytest
import torch

import funcebm as ebm
from funcebm import adaptation, random, samplers, tree

from ..helpers import compiles_nothing

pytestmark = pytest.mark.compiled


def _energy(params, x):
    return params * (x**2 * torch.tensor([1.0, 4.0], dtype=x.dtype)).sum() / 2 + 0.1 * torch.sin(x[0])


CASES = {
    "windows of hmc": lambda step_size: (samplers.hmc(_energy, step_size=step_size, num_leapfrog=3), None),
    "windows of mala": lambda step_size: (samplers.mala(_energy, step_size=step_size), None),
    "chees": lambda step_size: (samplers.dynamic_hmc(_energy, step_size=step_size), adaptation.chees()),
    "meads": lambda step_size: (samplers.ghmc(_energy, step_size=step_size), None),
    "mclmc": lambda step_size: (samplers.mclmc(_energy, step_size=step_size), None),
}


def _run(name, num_steps=30, seed=0, step_size=0.2, **options):
    sampler, kind = CASES[name](step_size)
    positions = random.normal(random.key(1), (8, 2), dtype=torch.float64)
    params = torch.tensor(2.0, dtype=torch.float64)
    options = {"num_steps": num_steps, "adaptation": kind, "jit": True, **options}
    return ebm.warm_up(random.key(seed), sampler, params, positions, **options)


@pytest.mark.parametrize("name", list(CASES))
def test_compiled_is_eager_and_compiles_once(name):
    got, expected = _run(name), _run(name, jit=False)
    assert tree.structure(got) == tree.structure(expected)
    for a, b in zip(tree.leaves(got), tree.leaves(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)
    with compiles_nothing():
        _run(name, num_steps=47)
        _run(name, num_steps=3)
        _run(name, seed=5, step_size=0.1)
