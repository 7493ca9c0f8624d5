"""Transcriptions of papers in NumPy, and known values, with which several tests compare."""

from __future__ import annotations

import collections
import math

import numpy as np
import torch

__all__ = ["ISING_MOMENTS", "NUTS_ENERGIES", "RecursiveNUTS", "isokinetic_kick_in_numpy"]


ISING_MOMENTS = {  # of small tori, by shape and coupling: bonds, |m| and m^2 a site, by enumeration
    ((3, 3), 0.2): (0.53809911, 0.45997740, 0.29413402),
    ((3, 3), math.log1p(math.sqrt(2)) / 2): (1.61124638, 0.87107194, 0.80942999),
    ((4, 4), 0.2): (0.45613537, 0.34276563, 0.17519948),
    ((4, 4), math.log1p(math.sqrt(2)) / 2): (1.56562379, 0.84386044, 0.76135891),
    ((4, 4), 0.6): (1.90806953, 0.97286745, 0.95289806),
}


class RecursiveNUTS:
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


_SCALES = np.array([1.0, 0.5, 4.0])
NUTS_ENERGIES = {
    "quartic": (
        lambda params, x: 0.6 * (x**2).sum() + 0.2 * (x**4).sum() + torch.sin(x[0] + 2 * x[1]),
        lambda x: 0.6 * (x**2).sum() + 0.2 * (x**4).sum() + np.sin(x[0] + 2 * x[1]),
        lambda x: 1.2 * x + 0.8 * x**3 + np.cos(x[0] + 2 * x[1]) * np.array([1.0, 2.0, 0.0]),
    ),
    "gaussian": (
        lambda params, x: (x**2 / torch.tensor(_SCALES)).sum() / 2,
        lambda x: (x**2 / _SCALES).sum() / 2,
        lambda x: x / _SCALES,
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
"""Energies of torch, and the same with their gradients in NumPy."""


def isokinetic_kick_in_numpy(t, u, g):
    """The velocity after a kick of time ``t`` by the gradient ``g``, and the change of kinetic energy."""
    degrees, norm = len(u) - 1, np.linalg.norm(g)
    e, a = -g / norm, t * norm / degrees
    q = u @ e
    scale = np.cosh(a) + q * np.sinh(a)
    return (u + e * (np.sinh(a) + q * (np.cosh(a) - 1))) / scale, degrees * np.log(scale)
