"""Fields: finite differences, closed forms, trees, transforms, and the error for energies that are no scalars."""

from __future__ import annotations

import pytest
import torch
from torch.func import vmap

from funcebm import fields, jit, random, tree
from tests.cases_energies import ENERGIES, quadratic_of_dict

DOUBLE = torch.float64


def _double(leaves):
    return tree.map(lambda leaf: leaf.to(DOUBLE) if leaf.is_floating_point() else leaf, leaves)


def _difference(function, vector, direction, step=1e-5):
    return (function(vector + step * direction) - function(vector - step * direction)) / (2 * step)


@pytest.mark.parametrize("name", ENERGIES)
def test_gradient_and_hvp_are_finite_differences(name):
    energy, params, position = ENERGIES[name]
    params, position = _double(params), _double(position)
    vector, back = tree.ravel(position)
    direction = random.normal(random.key(1), vector.shape, dtype=DOUBLE)
    direction = direction / direction.norm()
    value, slope = fields.value_and_gradient(energy)(params, position)
    assert value == energy(params, position)
    assert tree.structure(slope) == tree.structure(position)

    expected = _difference(lambda at: energy(params, back(at)), vector, direction)
    torch.testing.assert_close(tree.ravel(slope)[0] @ direction, expected, atol=1e-6, rtol=1e-6)

    def flat_gradient(at):
        return tree.ravel(fields.gradient(energy)(params, back(at)))[0]

    product = fields.hvp(energy)(params, position, back(direction))
    expected = _difference(flat_gradient, vector, direction)
    torch.testing.assert_close(tree.ravel(product)[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ENERGIES)
def test_laplacian_is_the_trace_of_the_hessian(name):
    energy, params, position = ENERGIES[name]
    params, position = _double(params), _double(position)
    vector, back = tree.ravel(position)
    matrix = fields.hessian(energy)(params, position)
    torch.testing.assert_close(matrix, matrix.mT)
    units = torch.eye(len(vector), dtype=vector.dtype)
    rows = vmap(lambda unit: tree.ravel(fields.hvp(energy)(params, position, back(unit)))[0])(units)
    torch.testing.assert_close(matrix, rows)
    torch.testing.assert_close(fields.laplacian(energy)(params, position), matrix.trace())


def test_force_and_score_point_downhill():
    energy, params, position = ENERGIES["dict"]
    uphill = fields.gradient(energy)(params, position)
    for field in (fields.force(energy), fields.score(energy)):
        torch.testing.assert_close(field(params, position), tree.scale(-1.0, uphill))


def test_hutchinson_has_the_scale_of_the_whole_trace():
    # for every dimension: v' H v has mean tr H, not tr H / D. Rademacher probes are exact for a diagonal Hessian
    for size in (1, 3, 10):
        position = torch.ones(size, dtype=DOUBLE)
        probe = random.rademacher(random.key(size), size, dtype=DOUBLE)
        estimate = fields.hutchinson_laplacian(lambda params, x: 0.5 * (x**2).sum())((), position, probe)
        torch.testing.assert_close(estimate, torch.tensor(float(size), dtype=DOUBLE))


@pytest.mark.parametrize("draw", [random.normal, random.rademacher])
def test_hutchinson_is_unbiased(draw):
    factor = random.normal(random.key(2), (4, 4), dtype=DOUBLE)
    matrix = factor @ factor.T
    num = 5_000
    probes = draw(random.key(3), (num, 4), dtype=DOUBLE)

    def energy(params, x):
        return 0.5 * x @ params @ x

    estimates = vmap(fields.hutchinson_laplacian(energy), (None, None, 0))(matrix, torch.zeros(4, dtype=DOUBLE), probes)
    error = estimates.std() / num**0.5
    assert abs(estimates.mean() - matrix.trace()) < 5 * error


def test_divergence_of_a_field_that_is_no_gradient():
    matrix = torch.tensor([[1.0, 5.0, 0.0], [-2.0, 3.0, 1.0], [4.0, 0.0, -0.5]], dtype=DOUBLE)
    position = torch.tensor([1.0, 2.0, 3.0], dtype=DOUBLE)

    def field(params, x):
        return params @ x + torch.sin(x)

    expected = matrix.trace() + torch.cos(position).sum()
    torch.testing.assert_close(fields.divergence(field)(matrix, position), expected)
    probes = torch.eye(3, dtype=DOUBLE)
    parts = vmap(fields.hutchinson_divergence(field), (None, None, 0))(matrix, position, probes)
    torch.testing.assert_close(parts.sum(), expected)


def test_a_field_of_another_size_is_refused():
    with pytest.raises(ValueError, match="one number for each number of the position"):
        fields.divergence(lambda params, x: x[:1])((), torch.ones(3))


def test_per_example_gradients_are_those_of_each_example_alone():
    params, examples = {"w": torch.tensor([1.0, -2.0]), "b": torch.tensor(0.5)}, torch.arange(6.0).reshape(3, 2)

    def loss(params, x):
        return (params["w"] @ x + params["b"]) ** 2

    each = fields.per_example_gradients(loss)(params, examples)
    for i, example in enumerate(examples):
        torch.testing.assert_close(tree.map(lambda leaf, i=i: leaf[i], each), torch.func.grad(loss)(params, example))
    together = torch.func.grad(lambda params: vmap(loss, (None, 0))(params, examples).mean())(params)
    torch.testing.assert_close(tree.map(lambda leaf: leaf.mean(0), each), together)


def test_fields_differentiate_again_in_the_parameters():
    def mean_laplacian(stiffness):
        return fields.laplacian(lambda params, x: 0.5 * params * (x**4).sum())(stiffness, torch.ones(3, dtype=DOUBLE))

    slope = torch.func.grad(mean_laplacian)(torch.tensor(2.0, dtype=DOUBLE))
    torch.testing.assert_close(slope, torch.tensor(18.0, dtype=DOUBLE))


def test_maps_over_particles_and_stacked_params_at_once():
    energy, params, position = ENERGIES["double_well"]
    stacked = tree.map(lambda leaf: torch.stack([leaf, 2 * leaf]), params)
    positions = torch.stack([position, 2 * position, -position])
    both = vmap(vmap(fields.value_and_gradient(energy), (None, 0)), (0, None))(stacked, positions)
    for i in range(2):
        for j in range(3):
            one = fields.value_and_gradient(energy)(tree.map(lambda leaf, i=i: leaf[i], stacked), positions[j])
            torch.testing.assert_close((both[0][i, j], both[1][i, j]), one)


@pytest.mark.compiled
@pytest.mark.parametrize("name", ["laplacian", "hessian", "hvp", "hutchinson_laplacian", "value_and_gradient"])
def test_mapped_fields_are_compiled_to_the_same(name):
    positions = {"a": torch.ones(4, 2), "b": torch.linspace(0, 1, 12).reshape(4, 1, 3)}
    params = ENERGIES["dict"][1]
    extra = (positions,) if name in ("hvp", "hutchinson_laplacian") else ()
    function = vmap(getattr(fields, name)(quadratic_of_dict), (None, 0) + (0,) * len(extra))
    torch.testing.assert_close(jit(function)(params, positions, *extra), function(params, positions, *extra))


@pytest.mark.parametrize(
    ("energy", "words"),
    [
        (lambda params, x: (x**2).sum(-1), r"Got the shape \(3,\) for a position of shape \(3, 2\)"),
        (lambda params, x: (x**2).sum().reshape(1), r"Got the shape \(1,\)"),
        (lambda params, x: 1.0, "Got a float"),
    ],
)
def test_an_energy_that_is_no_scalar_is_told_what_to_return(energy, words):
    with pytest.raises(ValueError, match="must return a 0-d tensor for one particle. " + words):
        fields.gradient(energy)((), torch.ones(3, 2))
    with pytest.raises(ValueError, match="write no batch axis"):
        vmap(fields.gradient(energy), (None, 0))((), torch.ones(5, 3, 2))


def test_errors_of_the_users_energy_pass_through_as_they_are():
    class MineError(Exception):
        pass

    def energy(params, x):
        raise MineError("mine")

    with pytest.raises(MineError, match=r"^mine$"):
        fields.value_and_gradient(energy)((), torch.ones(2))
