"""Training: the same numbers however it is run, and what it does."""

from __future__ import annotations

import pytest
import torch
from tests import cases_losses as cases
from tests.distributions import assert_mean
from tests.helpers import compiles_nothing
from tests.training.runs import DATA, OPTIMIZER, assert_close, assert_same, evolved, optimizer, pcd, train

from funcebm import losses, optimizers, random, tree
from funcebm.training import TrainState, fit, train_step
from funcebm.types import Loss, LossAux

# -- the same numbers however it is run ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compiled():
    """A loss that was compiled once, with a chain and a memory inside, and its run."""
    loss = pcd()
    return loss, train(loss, jit=True)


@pytest.mark.compiled
def test_jit_changes_nothing_but_rounding(compiled):
    loss, result = compiled
    eager = train(loss)
    assert result.num_steps == eager.num_steps == 23
    assert result.is_complete
    assert {metric.shape for metric in result.metrics.values()} == {(23,)}
    assert_close(evolved(result), evolved(eager), rtol=1e-4, atol=1e-5)


@pytest.mark.compiled
def test_chunks_change_nothing_when_compiled(compiled):
    loss, result = compiled
    assert_same(evolved(train(loss, jit=True, chunk_size=11)), evolved(result))  # 11, 11 and a single one


@pytest.mark.compiled
def test_a_compiled_run_goes_on_bit_for_bit(compiled):
    loss, result = compiled
    first = train(loss, num_steps=11, jit=True)
    second = train(loss, num_steps=12, jit=True, resume=first)
    assert second.num_steps == 23
    assert_same(evolved(second), evolved(result))


@pytest.mark.compiled
def test_an_interrupted_compiled_run_gives_back_what_it_has(compiled):
    loss, _ = compiled

    def interrupt(step, params, metrics):
        if step >= 10:
            raise KeyboardInterrupt

    result = train(loss, jit=True, chunk_size=5, callback=interrupt)
    assert (result.num_steps, result.is_complete) == (10, False)
    assert result.metrics["loss"].shape == (10,)
    assert_same(result.params, train(loss, num_steps=10, jit=True).params)


@pytest.mark.compiled
def test_a_second_run_compiles_nothing(compiled):
    """Other lengths, chunks, keys, starts and data; a loss and an optimizer that are built anew."""
    loss, result = compiled
    with compiles_nothing():
        train(loss, num_steps=7, jit=True)
        train(loss, jit=True, chunk_size=4)
        train(loss, jit=True, data=DATA + 1)
        assert_same(evolved(train(pcd(), jit=True)), evolved(result))
        settings = {"optimizer": optimizer(), "batch_size": 8, "ema_decay": 0.9, "num_steps": 5, "jit": True}
        fit(random.key(1), pcd(), tree.map(lambda leaf: leaf + 0.1, cases.params()), DATA, **settings)


@pytest.mark.parametrize("chunk_size", [1, 4, 23, 100])
def test_chunks_change_nothing(chunk_size):
    loss = pcd()
    assert_same(evolved(train(loss, chunk_size=chunk_size)), evolved(train(loss)))


def test_a_run_goes_on_bit_for_bit():
    loss = pcd()
    first = train(loss, num_steps=11)
    assert_same(evolved(train(loss, num_steps=12, resume=first)), evolved(train(loss)))


def test_fit_is_its_steps_and_the_keys_say_which_noise():
    loss, whole = pcd(), train(pcd(), num_steps=2)
    key_init, key_steps, key_epochs = random.split(random.key(41), 3)
    params, example = cases.params(), DATA[:8]
    state = TrainState(params, params, OPTIMIZER.init(params), loss.init(key_init, params, example))
    order = random.permutation(random.fold_in(key_epochs, 0), len(DATA))
    for step in range(2):
        noise = loss.draw(random.fold_in(key_steps, step), example)
        batch = DATA[order[8 * step : 8 * step + 8]]
        state, _ = train_step(loss, OPTIMIZER, state, batch, noise, ema_decay=0.9)
    assert_close(state.params, whole.params)
    assert_close(state.memory, whole.memory)


def test_vmap_over_keys_is_the_loop():
    loss = losses.denoising_score_matching(cases.energy, 0.5)

    def member(key):
        settings = {"optimizer": OPTIMIZER, "num_steps": 5, "batch_size": 8, "jit": False}
        return fit(key, loss, cases.params(), DATA, **settings).params

    keys = random.split(random.key(0), 3)
    assert_close(torch.func.vmap(member)(keys), tree.stack([member(key) for key in keys]))


