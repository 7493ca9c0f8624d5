"""The generalised leapfrog is reversible and symplectic to the tolerance of its equations, and of second order."""

from __future__ import annotations

import pytest
import torch
from tests.distributions import order_of
from tests.targets import field_of
from torch.func import grad, vmap

from funcebm import integrators, metrics, random, samplers, tree
from funcebm.integrators import PhasePoint
from funcebm.integrators.riemannian import (
    distance,
    fixed_point,
    generalised_leapfrog,
    kinetic_energy,
    kinetic_gradient,
    metric_root,
)

DTYPE = torch.float64
X, P = (random.normal(random.key(i), (2,), dtype=DTYPE) for i in (3, 4))
CONSTANT = torch.tensor([[1.5, 0.4], [0.4, 0.8]], dtype=DTYPE)


def _energy(x):
    """Neither even nor separable."""
    return (x**2).sum() / 2 + 0.3 * torch.sin(2 * x[0] + x[1]) + 0.1 * x[0] ** 4 + 0.2 * x[0] * x[1] ** 2


def _curved(x):
    row = torch.stack([0.5 * torch.sin(x[0]), 0.7 * x[1]])
    return CONSTANT + torch.diag(torch.exp(0.4 * x)) + torch.outer(row, row)


_soft = samplers.softabs(lambda params, x: _energy(x), alpha=1.0)
METRICS = {"curved": _curved, "softabs": lambda x: _soft((), x), "constant": lambda x: CONSTANT + 0 * x.sum()}
sweep = pytest.mark.parametrize("name", list(METRICS))


def _flow(name, step_size, num_steps, x, p, tolerance=1e-14):
    point = PhasePoint(x, p, field_of(_energy)(x)[1])
    size = torch.as_tensor(step_size, dtype=DTYPE)
    for _ in range(num_steps):
        point, _, _, _ = generalised_leapfrog(
            field_of(_energy), METRICS[name], size, point, tolerance=tolerance, max_iterations=100
        )
    return point.position, point.momentum


def _total(name, x, p):
    return float(_energy(x) + kinetic_energy(METRICS[name](x), p))


