"""Networks that know time and label: first parameters, parts against torch's own, labels, derivatives, eager = compiled."""

from __future__ import annotations

import pytest
import torch
from torch.func import grad, vmap

import funcebm as ebm
from funcebm import networks, random, tree
from funcebm.networks import transformer as _transformer_function
from funcebm.networks import unet as _unet_function

KEY = random.key(0)
T = torch.tensor(0.3).double()
MAKERS = {
    "time_mlp": lambda **more: networks.time_mlp(KEY, (1, 4, 4), (16, 16), dtype=torch.float64, **more),
    "unet": lambda **more: networks.unet(KEY, (1, 4, 4), (8, 16), num_blocks=1, dtype=torch.float64, **more),
    "transformer": lambda **more: networks.transformer(
        KEY, (1, 4, 4), width=16, depth=2, num_heads=2, dtype=torch.float64, **more
    ),
    "rotary": lambda **more: networks.transformer(
        KEY, (1, 4, 4), width=16, depth=1, num_heads=2, positions="rotary", dtype=torch.float64, **more
    ),
}
sweep = pytest.mark.parametrize("name", MAKERS)


def stirred(params, scale=0.3):
    """Parameters away from the start, where much is zero."""
    return tree.add_scaled(params, scale, tree.normal_like(random.key(1), params))


def images(num=3):
    return random.normal(random.key(2), (num, 1, 4, 4), dtype=torch.float64)


@sweep
def test_at_first_the_field_is_zero_and_can_learn(name):
    network, params = MAKERS[name]()
    x = images()[0]
    assert torch.equal(network(params, T, x), torch.zeros_like(x))
    slopes = grad(lambda params: ((network(params, T, x) - 1) ** 2).sum())(params)
    assert tree.squared_norm(slopes) > 0
    assert all(leaf.dtype == torch.float64 for leaf in tree.leaves(params))


def test_at_first_the_blocks_of_a_transformer_are_the_identity():
    """With a last layer that is not zero, the output does not depend on what blocks hold."""
    network, params = MAKERS["transformer"]()
    leave = tree.normal_like(random.key(1), params["leave"])
    x = images()[0]
    other = {**params, "leave": leave, "blocks": tree.map(torch.zeros_like, params["blocks"])}
    torch.testing.assert_close(network({**params, "leave": leave}, T, x), network(other, T, x))
    assert network(other, T, x).abs().max() > 0


@sweep
def test_derivatives_with_respect_to_time_position_and_twice(name):
    network, params = MAKERS[name]()
    params, x, direction = stirred(params), *images(2)
    h = 1e-6

    def along(s):
        return network(params, T + 0.5 * s, x + s * direction)

    slope = torch.func.jvp(along, (torch.zeros(()).double(),), (torch.ones(()).double(),))[1]
    torch.testing.assert_close(slope, (along(h) - along(-h)) / (2 * h), rtol=1e-4, atol=1e-5)
    assert slope.abs().max() > 1e-3

    def trained(s):  # what an energy x . f(x) needs: a gradient of a gradient
        moved = tree.map(lambda leaf: leaf * (1 + s), params)
        return grad(lambda x: (x * network(moved, T, x)).sum())(x).square().sum()

    second = grad(trained)(torch.zeros(()).double())
    torch.testing.assert_close(second, (trained(h) - trained(-h)) / (2 * h), rtol=1e-3, atol=1e-5)


@sweep
def test_mapped_is_the_loop_and_shapes_are_kept(name):
    network, params = MAKERS[name]()
    params, times = stirred(params), torch.tensor([0.1, 0.5, 0.9]).double()
    together = vmap(network, (None, 0, 0))(params, times, images())
    for index, (t, x) in enumerate(zip(times, images(), strict=True)):
        torch.testing.assert_close(together[index], network(params, t, x))
    assert network(params, T, images()[0, 0]).shape == (4, 4)


@sweep
def test_labels(name):
    network, params = MAKERS[name](num_labels=3)
    params, x = stirred(params), images()[0]
    of = lambda label: network(params, T, x, label)  # noqa: E731
    outputs = [of(torch.tensor(index)) for index in range(4)]  # the last is no label
    assert all((outputs[i] - outputs[j]).abs().max() > 1e-4 for i in range(4) for j in range(i))
    torch.testing.assert_close(of(torch.tensor([0.0, 1.0, 0.0])), outputs[1])
    torch.testing.assert_close(of(torch.tensor([0.0, 0.0, 0.0, 1.0])), outputs[3])
    mapped = vmap(of)(torch.arange(4))
    torch.testing.assert_close(mapped, torch.stack(outputs))
    with pytest.raises(TypeError, match=r"\(params, t, x, label\)"):
        network(params, T, x)
    with pytest.raises(ValueError, match="a label must be an index below 4"):
        of(torch.zeros(7))
    plain, plain_params = MAKERS[name]()
    with pytest.raises(TypeError):
        plain(plain_params, T, x, torch.tensor(1))


