"""Spectral norms against singular value decompositions, and the Lipschitz bound that they promise."""

from __future__ import annotations

import pytest
import torch
from torch.func import grad, vmap

from funcebm import energies, fields, random, tree
from funcebm.energies import spectral_norm, spectral_normalised


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (40, 40), (1, 7), (7, 1), (6, 2, 3, 3)])
@pytest.mark.parametrize("size", [1e-18, 1.0, 1e15])
def test_spectral_norm_is_the_largest_singular_value_from_above(shape, size):
    weight = size * random.normal(random.key(0), shape, dtype=torch.float64)
    exact = torch.linalg.matrix_norm(weight.reshape(shape[0], -1), 2)
    assert 1 - 1e-12 < spectral_norm(weight) / exact < 1 + 1e-4
    assert abs(spectral_norm(weight.float()) / exact - 1) < 1e-4


def test_spectral_norm_of_equal_singular_values_is_within_its_factor():
    orthogonal = torch.linalg.qr(random.normal(random.key(1), (30, 30), dtype=torch.float64)).Q
    assert abs(spectral_norm(2 * orthogonal) - 2 * 30 ** (1 / 512)) < 1e-9


def test_gradient_of_the_spectral_norm_is_the_outer_product_of_the_singular_vectors():
    weight = random.normal(random.key(2), (6, 9), dtype=torch.float64)
    left, _, right = torch.linalg.svd(weight)
    torch.testing.assert_close(grad(spectral_norm)(weight), torch.outer(left[:, 0], right[0]), atol=1e-6, rtol=0)
    assert torch.isfinite(grad(spectral_norm)(torch.eye(4))).all()


def test_normalised_weights_have_the_norm_and_the_rest_stays():
    _, params = energies.conv(random.key(3), (8, 8), channels=(4, 6), hidden=(5,))
    normal = spectral_normalised(params, 0.7)
    for before, after in zip(tree.leaves(params), tree.leaves(normal), strict=True):
        if before.dim() == 1:
            assert torch.equal(before, after)
        else:
            matrix = before.flatten(1)
            exact = torch.linalg.matrix_norm(matrix, 2)
            torch.testing.assert_close(after.flatten(1), 0.7 * matrix / exact, atol=1e-4, rtol=1e-3)


def test_zero_weights_stay_zero_and_finite():
    assert torch.equal(spectral_normalised(torch.zeros(3, 4), 10.0), torch.zeros(3, 4))


def test_stacked_weights_map():
    stack = random.normal(random.key(4), (3, 4, 5))
    each = torch.stack([spectral_normalised(weight) for weight in stack])
    torch.testing.assert_close(vmap(spectral_normalised)(stack), each)


@pytest.mark.parametrize("bound", [0.5, 1.5])
def test_a_bounded_network_has_a_bounded_gradient(bound):
    """tanh is 1-Lipschitz, so three layers of norm c are c^3-Lipschitz; wild weights do not matter."""
    make = lambda b: energies.mlp(  # noqa: E731
        random.key(5), 4, (8, 8), activation=torch.tanh, spectral_bound=b, dtype=torch.float64
    )
    energy, params = make(bound)
    wild, positions = tree.scale(50.0, params), random.normal(random.key(6), (300, 4), dtype=torch.float64)
    wild = tuple({"weight": layer["weight"], "bias": 0 * layer["bias"]} for layer in wild)
    steepest = vmap(fields.gradient(energy), (None, 0))(wild, positions / 5).norm(dim=1).max()
    assert 0.3 * bound**3 < steepest <= bound**3
    free, _ = make(None)
    assert vmap(fields.gradient(free), (None, 0))(wild, positions / 5).norm(dim=1).max() > bound**3


def test_features_are_those_of_the_normalised_network():
    energy, params = energies.mlp(random.key(7), 3, (6,), spectral_bound=2.0)
    plain, _ = energies.mlp(random.key(7), 3, (6,))
    position, normal = torch.ones(3), spectral_normalised(params, 2.0)
    torch.testing.assert_close(energy(params, position), plain(normal, position))
    torch.testing.assert_close(energy.features(params, position), plain.features(normal, position))


def test_a_bound_must_be_positive():
    with pytest.raises(ValueError, match="bound must be positive"):
        spectral_normalised(torch.eye(2), 0.0)
    with pytest.raises(ValueError, match="spectral_bound must be positive"):
        energies.mlp(random.key(0), 2, spectral_bound=-1.0)
