"""A warm-up that is cut anywhere goes on by the same call, bit for bit, in another process too."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import funcebm as ebm
from funcebm import adaptation, random, samplers, tree
from funcebm.adaptation._checkpoint import Checkpoint

pytest.importorskip("safetensors")


def energy(params, x):
    return params * (x**2 / torch.arange(1.0, 4.0)).sum() / 2 + torch.cos(3 * x).sum() / 3


CASES = {
    "mala": (samplers.mala(energy), None),
    "dense": (samplers.hmc(energy), adaptation.window_adaptation(metric="dense")),
    "chees": (samplers.dynamic_hmc(energy), None),
    "meads": (samplers.ghmc(energy), None),
    "mclmc": (samplers.mclmc(energy), None),
}


def run(which="mala", num_steps=60, seed=1, **options):
    sampler, how = CASES[which]
    starts = random.normal(random.key(2), (16, 3)) * 3
    given = {"num_steps": num_steps, "adaptation": how, "jit": False, **options}
    return ebm.warm_up(random.key(seed), sampler, torch.tensor(0.5), starts, **given)


def assert_equal(found, whole):
    for got, leaf in zip(tree.leaves(found), tree.leaves(whole), strict=True):
        assert torch.equal(got, leaf)


class Cut(Exception):
    pass


@contextlib.contextmanager
def cut(monkeypatch, place):
    """Ends what is inside once it has written so many steps."""
    save = Checkpoint.save

    def saving(self, where, *rest):
        save(self, where, *rest)
        if where.done >= place:
            raise Cut

    with monkeypatch.context() as patch, contextlib.suppress(Cut):
        patch.setattr(Checkpoint, "save", saving)
        yield
        pytest.fail("it was not cut")


SLOW = [pytest.param(which, (10, 15, 35, 45), False, marks=pytest.mark.slow) for which in CASES]
COMPILED = [
    pytest.param(which, (10, 45), True, marks=[pytest.mark.slow, pytest.mark.compiled]) for which in ("mala", "chees")
]


@pytest.mark.parametrize(
    ("which", "places", "jit"),
    [("mala", (35,), False), ("meads", (10,), False), ("mclmc", (45,), False), *SLOW, *COMPILED],
)
def test_a_warm_up_that_is_cut_goes_on_bit_for_bit(which, places, jit, tmp_path, monkeypatch):
    """In a window, at the end of one, and where chains are restarted (after 15, 30 and 45 steps)."""
    path = tmp_path / "warm_up.safetensors"
    whole = run(which, jit=jit)
    for place in places:
        path.unlink(missing_ok=True)
        with cut(monkeypatch, place):
            run(which, jit=jit, checkpoint=path, checkpoint_every=5)
        assert_equal(run(which, jit=jit, checkpoint=path, checkpoint_every=7), whole)
    assert_equal(run(which, jit=jit, checkpoint=path), whole)  # it has ended already


def test_ctrl_c_is_written(tmp_path, monkeypatch):
    path, steps = tmp_path / "warm_up.safetensors", []

    class Bar:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def update(self, num):
            steps.append(num)
            if len(steps) == 3:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["funcebm.adaptation.warm_up"], "progress_bar", lambda *_: Bar())
        part = run(checkpoint=path, checkpoint_every=1000)
    assert not bool(part.report.is_complete)
    assert len(part.report.step_size) == sum(steps[:3])
    assert_equal(run(checkpoint=path), run())


def test_constrained_chains_go_on(tmp_path, monkeypatch):
    positive = samplers.mala(
        ebm.bijections.constrained(lambda params, x: x.sum() - x.log().sum(), ebm.bijections.positive)
    )
    starts, path = random.uniform(random.key(1), (8, 3)) + 0.5, tmp_path / "warm_up.safetensors"
    arguments = (random.key(0), positive, (), starts)
    with cut(monkeypatch, 20):
        ebm.warm_up(*arguments, num_steps=40, jit=False, checkpoint=path, checkpoint_every=20)
    found = ebm.warm_up(*arguments, num_steps=40, jit=False, checkpoint=path)
    assert_equal(found, ebm.warm_up(*arguments, num_steps=40, jit=False))


def test_messages(tmp_path):
    path = tmp_path / "warm_up.safetensors"
    run(num_steps=20, checkpoint=path)
    with pytest.raises(ValueError, match=r"must be of this warm-up. Got one with other num_steps. Make the call"):
        run(num_steps=40, checkpoint=path)
    with pytest.raises(ValueError, match="one with other key, tuning"):
        ebm.warm_up(
            random.key(3),
            samplers.mala(energy, step_size=0.3),
            torch.tensor(0.5),
            random.normal(random.key(2), (16, 3)) * 3,
            num_steps=20,
            jit=False,
            checkpoint=path,
        )
    with pytest.raises(ValueError, match=r"warm_up\(checkpoint=...\) goes on from its own"):
        ebm.load(path, CASES["mala"][0])
    with pytest.raises(ValueError, match="checkpoint_every must be"):
        run(num_steps=20, checkpoint=path, checkpoint_every=0)
    with pytest.raises(ValueError, match="a checkpoint must be in a folder that exists"):
        run(num_steps=20, checkpoint=tmp_path / "no" / "file")
    other = tmp_path / "run.safetensors"
    ebm.save(run(num_steps=20), other)
    with pytest.raises(ValueError, match="must be a checkpoint of warm_up"):
        run(num_steps=20, checkpoint=other)
    starts = random.normal(random.key(2), (2, 16, 3))
    with pytest.raises(ValueError, match="Call it outside of vmap"):
        torch.func.vmap(
            lambda x: ebm.warm_up(
                random.key(0), CASES["mala"][0], torch.tensor(0.5), x, num_steps=20, jit=False, checkpoint=path
            )[0]
        )(starts)


CHILD = """
import sys, torch, funcebm as ebm
sampler = ebm.samplers.mala(lambda params, x: (x**2).sum() / 2)
print("ready", flush=True)
ebm.warm_up(ebm.random.key(1), sampler, (), torch.zeros(4, 2), num_steps=4000, jit=False, checkpoint=sys.argv[1],
            checkpoint_every=20)
"""


@pytest.mark.slow
def test_kill_nine_at_five_moments(tmp_path):
    """One after the other in the same run, whose rest is made here."""
    path = tmp_path / "warm_up.safetensors"
    for index in range(5):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, env=dict(os.environ))
        child.stdout.readline()
        while not path.exists():
            time.sleep(0.01)
        time.sleep(float(random.uniform(random.key(index))) * 0.4)
        assert child.poll() is None, "it was not killed in time"
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    sampler = samplers.mala(lambda params, x: (x**2).sum() / 2)
    arguments = (random.key(1), sampler, (), torch.zeros(4, 2))
    found = ebm.warm_up(*arguments, num_steps=4000, jit=False, checkpoint=path)
    assert_equal(found, ebm.warm_up(*arguments, num_steps=4000, jit=False))
