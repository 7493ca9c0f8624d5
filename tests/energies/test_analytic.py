"""Energies in closed form: values and minima by hand, gradients, dtypes, images, and compiled maps."""

from __future__ import annotations

import math

import pytest
import torch
from tests.cases_energies import ENERGIES
from torch.func import vmap

from funcebm import energies, fields, jit, tree

DOUBLE = torch.float64


@pytest.mark.parametrize("name", ENERGIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_energy_is_a_scalar_of_the_dtype_of_everything(name, dtype):
    energy, params, position = ENERGIES[name]
    params = tree.map(lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf, params)
    position = tree.map(lambda leaf: leaf.to(dtype), position)
    value, slope = fields.value_and_gradient(energy)(params, position)
    assert value.shape == ()
    assert value.dtype == dtype
    assert bool(torch.isfinite(value))
    assert all(leaf.dtype == dtype for leaf in tree.leaves(slope))
    assert bool(tree.all_finite(slope))


@pytest.mark.parametrize("name", [name for name, case in ENERGIES.items() if hasattr(case[0], "params")])
@pytest.mark.parametrize(("own", "dtype"), [(torch.float32, torch.float64), (torch.float64, torch.float32)])
def test_energy_has_the_dtype_of_the_position_whatever_that_of_the_params(name, own, dtype):
    energy, params, position = ENERGIES[name]
    value = energy(tree.map(lambda leaf: leaf.to(own), params), position.to(dtype))
    assert value.dtype == dtype
    torch.testing.assert_close(value.float(), energy(params, position))


@pytest.mark.parametrize("name", ENERGIES)
def test_map_over_particles_and_params_is_the_loop(name):
    energy, params, position = ENERGIES[name]
    stacked = tree.map(lambda leaf: torch.stack([leaf, 1.5 * leaf]), params)
    positions = tree.map(lambda leaf: torch.stack([leaf, 0.5 * leaf, leaf + 0.1]), position)
    values, slopes = vmap(vmap(fields.value_and_gradient(energy), (None, 0)), (0, None))(stacked, positions)
    for i in range(2):
        for j in range(3):
            own = tree.map(lambda leaf, i=i: leaf[i], stacked), tree.map(lambda leaf, j=j: leaf[j], positions)
            value, slope = fields.value_and_gradient(energy)(*own)
            torch.testing.assert_close(values[i, j], value)
            torch.testing.assert_close(tree.map(lambda leaf, i=i, j=j: leaf[i, j], slopes), slope)


@pytest.mark.slow
@pytest.mark.compiled
def test_all_are_compiled_in_one_function_to_the_same():
    def everything(params, positions):
        return {
            name: vmap(fields.value_and_gradient(energy), (None, 0))(params[name], positions[name])
            for name, (energy, _, _) in ENERGIES.items()
        }

    params = {name: case[1] for name, case in ENERGIES.items()}
    positions = {
        name: tree.map(lambda leaf: torch.stack([leaf, 0.5 * leaf]), case[2]) for name, case in ENERGIES.items()
    }
    torch.testing.assert_close(jit(everything)(params, positions), everything(params, positions))


def test_values_by_hand():
    point = torch.tensor([0.5, -1.5], dtype=DOUBLE)

    def value(name, *numbers):
        energy = getattr(energies, name)
        return float(energy(tree.map(lambda leaf: leaf.to(DOUBLE), energy.params(*numbers)), point))

    assert value("double_well", 2.0, 1.0) == pytest.approx(2 * ((0.25 - 1) ** 2 + (2.25 - 1) ** 2))
    assert value("harmonic", 3.0) == pytest.approx(1.5 * 2.5)
    assert value("rosenbrock", 1.0, 100.0) == pytest.approx(100 * (-1.5 - 0.25) ** 2 + 0.25)
    assert value("rastrigin", 10.0) == pytest.approx(20 + 2.5 + 20)
    assert value("himmelblau") == pytest.approx((0.25 - 1.5 - 11) ** 2 + (0.5 + 2.25 - 7) ** 2)
    assert value("funnel", 3.0) == pytest.approx(0.25 / 18 + 0.25 + math.exp(-0.5) * 2.25 / 2)
    assert value("banana", 0.1, 2.0) == pytest.approx(0.25 / 8 + (-1.5 - 0.1 * (0.25 - 4)) ** 2 / 2)
    assert value("ring", 2.0, 0.5) == pytest.approx((math.sqrt(2.5) - 2) ** 2 / 0.5)
    ackley = -20 * math.exp(-0.2 * math.sqrt(1.25)) - math.exp(-1.0) + 20 + math.e
    assert value("ackley") == pytest.approx(ackley)  # cos(pi) and cos(3 pi) are both -1


def test_ackley_at_the_origin_has_a_finite_gradient_and_its_minimum():
    params = energies.ackley.params()
    for shape in ((2,), (1, 4, 4)):
        value, slope = fields.value_and_gradient(energies.ackley)(params, torch.zeros(shape))
        assert abs(value) < 1e-5
        assert torch.equal(slope, torch.zeros(shape))
    assert bool(torch.isfinite(fields.gradient(energies.ackley)(params, torch.full((2,), 1e-20))).all())


@pytest.mark.parametrize("minimum", [(3.0, 2.0), (-2.805118, 3.131312), (-3.779310, -3.283186), (3.584428, -1.848126)])
def test_himmelblau_has_four_minima_of_zero(minimum):
    params, point = energies.himmelblau.params(), torch.tensor(minimum, dtype=DOUBLE)
    value, slope = fields.value_and_gradient(energies.himmelblau)(params, point)
    assert value < 1e-9
    assert slope.abs().max() < 1e-4
    assert bool((torch.linalg.eigvalsh(fields.hessian(energies.himmelblau)(params, point)) > 0).all())


@pytest.mark.parametrize(
    ("point", "energy", "num_negative"),
    [
        ((-0.558224, 1.441726), -146.6995, 0),
        ((0.623499, 0.028038), -108.1667, 0),
        ((-0.050011, 0.466694), -80.7678, 0),
        ((-0.822002, 0.624313), -40.6648, 1),
        ((0.212487, 0.292988), -72.2489, 1),
    ],
)
def test_mueller_brown_has_the_stationary_points_of_the_literature(point, energy, num_negative):
    params, point = energies.mueller_brown.params(), torch.tensor(point, dtype=DOUBLE)
    value, slope = fields.value_and_gradient(energies.mueller_brown)(params, point)
    assert float(value) == pytest.approx(energy, abs=1e-3)
    assert slope.abs().max() < 1e-2
    curvatures = torch.linalg.eigvalsh(fields.hessian(energies.mueller_brown)(params, point))
    assert int((curvatures < 0).sum()) == num_negative


@pytest.mark.parametrize("name", ["double_well", "harmonic", "rastrigin", "ackley", "ring"])
def test_sums_run_over_all_axes_of_an_image(name):
    energy = getattr(energies, name)
    image = torch.linspace(-2, 2, 24, dtype=DOUBLE).reshape(2, 3, 4)
    torch.testing.assert_close(energy(energy.params(), image), energy(energy.params(), image.reshape(-1)))


@pytest.mark.parametrize(
    ("name", "position", "words"),
    [
        ("rosenbrock", torch.zeros(1), "rosenbrock needs two coordinates"),
        ("funnel", torch.zeros(1), "funnel needs two coordinates"),
        ("banana", torch.zeros(()), "banana needs two coordinates"),
        ("himmelblau", torch.zeros(3), "himmelblau lives in the plane"),
        ("mueller_brown", torch.zeros(5, 2), "mueller_brown lives in the plane"),
    ],
)
def test_positions_of_the_wrong_shape_are_refused(name, position, words):
    energy = getattr(energies, name)
    with pytest.raises(ValueError, match=words):
        energy(energy.params(), position)


def test_params_may_be_made_inside_a_map():
    heights, position = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.5])
    values = vmap(lambda height: energies.double_well(energies.double_well.params(height), position))(heights)
    torch.testing.assert_close(values, heights * 2 * 0.75**2)


def test_energies_without_a_normalizer_say_so_by_none():
    for name in ("ackley", "himmelblau", "mueller_brown"):
        assert getattr(energies, name).sample is None
        assert getattr(energies, name).log_normalizer is None
