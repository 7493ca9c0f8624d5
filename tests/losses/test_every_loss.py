"""What holds for every loss in the table."""

from __future__ import annotations

import pytest
import torch
from tests import cases_losses as cases

from funcebm import losses, random, tree
from funcebm.losses._staged import objective, prepare

LOSSES = sorted(cases.LOSSES)
BATCHES = {"tensor": cases.batch, "dict": cases.batch_of_dicts}


def _drawn(name, dtype=torch.float64, kind="tensor"):
    loss, params, batch = cases.LOSSES[name](), cases.params(dtype), cases.with_labels(name, BATCHES[kind](dtype))
    key_init, key_draw = random.split(random.key(5))
    return loss, params, loss.init(key_init, params, batch), batch, loss.draw(key_draw, batch)


def _assert_close(a, b, **tolerance):
    assert tree.structure(a) == tree.structure(b)
    for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True):
        torch.testing.assert_close(x, y, **tolerance)


def _assert_same(a, b):
    assert tree.structure(a) == tree.structure(b)
    assert all(torch.equal(x, y) for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True))


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_that_of_finite_differences_with_negatives_fixed(name, dtype, kind):
    loss, params, memory, batch, noise = _drawn(name, dtype, kind)
    gradient, (value, aux) = torch.func.grad_and_value(loss.value, has_aux=True)(params, memory, batch, noise)
    assert value.shape == () and value.dtype == dtype
    assert all(isinstance(m, torch.Tensor) and m.shape == () and not m.isnan() for m in aux.metrics.values())
    assert tree.structure(aux.memory) == tree.structure(memory)
    if dtype == torch.float32:
        return
    prepared = prepare(loss, params, memory, batch, noise)
    for name_of_param in params:
        step = 1e-5
        up = objective(loss, {**params, name_of_param: params[name_of_param] + step}, prepared)[0]
        down = objective(loss, {**params, name_of_param: params[name_of_param] - step}, prepared)[0]
        torch.testing.assert_close(gradient[name_of_param], (up - down) / (2 * step), rtol=1e-6, atol=1e-7)
        assert gradient[name_of_param] != 0


@pytest.mark.parametrize("name", LOSSES)
def test_value_is_pure_and_is_its_two_stages(name):
    loss, params, memory, batch, noise = _drawn(name)
    arguments = (params, memory, batch, noise)
    before = tree.map(torch.clone, arguments)
    first, again = loss.value(*arguments), loss.value(*arguments)
    _assert_same(first, again)
    _assert_same(before, arguments)
    _assert_same(first, objective(loss, params, prepare(loss, *arguments)))


@pytest.mark.parametrize("name", LOSSES)
def test_metrics_and_memory_carry_no_graph(name):
    """Else a training loop on ``backward`` would keep the graphs of all its steps alive."""
    loss, *arguments = _drawn(name)
    arguments = tree.map(lambda leaf: leaf.requires_grad_(leaf.is_floating_point()), arguments)
    value, aux = loss.value(*arguments)
    assert value.requires_grad
    assert not any(leaf.requires_grad for leaf in tree.leaves((aux.metrics, aux.memory)))


@pytest.mark.parametrize("name", LOSSES)
def test_same_key_same_noise(name):
    loss, _, _, batch, noise = _drawn(name)
    _assert_same(noise, loss.draw(random.split(random.key(5))[1], batch))


@pytest.mark.parametrize("name", LOSSES)
def test_vmap_over_params_is_the_loop(name):
    loss, params, _, batch, noise = _drawn(name)
    members = [params, tree.scale(0.5, params), tree.scale(2.0, params)]
    keys = random.split(random.key(8), 3)
    memories = [loss.init(key, member, batch) for key, member in zip(keys, members, strict=True)]
    differentiate = torch.func.grad_and_value(loss.value, has_aux=True)
    alone = tree.stack([differentiate(p, m, batch, noise) for p, m in zip(members, memories, strict=True)])
    together = torch.func.vmap(differentiate, (0, 0, None, None))(
        tree.stack(members), tree.stack(memories), batch, noise
    )
    _assert_close(together, alone, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("num_members", [None, 3])
@pytest.mark.parametrize("name", LOSSES)
def test_an_ensemble_has_the_gradients_of_its_members(name, num_members):
    loss, params, _, batch, _ = _drawn(name)
    stacked = tree.stack([params, tree.scale(0.5, params), tree.scale(2.0, params)])
    together = losses.ensemble(loss, num_members)
    memory, noise = together.init(random.key(1), stacked, batch), together.draw(random.key(2), batch)
    gradient, (value, aux) = torch.func.grad_and_value(together.value, has_aux=True)(stacked, memory, batch, noise)
    total = 0.0
    for index in range(3):
        one = [tree.map(lambda leaf: leaf[index], part) for part in (stacked, memory)]  # noqa: B023
        own_noise = noise if num_members is None else tree.map(lambda leaf: leaf[index], noise)  # noqa: B023
        alone, (own, own_aux) = torch.func.grad_and_value(loss.value, has_aux=True)(*one, batch, own_noise)
        total = total + own
        _assert_close(tree.map(lambda leaf: leaf[index], gradient), alone, rtol=1e-10, atol=1e-10)  # noqa: B023
        _assert_close(tree.map(lambda leaf: leaf[index], aux.memory), own_aux.memory)  # noqa: B023
    torch.testing.assert_close(value, total)
    assert all(metric.shape == () for metric in aux.metrics.values())


@pytest.mark.parametrize("name", LOSSES)
def test_an_energy_that_is_not_a_scalar_is_refused(name, monkeypatch):
    monkeypatch.setattr(cases, "energy", lambda params, x: params["k"] * x)
    with pytest.raises(ValueError, match=r"must return a (0-d tensor|vector of logits) for one particle"):
        _drawn(name)[0](random.key(0), cases.params(), cases.with_labels(name, cases.batch()), _drawn(name)[2])
