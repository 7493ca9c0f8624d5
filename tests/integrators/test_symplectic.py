"""Leapfrog is reversible, keeps volume, and is of second order; on the oscillator its error is known exactly."""

from __future__ import annotations

import math

import pytest
import torch
from torch.func import grad_and_value, jacrev

from funcebm import integrators, metrics, random, tree
from funcebm.integrators import PhasePoint

DENSE = torch.tensor([[1.0, 0.3], [0.3, 0.5]], dtype=torch.float64)
METRICS = {
    "identity": metrics.of(None),
    "diagonal": metrics.of(torch.tensor([0.5, 2.0], dtype=torch.float64)),
    "dense": metrics.of(DENSE),
}
sweep = pytest.mark.parametrize("name", list(METRICS))


def _energy(x: torch.Tensor) -> torch.Tensor:
    """Neither even nor separable."""
    return (x**2).sum() / 2 + 0.3 * torch.sin(2 * x[0] + x[1]) + 0.1 * x[0] ** 4 + 0.2 * x[0] * x[1] ** 2


def _field(energy):
    def field(x):
        gradient, value = grad_and_value(energy)(x)
        return value, gradient

    return field


def _flow(energy, metric, step_size, num_steps, x, p):
    point = PhasePoint(x, p, _field(energy)(x)[1])
    for _ in range(num_steps):
        point, _ = integrators.leapfrog(_field(energy), metric, torch.as_tensor(step_size, dtype=torch.float64), point)
    return point.position, point.momentum


X, P = (random.normal(random.key(i), (2,), dtype=torch.float64) for i in (3, 4))


@sweep
def test_turning_the_momentum_goes_back(name):
    x, p = _flow(_energy, METRICS[name], 0.3, 20, X, P)
    x, p = _flow(_energy, METRICS[name], 0.3, 20, x, -p)
    torch.testing.assert_close((x, -p), (X, P), rtol=1e-11, atol=1e-11)


@sweep
def test_a_negative_step_goes_back(name):
    x, p = _flow(_energy, METRICS[name], 0.3, 20, X, P)
    x, p = _flow(_energy, METRICS[name], -0.3, 20, x, p)
    torch.testing.assert_close((x, p), (X, P), rtol=1e-11, atol=1e-11)


@sweep
@pytest.mark.parametrize("step_size", [0.1, 0.9])
def test_the_map_is_symplectic_and_so_keeps_volume(name, step_size):
    def flow(z):
        return torch.cat(_flow(_energy, METRICS[name], step_size, 2, z[:2], z[2:]))

    jacobian = jacrev(flow)(torch.cat([X, P]))
    zero, eye = torch.zeros(2, 2).double(), torch.eye(2).double()
    form = torch.cat([torch.cat([zero, eye], 1), torch.cat([-eye, zero], 1)])
    torch.testing.assert_close(jacobian.T @ form @ jacobian, form, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(torch.linalg.det(jacobian), torch.ones(()).double(), rtol=1e-11, atol=0)


def _slope(sizes, errors) -> float:
    x, y = torch.log(torch.tensor(sizes)), torch.log(torch.tensor(errors))
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


@sweep
def test_the_global_error_is_of_second_order(name):
    reference = torch.cat(_flow(_energy, METRICS[name], 1 / 2048, 2048, X, P))
    counts = [16, 32, 64, 128]
    flows = [torch.cat(_flow(_energy, METRICS[name], 1 / num, num, X, P)) for num in counts]
    errors = [float((end - reference).norm()) for end in flows]
    assert abs(_slope([1 / num for num in counts], errors) - 2) < 0.05


def test_the_local_error_of_the_energy_is_of_third_order():
    total = lambda x, p: float(_energy(x) + p @ p / 2)  # noqa: E731
    sizes = [0.02, 0.01, 0.005, 0.0025]
    errors = [abs(total(*_flow(_energy, METRICS["identity"], size, 1, X, P)) - total(X, P)) for size in sizes]
    assert abs(_slope(sizes, errors) - 3) < 0.05


@pytest.mark.parametrize("step_size", [0.1, 1.0, 1.9])
def test_on_the_harmonic_oscillator_a_nearby_energy_is_kept_exactly(step_size):
    """Leapfrog on ``E = x^2 / 2`` keeps ``p^2 / 2 + x^2 (1 - h^2 / 4) / 2``, at any stable step size."""
    shadow = lambda x, p: p**2 / 2 + x**2 * (1 - step_size**2 / 4) / 2  # noqa: E731
    x, p = X[:1], P[:1]
    start = shadow(x, p)
    for _ in range(5):
        x, p = _flow(lambda x: (x**2).sum() / 2, METRICS["identity"], step_size, 200, x, p)
        torch.testing.assert_close(shadow(x, p), start, rtol=1e-12, atol=1e-12)


def test_on_the_harmonic_oscillator_the_period_is_known():
    """One step is a rotation by ``2 arcsin(h / 2)``: with ``h = 1`` by 60 degrees, so six steps are the identity."""
    assert math.isclose(6 * 2 * math.asin(0.5), 2 * math.pi)
    x, p = _flow(lambda x: (x**2).sum() / 2, METRICS["identity"], 1.0, 6, X, P)
    torch.testing.assert_close((x, p), (X, P), rtol=1e-13, atol=1e-13)


def test_a_metric_is_a_change_of_coordinates():
    """With inverse mass ``A A^T``, ``x = A y`` and ``p = A^-T q``, it is leapfrog with the identity in ``(y, q)``."""
    root = torch.linalg.cholesky(DENSE)
    x, p = _flow(_energy, METRICS["dense"], 0.4, 7, X, P)
    inverse = torch.linalg.inv(root)
    y, q = _flow(lambda y: _energy(root @ y), METRICS["identity"], 0.4, 7, inverse @ X, root.T @ P)
    torch.testing.assert_close((x, p), (root @ y, inverse.T @ q), rtol=1e-12, atol=1e-12)


def test_trees_move_as_their_vectors():
    vector = torch.cat([X, P])
    back = tree.ravel({"a": X, "b": (P,)})[1]
    energy = lambda v: (v**4).sum() + v[0] * v[3]  # noqa: E731
    expected = _flow(energy, metrics.of(None), 0.1, 5, vector, vector.flip(0))
    of_tree = lambda t: energy(tree.ravel(t)[0])  # noqa: E731
    got = _flow(of_tree, metrics.of(None), 0.1, 5, back(vector), back(vector.flip(0)))
    torch.testing.assert_close(tuple(tree.ravel(part)[0] for part in got), expected)


def test_the_gradient_and_the_value_come_with_the_point():
    point = PhasePoint(X, P, _field(_energy)(X)[1])
    calls = []

    def field(x):
        calls.append(x)
        return _field(_energy)(x)

    end, value = integrators.leapfrog(field, metrics.of(None), torch.tensor(0.1), point)
    assert len(calls) == 1
    torch.testing.assert_close((value, end.gradient), _field(_energy)(end.position))
