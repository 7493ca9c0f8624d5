"""Kinetic energies: one quadratic form, written in three ways."""

from __future__ import annotations

import pytest
import torch

from funcebm import metrics, random, tree

from .laws import assert_covariance, assert_mean

DENSE = torch.tensor([[2.0, 0.6, 0.1], [0.6, 1.0, -0.3], [0.1, -0.3, 0.5]], dtype=torch.float64)
POSITION = {"a": torch.zeros(2, dtype=torch.float64), "b": torch.zeros((), dtype=torch.float64)}
VARIANCES = {"a": torch.tensor([2.0, 1.0]).double(), "b": torch.tensor(0.5).double()}

METRICS = {
    "identity": (metrics.of(None), torch.eye(3).double()),
    "number": (metrics.of(2.5), 2.5 * torch.eye(3).double()),
    "diagonal": (metrics.of(VARIANCES), torch.diag(torch.tensor([2.0, 1.0, 0.5]).double())),
    "dense": (metrics.of(DENSE), DENSE),
}
sweep = pytest.mark.parametrize("name", list(METRICS))


@sweep
def test_velocity_and_energy_are_those_of_the_matrix(name):
    metric, inverse_mass = METRICS[name]
    metric = tree.map(torch.Tensor.double, metric)
    back = tree.ravel(POSITION)[1]
    p = random.normal(random.key(0), (3,), dtype=torch.float64)
    torch.testing.assert_close(tree.ravel(metrics.velocity(metric, back(p)))[0], inverse_mass @ p)
    torch.testing.assert_close(metrics.kinetic_energy(metric, back(p)), 0.5 * p @ inverse_mass @ p)
    gradient = torch.func.grad(lambda p: metrics.kinetic_energy(metric, back(p)))(p)
    torch.testing.assert_close(gradient, inverse_mass @ p)


@sweep
def test_momentum_is_a_root_of_the_mass(name):
    """``z -> p`` is linear with ``A A^T = M``: exactly, from the images of the unit vectors."""
    metric, inverse_mass = METRICS[name]
    metric = tree.map(torch.Tensor.double, metric)
    back = tree.ravel(POSITION)[1]
    columns = [tree.ravel(metrics.momentum(metric, back(unit)))[0] for unit in torch.eye(3).double()]
    root = torch.stack(columns, 1)
    torch.testing.assert_close(root @ root.T, torch.linalg.inv(inverse_mass))


def test_momentum_has_the_law_of_the_mass():
    noise = random.normal(random.key(1), (20000, 3), dtype=torch.float64)
    momenta = torch.func.vmap(lambda z: metrics.momentum(metrics.dense(DENSE), z))(noise)
    assert_mean(momenta, 0.0)
    assert_covariance(momenta, torch.linalg.inv(DENSE))


def test_a_metric_made_explicitly_stays():
    square = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert isinstance(metrics.of(square.T @ square), metrics.Dense)
    assert isinstance(metrics.of(metrics.diagonal(square)), metrics.Diagonal)
    assert metrics.of(metrics.dense(DENSE)).inverse_mass is DENSE


@pytest.mark.parametrize(
    ("inverse_mass", "message"),
    [
        (torch.zeros(3), "inverse_mass must be positive"),
        (-1.0, "inverse_mass must be positive"),
        (torch.tensor([[1.0, 2.0], [2.0, 1.0]]), "positive definite"),
        (torch.tensor([[1.0, 0.5], [0.0, 1.0]]), "symmetric"),
        (torch.ones(2, 3), r"must have the shape \(D, D\)"),
    ],
)
def test_a_matrix_that_is_no_metric_is_an_error(inverse_mass, message):
    with pytest.raises(ValueError, match=message):
        metrics.of(inverse_mass)


@pytest.mark.parametrize("metric", [metrics.of(DENSE), metrics.of(torch.ones(4)), metrics.of({"a": torch.ones(5)})])
def test_a_metric_must_fit_the_position(metric):
    for position in (torch.zeros(5), {"a": torch.zeros(2), "c": torch.zeros(3)}):
        with pytest.raises(ValueError, match="inverse_mass must"):
            metrics.check_shape(metric, position)
    metrics.check_shape(metrics.of(None), POSITION)
    metrics.check_shape(metrics.of(DENSE), POSITION)
    metrics.check_shape(metrics.of(VARIANCES), POSITION)
