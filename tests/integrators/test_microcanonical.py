"""Isokinetic kicks are exact flows with a known Jacobian; the steps made of them are reversible and of second order."""

from __future__ import annotations

import pytest
import torch
from tests.distributions import order_of
from tests.targets import field_of
from torch.func import jacrev

from funcebm import metrics, random, tree
from funcebm.integrators.microcanonical import MicrocanonicalPoint, isokinetic_kick, microcanonical_step, normalise

D = 4
DTYPE = torch.float64
X, G = (random.normal(random.key(i), (D,), dtype=DTYPE) for i in (3, 4))
U = normalise(random.normal(random.key(5), (D,), dtype=DTYPE))
MATRIX = torch.eye(D, dtype=DTYPE) + 0.3 * torch.outer(G, G)
METRICS = {
    "identity": metrics.of(None),
    "diagonal": metrics.of(torch.tensor([0.5, 2.0, 1.0, 0.7], dtype=DTYPE)),
    "dense": metrics.of(MATRIX),
}
TIMES = [0.01, 0.3, 1.0, 4.0, -0.5]
both = pytest.mark.parametrize("integrator", ["leapfrog", "mclachlan"])
sweep = pytest.mark.parametrize("name", list(METRICS))


def _energy(x):
    """Neither even nor separable."""
    return (x**2).sum() / 2 + 0.3 * torch.sin(2 * x[0] + x[1]) + 0.1 * x[2] ** 4 + 0.2 * x[0] * x[3] ** 2


def _path(metric, integrator, step_size, num_steps, x, u, energy=_energy):
    """Positions, velocities and sums of kinetic energy, step by step."""
    point, total = MicrocanonicalPoint(x, u, field_of(energy)(x)[1]), torch.zeros((), dtype=DTYPE)
    for _ in range(num_steps):
        size = torch.as_tensor(step_size, dtype=DTYPE)
        point, change, _ = microcanonical_step(field_of(energy), metric, size, point, integrator)
        total = total + change
        yield point.position, point.velocity, total


def _flow(*arguments):
    return list(_path(*arguments))[-1]


def _tangent(u):
    """An orthonormal basis of the tangent space of the sphere at ``u``. ``(D, D - 1)``."""
    return torch.linalg.svd(u[None])[2][1:].mT


# -- kicks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("time", TIMES)
def test_a_kick_is_the_exact_flow_of_a_constant_force(time):
    """Against Runge and Kutta's method of fourth order with many small steps, for ``u`` and for the kinetic energy."""
    rate = lambda u: (-(G - u * (u @ G)) / (D - 1), -(u @ G))  # noqa: E731
    u, kinetic, num = U, torch.zeros((), dtype=DTYPE), 2000
    h = time / num
    for _ in range(num):
        k1 = rate(u)
        k2 = rate(u + h / 2 * k1[0])
        k3 = rate(u + h / 2 * k2[0])
        k4 = rate(u + h * k3[0])
        u, kinetic = (
            value + h / 6 * (a + 2 * b + 2 * c + d)
            for value, a, b, c, d in zip((u, kinetic), k1, k2, k3, k4, strict=True)
        )
    got, change = isokinetic_kick(torch.tensor(time, dtype=DTYPE), U, G)
    torch.testing.assert_close(got, u, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(change, kinetic, rtol=1e-9, atol=1e-9)


def test_kicks_add_up_and_a_negative_one_goes_back():
    first, change_1 = isokinetic_kick(torch.tensor(0.7, dtype=DTYPE), U, G)
    second, change_2 = isokinetic_kick(torch.tensor(0.4, dtype=DTYPE), first, G)
    whole, change = isokinetic_kick(torch.tensor(1.1, dtype=DTYPE), U, G)
    torch.testing.assert_close((second, change_1 + change_2), (whole, change), rtol=1e-12, atol=1e-12)
    back, change_back = isokinetic_kick(torch.tensor(-0.7, dtype=DTYPE), first, G)
    torch.testing.assert_close((back, -change_back), (U, change_1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("time", TIMES)
def test_the_jacobian_of_a_kick_on_the_sphere_is_its_change_of_kinetic_energy(time):
    time = torch.tensor(time, dtype=DTYPE)
    jacobian = jacrev(lambda u: isokinetic_kick(time, normalise(u), G)[0])(U)
    after, change = isokinetic_kick(time, U, G)
    determinant = torch.linalg.det(_tangent(after).mT @ jacobian @ _tangent(U)).abs()
    torch.testing.assert_close(determinant, torch.exp(-change), rtol=1e-10, atol=0)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 30.0, 1e4])
def test_the_change_of_kinetic_energy_keeps_its_digits_in_float32(scale):
    expected = isokinetic_kick(torch.tensor(0.1, dtype=DTYPE), U.float().double(), (scale * G).float().double())[1]
    got = isokinetic_kick(torch.tensor(0.1), U.float(), (scale * G).float())[1]
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=0)


