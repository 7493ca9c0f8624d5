"""Training: the same numbers however it is run, and nothing lost when something goes wrong."""

from __future__ import annotations

import pytest
import torch

from funcebm import losses, optimizers, random, samplers, tree
from funcebm.training import TrainState, fit, train_step
from funcebm.types import Loss, LossAux
from tests import cases_losses as cases

DATA = 0.5 * random.normal(random.key(40), (37, 3))
OPTIMIZER = optimizers.chain(optimizers.clip_by_global_norm(5.0), optimizers.adam(0.02))


def _pcd():
    sampler = samplers.langevin(cases.energy, step_size=0.05)
    return losses.persistent_contrastive_divergence(cases.energy, sampler, 3, buffer_size=20, restart_probability=0.2)


def _fit(loss, num_steps=23, **options):
    settings = {"optimizer": OPTIMIZER, "batch_size": 8, "jit": False, "ema_decay": 0.9, **options}
    return fit(random.key(41), loss, cases.params(), DATA, num_steps=num_steps, **settings)


def _assert_close(a, b, **tolerance):
    assert tree.structure(a) == tree.structure(b)
    for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True):
        torch.testing.assert_close(x, y, **tolerance)


def _assert_same(a, b):
    _assert_close(a, b, rtol=0, atol=0)


def _evolved(result):
    return (result.params, result.ema_params, result.opt_state, result.memory, result.metrics)


# -- the same numbers however it is run ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compiled():
    """A loss that was compiled once, with a chain and a memory inside, and its run."""
    loss = _pcd()
    return loss, _fit(loss, jit=True)


def test_jit_changes_nothing_but_rounding(compiled):
    loss, result = compiled
    eager = _fit(loss)
    assert result.num_steps == eager.num_steps == 23
    assert result.is_complete
    assert {metric.shape for metric in result.metrics.values()} == {(23,)}
    _assert_close(_evolved(result), _evolved(eager), rtol=1e-4, atol=1e-5)


def test_chunks_change_nothing_when_compiled(compiled):
    loss, result = compiled
    _assert_same(_evolved(_fit(loss, jit=True, chunk_size=9)), _evolved(result))


def test_a_compiled_run_goes_on_bit_for_bit(compiled):
    loss, result = compiled
    first = _fit(loss, num_steps=11, jit=True)
    second = _fit(loss, num_steps=12, jit=True, resume=first)
    assert second.num_steps == 23
    _assert_same(_evolved(second), _evolved(result))


def test_an_interrupted_compiled_run_gives_back_what_it_has(compiled):
    loss, _ = compiled

    def interrupt(step, params, metrics):
        if step >= 10:
            raise KeyboardInterrupt

    result = _fit(loss, jit=True, chunk_size=5, callback=interrupt)
    assert (result.num_steps, result.is_complete) == (10, False)
    assert result.metrics["loss"].shape == (10,)
    _assert_same(result.params, _fit(loss, num_steps=10, jit=True).params)


@pytest.mark.parametrize("chunk_size", [1, 4, 23, 100])
def test_chunks_change_nothing(chunk_size):
    loss = _pcd()
    _assert_same(_evolved(_fit(loss, chunk_size=chunk_size)), _evolved(_fit(loss)))


def test_a_run_goes_on_bit_for_bit():
    loss = _pcd()
    first = _fit(loss, num_steps=11)
    _assert_same(_evolved(_fit(loss, num_steps=12, resume=first)), _evolved(_fit(loss)))


def test_fit_is_its_steps_and_the_keys_say_which_noise():
    loss, whole = _pcd(), _fit(_pcd(), num_steps=2)
    key_init, key_steps, key_epochs = random.split(random.key(41), 3)
    params, example = cases.params(), DATA[:8]
    state = TrainState(params, params, OPTIMIZER.init(params), loss.init(key_init, params, example))
    order = random.permutation(random.fold_in(key_epochs, 0), len(DATA))
    for step in range(2):
        noise = loss.draw(random.fold_in(key_steps, step), example)
        batch = DATA[order[8 * step : 8 * step + 8]]
        state, _ = train_step(loss, OPTIMIZER, state, batch, noise, ema_decay=0.9)
    _assert_close(state.params, whole.params)
    _assert_close(state.memory, whole.memory)


