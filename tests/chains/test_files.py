"""Runs in files: they go on bit for bit, also after kill -9."""

from __future__ import annotations

import copy
import io
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections import OrderedDict

import pytest
import torch

import funcebm as ebm
from funcebm import _chunks, _files, energies, graphs, random, samplers, tree
from funcebm.bijections import constrained, positive

KEY = random.key(3)


def energy(params, x):
    return sum((leaf**2).sum() for leaf in tree.leaves(x)) * params["k"] / 2


PARAMS = {"k": torch.tensor(1.5), "rest": (torch.ones(2), [torch.zeros(1)])}
SAMPLERS = {
    "mala": lambda: samplers.mala(energy, step_size=0.3),
    "ghmc": lambda: samplers.ghmc(energy, step_size=0.3),
    "hmc_dense": lambda: samplers.hmc(energy, step_size=0.3, num_leapfrog=2, inverse_mass=torch.eye(2)),
    "nuts": lambda: samplers.nuts(energy, step_size=0.4, max_depth=4),
    "cycle": lambda: samplers.cycle(samplers.mala(energy, step_size=0.2), samplers.random_walk(energy)),
    "constrained": lambda: samplers.mala(constrained(energy, positive), step_size=0.1),
}


def _run(sampler, num_samples, **options):
    starts = torch.ones(3, 2) if "starts" not in options else options.pop("starts")
    return ebm.sample(KEY, sampler, PARAMS, starts, num_samples=num_samples, jit=False, **options)


def _equal(a, b):
    assert tree.structure(a) == tree.structure(b)
    assert all(torch.equal(x, y) for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True))


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_a_run_from_a_file_goes_on_bit_for_bit(name, tmp_path):
    whole, cut = _run(SAMPLERS[name](), 9), _run(SAMPLERS[name](), 4)
    ebm.save(cut, tmp_path / "run.safetensors")
    loaded = ebm.load(tmp_path / "run.safetensors", SAMPLERS[name]())
    _equal(loaded[:4], cut[:4])
    rest = ebm.resume(loaded, num_samples=5)
    _equal(rest.draws, whole.draws[:, 4:])
    _equal(rest.state, whole.state)
    _equal(rest.info, tree.map(lambda leaf: leaf[:, 4:], whole.info))


def test_trees_schedules_collect_and_reducers_too(tmp_path):
    path, sampler = tmp_path / "run.safetensors", SAMPLERS["mala"]()
    starts = {"b": torch.ones(3, 2), "a": torch.zeros(3, 1).double()}
    schedule = lambda index: sampler.tuning._replace(step_size=0.3 / (1 + index))  # noqa: E731
    options = {"tuning": schedule, "collect": lambda state, info: {"a": state.position["a"]}}
    whole, cut = _run(sampler, 7, starts=starts, **options), _run(sampler, 3, starts=starts, **options)
    ebm.save(cut, path)
    _equal(ebm.resume(ebm.load(path, sampler, **options), num_samples=4).draws["a"], whole.draws["a"][:, 3:])
    reduce = {"mean": ebm.reducers.mean(), "covariance": ebm.reducers.covariance()}
    whole, cut = _run(sampler, 7, reduce=reduce), _run(sampler, 3, reduce=reduce)
    ebm.save(cut, path)
    _equal(ebm.resume(ebm.load(path, sampler, reduce=reduce), num_samples=4).reduced, whole.reduced)


def test_checkpoints_change_nothing_and_go_on(tmp_path):
    path, sampler = tmp_path / "run.safetensors", SAMPLERS["ghmc"]()
    whole = _run(sampler, 11, num_burn_in=3, thin=2)
    kept = _run(sampler, 11, num_burn_in=3, thin=2, checkpoint=path, checkpoint_every=4)
    _equal(kept[:4], whole[:4])
    assert kept.is_complete
    _equal(ebm.load(path, sampler).draws, whole.draws)
    reduce = {"mean": ebm.reducers.mean()}
    _equal(
        _run(sampler, 7, reduce=reduce, checkpoint=path, checkpoint_every=3).reduced,
        _run(sampler, 7, reduce=reduce).reduced,
    )


