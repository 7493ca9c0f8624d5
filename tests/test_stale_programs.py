"""A program that was compiled before something changed is never met again: the numbers are always those of the eager run.

Each case is an energy that reads something, and a change of it. What is a constant of the program is traced anew; tensors are
inputs, and are not.
"""

from __future__ import annotations

import pytest
import torch

import funcebm as ebm

from . import stale_cases
from .helpers import compiles_nothing, counted
from .stale_cases import CONSTANTS, TENSORS, _a_global

pytestmark = pytest.mark.compiled

FACTOR = 2.0

X = torch.tensor([0.5, -1.0, 2.0])


def _by_jit(energy, jit=True):
    return (ebm.jit(energy) if jit else energy)((), X).detach()


def _by_sample(energy, jit=True):
    """The sampler is built once for all runs of an energy, as it is in a notebook."""
    if not hasattr(energy, "sampler"):
        energy.sampler = ebm.samplers.mala(lambda params, x: energy(params, x), step_size=0.05)
    starts = torch.stack([X, -X])
    samples = ebm.sample(ebm.random.key(0), energy.sampler, (), starts, num_samples=3, jit=jit)
    return samples.draws[:, -1], samples.info.energy


WAYS = {"jit": _by_jit, "sample": _by_sample}


def _assert_eager(run, energy):
    got = run(energy)
    torch.testing.assert_close(got, run(energy, jit=False), rtol=1e-4, atol=1e-5)
    return got


def _is_other(a, b):
    return any(not torch.equal(x, y) for x, y in zip(ebm.tree.leaves(a), ebm.tree.leaves(b), strict=True))


@pytest.mark.usefixtures("op_by_op")
@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("case", CONSTANTS, ids=lambda case: case.__name__[1:])
def test_a_changed_constant_is_seen(case, way, monkeypatch):
    energy, change = case(monkeypatch)
    before = _assert_eager(WAYS[way], energy)
    change()
    after = _assert_eager(WAYS[way], energy)
    assert _is_other(before, after)


@pytest.mark.filterwarnings("ignore:an energy that reads tensors that require grad")  # eagerly, that is
@pytest.mark.usefixtures("op_by_op")
@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("case", TENSORS, ids=lambda case: case.__name__[1:])
def test_a_changed_tensor_is_seen_and_traces_nothing(case, way, monkeypatch):
    energy, change = case(monkeypatch)
    before = _assert_eager(WAYS[way], energy)
    change()
    with compiles_nothing():
        after = _assert_eager(WAYS[way], energy)
    assert _is_other(before, after)


@pytest.mark.usefixtures("op_by_op")
@pytest.mark.parametrize("way", list(WAYS))
def test_what_was_known_before_a_change_is_known_after_it_is_taken_back(way, monkeypatch):
    energy, change = _a_global(monkeypatch)
    before = _assert_eager(WAYS[way], energy)
    change()
    _assert_eager(WAYS[way], energy)
    monkeypatch.setattr(stale_cases, "FACTOR", 2.0)
    with compiles_nothing():
        assert not _is_other(WAYS[way](energy), before)


@pytest.mark.parametrize("way", list(WAYS))
def test_compiled_for_good_the_same_holds(way, monkeypatch):
    """Machine code too: other constants are other code, other tensors are not."""
    weights = torch.tensor([1.0, 2.0, 3.0])

    def energy(params, x):
        return (FACTOR * weights * x**2).sum()

    results = [_assert_eager(WAYS[way], energy)]
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    results.append(_assert_eager(WAYS[way], energy))
    with compiles_nothing():
        weights.add_(1.0)
        results.append(_assert_eager(WAYS[way], energy))
        monkeypatch.setitem(globals(), "FACTOR", 2.0)
        weights.sub_(1.0)
        assert not _is_other(WAYS[way](energy), results[0])
    assert _is_other(results[0], results[1]) and _is_other(results[1], results[2])


@pytest.mark.usefixtures("op_by_op")
def test_what_cannot_be_known_is_traced_at_each_call():
    def energy(params, x):
        return globals()["FACTOR"] * (x**2).sum()

    with counted() as counts:
        for _ in range(3):
            torch.testing.assert_close(ebm.jit(energy)((), X), FACTOR * (X**2).sum())
    assert counts.traces == 3


# -- training -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("op_by_op")
def test_a_loss_an_optimizer_and_a_schedule_that_read_outside_are_never_stale(monkeypatch):
    rate = {"value": 0.1}
    data = ebm.random.normal(ebm.random.key(0), (20, 2))
    target = torch.tensor([1.0, -1.0])

    def energy(params, x):
        return (FACTOR * (params - x) ** 2 * target**2).sum()

    def run(jit):
        loss = ebm.losses.denoising_score_matching(energy, 0.5)
        optimizer = ebm.optimizers.adam(lambda step: rate["value"] / (1 + step))
        options = {"optimizer": optimizer, "num_steps": 4, "batch_size": 5, "jit": jit}
        return ebm.fit(ebm.random.key(1), loss, torch.zeros(2), data, **options).params

    results = []
    for change in (
        lambda: None,
        lambda: rate.update(value=0.2),
        lambda: monkeypatch.setitem(globals(), "FACTOR", 3.0),
        lambda: target.mul_(2),
        lambda: data.add_(1),
    ):
        change()
        results.append(run(jit=True))
        torch.testing.assert_close(results[-1], run(jit=False), rtol=1e-4, atol=1e-5)
    assert len({tuple(result.tolist()) for result in results}) == 5


@pytest.mark.usefixtures("op_by_op")
def test_what_a_run_collects_and_how_it_is_tuned_is_never_stale():
    option, tuned = {"power": 1}, {"step_size": 0.1}
    sampler = ebm.samplers.langevin(lambda params, x: (x**2).sum(), step_size=0.1)

    def tuning(index):
        return sampler.tuning._replace(step_size=torch.full((), tuned["step_size"]) / (1 + index))

    def run(jit):
        collect = lambda state, info: state.position ** option["power"]  # noqa: E731
        options = {"num_samples": 3, "collect": collect, "tuning": tuning, "jit": jit}
        return ebm.sample(ebm.random.key(0), sampler, (), torch.ones(2, 2), **options).draws

    results = []
    for change in (lambda: None, lambda: option.update(power=2), lambda: tuned.update(step_size=0.3)):
        change()
        results.append(run(jit=True))
        torch.testing.assert_close(results[-1], run(jit=False))
    assert _is_other(results[0], results[1]) and _is_other(results[1], results[2])