def test_inputs_stay_and_carry_no_graph():
    params = tree.map(lambda leaf: leaf.requires_grad_(), cases.params())
    before, data = tree.map(torch.clone, params), DATA.clone()
    settings = {"optimizer": OPTIMIZER, "num_steps": 3, "batch_size": 8, "jit": False}
    result = fit(random.key(0), pcd(), params, DATA, **settings)
    assert_same(tree.map(torch.Tensor.detach, before), tree.map(torch.Tensor.detach, params))
    assert torch.equal(data, DATA)
    assert not any(leaf.requires_grad for leaf in tree.leaves(result.params))


# -- what it does -------------------------------------------------------------------------------------------------


def test_it_finds_the_minimiser():
    """That of these data, over all noise; the average still has ``0.95**130`` of the way there, the first steps left out."""
    data = random.normal(random.key(1), (4000, 2))
    loss = losses.denoising_score_matching(lambda params, x: params * (x**2).sum() / 2, 0.5)
    settings = {
        "optimizer": optimizers.adam(0.05),
        "num_steps": 150,
        "batch_size": 500,
        "jit": False,
        "ema_decay": 0.95,
    }

    def found(key):
        result = fit(key, loss, torch.tensor(0.0), data, **settings)
        return result.ema_params, result.metrics["loss"]

    averages, values = torch.func.vmap(found)(random.split(random.key(2), 20))
    assert_mean(averages, 1 / (data.square().mean() + 0.5**2), bias=0.95**130)
    assert (values[:, -20:].mean(1) < values[:, :20].mean(1)).all()


def test_the_average_has_its_closed_form():
    seen = [cases.params()]
    options = {"chunk_size": 1, "callback": lambda step, params, metrics: seen.append(params)}
    result = train(losses.denoising_score_matching(cases.energy, 0.5), num_steps=12, **options)
    expected = tree.scale(0.9**12, seen[0])
    for index, params in enumerate(seen[1:]):
        expected = tree.add_scaled(expected, 0.1 * 0.9 ** (11 - index), params)
    assert_close(result.ema_params, expected)
    assert train(pcd(), num_steps=2, ema_decay=None).ema_params == ()


def _counting(num_rows):
    """A loss that counts how often it saw each row, in its memory."""

    def value(params, memory, batch, noise):
        ones = torch.ones_like(batch)
        return params**2, LossAux(memory.index_add(0, batch.long(), ones), {"first": batch[0]})

    return Loss(lambda key, params, batch: torch.zeros(num_rows), lambda key, batch: (), value)


@pytest.mark.parametrize(("num_rows", "batch_size"), [(12, 4), (12, 12), (12, 1)])
def test_an_epoch_has_every_row_once(num_rows, batch_size):
    settings = {"optimizer": optimizers.sgd(0.1), "batch_size": batch_size, "jit": False, "chunk_size": 5}
    num_steps = 3 * num_rows // batch_size
    result = fit(random.key(0), _counting(12), torch.tensor(1.0), torch.arange(12.0), num_steps=num_steps, **settings)
    assert result.memory.tolist() == [3.0] * 12


def test_rows_left_over_are_others_in_other_epochs():
    settings = {"optimizer": optimizers.sgd(0.1), "batch_size": 5, "jit": False}
    result = fit(random.key(0), _counting(12), torch.tensor(1.0), torch.arange(12.0), num_steps=2 * 60, **settings)
    # each row is left out of an epoch with probability 1/6
    assert bool(((result.memory - 50).abs() < 5 * (60 * 5 / 36) ** 0.5).all())
    assert len(result.metrics["first"][::2].unique()) > 5


@pytest.mark.compiled
def test_a_compiled_loss_may_close_over_the_data():
    """And sees other data in their place, or a change of them in place, without compiling."""
    data = random.normal(random.key(0), (100, 2))
    options = {"optimizer": optimizers.sgd(0.01), "num_steps": 3, "batch_size": 10}

    def params_after(part, jit):
        kernels = losses.score_matching(lambda params, x: -(-params * ((x - part) ** 2).sum(1)).logsumexp(0))
        return fit(random.key(1), kernels, torch.tensor(1.0), data, jit=jit, **options).params

    first, part = params_after(data[:20], True), data[20:40].clone()
    torch.testing.assert_close(first, params_after(data[:20], False), rtol=1e-4, atol=0)
    assert abs(first - 1) > 1e-3
    with compiles_nothing():
        second = params_after(part, True)
        part.mul_(3)
        third = params_after(part, True)
    torch.testing.assert_close(third, params_after(part, False), rtol=1e-4, atol=0)
    torch.testing.assert_close(second, params_after(part / 3, False), rtol=1e-4, atol=0)
    assert len({float(first), float(second), float(third)}) == 3