def test_vmap_over_keys_is_the_loop():
    loss = losses.denoising_score_matching(cases.energy, 0.5)

    def train(key):
        settings = {"optimizer": OPTIMIZER, "num_steps": 5, "batch_size": 8, "jit": False}
        return fit(key, loss, cases.params(), DATA, **settings).params

    keys = random.split(random.key(0), 3)
    _assert_close(torch.func.vmap(train)(keys), tree.stack([train(key) for key in keys]))


def test_inputs_stay_and_carry_no_graph():
    params = tree.map(lambda leaf: leaf.requires_grad_(), cases.params())
    before, data = tree.map(torch.clone, params), DATA.clone()
    settings = {"optimizer": OPTIMIZER, "num_steps": 3, "batch_size": 8, "jit": False}
    result = fit(random.key(0), _pcd(), params, DATA, **settings)
    _assert_same(tree.map(torch.Tensor.detach, before), tree.map(torch.Tensor.detach, params))
    assert torch.equal(data, DATA)
    assert not any(leaf.requires_grad for leaf in tree.leaves(result.params))


# -- what it does -------------------------------------------------------------------------------------------------


def test_it_finds_the_minimiser():
    data = random.normal(random.key(1), (4000, 2))
    loss = losses.denoising_score_matching(lambda params, x: params * (x**2).sum() / 2, 0.5)
    settings = {
        "optimizer": optimizers.adam(0.05),
        "num_steps": 150,
        "batch_size": 500,
        "jit": False,
        "ema_decay": 0.95,
    }
    result = fit(random.key(2), loss, torch.tensor(0.0), data, **settings)
    assert abs(float(result.ema_params) - 1 / (1 + 0.5**2)) < 0.05
    assert result.metrics["loss"][-20:].mean() < result.metrics["loss"][:20].mean()


def test_the_average_has_its_closed_form():
    seen = [cases.params()]
    options = {"chunk_size": 1, "callback": lambda step, params, metrics: seen.append(params)}
    result = _fit(losses.denoising_score_matching(cases.energy, 0.5), num_steps=12, **options)
    expected = tree.scale(0.9**12, seen[0])
    for index, params in enumerate(seen[1:]):
        expected = tree.add_scaled(expected, 0.1 * 0.9 ** (11 - index), params)
    _assert_close(result.ema_params, expected)
    assert _fit(_pcd(), num_steps=2, ema_decay=None).ema_params == ()


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


# -- what is not finite -------------------------------------------------------------------------------------------


def _fragile(kind):
    """A loss that breaks in some steps, by its value, its gradient, or a step of the optimizer too large to hold."""

    scale = 1e-3 if kind == "overflow" else 1.0

    def draw(key, batch):
        return random.uniform(key) < 0.4

    def value(params, memory, batch, noise):
        loss = scale * ((params["w"] - batch) ** 2).mean()
        if kind == "value":
            loss = torch.where(noise, torch.nan, loss)
        elif kind == "gradient":
            loss = loss + torch.where(noise, params["w"] * 0, 1.0).sqrt()
        else:
            loss = loss + torch.where(noise, 1e38, 0.0) * params["w"]
        return loss, LossAux(memory + 1, {"is_broken": noise.float()})

    return Loss(lambda key, params, batch: torch.zeros(()), draw, value)


@pytest.mark.parametrize("kind", ["value", "gradient", "overflow"])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(kind):
    loss, params = _fragile(kind), {"w": torch.tensor(3.0)}
    data = random.normal(random.key(9), (16,))
    optimizer = optimizers.sgd(100.0 if kind == "overflow" else 0.1, momentum=0.5)
    settings = {"optimizer": optimizer, "batch_size": 16, "jit": False, "ema_decay": 0.5}
    result = fit(random.key(0), loss, params, data, num_steps=12, **settings)
    broken = result.metrics["is_broken"]
    assert 0 < int(broken.sum()) < 12
    assert torch.equal(result.metrics["skipped"], broken)
    assert int(result.memory) == int(result.opt_state.step) == 12 - int(broken.sum())
    # the steps that are finite alone give the same state
    state = TrainState(params, params, optimizer.init(params), torch.zeros(()))
    for flag in broken:
        if not flag:
            state, _ = train_step(loss, optimizer, state, data, torch.tensor(False), ema_decay=0.5)
    _assert_close((state.params, state.ema_params), (result.params, result.ema_params), rtol=1e-5, atol=1e-5)
    assert bool(tree.all_finite(result.params))


