"""The integrators are reversible, keep volume, and have their orders; on the oscillator their errors are known exactly."""

from __future__ import annotations

import math

import pytest
import torch
from tests.distributions import order_of
from tests.targets import field_of
from torch.func import jacrev, vmap

from funcebm import integrators, metrics, random, tree
from funcebm.integrators import PhasePoint

DENSE = torch.tensor([[1.0, 0.3], [0.3, 0.5]], dtype=torch.float64)
METRICS = {
    "identity": metrics.of(None),
    "diagonal": metrics.of(torch.tensor([0.5, 2.0], dtype=torch.float64)),
    "dense": metrics.of(DENSE),
}
INTEGRATORS = ["leapfrog", "position_leapfrog", "mclachlan", "yoshida"]
sweep = pytest.mark.parametrize("name", list(METRICS))
all_integrators = pytest.mark.parametrize("integrator", INTEGRATORS)


def _energy(x: torch.Tensor) -> torch.Tensor:
    """Neither even nor separable."""
    return (x**2).sum() / 2 + 0.3 * torch.sin(2 * x[0] + x[1]) + 0.1 * x[0] ** 4 + 0.2 * x[0] * x[1] ** 2


def _flow(energy, metric, step_size, num_steps, x, p, integrator="leapfrog"):
    step, point = getattr(integrators, integrator), PhasePoint(x, p, field_of(energy)(x)[1])
    for _ in range(num_steps):
        point, _ = step(field_of(energy), metric, torch.as_tensor(step_size, dtype=torch.float64), point)
    return point.position, point.momentum


X, P = (random.normal(random.key(i), (2,), dtype=torch.float64) for i in (3, 4))


@sweep
@all_integrators
def test_turning_the_momentum_goes_back(name, integrator):
    x, p = _flow(_energy, METRICS[name], 0.3, 20, X, P, integrator)
    x, p = _flow(_energy, METRICS[name], 0.3, 20, x, -p, integrator)
    torch.testing.assert_close((x, -p), (X, P), rtol=1e-11, atol=1e-11)


@sweep
@all_integrators
def test_a_negative_step_goes_back(name, integrator):
    x, p = _flow(_energy, METRICS[name], 0.3, 20, X, P, integrator)
    x, p = _flow(_energy, METRICS[name], -0.3, 20, x, p, integrator)
    torch.testing.assert_close((x, p), (X, P), rtol=1e-11, atol=1e-11)


@sweep
@all_integrators
@pytest.mark.parametrize("step_size", [0.1, 0.9])
def test_the_map_is_symplectic_and_so_keeps_volume(name, integrator, step_size):
    def flow(z):
        return torch.cat(_flow(_energy, METRICS[name], step_size, 2, z[:2], z[2:], integrator))

    jacobian = jacrev(flow)(torch.cat([X, P]))
    zero, eye = torch.zeros(2, 2).double(), torch.eye(2).double()
    form = torch.cat([torch.cat([zero, eye], 1), torch.cat([-eye, zero], 1)])
    rounding = 1e-13 * max(1.0, float(jacobian.norm()) ** 2)
    torch.testing.assert_close(jacobian.T @ form @ jacobian, form, rtol=0, atol=rounding)
    torch.testing.assert_close(torch.linalg.det(jacobian), torch.ones(()).double(), rtol=0, atol=rounding)


ORDERS = pytest.mark.parametrize(
    ("integrator", "order"), [("leapfrog", 2), ("position_leapfrog", 2), ("mclachlan", 2), ("yoshida", 4)]
)


@pytest.fixture(scope="module", params=list(METRICS))
def metric_and_end(request):
    """A metric, and where its exact flow of unit time ends, by small steps of fourth order."""
    metric = METRICS[request.param]
    return metric, torch.cat(_flow(_energy, metric, 1 / 512, 512, X, P, "yoshida"))


@ORDERS
def test_the_global_error_is_of_its_order(metric_and_end, integrator, order):
    metric, reference = metric_and_end
    counts = [32, 64, 128] if order == 2 else [16, 32, 64]
    flows = [torch.cat(_flow(_energy, metric, 1 / num, num, X, P, integrator)) for num in counts]
    errors = [float((end - reference).norm()) for end in flows]
    assert abs(order_of([1 / num for num in counts], errors) - order) < 0.05


@ORDERS
def test_the_local_error_of_the_energy_is_one_order_higher(integrator, order):
    total = lambda x, p: float(_energy(x) + p @ p / 2)  # noqa: E731
    sizes = [0.02, 0.01, 0.005, 0.0025] if order == 2 else [0.01, 0.0075, 0.005, 0.0035]
    flows = [_flow(_energy, METRICS["identity"], size, 1, X, P, integrator) for size in sizes]
    errors = [abs(total(*end) - total(X, P)) for end in flows]
    assert abs(order_of(sizes, errors) - (order + 1)) < 0.05


