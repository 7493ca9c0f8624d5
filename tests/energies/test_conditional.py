"""Conditions of neural energies, by concatenation and by gains and shifts; Fourier features approximate their kernel."""

from __future__ import annotations

import math

import pytest
import torch
from torch.func import vmap
from torch.nn.functional import avg_pool2d, conv2d, one_hot, silu

from funcebm import energies, fields, random
from funcebm.energies import fourier_features, given


def test_a_condition_of_an_mlp_stands_beside_the_position():
    energy, params = energies.mlp(random.key(0), 3, (6,), condition_size=2)
    joint, joint_params = energies.mlp(random.key(0), 5, (6,))
    x, condition = random.normal(random.key(1), (3,)), random.normal(random.key(2), (2,))
    assert torch.equal(energy(params, x, condition), joint(joint_params, torch.cat([x, condition])))


def _film(layer, condition, h):
    out = layer["weight"] @ condition + layer["bias"]
    gain, shift = out[: len(out) // 2], out[len(out) // 2 :]
    return (1 + gain)[:, None, None] * h + shift[:, None, None]


def test_a_condition_of_a_conv_gains_and_shifts_its_planes():
    energy, params = energies.conv(random.key(0), (8, 8), (3, 4), (5,), condition_size=10)
    x, condition = random.normal(random.key(1), (8, 8)), one_hot(torch.tensor(7), 10)
    h = x[None]
    for i, layer in enumerate(params["conv"]):
        h = conv2d(h[None], layer["weight"], layer["bias"], stride=1 + i, padding=1)[0]
        h = silu(_film(params["condition"][i], condition.float(), h))
    hidden = silu(params["dense"][0]["weight"] @ h.flatten() + params["dense"][0]["bias"])
    torch.testing.assert_close(energy.features(params, x, condition), hidden)
    expected = params["dense"][1]["weight"][0] @ hidden + params["dense"][1]["bias"][0]
    torch.testing.assert_close(energy(params, x, condition), expected)


def test_a_resnet_is_its_blocks_with_a_condition():
    energy, params = energies.resnet(random.key(0), (2, 4, 8), (3, 4), (5,), num_blocks=2, condition_size=1)
    x, condition = random.normal(random.key(1), (2, 4, 8)), torch.tensor(0.3)
    h = x
    for i, (enter, blocks) in enumerate(zip(params["enter"], params["blocks"], strict=True)):
        h = h if i == 0 else avg_pool2d(h[None], 2)[0]
        h = conv2d(h[None], enter["weight"], enter["bias"], padding=1 - i)[0]
        for block in blocks:
            inner = conv2d(silu(h)[None], block["first"]["weight"], block["first"]["bias"], padding=1)[0]
            inner = silu(_film(block["condition"], condition[None], inner))
            h = h + conv2d(inner[None], block["second"]["weight"], block["second"]["bias"], padding=1)[0]
    hidden = silu(params["dense"][0]["weight"] @ silu(h).flatten() + params["dense"][0]["bias"])
    expected = params["dense"][1]["weight"][0] @ hidden + params["dense"][1]["bias"][0]
    torch.testing.assert_close(energy(params, x, condition), expected)


@pytest.mark.parametrize("make", [energies.mlp, energies.conv, energies.resnet])
def test_given_is_an_energy_of_the_position_that_maps_over_conditions(make):
    energy, params = make(random.key(0), (4, 4), (4, 4), condition_size=3, dtype=torch.float64)
    x = random.normal(random.key(1), (4, 4), dtype=torch.float64)
    conditions = random.normal(random.key(2), (5, 3), dtype=torch.float64)
    slopes = vmap(lambda c: fields.gradient(given(energy, c))(params, x))(conditions)
    for condition, slope in zip(conditions, slopes, strict=True):
        frozen = given(energy, condition)
        torch.testing.assert_close(fields.gradient(frozen)(params, x), slope)
        assert torch.equal(frozen.features(params, x), energy.features(params, x, condition))
    assert not torch.allclose(slopes[0], slopes[1])


def test_inner_products_of_fourier_features_are_a_gaussian_kernel():
    """A mean of m cosines of variance at most 1/2 and mean exp(-2 pi^2 s^2 r^2)."""
    num, scale = 4000, 0.4
    features = fourier_features(random.key(0), (2, 2), num, scale=scale)
    points = random.normal(random.key(1), (6, 2, 2)) / 3
    mapped = vmap(features)(points)
    squares = torch.cdist(points.flatten(1), points.flatten(1)).square()
    error = mapped @ mapped.T / num - torch.exp(-2 * math.pi**2 * scale**2 * squares)
    assert error.abs().max() < 5 * math.sqrt(0.5 / num)
    torch.testing.assert_close(mapped.square().sum(1), torch.full((6,), float(num)))


def test_an_mlp_of_fourier_features_is_the_mlp_after_them():
    features = fourier_features(random.key(0), 2, 5)
    energy, params = energies.mlp(random.key(1), 2, (6,), embed=features, condition_size=1)
    plain, _ = energies.mlp(random.key(1), 11, (6,))
    x, condition = torch.tensor([0.3, -0.2]), torch.tensor([2.0])
    assert torch.equal(energy(params, x, condition), plain(params, torch.cat([features(x), condition])))
    assert features(x.double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: energies.mlp(random.key(0), 2, condition_size=0), "condition_size must be an integer"),
        (lambda: _call(torch.zeros(3)), "the condition must be a tensor of 2 numbers .* shape \\(3,\\)"),
        (lambda: _call(1.0), "the condition must be a tensor of 2 numbers .* a float"),
        (lambda: given(None, torch.zeros(2)), "energy must be"),
        (lambda: fourier_features(random.key(0), 2, 0), "num must be"),
        (lambda: fourier_features(random.key(0), 2, scale=-1.0), "scale must be positive"),
        (lambda: fourier_features(random.key(0), 2)(torch.zeros(3)), "a position must be a tensor of 2 numbers"),
    ],
)
def test_bad_arguments_say_what_must_hold(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def _call(condition):
    energy, params = energies.mlp(random.key(0), 2, condition_size=2)
    return energy(params, torch.zeros(2), condition)
