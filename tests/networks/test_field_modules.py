"""Modules of torch as fields: what the module gives for a batch, one particle at a time."""

from __future__ import annotations

import pytest
import torch
from torch.func import vmap

from funcebm import energies, flows, jit, losses, networks, optimizers, random, solvers, tree


class Labelled(torch.nn.Module):
    """``(x, t, y)`` to a batch like ``x``, with attention, dropout and a table."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = torch.nn.Linear(2, 8), torch.nn.Linear(8, 1)
        self.table = torch.nn.Embedding(4, 8)
        self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True, dropout=0.5)

    def forward(self, x, t, y):
        tokens = self.enter(torch.stack([x, t[:, None].expand_as(x)], -1)) + self.table(y)[:, None]
        return self.leave(tokens + self.attention(tokens, tokens, tokens)[0])[..., 0]


class Concatenated(torch.nn.Module):
    """As torchcfm's: one input of points and times."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.SELU(), torch.nn.Linear(16, 2))

    def forward(self, both):
        return self.net(both)


def concatenated():
    return networks.from_module(Concatenated(), lambda module, t, x: module(torch.cat([x, t[:, None]], 1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_the_module(dtype):
    torch.manual_seed(0)
    module = Labelled()
    network, params = networks.from_module(module)
    module = module.to(dtype).eval()
    x, t, y = (
        random.normal(random.key(0), (5, 3), dtype=dtype),
        torch.linspace(0, 1, 5, dtype=dtype),
        torch.arange(5) % 4,
    )
    params = tree.map(lambda leaf: leaf.to(dtype), params)
    found = vmap(network, (None, 0, 0, 0))(params, t, x, y)
    assert found.dtype == dtype
    torch.testing.assert_close(found, module(x, t, y).detach())
    torch.testing.assert_close(
        network(params, 0.5, x[0], y[0]), module(x[:1], t.new_full((1,), 0.5), y[:1])[0].detach()
    )


def test_a_call_of_ones_own_trains_and_goes_back_into_the_module():
    network, params = concatenated()
    data = 3 + 0.1 * random.normal(random.key(1), (64, 2))
    loss, optimizer = losses.flow_matching(network), optimizers.adam(0.02)
    value = torch.func.grad_and_value(lambda params: loss(random.key(2), params, data)[0])
    state, before = optimizer.init(params), value(params)[1]
    for _ in range(60):
        updates, state = optimizer.update(value(params)[0], state, params)
        params = tree.add(params, updates)
    assert value(params)[1] < before / 2
    module = energies.load_into(Concatenated(), params)
    x = torch.ones(1, 2)
    torch.testing.assert_close(module(torch.cat([x, torch.full((1, 1), 0.5)], 1))[0], network(params, 0.5, x[0]))


@pytest.mark.slow
@pytest.mark.compiled
def test_compiled_is_eager():
    network, params = concatenated()
    solve = lambda params, x: flows.integrate(network, params, x, num_steps=3, solver=solvers.euler(), jit=False).value  # noqa: E731
    x = random.normal(random.key(3), (4, 2))
    torch.testing.assert_close(jit(solve)(params, x), solve(params, x))


def test_bad_arguments_are_refused_at_the_door():
    with pytest.raises(TypeError, match=r"module must be a torch.nn.Module"):
        networks.from_module(lambda x, t: x)
    with pytest.raises(TypeError, match="call must be a function"):
        networks.from_module(Concatenated(), 3)
    network, params = networks.from_module(
        Concatenated(), lambda module, t, x: module(torch.cat([x, x[:, :1]], 1))[:, :1]
    )
    with pytest.raises(ValueError, match="a module must return the shapes of the position"):
        network(params, 0.5, torch.ones(2))
