"""A run through a file is the run uncut, and a file of something else is told apart from it."""

from __future__ import annotations

import os

import pytest
import torch
from tests import cases_losses as cases
from tests.training.runs import DATA, OPTIMIZER, assert_same, assert_same_run, evolved, pcd, train

from funcebm import losses, optimizers, random, training, tree
from funcebm.training import TrainState, Validation, load, save

pytest.importorskip("safetensors")


def _train(num_steps, **options):
    return train(pcd(), num_steps, validation=Validation(DATA[:9], every=6), **options)


@pytest.fixture(scope="module")
def uncut():
    return _train(16, chunk_size=4)


@pytest.mark.parametrize("cut", [1, 3, 4, 6, 8, 11, 12, 15])
def test_a_run_cut_anywhere_and_loaded_ends_where_the_uncut_one_does(tmp_path, uncut, cut):
    path = tmp_path / "run.safetensors"
    save(_train(cut, chunk_size=4), path)
    loaded = load(path, cases.params())
    assert_same_run(_train(16 - cut, chunk_size=4, resume=loaded), uncut)
    assert os.listdir(tmp_path) == ["run.safetensors"]


def test_it_also_is_so_after_an_interrupt_and_several_cuts(tmp_path, uncut):
    def interrupt(step, params, metrics):
        if step >= 7:
            raise KeyboardInterrupt

    path, result = tmp_path / "run.safetensors", None
    first = _train(16, chunk_size=3, callback=interrupt)
    assert (first.num_steps, first.report) == (9, "interrupted")
    save(first, path)
    while result is None or result.num_steps < 16:
        result = _train(min(4, 16 - load(path, cases.params()).num_steps), resume=load(path, cases.params()))
        save(result, path)
    assert_same_run(result, uncut)


def test_everything_comes_back_bit_for_bit(tmp_path, uncut):
    save(uncut, tmp_path / "a")
    like = training.Fit(*_train(1)[:4], {}, 0, False)
    for shape in (like, TrainState(*like[:4])):
        loaded = load(tmp_path / "a", shape)
        assert_same_run(loaded, uncut)
        assert (loaded.is_complete, loaded.report) == (uncut.is_complete, uncut.report)
    loaded = load(tmp_path / "a", tree.map(torch.zeros_like, cases.params()))
    assert_same((loaded.params, loaded.ema_params, loaded.metrics), (uncut.params, uncut.ema_params, uncut.metrics))
    assert_same(loaded.opt_state["1/first/k"], uncut.opt_state[1].first["k"])
    halted = uncut._replace(is_complete=False, report='halted: "why" \u2014 because')
    save(halted, tmp_path / "a")
    assert load(tmp_path / "a", cases.params()).report == halted.report


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_any_tree_and_dtype_goes_through(tmp_path, dtype):
    params = {
        "a": [torch.ones(2, 0, dtype=dtype), (torch.tensor(3.0, dtype=dtype),)],
        "steps": random.normal(random.key(0), 3).to(dtype),
    }
    memory = {"flag": torch.tensor([True, False]), "count": torch.tensor(2**40), "view": torch.arange(6).view(2, 3).mT}
    state = TrainState(params, (), (), memory)
    save(state, tmp_path / "x")
    loaded = load(tmp_path / "x", state)
    assert_same(TrainState(*loaded[:4]), state)
    lone = TrainState(torch.tensor(2.0), torch.tensor(1.0), torch.tensor(1), ())
    save(lone, str(tmp_path / "x"))
    assert_same(TrainState(*load(tmp_path / "x", torch.tensor(0.0))[:2], (), ()), TrainState(*lone[:2], (), ()))


def test_no_pickle_is_in_it(tmp_path, uncut):
    save(uncut, tmp_path / "x")
    content = (tmp_path / "x").read_bytes()
    size = int.from_bytes(content[:8], "little")
    assert content[8:9] == b"{" and b"funcebm.training" in content[8 : 8 + size]
    save(uncut, tmp_path / "y")
    assert (tmp_path / "y").read_bytes() == content


# -- a checkpoint of fit's own ------------------------------------------------------------------------------------


def test_fit_saves_itself_and_what_is_in_the_file_goes_on(tmp_path, uncut, monkeypatch):
    monkeypatch.setattr("funcebm.training.run._CHECKPOINT_SECONDS", -1.0)
    path, seen = tmp_path / "run", []

    class Killed(BaseException):
        pass

    def callback(step, params, metrics):
        if step > 4:
            seen.append(load(path, cases.params()).num_steps)
        if step > 11:
            raise Killed

    with pytest.raises(Killed):
        _train(16, chunk_size=4, callback=callback, checkpoint=path)
    assert seen[:2] == [4, 6]  # a chunk ends where there is a validation
    loaded = load(path, cases.params())
    assert not loaded.is_complete
    assert_same_run(_train(16 - loaded.num_steps, resume=loaded, checkpoint=path), uncut)
    assert load(path, cases.params()).is_complete


