"""Nothing is lost when something goes wrong: steps that are not finite, divergence, interrupts; and stopping early."""

from __future__ import annotations

import re
import time

import pytest
import torch
from tests import cases_losses as cases
from tests.training.runs import DATA, assert_close, assert_same, assert_same_run, evolved, pcd, train

from funcebm import losses, optimizers, random, tree
from funcebm.training import TrainState, Validation, fit, train_step
from funcebm.types import Loss, LossAux

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
    assert_close((state.params, state.ema_params), (result.params, result.ema_params), rtol=1e-5, atol=1e-5)
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

    result = train(pcd(), chunk_size=6, callback=callback)
    assert seen == [(6, 6), (12, 6), (18, 6)]
    assert (result.num_steps, result.is_complete) == (18, False)
    assert_same(result.params, train(pcd(), num_steps=18).params)


@pytest.mark.parametrize(
    ("answer", "num_steps"),
    [(torch.tensor(True), 6), (torch.tensor([1.0]).numpy()[0] > 0, 6), (torch.tensor(False), 12), (1, 12), ("x", 12)],
)
def test_a_comparison_of_tensors_or_arrays_stops_a_run_too(answer, num_steps):
    assert train(pcd(), num_steps=12, chunk_size=6, callback=lambda *_: answer).num_steps == num_steps


def test_an_error_of_the_users_energy_comes_as_it_is():
    def energy(params, x):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match=r"^mine$"):
        train(losses.denoising_score_matching(energy, 0.5))


def test_progress_shows_a_bar(capsys):
    pytest.importorskip("tqdm")
    train(pcd(), num_steps=4, progress=True)
    assert "training: 100%" in capsys.readouterr().err


def test_chunks_of_an_eager_run_are_short_and_change_nothing():
    loss, seen = losses.denoising_score_matching(cases.energy, 0.5), []
    whole = train(loss, num_steps=60, chunk_size=60)

    def draw(key, batch):
        seen.append(1)
        return loss.draw(key, batch)

    def value(params, memory, batch, noise):
        time.sleep(0.02)
        return loss.value(params, memory, batch, noise)

    result = train(Loss(loss.init, draw, value), num_steps=60)
    assert_same(evolved(result), evolved(whole))
    assert len(seen) > 4  # the noise of a chunk is drawn at once, in at least four chunks of a quarter of a second


# -- divergence ---------------------------------------------------------------------------------------------------


def _breaks_at(step, kind):
    """A loss whose memory counts the steps, and which is broken from the given one on."""

    def value(params, memory, batch, noise):
        loss, gap = ((params["w"] - batch) ** 2).mean(), memory * 1.0
        if kind == "loss":
            loss = torch.where(memory >= step, torch.nan, loss)
        elif kind == "gap":
            gap = torch.where(memory >= step, -1e3, gap)
        else:
            gap = torch.where(memory >= step, torch.inf, gap)
        return loss, LossAux(memory + 1, {"energy_gap": gap})

    return Loss(lambda key, params, batch: torch.zeros(()), lambda key, batch: (), value)


def _run_broken(loss, num_steps=40, **options):
    settings = {"optimizer": optimizers.adam(0.1), "batch_size": 4, "jit": False, "ema_decay": 0.5, **options}
    return fit(random.key(0), loss, {"w": torch.tensor(3.0)}, DATA[:, 0], num_steps=num_steps, **settings)


