"""Neural energies: shapes, maps over stacked parameters, initial scale, and independence of the batch."""

from __future__ import annotations

import math

import pytest
import torch
from torch.func import vmap

from funcebm import energies, fields, random, tree


def test_mlp_is_the_same_network_of_modules():
    energy, params = energies.mlp(random.key(0), 3, hidden=(16, 8))
    layers = [torch.nn.Linear(3, 16), torch.nn.SiLU(), torch.nn.Linear(16, 8), torch.nn.SiLU(), torch.nn.Linear(8, 1)]
    for layer, own in zip(layers[::2], params, strict=True):
        layer.load_state_dict(own)
    positions = random.normal(random.key(1), (5, 3))
    expected = torch.nn.Sequential(*layers)(positions).squeeze(-1).detach()
    torch.testing.assert_close(vmap(energy, (None, 0))(params, positions), expected)


def test_conv_is_the_same_network_of_modules():
    energy, params = energies.conv(random.key(0), (2, 8, 8), channels=(3, 5, 7), hidden=(6,))
    convolutions = [torch.nn.Conv2d(2, 3, 3, 1, 1), torch.nn.Conv2d(3, 5, 4, 2, 1), torch.nn.Conv2d(5, 7, 4, 2, 1)]
    dense = [torch.nn.Linear(7 * 2 * 2, 6), torch.nn.Linear(6, 1)]
    for layer, own in zip(convolutions + dense, params["conv"] + params["dense"], strict=True):
        layer.load_state_dict(own)
    images = random.normal(random.key(1), (4, 2, 8, 8))
    features = images
    for layer in convolutions:
        features = torch.nn.functional.silu(layer(features))
    expected = dense[1](torch.nn.functional.silu(dense[0](features.flatten(1)))).squeeze(-1).detach()
    torch.testing.assert_close(vmap(energy, (None, 0))(params, images), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", [energies.conv, energies.resnet])
@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (3, 4, 8)])
def test_images_come_with_and_without_an_axis_of_channels(make, shape):
    energy, params = make(random.key(0), shape, channels=(4, 8), hidden=())
    value, slope = fields.value_and_gradient(energy)(params, torch.ones(shape))
    assert value.shape == ()
    assert slope.shape == shape


def test_mlp_flattens_events_of_any_shape():
    image, image_params = energies.mlp(random.key(0), (2, 3), hidden=(4,))
    flat, flat_params = energies.mlp(random.key(0), 6, hidden=(4,))
    position = random.normal(random.key(1), (2, 3))
    torch.testing.assert_close(image(image_params, position), flat(flat_params, position.reshape(-1)))


@pytest.mark.parametrize(
    "make",
    [
        lambda key: energies.mlp(key, 64, (8,)),
        lambda key: energies.conv(key, (8, 8), (2, 4)),
        lambda key: energies.resnet(key, (8, 8), (2, 4), (8,)),
    ],
)
def test_stacked_params_map_to_an_ensemble(make):
    energy, _ = make(random.key(0))
    each = [make(key)[1] for key in random.split(random.key(0), 3)]
    position = random.normal(random.key(1), (8, 8))
    together = vmap(energy, (0, None))(tree.stack(each), position)
    torch.testing.assert_close(
        together, torch.stack([energy(params, position) for params in each]), atol=1e-6, rtol=1e-5
    )


def test_first_params_are_a_function_of_the_key_and_have_the_scale_of_the_fan_in():
    _, params = energies.mlp(random.key(0), 100, hidden=(60, 200))
    _, again = energies.mlp(random.key(0), 100, hidden=(60, 200))
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(params), tree.leaves(again), strict=True))
    for layer, fan_in in zip(params[:2], (100, 60), strict=True):
        # the variance of n normals has the relative standard error sqrt(2 / n)
        ratio = layer["weight"].square().mean() * fan_in
        assert abs(ratio - 1) < 5 * math.sqrt(2 / layer["weight"].numel())
        assert layer["bias"].abs().max() <= 1 / math.sqrt(fan_in)
    assert not torch.equal(params[0]["weight"].reshape(-1)[:300], params[1]["weight"].reshape(-1)[:300])


