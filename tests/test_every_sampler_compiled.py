"""Each kind of sampler, compiled once: the draws are those of the eager run, and a second run compiles nothing."""

from __future__ import annotations

import pytest
import torch

import funcebm as ebm
from funcebm import random, tree
from funcebm._torch.meaning import meaning
from funcebm.chains._loop import compiled_part

from .cases import SAMPLERS, quartic, quartic_params
from .helpers import compiles_nothing

pytestmark = pytest.mark.compiled

# one of each kind; the chain axis is last for the small positions and first for the large ones
KINDS = {
    "barker_dense": 3,
    "underdamped_baoab": 3,
    "random_walk": 20,
    "hmc_multinomial": 20,
    "dynamic_hmc": 20,
    "ghmc_three_steps": 3,
    "nuts_dense": 20,
    "riemannian_hmc": 3,
    "adjusted_mclmc": 3,
    "mclmc": 20,
    "elliptical_slice": 20,
    "sghmc": 3,
    "mix": 3,
    "thin": 20,
    "parallel_tempering": 3,
}


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_one_built_anew_is_compiled_as_the_first(name):
    one, other = (meaning(compiled_part(SAMPLERS[name](quartic, torch.zeros(3)))) for _ in range(2))
    assert one.is_certain and other.is_certain
    assert one.key == other.key


def _run(name: str, seed: int, **options):
    positions = 0.5 * random.normal(random.key(1), (5, KINDS[name]), dtype=torch.float64)
    sampler = SAMPLERS[name](quartic, positions[0])
    options = {"num_samples": 6, "jit": True, **options}
    return ebm.sample(random.key(seed), sampler, quartic_params(torch.float64), positions, **options)


@pytest.mark.parametrize("name", list(KINDS))
def test_compiled_is_eager_and_compiles_once(name):
    samples, eager = _run(name, 2), _run(name, 2, jit=False)
    for field in ("draws", "info", "state"):
        got, expected = getattr(samples, field), getattr(eager, field)
        assert tree.structure(got) == tree.structure(expected)
        for a, b in zip(tree.leaves(got), tree.leaves(expected), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)  # float64: rounding decides no acceptance
    with compiles_nothing():
        _run(name, 3)