# -- stopping -----------------------------------------------------------------------------------------------------


def test_an_interrupt_within_a_chunk_loses_that_chunk_only():
    calls = []

    def value(params, memory, batch, noise):
        calls.append(0)
        if len(calls) > 1 + 13:  # the door takes one
            raise KeyboardInterrupt
        return (params - batch).square().mean(), LossAux((), {})

    loss = Loss(lambda key, params, batch: (), lambda key, batch: (), value)
    settings = {"optimizer": optimizers.sgd(0.1), "batch_size": 8, "jit": False, "chunk_size": 5}
    result = fit(random.key(0), loss, torch.zeros(3), DATA, num_steps=20, **settings)
    assert (result.num_steps, result.is_complete) == (10, False)
    assert result.metrics["loss"].shape == (10,)


def test_a_callback_sees_each_chunk_and_may_stop():
    seen = []

    def callback(step, params, metrics):
        seen.append((step, len(metrics["loss"])))
        return step >= 15

    result = _fit(_pcd(), chunk_size=6, callback=callback)
    assert seen == [(6, 6), (12, 6), (18, 6)]
    assert (result.num_steps, result.is_complete) == (18, False)
    _assert_same(result.params, _fit(_pcd(), num_steps=18).params)


def test_an_error_of_the_users_energy_comes_as_it_is():
    def energy(params, x):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match=r"^mine$"):
        _fit(losses.denoising_score_matching(energy, 0.5))


def test_progress_shows_a_bar(capsys):
    pytest.importorskip("tqdm")
    _fit(_pcd(), num_steps=4, progress=True)
    assert "training: 100%" in capsys.readouterr().err


# -- bad input ----------------------------------------------------------------------------------------------------

NAN = torch.where(torch.arange(37)[:, None] == 5, torch.nan, DATA)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"key": torch.zeros(3, dtype=torch.int32)}, "a key must be"),
        ({"key": 0}, "a key must be"),
        ({"data": NAN}, r"data must be finite. Got 1 rows .* first 5"),
        ({"data": {"a": DATA, "b": DATA[:5]}}, "all leaves of data must share one leading axis"),
        ({"data": torch.tensor(1.0)}, "data must be tensors with a leading axis"),
        ({"batch_size": 38}, "batch_size must be at most the number of rows. Got 38 of 37"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
        ({"num_steps": 0}, "num_steps must be an integer of at least 1"),
        ({"num_steps": -3}, "num_steps must be an integer of at least 1"),
        ({"chunk_size": 0}, "chunk_size must be an integer of at least 1"),
        ({"ema_decay": 1.0}, "ema_decay must be in"),
        ({"params": ()}, "params must hold a tensor"),
        ({"params": {"k": torch.tensor(1)}}, r"params must be floating-point tensors. Got k: torch.int64"),
        ({"params": {"k": 1.0}}, r"params must be floating-point tensors. Got k: float"),
        ({"params": tree.map(lambda leaf: leaf.to("meta"), cases.params())}, "params and data must be on one device"),
        (
            {"loss": Loss(lambda *_: (), lambda *_: (), lambda p, m, b, n: (b, LossAux((), {})))},
            "a loss must return a 0-d",
        ),
    ],
    ids=str,
)
def test_bad_input_is_refused_at_the_door(change, words):
    arguments = {"key": random.key(0), "loss": _pcd(), "params": cases.params(), "data": DATA, **change}
    settings = {"optimizer": OPTIMIZER, "num_steps": 3, "batch_size": 8, "jit": False}
    for name in list(arguments):
        if name not in ("key", "loss", "params", "data"):
            settings[name] = arguments.pop(name)
    with pytest.raises((ValueError, TypeError), match=words):
        fit(**arguments, **settings)


def test_resume_needs_the_same_params():
    first = _fit(_pcd(), num_steps=2)
    settings = {"optimizer": OPTIMIZER, "num_steps": 3, "batch_size": 8, "jit": False}
    loss = losses.score_matching(lambda params, x: params["other"] * (x**2).sum())
    with pytest.raises(ValueError, match="resume must be a run of this model"):
        fit(random.key(0), loss, {"other": torch.tensor(1.0)}, DATA, resume=first, **settings)