@pytest.mark.parametrize("reduce", [None, {"mean": ebm.reducers.mean()}], ids=["draws", "reduced"])
def test_each_checkpoint_goes_on_in_the_burn_in_too(reduce, tmp_path, monkeypatch):
    path, sampler, kept = tmp_path / "run.safetensors", SAMPLERS["ghmc"](), []
    write = _files.put
    monkeypatch.setattr(_files, "put", lambda path, content: (write(path, content), kept.append(content)))
    options = {"num_burn_in": 11, "thin": 2, "reduce": reduce}
    whole = _run(sampler, 5, **options)
    _equal(_run(sampler, 5, **options, checkpoint=path, checkpoint_every=2)[:4], whole[:4])
    left, made = [], []
    for content in kept:
        path.write_bytes(content)
        samples = ebm.load(path, sampler, reduce=reduce)
        left.append(samples.run.num_burn_in)
        made.append(max(samples.run.num_steps - 11, 0) // 2)
        assert samples.is_complete == (made[-1] == 5)
        if made[-1] < 5:
            rest = ebm.resume(samples, num_samples=5 - made[-1])
            _equal(rest.state, whole.state)
            _equal(rest.reduced, whole.reduced)
            _equal(rest.draws, tree.map(lambda leaf: leaf[:, made[-1] :], whole.draws))
    assert left == [7, 3, 0, 0, 0]
    assert made == [0, 0, 2, 4, 5]


def test_resume_too_keeps_checkpoints_with_the_draws_of_before(tmp_path):
    path, sampler = tmp_path / "run.safetensors", SAMPLERS["mala"]()
    whole, cut = _run(sampler, 9, num_burn_in=5), _run(sampler, 3, num_burn_in=5)
    rest = ebm.resume(cut, num_samples=6, checkpoint=path, checkpoint_every=4)
    _equal((rest.draws, rest.info), tree.map(lambda leaf: leaf[:, 3:], (whole.draws, whole.info)))
    again = ebm.load(path, sampler)
    assert rest.is_complete and again.is_complete
    _equal(again[:4], whole[:4])


def test_an_interrupt_of_the_burn_in_ends_a_run_with_checkpoints(tmp_path, monkeypatch):
    path, sampler = tmp_path / "run.safetensors", SAMPLERS["mala"]()
    whole = _run(sampler, 6, num_burn_in=20)
    advance, calls = _chunks.advance, []

    def interrupted(*args, **options):
        calls.append(args[3])
        if len(calls) == 4:
            raise KeyboardInterrupt
        return advance(*args, **options)

    monkeypatch.setattr(_chunks, "advance", interrupted)
    options = {"checkpoint": path, "checkpoint_every": 6, "chunk_size": 3}
    samples = _run(sampler, 6, num_burn_in=20, **options)
    assert calls == [(0, 3), (3, 6), (6, 9), (9, 12)]
    assert not samples.is_complete and samples.draws == () and samples.run.num_burn_in == 11
    _equal(ebm.resume(ebm.load(path, sampler), num_samples=6)[:4], whole[:4])


def test_folders_of_a_burn_in_hold_no_draws(tmp_path):
    sampler = SAMPLERS["mala"]()
    whole = _run(sampler, 5, num_burn_in=9)
    options = {"num_burn_in": 9, "checkpoint": tmp_path, "checkpoint_every": 2, "gather": "files"}
    _run(sampler, 5, **options)
    names = sorted(folder.name for folder in tmp_path.iterdir())
    assert names == [f"run-{steps:012d}" for steps in (8, 11, 13, 14)]
    _equal(ebm.distributed.draws_of(tmp_path)[0], whole.draws)
    for name in names[1:]:
        shutil.rmtree(tmp_path / name)
    _equal(ebm.resume(ebm.load(tmp_path, sampler), num_samples=5).draws, whole.draws)
    _equal(ebm.resume(ebm.distributed.load(tmp_path, _run(sampler, 1).run), num_samples=5).draws, whole.draws)


def test_a_folder_holds_the_last_run_and_nothing_of_others(tmp_path):
    sampler = SAMPLERS["mala"]()
    options = {"checkpoint": tmp_path, "checkpoint_every": 2, "gather": "files"}
    for num_samples in (7, 3, 4):  # a longer one before
        _run(sampler, num_samples, **options)
        _equal(ebm.distributed.draws_of(tmp_path)[0], _run(sampler, num_samples).draws)
    ebm.distributed.save(tmp_path, _run(sampler, 1))
    assert ebm.load(tmp_path, sampler).run.num_steps == 1


SPINS = energies.ising(graphs.grid(3))
ALIKE = {
    # state, noise and tuning of each pair are alike
    "mala": (SAMPLERS["mala"], lambda: samplers.langevin(energy, step_size=0.3)),
    "constrained": (SAMPLERS["constrained"], SAMPLERS["mala"]),
    "cycle": (SAMPLERS["cycle"], lambda: samplers.cycle(samplers.langevin(energy), samplers.random_walk(energy))),
    "thin": (lambda: samplers.thin(SAMPLERS["mala"](), 2), lambda: samplers.thin(samplers.langevin(energy), 2)),
    "scan": (lambda: samplers.gibbs(SPINS), lambda: samplers.metropolised_gibbs(SPINS, scan="systematic")),
    "rates": (lambda: samplers.discrete_langevin(SPINS), lambda: samplers.dlmc(SPINS)),
}


@pytest.mark.parametrize("name", list(ALIKE))
def test_another_sampler_is_refused_though_its_tuning_is_alike(name, tmp_path):
    """By load, of a run and of a warm-up, by resume, and by a warm-up that goes on from a checkpoint."""
    right, wrong = (make() for make in ALIKE[name])
    params, starts = PARAMS, torch.ones(2, 3)
    if name in ("scan", "rates"):
        params = SPINS.params()
    paths = [tmp_path / f"{index}.safetensors" for index in range(3)]
    options = {"num_steps": 4, "jit": False}
    run = ebm.sample(KEY, right, params, starts, num_samples=2, jit=False)
    ebm.save(run, paths[0])
    ebm.save(ebm.warm_up(KEY, right, params, starts, **options), paths[1])
    for path in paths[:2]:
        ebm.load(path, right)
        with pytest.raises(ValueError, match=r"sampler must be the .* of that"):
            ebm.load(path, wrong)
    for samples in (run, pickle.loads(pickle.dumps(run))):
        ebm.resume(samples, num_samples=1, sampler=right)
        with pytest.raises(ValueError, match=r"sampler must be the .* of that run"):
            ebm.resume(samples, num_samples=1, sampler=wrong)
    ebm.warm_up(KEY, right, params, starts, **options, checkpoint=paths[2])
    # one of the free numbers differs in its positions already
    other = r"other positions" if name == "constrained" else r"other.* sampler|another adaptation"
    with pytest.raises(ValueError, match=other):
        ebm.warm_up(KEY, wrong, params, starts, **options, checkpoint=paths[2])


@pytest.mark.parametrize("name", ["mala", "hmc_dense", "nuts", "constrained", "cycle"])
def test_a_warm_up_from_a_file_is_the_same(name, tmp_path):
    path, sampler = tmp_path / "warm.safetensors", SAMPLERS[name]()
    warm = ebm.warm_up(KEY, sampler, PARAMS, torch.ones(3, 2), num_steps=20, jit=False)
    ebm.save(warm, path)
    again = ebm.load(path, SAMPLERS[name]())
    _equal(again, warm)
    assert str(again.report) == str(warm.report)
    run = lambda found: _run(sampler, 2, starts=found.positions, tuning=found.tuning).draws  # noqa: E731
    _equal(run(again), run(warm))
    if name == "nuts":
        with pytest.raises(ValueError, match="sampler must be the nuts of that warm-up"):
            ebm.load(path, samplers.cycle(sampler, sampler))


def test_copies_and_pickles_hold_numbers_and_no_functions():

    sampler = SAMPLERS["mala"]()
    whole, cut = _run(sampler, 9), _run(sampler, 4)
    written = io.BytesIO()
    torch.save(cut, written)
    written.seek(0)
    for again in (pickle.loads(pickle.dumps(cut)), torch.load(written, weights_only=False)):
        _equal(again[:4], cut[:4])
        with pytest.raises(ValueError, match=r"must have their sampler.*sampler=sampler"):
            ebm.resume(again, num_samples=5)
        with pytest.raises(TypeError, match="Call it with an energy"):
            ebm.resume(again, num_samples=5, sampler=samplers.mala)
        _equal(ebm.resume(again, num_samples=5, sampler=sampler).draws, whole.draws[:, 4:])
    deep, shallow = copy.deepcopy(cut), copy.copy(cut)
    assert shallow.run.sampler is sampler
    cut.draws.zero_()
    assert not torch.equal(deep.draws, cut.draws)
    _equal(ebm.resume(deep, num_samples=5).draws, whole.draws[:, 4:])
    reduced = _run(sampler, 4, reduce=ebm.reducers.mean())
    again = pickle.loads(pickle.dumps(reduced))
    _equal(again.reduced, reduced.reduced)
    with pytest.raises(ValueError, match=r"or of a pickle of a run with .* reduce.*funcebm.save"):
        ebm.resume(again, num_samples=1)


CHILD = """
import sys, torch, funcebm as ebm
sampler = ebm.samplers.mala(lambda params, x: (x**2).sum() / 2, step_size=0.4)
print("ready", flush=True)
ebm.sample(ebm.random.key(1), sampler, (), torch.zeros(4, 2), num_samples=100_000, num_burn_in=int(sys.argv[2]), jit=False,
           chunk_size=50, checkpoint=sys.argv[1], checkpoint_every=50)
"""


@pytest.mark.slow
@pytest.mark.parametrize("num_burn_in", [0, 1000, 100_000])
def test_kill_nine_at_ten_moments(num_burn_in, tmp_path):
    """In the draws, in one of the two, and in the burn-in."""
    sampler = samplers.mala(lambda params, x: (x**2).sum() / 2, step_size=0.4)
    whole = ebm.sample(
        random.key(1), sampler, (), torch.zeros(4, 2), num_samples=4000, jit=False
    )  # as if all were draws
    for index in range(10):
        path = tmp_path / f"{index}.safetensors"
        command = [sys.executable, "-c", CHILD, str(path), str(num_burn_in)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, env=dict(os.environ))
        child.stdout.readline()
        while not path.exists():
            time.sleep(0.01)
        time.sleep(float(random.uniform(random.key(index))) * (0.3 if num_burn_in != 1000 else 0.8))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        samples = ebm.load(path, sampler)
        num_steps = samples.run.num_steps
        assert num_steps % 50 == 0 and num_steps < 3900 and not samples.is_complete
        assert samples.run.num_burn_in == max(num_burn_in - num_steps, 0)
        if num_steps <= num_burn_in:
            assert samples.draws == () and torch.equal(samples.state.position, whole.draws[:, num_steps - 1])
            samples = samples._replace(run=samples.run._replace(num_burn_in=0))  # all that is left is seen
        else:
            assert torch.equal(samples.draws, whole.draws[:, num_burn_in:num_steps])
        assert torch.equal(ebm.resume(samples, num_samples=100).draws, whole.draws[:, num_steps : num_steps + 100])


def test_dicts_in_an_order_of_their_own_keep_it(tmp_path):
    squares = lambda params, x: (x["b"] ** 2).sum() + (x["a"] ** 2).sum()  # noqa: E731
    starts = OrderedDict(b=torch.zeros(3, 2), a=torch.ones(3))
    sampler = samplers.random_walk(squares)
    samples = ebm.sample(KEY, sampler, OrderedDict(z=PARAMS["k"], c=OrderedDict()), starts, num_samples=3, jit=False)
    ebm.save(samples, tmp_path / "run.safetensors")
    again = ebm.load(tmp_path / "run.safetensors", sampler)
    assert list(again.draws) == ["b", "a"] and type(again.run.params["c"]) is OrderedDict
    for here, there in zip(*(tree.leaves(ebm.resume(s, num_samples=3).draws) for s in (samples, again)), strict=True):
        assert torch.equal(here, there)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"a/b": torch.ones(1), "a": {"b": torch.zeros(1)}}, "different names. Got params/a/b twice. Rename"),
        ({1: torch.ones(1)}, "strings for the keys"),
        ({"a": {2.0: torch.ones(1)}}, "strings for the keys"),
    ],
)
def test_what_no_file_can_name_is_told_before_the_first_draw(params, words, tmp_path):
    called = []

    def counted(given, x):
        called.append(1)
        return (x**2).sum()

    sampler, options = samplers.random_walk(counted), {"num_samples": 50, "jit": False}
    with pytest.raises(ValueError, match=words):
        ebm.save(ebm.sample(KEY, sampler, params, torch.zeros(3, 2), **options), tmp_path / "run.safetensors")
    assert len(called) > 50
    called.clear()
    with pytest.raises(ValueError, match=words):
        ebm.sample(KEY, sampler, params, torch.zeros(3, 2), checkpoint=tmp_path / "run.safetensors", **options)
    assert len(called) < 5 and not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_told_at_the_door(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    path, sampler = tmp_path / "run.safetensors", SAMPLERS["mala"]()
    for run in (lambda: ebm.save(_run(sampler, 2), path), lambda: _run(sampler, 2, checkpoint=path)):
        with pytest.raises(ValueError, match=r"in a folder that can be written. Got .*run.safetensors. Choose another"):
            run()


def test_messages(tmp_path):
    path, sampler = tmp_path / "run.safetensors", SAMPLERS["mala"]()
    samples = _run(sampler, 2, collect=lambda state, info: state.position[0])
    ebm.save(samples, path)
    with pytest.raises(ValueError, match="collect must be given as to that run"):
        ebm.load(path, sampler)
    with pytest.raises(ValueError, match=r"reduce must be given as to that run.*Leave reduce out: the run had none"):
        ebm.load(path, sampler, collect=lambda state, info: state.position[0], reduce=ebm.reducers.mean())
    with pytest.raises(TypeError, match="save takes Samples"):
        ebm.save(samples.draws, path)
    with pytest.raises(ValueError, match="folder that exists"):
        ebm.save(samples, tmp_path / "no" / "run.safetensors")
    with pytest.raises(ValueError, match="what a run needs"):
        ebm.save(samples._replace(run=()), path)
    with pytest.raises(TypeError, match="Call it with an energy"):
        ebm.load(path, samplers.mala)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot read"):
        ebm.load(path, sampler)


@pytest.mark.parametrize("place", [-1, -40])
def test_one_wrong_bit_is_noticed(place, tmp_path):
    path = tmp_path / "run.safetensors"
    ebm.save(_run(SAMPLERS["mala"](), 4), path)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"must be a file of funcebm\.save as it was written"):
        ebm.load(path, SAMPLERS["mala"]())