# -- files of something else --------------------------------------------------------------------------------------


def _other(kind):
    params = cases.params()
    if kind == "leaves":
        return {"k": params["k"], "offset": torch.tensor(0.0), "slope": params["slope"]}
    if kind == "shape":
        return {**params, "k": torch.zeros(2)}
    return tree.map(torch.Tensor.double, params)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("leaves", r"in params: missing: offset; not expected: bump"),
        ("shape", r"in params: k: \(\) in place of \(2,\)"),
        ("dtype", r"in params: bump: torch\.float32 in place of torch\.float64; k: torch\.float32"),
    ],
)
def test_a_checkpoint_of_another_model_names_the_leaves_that_differ(tmp_path, uncut, kind, words):
    path = tmp_path / "run"
    save(uncut, path)
    content = path.read_bytes()
    with pytest.raises(ValueError, match=f"must hold a run of the same model. Got {words}"):
        load(path, _other(kind))
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"optimizer": optimizers.sgd(0.1, momentum=0.5)},
            r"in opt_state: missing: step, .*not expected: 1/first/bump",
        ),
        ({"ema_decay": None}, r"in ema_params: not expected: bump, k, slope"),
        ({"loss": losses.denoising_score_matching(cases.energy, 0.5)}, r"in memory: not expected"),
    ],
)
def test_a_run_of_another_loss_or_optimizer_is_not_gone_on_with(tmp_path, uncut, change, words):
    save(uncut, tmp_path / "run")
    loss = change.pop("loss", pcd())
    for resume in (uncut, load(tmp_path / "run", cases.params())):
        with pytest.raises(ValueError, match=f"resume must be a run of this model, .* Got .*{words}"):
            train(loss, 2, resume=resume, **change)


@pytest.mark.parametrize("damage", ["truncated", "header", "empty", "pickle", "foreign", "version"])
def test_a_damaged_or_foreign_file_is_told(tmp_path, uncut, damage):
    from safetensors.torch import save_file

    path = tmp_path / "run"
    save(uncut, path)
    content = path.read_bytes()
    if damage == "foreign":
        save_file({"params/k": torch.zeros(1)}, path)
    elif damage == "version":
        path.write_bytes(content.replace(b'\\"format\\": 1', b'\\"format\\": 9'))
    elif damage == "pickle":
        torch.save({"k": torch.zeros(1)}, path)
    else:
        path.write_bytes(content[: {"truncated": len(content) - 5, "header": 100, "empty": 0}[damage]])
    damaged = path.read_bytes()
    words = {"foreign": "Got safetensors of something else", "version": "in format 1. Got format 9"}
    with pytest.raises(ValueError, match=words.get(damage, "Got a file that safetensors cannot read")):
        load(path, cases.params())
    assert path.read_bytes() == damaged
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none", cases.params())


@pytest.mark.parametrize("place", ["first number", "last number", "count"])
def test_one_wrong_bit_is_told(tmp_path, uncut, place):
    path = tmp_path / "run"
    save(uncut, path)
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    where = {"first number": start, "last number": len(content) - 1, "count": content.index(b'num_steps\\": 16') + 14}
    content[where[place]] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="Got other numbers: it is damaged"):
        load(path, cases.params())


def test_a_write_that_fails_leaves_the_old_file(tmp_path, uncut, monkeypatch):
    path = tmp_path / "run"
    save(uncut, path)
    content = path.read_bytes()

    def full(descriptor):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        save(_train(2), path)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["run"]


@pytest.mark.parametrize(
    ("path", "words"),
    [("none/run", "a checkpoint must be in a folder that exists"), ("", "a checkpoint must be a file. Got the folder")],
)
def test_a_place_for_no_file_is_refused_before_anything_is_trained(tmp_path, uncut, path, words):
    steps = []
    with pytest.raises(ValueError, match=words):
        train(pcd(), 2, checkpoint=tmp_path / path, callback=lambda *args: steps.append(args))
    assert not steps
    with pytest.raises(ValueError, match=words):
        save(uncut, tmp_path / path)


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match=r"must be a file of training.save. Got a folder"):
        load(tmp_path, cases.params())


def test_a_full_disk_does_not_cost_the_run(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left") as caught:
        train(pcd(), 2, checkpoint=tmp_path / "run")
    assert caught.value.fit.is_complete
    assert_same_run(caught.value.fit, train(pcd(), 2))


def test_save_takes_runs_only(tmp_path):
    with pytest.raises(TypeError, match=r"save takes a Fit or a TrainState\. Got dict"):
        save(cases.params(), tmp_path / "x")


def test_a_users_own_loop_saves_its_state(tmp_path):
    loss = pcd()
    state = TrainState(
        cases.params(), (), OPTIMIZER.init(cases.params()), loss.init(random.key(0), cases.params(), DATA[:8])
    )
    save(state, tmp_path / "x")
    assert_same(TrainState(*load(tmp_path / "x", state)[:4]), state)
    assert evolved(load(tmp_path / "x", state))[-1] == {}
