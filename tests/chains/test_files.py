"""Runs in files: they go on bit for bit, also after kill -9."""

from __future__ import annotations

import copy
import io
import os
import pickle
import signal
import subprocess
import sys
import time

import pytest
import torch

import funcebm as ebm
from funcebm import random, samplers, tree
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
        with pytest.raises(ValueError, match="tuning must be a tree of the same structure"):
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
ebm.sample(ebm.random.key(1), sampler, (), torch.zeros(4, 2), num_samples=100_000, jit=False, chunk_size=50,
           checkpoint=sys.argv[1], checkpoint_every=50)
"""


@pytest.mark.slow
def test_kill_nine_at_ten_moments(tmp_path):
    sampler = samplers.mala(lambda params, x: (x**2).sum() / 2, step_size=0.4)
    whole = ebm.sample(random.key(1), sampler, (), torch.zeros(4, 2), num_samples=2000, jit=False)
    for index in range(10):
        path = tmp_path / f"{index}.safetensors"
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, env=dict(os.environ))
        child.stdout.readline()
        while not path.exists():
            time.sleep(0.01)
        time.sleep(float(random.uniform(random.key(index))) * 0.3)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        samples = ebm.load(path, sampler)
        num = min(samples.draws.shape[1], 1900)
        assert num % 50 == 0 and not samples.is_complete
        assert torch.equal(samples.draws[:, :num], whole.draws[:, :num])
        if samples.draws.shape[1] == num:
            assert torch.equal(ebm.resume(samples, num_samples=100).draws, whole.draws[:, num : num + 100])


def test_messages(tmp_path):
    path, sampler = tmp_path / "run.safetensors", SAMPLERS["mala"]()
    samples = _run(sampler, 2, collect=lambda state, info: state.position[0])
    ebm.save(samples, path)
    with pytest.raises(ValueError, match="collect must be given as to that run"):
        ebm.load(path, sampler)
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