@pytest.mark.parametrize(
    ("kind", "limits", "words"),
    [
        ("loss", None, "loss was nan"),
        ("gap", {"energy_gap": 100.0}, "energy_gap was -1000, beyond 100"),
        ("infinite", None, "energy_gap was inf"),
    ],
)
@pytest.mark.parametrize("chunk_size", [1, 4, 7, 100])
def test_a_run_that_diverges_stops_with_a_report_and_the_last_good_params(kind, limits, words, chunk_size):
    options = {"limits": limits, "max_bad_steps": 6, "chunk_size": chunk_size}
    with pytest.warns(RuntimeWarning, match=f"training diverged: .*{words} in step 13"):
        result = _run_broken(_breaks_at(13, kind), **options)
    assert not result.is_complete
    assert words in result.report
    good = _run_broken(_breaks_at(1000, kind), num_steps=12)  # the state after 13 steps is bad on any data
    assert result.num_steps == 12 and "those after 12 steps" in result.report
    assert (result.epoch, result.epoch_steps) == (1, 3)  # nine batches in an epoch
    until_then = {name: values[:12] for name, values in result.metrics.items()}
    assert_same(evolved(result._replace(metrics=until_then)), evolved(good))
    name = "loss" if kind == "loss" else "energy_gap"
    whole = result.metrics[name]
    assert len(whole) == 13 + 6 and torch.equal(whole[:12], good.metrics[name])
    assert bool(((whole[13:].abs() > 100) | ~whole[13:].isfinite()).all())
    again = _run_broken(_breaks_at(1000, kind), num_steps=3, resume=result)
    assert len(again.metrics[name]) == 15


@pytest.mark.parametrize("chunk_size", [1, 8, 100])
def test_a_row_that_is_long_enough_stops_the_run_even_if_it_ends_within_the_chunk(chunk_size):
    def value(params, memory, batch, noise):
        is_large = (memory >= 10) & (memory < 14)
        return ((params["w"] - batch) ** 2).mean(), LossAux(memory + 1, {"energy_gap": torch.where(is_large, 9.0, 0.0)})

    loss = Loss(lambda key, params, batch: torch.zeros(()), lambda key, batch: (), value)
    options = {"limits": {"energy_gap": 5.0}, "chunk_size": chunk_size, "num_steps": 30}
    with pytest.warns(RuntimeWarning, match="energy_gap was 9, beyond 5 in step 10"):
        assert _run_broken(loss, max_bad_steps=4, **options).num_steps == 9
    assert _run_broken(loss, max_bad_steps=5, **options).is_complete


@pytest.mark.parametrize("chunk_size", [1, 3, 50])
def test_params_at_which_the_loss_is_not_finite_are_not_the_last_good_ones(chunk_size):
    def value(params, memory, batch, noise):
        return torch.where(params["w"] > 3.35, torch.nan, -params["w"] + 0 * batch.sum()), LossAux(memory, {})

    loss = Loss(lambda key, params, batch: (), lambda key, batch: (), value)
    with pytest.warns(RuntimeWarning, match="loss was nan in step 4 .*those after 3 steps"):
        result = _run_broken(loss, optimizer=optimizers.sgd(0.1), max_bad_steps=5, chunk_size=chunk_size)
    assert float(result.params["w"]) == pytest.approx(3.3)


@pytest.mark.parametrize("chunk_size", [1, 3, 50])
def test_params_are_not_blamed_for_bad_batches(chunk_size):
    def value(params, memory, batch, noise):
        return torch.where(batch.sum() > 90, torch.nan, -params["w"]), LossAux(memory, {})

    loss = Loss(lambda key, params, batch: (), lambda key, batch: (), value)
    batches = [torch.full((4,), float(value)) for value in (1, 2, 3, 4, *[50] * 20)]
    settings = {"optimizer": optimizers.sgd(0.1), "jit": False, "max_bad_steps": 5, "chunk_size": chunk_size}
    with pytest.warns(RuntimeWarning, match="loss was nan in step 4 .*those after 4 steps"):
        result = fit(random.key(0), loss, {"w": torch.tensor(3.0)}, lambda epoch: batches, num_steps=20, **settings)
    assert float(result.params["w"]) == pytest.approx(3.4)


def test_bad_steps_that_are_not_in_a_row_stop_nothing():
    loss = _fragile("value")
    settings = {"optimizer": optimizers.sgd(0.1), "batch_size": 16, "jit": False, "max_bad_steps": 12}
    result = fit(random.key(0), loss, {"w": torch.tensor(3.0)}, DATA[:16, 0], num_steps=60, **settings)
    assert int(result.metrics["skipped"].sum()) > 12
    assert result.is_complete


