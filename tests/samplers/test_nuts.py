"""NUTS against a transcription of its papers in NumPy, by plain recursion, fed the same noise."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import torch
from tests.references import NUTS_ENERGIES, RecursiveNUTS
from torch.func import vmap

from funcebm import random, samplers, tree

D = 3
MATRIX = np.array([[0.9, 0.3, 0.0], [0.3, 0.5, -0.1], [0.0, -0.1, 0.7]])
METRICS = {
    "identity": (None, np.eye(D)),
    "number": (0.5, 0.5 * np.eye(D)),
    "diagonal": (torch.tensor([0.5, 1.0, 2.0]), np.diag([0.5, 1.0, 2.0])),
    "dense": (torch.tensor(MATRIX), MATRIX),
}
CASES = [
    # energy, metric, step size, max depth, temperature
    ("quartic", "identity", 0.1, 10, 1.0),
    ("quartic", "dense", 0.05, 10, 1.0),
    ("quartic", "diagonal", 0.6, 10, 0.5),
    ("quartic", "number", 0.2, 3, 1.0),
    ("quartic", "identity", 0.4, 1, 1.0),
    ("quartic", "identity", 0.4, 2, 1.0),
    ("gaussian", "identity", 0.05, 10, 1.0),
    ("gaussian", "dense", 0.5, 10, 2.0),
    ("gaussian", "diagonal", 0.01, 5, 1.0),
    ("isotropic", "identity", 0.2, 10, 1.0),
    ("isotropic", "identity", 0.8, 10, 1.0),
    ("funnel", "identity", 0.8, 8, 1.0),
    ("funnel", "dense", 0.3, 8, 1.0),
    ("root", "identity", 0.3, 10, 1.0),
]
NUM_CHAINS = 60


def _compare(energy, metric, h, max_depth, temperature, num_steps=3):
    """Chains in lock step, each step against the reference; gives what was seen, and which checks were decisive."""
    function, *in_numpy = NUTS_ENERGIES[energy]
    inverse_mass, matrix = METRICS[metric]
    sampler = samplers.nuts(
        function, step_size=h, max_depth=max_depth, inverse_mass=inverse_mass, temperature=temperature
    )
    tuning = tree.map(torch.Tensor.double, sampler.tuning)
    root = tuning.metric.inverse_root.numpy() if metric == "dense" else np.sqrt(matrix)
    h, temperature = float(tuning.step_size), float(tuning.temperature)
    reference = RecursiveNUTS(*in_numpy, h, max_depth, matrix, temperature)
    start = 0.7 * random.normal(random.key(1), (NUM_CHAINS, D), dtype=torch.float64).clamp(-1, None)
    state = vmap(sampler.init, (None, 0))((), start)
    seen = []
    for i in range(num_steps):
        noise = vmap(sampler.draw)(random.split(random.key(2 + i), NUM_CHAINS), state.position)
        after, info = sampler.batched_step((), tuning, state, noise)
        for c in range(NUM_CHAINS):
            momentum = np.linalg.solve(root.T, noise.momentum[c].numpy())
            expected = reference.step(state.position[c].numpy(), momentum, noise.uniforms[c].numpy())
            seen.append(expected)
            got = {name: getattr(info, name, None) for name in expected} | {"position": after.position}
            for name, value in expected.items():
                np.testing.assert_allclose(
                    got[name][c].numpy(), value, rtol=1e-10, atol=1e-10, err_msg=f"{name} of {c}"
                )
        state = after
    return seen, reference.decisive


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_nuts_is_its_definition(case):
    seen, _ = _compare(*case)
    assert any(one["is_accepted"] for one in seen)


def test_every_way_to_end_was_seen_and_every_check_was_decisive():
    """The statement above would be empty if the cases did not meet each branch of the algorithm."""
    decisive, seen = collections.Counter(), []
    for index in (0, 7, 8, 9, 10, 11):
        case = CASES[index]
        one, counts = _compare(*case, num_steps=2)
        seen += one
        decisive += counts
    for name in ("whole", "left", "right", "inside"):
        assert decisive[name] >= 2, decisive
    for name in ("is_turning", "is_divergent", "is_max_depth"):
        assert sum(one[name] for one in seen) >= 3
    assert max(one["tree_depth"] for one in seen) >= 5