def test_the_length_stays_one_over_a_whole_tree_and_trees_turn_as_their_vectors():
    back = tree.ravel({"a": torch.zeros(2, 1), "b": (torch.zeros(2),)})[1]
    time = torch.tensor(0.8, dtype=DTYPE)
    after, change = isokinetic_kick(time, back(U), back(G))
    expected = isokinetic_kick(time, U, G)
    torch.testing.assert_close((tree.ravel(after)[0], change), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(tree.squared_norm(after), torch.ones((), dtype=DTYPE))


def test_without_a_force_nothing_turns_and_derivatives_are_finite():
    kick = lambda g: isokinetic_kick(torch.tensor(0.8, dtype=DTYPE), U, g)  # noqa: E731
    zero = torch.zeros_like(G)
    torch.testing.assert_close(kick(zero), (U, torch.zeros((), dtype=DTYPE)))
    assert torch.isfinite(jacrev(lambda g: kick(g)[0])(zero)).all()


# -- steps ----------------------------------------------------------------------------------------------------------


@both
@sweep
def test_turning_round_goes_back(name, integrator):
    x, u, total = _flow(METRICS[name], integrator, 0.4, 12, X, U)
    x, u, back = _flow(METRICS[name], integrator, 0.4, 12, x, -u)
    torch.testing.assert_close((x, -u, back), (X, U, -total), rtol=1e-10, atol=1e-10)


@both
@sweep
def test_the_jacobian_of_a_trajectory_is_what_the_metropolis_test_takes_it_for(name, integrator):
    """On positions and the sphere together it is ``exp(-sum dK)``: drifts keep volume."""

    def flow(z):
        return torch.cat(_flow(METRICS[name], integrator, 0.9, 2, z[:D], normalise(z[D:]))[:2])

    _, u, total = _flow(METRICS[name], integrator, 0.9, 2, X, U)
    jacobian = jacrev(flow)(torch.cat([X, U]))
    before, after = (torch.block_diag(torch.eye(D, dtype=DTYPE), _tangent(at)) for at in (U, u))
    determinant = torch.linalg.det(after.mT @ jacobian @ before).abs()
    torch.testing.assert_close(determinant, torch.exp(-total), rtol=1e-9, atol=0)
    assert abs(float(total)) > 0.1


def _energy_errors(integrator, step_size, num_steps):
    path = _path(METRICS["identity"], integrator, step_size, num_steps, X, U)
    return [abs(float(_energy(x) + total - _energy(X))) for x, _, total in path]


@both
def test_the_energy_is_kept_with_second_order_and_in_one_step_with_third(integrator):
    sizes = [0.04, 0.02, 0.01, 0.005]
    paths = [_energy_errors(integrator, size, round(2 / size)) for size in sizes]
    assert abs(order_of(sizes, [path[0] for path in paths]) - 3) < 0.1
    assert abs(order_of(sizes, [path[-1] for path in paths]) - 2) < 0.1


@both
@sweep
def test_the_global_error_is_of_second_order(name, integrator):
    reference = torch.cat(_flow(METRICS[name], "mclachlan", 2 / 400, 400, X, U)[:2])
    counts = [10, 20, 40, 80]
    flows = [torch.cat(_flow(METRICS[name], integrator, 2 / num, num, X, U)[:2]) for num in counts]
    errors = [float((end - reference).norm()) for end in flows]
    assert abs(order_of([2 / num for num in counts], errors) - 2) < 0.1


def test_mclachlan_pays_for_its_second_gradient():
    """At twice the step, so at the same cost, it keeps the energy better."""
    for step_size in (0.05, 0.1, 0.2):
        leapfrog = max(_energy_errors("leapfrog", step_size, round(4 / step_size)))
        assert max(_energy_errors("mclachlan", 2 * step_size, round(2 / step_size))) < leapfrog


@both
def test_a_metric_is_a_change_of_coordinates(integrator):
    """With inverse mass ``A A^T`` and ``x = A y`` it is the dynamics of ``y`` with the identity, velocity for velocity."""
    root = torch.linalg.cholesky(MATRIX)
    x, u, total = _flow(METRICS["dense"], integrator, 0.4, 7, X, U)
    start = torch.linalg.solve_triangular(root, X[:, None], upper=False)[:, 0]
    y, v, expected = _flow(METRICS["identity"], integrator, 0.4, 7, start, U, lambda y: _energy(root @ y))
    torch.testing.assert_close((x, u, total), (root @ y, v, expected), rtol=1e-11, atol=1e-11)


@both
def test_a_step_costs_a_gradient_for_each_drift(integrator):
    calls = []

    def field(x):
        calls.append(x)
        return field_of(_energy)(x)

    point = MicrocanonicalPoint(X, U, field_of(_energy)(X)[1])
    end, _, value = microcanonical_step(field, METRICS["identity"], torch.tensor(0.1), point, integrator)
    assert len(calls) == {"leapfrog": 1, "mclachlan": 2}[integrator]
    torch.testing.assert_close((value, end.gradient), field_of(_energy)(end.position))