def test_a_run_of_skipped_steps_only_is_not_silent():
    with pytest.warns(RuntimeWarning, match="the run ended with 5 skipped steps"):
        result = _run_broken(_breaks_at(0, "loss"), num_steps=5)
    assert "diverged" in result.report
    assert float(result.params["w"]) == 3.0
    assert _run_broken(_breaks_at(0, "loss"), num_steps=5, max_bad_steps=None).report == ""


# -- validation ---------------------------------------------------------------------------------------------------

HELD_OUT = 0.5 * random.normal(random.key(90), (16, 3))


def test_the_validation_loss_is_that_of_the_averages_with_the_same_noise():
    loss = losses.denoising_score_matching(cases.energy, 0.5)
    averages = {}

    def callback(step, params, metrics):
        averages[step] = params

    validation = Validation(HELD_OUT, every=4)
    result = train(loss, num_steps=14, validation=validation, callback=callback, ema_decay=None)
    assert result.validation.steps.tolist() == [4, 8, 12]
    noise = loss.draw(random.split(random.fold_in(random.split(random.key(41), 3)[0], 1))[1], HELD_OUT)
    expected = [loss.value(averages[step], (), HELD_OUT, noise)[0] for step in (4, 8, 12)]
    assert_close(result.validation.values, torch.stack(expected))
    averaged = train(loss, num_steps=4, validation=validation, ema_decay=0.9)
    assert_close(averaged.validation.values[0], loss.value(averaged.ema_params, (), HELD_OUT, noise)[0])


def test_validation_changes_no_number_of_the_training():
    loss = pcd()
    validated = train(loss, validation=Validation(HELD_OUT, every=5), chunk_size=4)
    assert_same(evolved(validated), evolved(train(loss)))
    first = train(loss, num_steps=12, validation=Validation(HELD_OUT, every=5))
    second = train(loss, num_steps=11, validation=Validation(HELD_OUT, every=5), resume=first)
    assert_same_run(second, validated)


def _scripted(values):
    """A metric that gives the values one by one."""
    left = list(values)
    return lambda params, data: torch.tensor(left.pop(0))


def test_patience_ends_the_run_and_the_best_params_are_kept():
    values = [5.0, 3.0, 4.0, float("nan"), 2.0, float("nan"), 2.0, 9.0, 0.0]
    loss = losses.denoising_score_matching(cases.energy, 0.5)
    validation = Validation(HELD_OUT, every=2, metric=_scripted(values), patience=3)
    result = train(loss, num_steps=30, validation=validation)
    assert result.validation.steps.tolist() == [2, 4, 6, 8, 10, 12, 14, 16]
    assert (result.num_steps, result.is_complete) == (16, False)
    assert re.search(r"stopped early at step 16.* lower than 2, of step 10, for 3 validations", result.report)
    assert (int(result.validation.best_step), float(result.validation.best_value)) == (10, 2.0)
    assert_same(result.validation.best_params, train(loss, num_steps=10).ema_params)


def test_patience_goes_on_over_a_cut():
    loss = losses.denoising_score_matching(cases.energy, 0.5)
    first = train(loss, num_steps=4, validation=Validation(HELD_OUT, 2, _scripted([1.0, 2.0]), 2))
    second = train(loss, num_steps=20, validation=Validation(HELD_OUT, 2, _scripted([3.0, 4.0]), 2), resume=first)
    assert second.num_steps == 6


# -- what is shown ------------------------------------------------------------------------------------------------


def test_the_bar_shows_the_metrics_in_a_fixed_order(capsys):
    pytest.importorskip("tqdm")
    train(pcd(), num_steps=4, progress=True)
    shown = capsys.readouterr().err
    places = [
        shown.index(f"{name}=") for name in ("loss", "positive_energy", "negative_energy", "energy_gap", "skipped")
    ]
    assert places == sorted(places)
