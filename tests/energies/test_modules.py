"""``from_module``: equal to the module, buffers included; what trains and what does not."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import vmap

from funcebm import energies, fields, random, tree


class Quadratic(nn.Module):
    """An energy of a dict, with a table as a buffer, which returns ``(B,)``."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("center", torch.tensor([1.0, -1.0]))

    def forward(self, x):
        return self.scale * ((x["a"] - self.center) ** 2).sum(-1) + (x["b"] ** 2).flatten(1).sum(-1)


def _normalized():
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.SiLU(), nn.Dropout(0.5), nn.Linear(8, 1))
    generator_free = random.normal(random.key(0), (50, 4)) * 3 + 1
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(random.normal(random.key(i), tuple(parameter.shape)))
        module(generator_free)  # running statistics that are not zero and one
    return module


def test_is_the_module_in_evaluation_mode_buffers_included():
    module = _normalized()
    assert module.training
    energy, params = energies.from_module(module)
    assert module.training  # the given one is left as it was
    positions = random.normal(random.key(9), (6, 4))
    expected = module.eval()(positions).squeeze(-1).detach()
    torch.testing.assert_close(vmap(energy, (None, 0))(params, positions), expected)
    assert not torch.allclose(module[1].running_mean, torch.zeros(8))


def test_gradients_are_those_of_autograd():
    module = _normalized()
    energy, params = energies.from_module(module)
    positions = random.normal(random.key(9), (6, 4)).requires_grad_()
    total = module.eval()(positions).sum()
    expected = torch.autograd.grad(total, [positions, *module.parameters()])
    slopes = vmap(fields.gradient(energy), (None, 0))(params, positions.detach())
    torch.testing.assert_close(slopes, expected[0])
    own = torch.func.grad(lambda params: vmap(energy, (None, 0))(params, positions.detach()).sum())(params)
    for (name, _), gradient in zip(module.named_parameters(), expected[1:], strict=True):
        torch.testing.assert_close(own[name], gradient)


def test_params_are_copies_of_what_trains_and_nothing_else():
    module = _normalized()
    module[0].bias.requires_grad_(False)
    energy, params = energies.from_module(module)
    assert sorted(params) == ["0.weight", "1.bias", "1.weight", "4.bias", "4.weight"]
    assert all(leaf.is_floating_point() and not leaf.requires_grad for leaf in tree.leaves(params))
    position = torch.ones(4)
    before = energy(params, position)
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            tensor.zero_()
    assert energy(params, position) == before
    energies.load_into(module, params)
    torch.testing.assert_close(module[4].weight.detach(), params["4.weight"])


def test_positions_may_be_trees_and_the_output_flat():
    energy, params = energies.from_module(Quadratic())
    position = {"a": torch.tensor([2.0, 1.0]), "b": torch.ones(2, 2)}
    torch.testing.assert_close(energy(params, position), torch.tensor(2 * (1.0 + 4.0) + 4.0))


def test_buffers_follow_the_dtype_of_the_position():
    energy, params = energies.from_module(_normalized())
    params = tree.map(torch.Tensor.double, params)
    assert energy(params, torch.ones(4, dtype=torch.float64)).dtype == torch.float64


def test_stacked_modules_are_an_ensemble():
    modules = [nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)) for _ in range(3)]
    energy, _ = energies.from_module(modules[0])
    stacked = tree.stack([energies.from_module(module)[1] for module in modules])
    values = vmap(energy, (0, None))(stacked, torch.ones(2))
    torch.testing.assert_close(values, torch.stack([module(torch.ones(1, 2))[0, 0] for module in modules]).detach())


@pytest.mark.parametrize(
    ("module", "shape"), [(nn.Linear(2, 3), r"\(1, 3\)"), (nn.Identity(), r"\(1, 2\)"), (nn.Flatten(0), r"\(2,\)")]
)
def test_a_module_that_gives_no_energies_is_told_what_to_return(module, shape):
    energy, params = energies.from_module(module)
    with pytest.raises(ValueError, match=rf"to \(1,\) or \(1, 1\). Got the shape {shape}. Sum over all axes"):
        energy(params, torch.ones(2))


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.Module\. Got function"):
        energies.from_module(lambda x: x)


def test_trained_params_go_back_into_the_module():
    module = _normalized()
    module[0].bias.requires_grad_(False)
    frozen, buffer = module[0].bias.detach().clone(), module[1].running_mean.clone()
    energy, params = energies.from_module(module)
    trained = tree.map(lambda leaf: leaf.double() * 1.5 + 0.1, params)  # another dtype is cast
    assert energies.load_into(module, trained) is module
    position = torch.arange(4.0)
    expected = energy(tree.map(torch.Tensor.float, trained), position)
    torch.testing.assert_close(module.eval()(position[None])[0, 0].detach(), expected)
    assert torch.equal(module[0].bias, frozen)
    assert torch.equal(module[1].running_mean, buffer)
    assert all(parameter.dtype == torch.float32 for parameter in module.parameters())


def test_params_of_another_module_are_refused_by_name_and_change_nothing():
    module, (_, params) = nn.Linear(2, 1), energies.from_module(nn.Linear(2, 1))
    before = tree.map(torch.clone, dict(module.state_dict()))
    wrong = {"bias": params["bias"], "weight": torch.zeros(1, 3), "gain": torch.zeros(1)}
    with pytest.raises(
        ValueError, match=r"not expected: gain; weight: \(1, 3\) in place of \(1, 2\)\. Pass the params"
    ):
        energies.load_into(module, wrong)
    with pytest.raises(ValueError, match="missing: weight"):
        energies.load_into(module, {"bias": torch.ones(1)})
    with pytest.raises(ValueError, match=r"a dict of parameters by name\. Got Tensor"):
        energies.load_into(module, torch.ones(1))
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.Module"):
        energies.load_into({}, params)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