def test_dtype_is_the_one_asked_for():
    for energy, params in (
        energies.mlp(random.key(0), 64, (4,), dtype=torch.float64),
        energies.conv(random.key(0), (8, 8), (2,), (4,), dtype=torch.float64),
        energies.resnet(random.key(0), (8, 8), (2,), (4,), dtype=torch.float64),
    ):
        assert all(leaf.dtype == torch.float64 for leaf in tree.leaves(params))
        assert energy(params, torch.zeros(8, 8, dtype=torch.float64)).dtype == torch.float64


def test_activation_is_a_choice():
    for activation in (torch.tanh, torch.nn.functional.softplus):
        energy, params = energies.mlp(random.key(0), 2, (), activation=activation)
        position = torch.tensor([1.0, 2.0])
        torch.testing.assert_close(energy(params, position), (params[0]["weight"] @ position + params[0]["bias"])[0])
        energy, params = energies.mlp(random.key(0), 2, (3,), activation=activation)
        hidden = activation(params[0]["weight"] @ position + params[0]["bias"])
        torch.testing.assert_close(energy(params, position), (params[1]["weight"] @ hidden + params[1]["bias"])[0])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: energies.mlp(random.key(0), 0), "each of size must be an integer of at least 1"),
        (lambda: energies.mlp(random.key(0), 2, (16, -1)), "each of hidden"),
        (lambda: energies.mlp(0, 2), "a key must be"),
        (lambda: energies.conv(random.key(0), (8,)), "shape must be"),
        (lambda: energies.conv(random.key(0), (1, 6, 6), (4, 4, 4)), "height and width must divide by 4"),
        (lambda: energies.conv(random.key(0), (8, 8), ()), "channels must name one"),
        (lambda: energies.resnet(random.key(0), (8,)), "shape must be"),
        (lambda: energies.resnet(random.key(0), (1, 8, 6), (4, 4, 4)), "height and width must divide by 4"),
        (lambda: energies.resnet(random.key(0), (8, 8), ()), "channels must name one"),
        (lambda: energies.resnet(random.key(0), (8, 8), num_blocks=0), "num_blocks must be"),
        (lambda: energies.resnet(random.key(0), (8, 8), num_outputs=0), "num_outputs must be"),
        (lambda: _call(torch.zeros(5, 2)), "a position must be a tensor of 2 numbers"),
    ],
)
def test_bad_arguments_say_what_must_hold(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def _call(position):
    energy, params = energies.mlp(random.key(0), 2)
    return energy(params, position)


@pytest.mark.parametrize("make", [energies.mlp, energies.conv, energies.resnet])
@pytest.mark.parametrize("hidden", [(), (5,)])
def test_an_energy_is_affine_in_its_features(make, hidden):
    arguments = ((4, 4), hidden) if make is energies.mlp else ((4, 4), (3, 4), hidden)
    energy, params = make(random.key(0), *arguments)
    last = params[-1] if make is energies.mlp else params["dense"][-1]
    images = random.normal(random.key(1), (6, 4, 4))
    features = vmap(energy.features, (None, 0))(params, images)
    assert features.shape == (6, last["weight"].shape[1])
    expected = (features @ last["weight"].t() + last["bias"]).squeeze(-1)
    torch.testing.assert_close(vmap(energy, (None, 0))(params, images), expected)


@pytest.mark.parametrize("make", [energies.mlp, energies.conv, energies.resnet])
def test_several_outputs_are_the_logits_of_a_classifier(make):
    """Their negative log-sum-exp is an energy, and the log-ratios are linear in the features."""
    logits, params = make(random.key(0), (4, 4), (4,), num_outputs=10)
    image = random.normal(random.key(1), (4, 4))
    last = params[-1] if make is energies.mlp else params["dense"][-1]
    expected = last["weight"] @ logits.features(params, image) + last["bias"]
    torch.testing.assert_close(logits(params, image), expected)
    assert logits(params, image).shape == (10,)