@sweep
def test_turning_the_momentum_and_a_negative_step_go_back(name):
    x, p = _flow(name, 0.25, 8, X, P)
    assert float((x - X).norm()) > 0.3
    turned = _flow(name, 0.25, 8, x, -p)
    torch.testing.assert_close((turned[0], -turned[1]), (X, P), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(_flow(name, -0.25, 8, x, p), (X, P), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_the_way_back_is_as_good_as_the_tolerance(tolerance):
    x, p = _flow("curved", 0.25, 8, X, P, tolerance)
    x, p = _flow("curved", 0.25, 8, x, -p, tolerance)
    error = float((torch.cat([x, -p]) - torch.cat([X, P])).abs().max())
    assert 0.001 * tolerance < error < 50 * tolerance


@sweep
def test_the_map_is_symplectic_and_so_keeps_volume(name):
    """The Jacobian by central differences, which take no derivative of the metric's derivative for granted."""
    z, h = torch.cat([X, P]), 1e-5
    columns = []
    for e in torch.eye(4, dtype=DTYPE):
        ends = [torch.cat(_flow(name, 0.3, 2, *(z + sign * h * e).split(2))) for sign in (1, -1)]
        columns.append((ends[0] - ends[1]) / (2 * h))
    jacobian = torch.stack(columns, 1)
    zero, eye = torch.zeros(2, 2, dtype=DTYPE), torch.eye(2, dtype=DTYPE)
    form = torch.cat([torch.cat([zero, eye], 1), torch.cat([-eye, zero], 1)])
    torch.testing.assert_close(jacobian.T @ form @ jacobian, form, rtol=0, atol=2e-8)
    assert abs(float(torch.linalg.det(jacobian)) - 1) < 2e-8


@sweep
def test_the_global_error_is_of_second_order_and_so_is_that_of_the_energy(name):
    counts = [8, 16, 32, 64]
    flows = [_flow(name, 1 / num, num, X, P) for num in counts]
    ends = [torch.cat(end) for end in flows]
    exact = ends[3] + (ends[3] - ends[2]) / 3  # Richardson: the error that is left is of fourth order
    sizes = [1 / num for num in counts[:3]]
    assert abs(order_of(sizes, [float((end - exact).norm()) for end in ends[:3]]) - 2) < 0.1
    assert abs(order_of(sizes, [abs(_total(name, *end) - _total(name, X, P)) for end in flows[:3]]) - 2) < 0.2


@sweep
def test_the_local_error_of_the_energy_is_of_third_order(name):
    sizes = [0.04, 0.02, 0.01]
    errors = [abs(_total(name, *_flow(name, size, 1, X, P)) - _total(name, X, P)) for size in sizes]
    assert abs(order_of(sizes, errors) - 3) < 0.15


def test_with_a_constant_metric_it_is_leapfrog_and_solved_at_once():
    point = PhasePoint(X, P, field_of(_energy)(X)[1])
    size = torch.tensor(0.4, dtype=DTYPE)
    limits = {"tolerance": 1e-12, "max_iterations": 9}
    got, value, is_converged, count = generalised_leapfrog(
        field_of(_energy), METRICS["constant"], size, point, **limits
    )
    expected, energy = integrators.leapfrog(field_of(_energy), metrics.of(torch.linalg.inv(CONSTANT)), size, point)
    torch.testing.assert_close((got, value), (expected, energy), rtol=1e-12, atol=1e-12)
    assert bool(is_converged)
    assert int(count) == 4  # each equation once, and once more to see that nothing changes


def test_trees_move_as_their_vectors():
    back = tree.ravel({"a": X[:1], "b": (X[1:],)})[1]
    of_tree = lambda t: tree.ravel(t)[0]  # noqa: E731
    size = torch.tensor(0.3, dtype=DTYPE)
    limits = {"tolerance": 1e-13, "max_iterations": 99}
    field = field_of(lambda t: _energy(of_tree(t)))
    point = PhasePoint(back(X), back(P), field(back(X))[1])
    got, _, _, _ = generalised_leapfrog(field, lambda t: _curved(of_tree(t)), size, point, **limits)
    expected = _flow("curved", 0.3, 1, X, P)
    torch.testing.assert_close((of_tree(got.position), of_tree(got.momentum)), expected, rtol=1e-12, atol=1e-12)


# -- the parts ------------------------------------------------------------------------------------------------------


@sweep
def test_the_kinetic_energy_is_minus_the_log_density_of_the_momentum(name):
    matrix = METRICS[name](X)
    distribution = torch.distributions.MultivariateNormal(torch.zeros(2, dtype=DTYPE), matrix)
    difference = [kinetic_energy(matrix, p) + distribution.log_prob(p) for p in (P, X, 3 * P)]
    for value in difference:  # the constant
        torch.testing.assert_close(value, -torch.log(2 * torch.tensor(torch.pi, dtype=DTYPE)), rtol=1e-12, atol=0)


@sweep
def test_the_gradient_of_the_kinetic_energy_is_that_of_differentiating_through_the_factorisation(name):
    expected = grad(lambda x: kinetic_energy(METRICS[name](x), P))(X)
    torch.testing.assert_close(kinetic_gradient(METRICS[name], X, P), expected, rtol=1e-11, atol=1e-12)


def test_a_root_of_what_is_no_metric_is_nan():
    fine = torch.tensor([[2.0, 0.5], [0.5, 1.0]])
    root = metric_root(fine)
    torch.testing.assert_close(root @ root.mT, fine)
    assert torch.isfinite(metric_root(torch.tensor([[1e6, 0.0], [1e-3, 1e-2]]))).all()  # rounding, on its own scale
    for wrong in (
        torch.tensor([[1e6, 0.0], [0.05, 1e-2]]),
        torch.tensor([[2.0, 0.5], [0.4, 1.0]]),
        torch.tensor([[2.0, 0.0], [1e-3, 1.0]]),
        torch.tensor([[1.0, 2.0], [2.0, 1.0]]),
        torch.zeros(2, 2),
        torch.tensor([[1.0, torch.nan], [torch.nan, 1.0]]),
        torch.tensor([[torch.inf, 0.0], [0.0, 1.0]]),
    ):
        assert not torch.isfinite(metric_root(wrong)).all()


def test_the_distance_is_the_largest_difference_against_one_plus_the_largest_number():
    old = {"a": torch.tensor([1.0, -2.0]), "b": torch.tensor(5.0)}
    new = {"a": torch.tensor([1.5, -7.0]), "b": torch.tensor(5.0)}
    torch.testing.assert_close(distance(new, old), torch.tensor(5 / 8))
    torch.testing.assert_close(distance(old, new), torch.tensor(5 / 6))


def test_the_count_is_that_of_the_evaluations_of_the_metric():
    calls = []

    def counted(x):
        calls.append(x)
        return _curved(x)

    point = PhasePoint(X, P, field_of(_energy)(X)[1])
    size = torch.tensor(0.4, dtype=DTYPE)
    for tolerance in (1e-3, 1e-12):
        calls.clear()
        _, _, _, count = generalised_leapfrog(
            field_of(_energy), counted, size, point, tolerance=tolerance, max_iterations=99
        )
        assert int(count) == len(calls) - 2  # one at the start, for the velocity, and one at the end, explicit


def _solve(update, start, given=(), tolerance=1e-6, max_iterations=60, **options):
    limits = {"tolerance": tolerance, "max_iterations": max_iterations}
    return fixed_point(update, torch.as_tensor(start), given, **limits, **options)


def test_a_fixed_point_is_found_or_its_error_tells():
    found = _solve(lambda x, given: torch.cos(x), 1.0)
    torch.testing.assert_close(found.value, torch.cos(found.value), rtol=0, atol=1e-5)
    assert float(found.error) <= 1e-6
    assert 10 < int(found.num_iterations) < 60
    expanding = _solve(lambda x, given: 2 * x + 1, 1.0, max_iterations=7)
    assert int(expanding.num_iterations) == 7
    assert float(expanding.error) > 1e-6
    lost = _solve(lambda x, given: torch.sqrt(x - 1.5), 2.0)
    assert torch.isnan(lost.error)
    assert not bool(lost.error <= 1e-6)
    assert int(lost.num_iterations) < 6


def test_many_fixed_points_in_lock_step_are_each_of_them():
    starts, rates = torch.linspace(-1, 1, 5), torch.tensor([0.0, 0.1, 0.5, 0.9, 1.2])
    update = lambda x, rate: torch.cos(rate * x)  # noqa: E731
    together = _solve(update, starts, rates, over_chains=vmap)
    for index in range(5):
        alone = _solve(update, starts[index], rates[index])
        torch.testing.assert_close(tree.map(lambda leaf: leaf[index], together), alone)  # noqa: B023
    assert len(set(together.num_iterations.tolist())) > 3