def test_a_potential_is_one_number():
    network, params = networks.time_mlp(KEY, 2, (8,), num_outputs=1)
    assert network(params, torch.tensor(0.1), torch.ones(2)).shape == ()
    network, params = networks.time_mlp(KEY, 2, (8,), num_frequencies=0)
    assert params["layers"][0]["weight"].shape == (8, 3)  # x and t themselves


def test_attention_and_normalisation_are_those_of_torch():
    from funcebm.networks.transformer import _attention
    from funcebm.networks.unet import _group_norm

    x = random.normal(KEY, (6, 16), dtype=torch.float64)
    part = {name: {"weight": random.normal(random.key(i), (size, 16), dtype=torch.float64), "bias": torch.zeros(size)}
            for i, (name, size) in enumerate((("qkv", 48), ("out", 16)))}  # fmt: skip
    query, key, value = (x @ part["qkv"]["weight"].T).reshape(6, 3, 2, 8).permute(1, 2, 0, 3)
    mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    expected = mixed.transpose(0, 1).reshape(6, 16) @ part["out"]["weight"].T
    torch.testing.assert_close(_attention(part, x, 2, None), expected)
    planes = random.normal(KEY, (8, 3, 5), dtype=torch.float64)
    norm = {"weight": torch.linspace(1, 2, 8).double(), "bias": torch.linspace(-1, 1, 8).double()}
    expected = torch.nn.functional.group_norm(planes[None], 4, norm["weight"], norm["bias"], 1e-5)[0]
    torch.testing.assert_close(_group_norm(norm, planes, 4), expected)


def test_rotary_positions_tell_only_differences():
    from funcebm.networks.transformer import _angles, _rotated

    query, key = random.normal(KEY, (2, 1, 1, 16), dtype=torch.float64)
    angles = _angles(5, 6, 16)
    turned = lambda x, row, column: _rotated(x, angles[row * 6 + column])[0, 0]  # noqa: E731
    first = turned(query, 1, 2) @ turned(key, 3, 1)
    torch.testing.assert_close(first, turned(query, 2, 4) @ turned(key, 4, 3))
    assert (first - turned(query, 1, 2) @ turned(key, 3, 2)).abs() > 1e-4


def test_patches_come_back_where_they_were():
    """A transformer whose last layer undoes the first: each patch of the output is one of the input."""
    network, params = networks.transformer(KEY, (1, 4, 6), width=8, depth=1, num_heads=1, dtype=torch.float64)
    params = stirred(params)
    x = images(1)[0][:, :, :1].expand(1, 4, 6).clone()
    moved = x.clone()
    moved[0, 2, 5] += 1e-4  # in the last patch
    change = (network(params, T, moved) - network(params, T, x)).abs()
    assert change[0, 2:, 4:].max() > 3 * change[0, :2, :4].max()


@pytest.mark.compiled
@pytest.mark.parametrize("name", [pytest.param("unet", marks=pytest.mark.slow), "transformer"])
def test_compiled_is_eager(name):
    network, params = MAKERS[name](num_labels=2)
    params, labels = stirred(params), torch.tensor([0, 2, 1])
    run = vmap(network, (None, None, 0, 0))
    expected = run(params, T, images(), labels)
    torch.testing.assert_close(ebm.jit(run)(params, T, images(), labels), expected, rtol=1e-9, atol=1e-9)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="height and width must divide by 3"):
        _transformer_function(KEY, (8, 8), 3)
    with pytest.raises(ValueError, match="4 and num_heads must divide the width"):
        _transformer_function(KEY, (8, 8), width=30, num_heads=4)
    with pytest.raises(ValueError, match='positions must be "sine"'):
        _transformer_function(KEY, (8, 8), positions="learned")
    with pytest.raises(ValueError, match="num_groups must divide all channels"):
        _unet_function(KEY, (8, 8), (12, 16))
    with pytest.raises(ValueError, match="height and width must divide by"):
        _unet_function(KEY, (6, 6), (8, 8, 8))
    for maker in (_unet_function, _transformer_function):
        with pytest.raises(ValueError, match=r"shape must be \(C, H, W\) or \(H, W\). Got \(1,\)"):
            maker(KEY, 1)
    with pytest.raises(ValueError, match="each of size must be an integer of at least 1"):
        ebm.networks.mlp(KEY, 2.5)
    network, params = MAKERS["unet"]()
    with pytest.raises(ValueError, match="a position must be a tensor of 16 numbers"):
        network(params, T, torch.zeros(5, 5).double())
