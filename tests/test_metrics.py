"""Kinetic energies: one quadratic form, written in three ways."""

from __future__ import annotations

import math

import pytest
import torch

from funcebm import metrics, random, tree

from .distributions import assert_covariance, assert_mean

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


@sweep
def test_displacement_is_a_root_of_the_inverse_mass_and_whiten_its_transpose(name):
    """``A A^T = M^-1``; ``whiten`` is ``A^T``, so it undoes ``momentum``: exactly, from the images of the unit vectors."""
    metric, inverse_mass = METRICS[name]
    metric = tree.map(torch.Tensor.double, metric)
    back = tree.ravel(POSITION)[1]
    matrix = lambda function: torch.stack(  # noqa: E731
        [tree.ravel(function(metric, back(unit)))[0] for unit in torch.eye(3).double()], 1
    )
    root = matrix(metrics.displacement)
    torch.testing.assert_close(root @ root.T, inverse_mass)
    torch.testing.assert_close(matrix(metrics.whiten), root.T)
    torch.testing.assert_close(matrix(metrics.whiten) @ matrix(metrics.momentum), torch.eye(3).double())


def test_momenta_and_displacements_have_the_laws_of_the_mass_and_of_its_inverse():
    noise = random.normal(random.key(1), (20000, 3), dtype=torch.float64)
    for function, covariance in ((metrics.momentum, torch.linalg.inv(DENSE)), (metrics.displacement, DENSE)):
        draws = torch.func.vmap(lambda z: function(metrics.dense(DENSE), z))(noise)  # noqa: B023
        assert_mean(draws, 0.0)
        assert_covariance(draws, covariance)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_what_counts_as_symmetric_does_not_depend_on_the_units(scale):
    units = torch.tensor([1.0, scale]).double()
    metrics.dense(units[:, None] * torch.tensor([[1.0, 0.5], [0.5 + 1e-6, 1.0]]).double() * units)
    with pytest.raises(ValueError, match="must be symmetric"):
        metrics.dense(units[:, None] * torch.tensor([[1.0, 0.0], [0.5, 1.0]]).double() * units)


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
        (torch.tensor([[1.0, math.nan], [math.nan, 1.0]]), "must be finite"),
        (torch.tensor([[1.0, 1.0], [1.0, 1.0]]), "positive definite"),
        ({}, "must hold a tensor"),
    ],
)
def test_a_matrix_that_is_no_metric_is_an_error(inverse_mass, message):
    with pytest.raises(ValueError, match=message):
        metrics.of(inverse_mass)
    with pytest.raises(ValueError, match=message.replace("inverse_mass", "preconditioner")):
        metrics.of(inverse_mass, name="preconditioner")


@pytest.mark.parametrize("metric", [metrics.of(DENSE), metrics.of(torch.ones(4)), metrics.of({"a": torch.ones(5)})])
def test_a_metric_must_fit_the_position(metric):
    for position in (torch.zeros(5), {"a": torch.zeros(2), "c": torch.zeros(3)}):
        with pytest.raises(ValueError, match="inverse_mass must"):
            metrics.check_shape(metric, position)
    metrics.check_shape(metrics.of(None), POSITION)
    metrics.check_shape(metrics.of(DENSE), POSITION)
    metrics.check_shape(metrics.of(VARIANCES), POSITION)