def test_two_stages_keep_the_energy_better_than_leapfrog_at_the_same_cost():
    """The norm of its leading error is 0.37 of that of leapfrog; over many starts, the energy's less than half."""
    starts = random.normal(random.key(5), (2, 200, 2), dtype=torch.float64)
    total = vmap(lambda x, p: _energy(x) + p @ p / 2)

    def error(name, num):
        ends = vmap(lambda x, p: _flow(_energy, METRICS["identity"], 2 / num, num, x, p, name))(*starts)
        return float((total(*ends) - total(*starts)).square().mean().sqrt())

    assert error("mclachlan", 16) < 0.5 * error("leapfrog", 32)


def test_the_number_of_the_two_stages_is_the_root_that_makes_the_error_least():
    """The minimum in closed form, and that the sum of squares of the two leading coefficients is least there."""
    root = (2 * math.sqrt(326) + 36) ** (1 / 3)
    b = 1 / 2 - root / 12 + 1 / (6 * root)
    norm = lambda b: ((1 - 6 * b + 6 * b**2) / 12) ** 2 + ((1 - 6 * b) / 24) ** 2  # noqa: E731
    assert norm(b) < min(norm(b - 1e-4), norm(b + 1e-4))
    calls = []
    zero = torch.zeros(1, dtype=torch.float64)
    point = PhasePoint(zero, zero, zero + 1)
    end, _ = integrators.mclachlan(lambda x: calls.append(x) or (None, zero), METRICS["identity"], zero[0] + 1, point)
    assert math.isclose(-float(end.momentum), b, rel_tol=1e-14)
    assert len(calls) == 2


def _rotation(integrator, step_size):
    """One step on ``E = x^2 / 2``, which is linear: a matrix ``(2, 2)``."""
    columns = [_flow(lambda x: (x**2).sum() / 2, METRICS["identity"], step_size, 1, *z, integrator) for z in UNITS]
    return torch.stack([torch.cat(column) for column in columns], 1)


UNITS = [(torch.ones(1).double(), torch.zeros(1).double()), (torch.zeros(1).double(), torch.ones(1).double())]


@pytest.mark.parametrize(
    ("integrator", "limit"), [("leapfrog", 2.0), ("position_leapfrog", 2.0), ("mclachlan", 2.554), ("yoshida", 1.573)]
)
def test_the_limit_of_stability_is_the_known_one(integrator, limit):
    """On the oscillator a step is stable while its trace is within 2."""
    assert abs(float(_rotation(integrator, limit - 2e-3).trace())) < 2
    assert abs(float(_rotation(integrator, limit + 2e-3).trace())) > 2


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


@all_integrators
def test_a_step_costs_what_it_says_and_hands_on_the_last_gradient(integrator):
    point = PhasePoint(X, P, field_of(_energy)(X)[1])
    calls, step = [], getattr(integrators, integrator)

    def field(x):
        calls.append(x)
        return field_of(_energy)(x)

    end, value = step(field, metrics.of(None), torch.tensor(0.1).double(), point)
    assert len(calls) == step.num_gradients
    torch.testing.assert_close((value, end.gradient), field_of(_energy)(calls[-1]))
    assert torch.equal(calls[-1], end.position) == step.ends_on_kick
    if not step.ends_on_kick:
        torch.testing.assert_close(end, step(field, metrics.of(None), 0.1, point._replace(gradient=math.nan * X))[0])


def test_an_integrator_of_ones_own_is_a_list_of_kicks_and_drifts():
    """The triple jump as three leapfrog steps."""
    w = 1 / (2 - 2 ** (1 / 3))
    x, p = X, P
    for part in (w, 1 - 2 * w, w):
        x, p = _flow(_energy, METRICS["dense"], 0.3 * part, 1, x, p)
    torch.testing.assert_close((x, p), _flow(_energy, METRICS["dense"], 0.3, 1, X, P, "yoshida"))
    own = integrators.splitting(kicks=(1 / 6, 2 / 3, 1 / 6), drifts=(0.5, 0.5))
    assert (own.num_gradients, own.ends_on_kick) == (2, True)


@pytest.mark.parametrize(
    ("kicks", "drifts", "message"),
    [
        ((1.0,), (1.0,), "must differ by one. Got 1 kicks and 1 drifts"),
        ((0.2, 0.8), (1.0,), "kicks must read the same backwards"),
        ((0.5, 0.5), (0.9,), "drifts must add up to 1"),
        ((0.4, 0.4), (1.0,), "kicks must add up to 1"),
    ],
)
def test_lists_that_make_no_reversible_scheme_are_errors(kicks, drifts, message):
    with pytest.raises(ValueError, match=message):
        integrators.splitting(kicks, drifts)
