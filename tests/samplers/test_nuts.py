"""NUTS against a transcription of its papers in NumPy, by plain recursion, fed the same noise."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import torch
from torch.func import vmap

from funcebm import random, samplers, tree
from funcebm.samplers import _nuts_trajectory

D = 3
MATRIX = np.array([[0.9, 0.3, 0.0], [0.3, 0.5, -0.1], [0.0, -0.1, 0.7]])


class Reference:
    """Betancourt (2017) with the checks of Stan: ``build`` calls itself for each half of a sub-tree."""

    def __init__(self, energy, gradient, h, max_depth, inverse_mass, temperature=1.0):
        self.energy, self.gradient, self.h = energy, gradient, h
        self.max_depth, self.inverse_mass, self.temperature = max_depth, inverse_mass, temperature
        self.decisive = collections.Counter()

    def hamiltonian(self, x, p):
        with np.errstate(all="ignore"):
            return self.energy(x) / self.temperature + p @ self.inverse_mass @ p / 2

    def leapfrog(self, x, p, direction):
        h = direction * self.h
        with np.errstate(all="ignore"):
            p = p - h / 2 * self.gradient(x) / self.temperature
            x = x + h * self.inverse_mass @ p
            return x, p - h / 2 * self.gradient(x) / self.temperature

    def is_turning(self, left, right):
        """Each half is ``(momentum of its first leaf, of its last leaf, sum of momenta)`` in the order of building."""

        def turns(p, q, rho):
            return not ((self.inverse_mass @ p) @ rho > 0 and (self.inverse_mass @ q) @ rho > 0)

        checks = {
            "whole": turns(left[0], right[1], left[2] + right[2]),
            "left": turns(left[0], right[0], left[2] + right[0]),
            "right": turns(left[1], right[1], right[2] + left[1]),
        }
        if sum(checks.values()) == 1:
            self.decisive.update(name for name, does in checks.items() if does)
        return any(checks.values())

    def build(self, depth, x, p, direction):
        """The span of the new leaves, and whether all is well with it."""
        if depth == 0:
            x, p = self.leapfrog(x, p, direction)
            error = self.hamiltonian(x, p) - self.start
            diverges = not (np.isfinite(error) and error <= 1000)
            self.leaves.append((x, p, -np.inf if diverges else -error))
            self.is_divergent |= diverges
            return (p, p, p), not diverges
        left, is_well = self.build(depth - 1, x, p, direction)
        if not is_well:
            return left, False
        right, is_well = self.build(depth - 1, *self.leaves[-1][:2], direction)
        if not is_well:
            return right, False
        span = (left[0], right[1], left[2] + right[2])
        if self.is_turning(left, right):
            self.decisive["inside"] += depth < self.depth
            return span, False
        return span, True

    def step(self, x, p, uniforms):
        self.start, self.depth, self.is_divergent = self.hamiltonian(x, p), 0, False
        flips, merges, selections = uniforms
        ends, span, direction = {1: (x, p), -1: (x, p)}, {1: p, -1: p}, 1
        total, log_weight, selected, rates, is_turning = p, 0.0, (x, p), [], False
        while self.depth < self.max_depth and not is_turning:
            direction *= -1 if flips[self.depth] < 0.5 else 1
            self.leaves = []
            (first, last, rho), is_well = self.build(self.depth, *ends[direction], direction)
            log_weights = np.array([leaf[2] for leaf in self.leaves])
            rates += list(np.exp(np.minimum(log_weights, 0)))
            if not is_well:
                is_turning = not self.is_divergent
                break
            subtree = np.logaddexp.reduce(log_weights)
            if merges[self.depth] < np.exp(subtree - log_weight):
                selected = self.leaves[self.select(log_weights, selections)][:2]
            is_turning = self.is_turning((span[-direction], span[direction], total), (first, last, rho))
            log_weight, total = np.logaddexp(log_weight, subtree), total + rho
            ends[direction], span[direction] = self.leaves[-1][:2], last
            self.depth += 1
        return {
            "position": selected[0],
            "total_energy": self.hamiltonian(*selected),
            "acceptance_rate": np.mean(rates),
            "num_gradients": len(rates),
            "tree_depth": self.depth,
            "is_accepted": selected[0] is not x,
            "is_divergent": self.is_divergent,
            "is_turning": is_turning,
            "is_max_depth": not self.is_divergent and not is_turning,
        }

    @staticmethod
    def select(log_weights, selections):
        """Pair after pair takes its share; what is left of a uniform serves the next one."""
        if len(log_weights) == 1:
            return 0
        weights, selected = np.exp(log_weights - log_weights.max()), 0
        for n in range(0, len(weights), 2):
            if n & (n - 1) == 0:
                u = selections[max(n.bit_length() - 1, 0)]
            one, two = weights[n : n + 2] / weights[: n + 2].sum()
            bounds = [0, two, two + one, 1]  # the second leaf, the first, neither
            which = 1 if n == 0 and u >= two else np.searchsorted(bounds, u, side="right") - 1
            selected = [n + 1, n, selected][which]
            u = (u - bounds[which]) / (bounds[which + 1] - bounds[which])
        return selected


SCALES = np.array([1.0, 0.5, 4.0])
ENERGIES = {
    "quartic": (
        lambda params, x: 0.6 * (x**2).sum() + 0.2 * (x**4).sum() + torch.sin(x[0] + 2 * x[1]),
        lambda x: 0.6 * (x**2).sum() + 0.2 * (x**4).sum() + np.sin(x[0] + 2 * x[1]),
        lambda x: 1.2 * x + 0.8 * x**3 + np.cos(x[0] + 2 * x[1]) * np.array([1.0, 2.0, 0.0]),
    ),
    "gaussian": (
        lambda params, x: (x**2 / torch.tensor(SCALES)).sum() / 2,
        lambda x: (x**2 / SCALES).sum() / 2,
        lambda x: x / SCALES,
    ),
    "isotropic": (lambda params, x: (x**2).sum() / 2, lambda x: (x**2).sum() / 2, lambda x: x),
    "funnel": (
        lambda params, x: x[0] ** 2 / 8 + torch.exp(-x[0]) * (x[1:] ** 2).sum() / 2 + x[0],
        lambda x: x[0] ** 2 / 8 + np.exp(-x[0]) * (x[1:] ** 2).sum() / 2 + x[0],
        lambda x: np.array([x[0] / 4 - np.exp(-x[0]) * (x[1:] ** 2).sum() / 2 + 1, *(np.exp(-x[0]) * x[1:])]),
    ),
    "root": (  # NaN where a coordinate is below -1
        lambda params, x: (x**2).sum() / 2 + ((1 + x) ** 0.5).sum(),
        lambda x: (x**2).sum() / 2 + ((1 + x) ** 0.5).sum(),
        lambda x: x + 0.5 * (1 + x) ** -0.5,
    ),
}
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
    function, *in_numpy = ENERGIES[energy]
    inverse_mass, matrix = METRICS[metric]
    sampler = samplers.nuts(
        function, step_size=h, max_depth=max_depth, inverse_mass=inverse_mass, temperature=temperature
    )
    tuning = tree.map(torch.Tensor.double, sampler.tuning)
    root = tuning.metric.inverse_root.numpy() if metric == "dense" else np.sqrt(matrix)
    h, temperature = float(tuning.step_size), float(tuning.temperature)
    reference = Reference(*in_numpy, h, max_depth, matrix, temperature)
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


def test_a_trajectory_is_packed_and_unpacked_field_by_field():
    numbers = iter(range(1, 100))
    sizes = {"firsts": (2, 3), "sums": (2, 3), "lasts": (2, 3)}
    counts = ("num_leaves", "pair", "slot", "depth")

    def of(fields):
        is_vector = {field: field in ("position", "momentum", "gradient") for field in fields._fields}
        return fields(*(torch.full((3,) if is_vector[f] else (), next(numbers)).double() for f in fields._fields))

    parts = {}
    for name in _nuts_trajectory.Trajectory._fields:
        if name in ("front", "far"):
            parts[name] = of(_nuts_trajectory.End)
        elif name in ("selected", "candidate"):
            parts[name] = of(_nuts_trajectory.Point)
        elif name in counts:
            parts[name] = torch.tensor(next(numbers), dtype=torch.int32)
        elif name.startswith("is_") or name == "goes_on":
            parts[name] = torch.tensor(next(numbers) % 2 == 0)
        else:
            parts[name] = torch.full(sizes.get(name, (3,) if name == "total" else ()), next(numbers)).double()
    before = _nuts_trajectory.Trajectory(**parts)
    after = _nuts_trajectory.unpack(_nuts_trajectory.pack(before))
    assert tree.paths(after) == tree.paths(before)
    for name, a, b in zip(tree.paths(before), tree.leaves(before), tree.leaves(after), strict=True):
        assert torch.equal(a, b) and a.dtype == b.dtype, name
    assert bool(_nuts_trajectory.pack(before).goes_on) == bool(before.goes_on)
