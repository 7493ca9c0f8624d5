"""A program that was compiled before something changed is never met again: the numbers are always those of the eager run.

Each case is an energy that reads something, and a change of it. What is a constant of the program is traced anew; tensors are
inputs, and are not.
"""

from __future__ import annotations

import dataclasses
import functools
import types

import numpy as np
import pytest
import torch
from torch import nn

import funcebm as ebm

from .helpers import compiles_nothing, counted

pytestmark = pytest.mark.compiled

FACTOR = 2.0
WEIGHTS = torch.tensor([1.0, 2.0, 3.0])
OPTIONS = {"power": 2, "names": ["a"]}


def helper(x):
    return FACTOR * x**2


class Settings:
    scale = 2.0

    def __init__(self, shift):
        self.shift = shift

    @property
    def doubled(self):
        return 2 * self.shift

    def weigh(self, x):
        return self.scale * x**2 + self.shift * x

    @staticmethod
    def bend(x):
        return x**2


@dataclasses.dataclass
class Numbers:
    a: float
    b: tuple


def _a_global(patch):
    return lambda params, x: (FACTOR * x**2).sum(), lambda: patch.setitem(globals(), "FACTOR", 3.0)


def _a_global_of_a_helper(patch):
    return lambda params, x: helper(x).sum(), lambda: patch.setitem(globals(), "FACTOR", 3.0)


def _a_helper(patch):
    return lambda params, x: helper(x).sum(), lambda: patch.setitem(globals(), "helper", lambda x: x**4)


def _an_entry_of_a_global(patch):
    return lambda params, x: (x ** OPTIONS["power"]).sum(), lambda: patch.setitem(OPTIONS, "power", 4)


def _a_list_that_grows(patch):
    names = ["a"]
    return lambda params, x: len(names) * (x**2).sum(), lambda: names.append("b")


def _an_attribute(patch):
    settings = Settings(0.5)
    return lambda params, x: settings.weigh(x).sum(), lambda: setattr(settings, "shift", 1.0)


def _an_attribute_behind_a_property(patch):
    settings = Settings(0.5)
    return lambda params, x: (settings.doubled * x**2).sum(), lambda: setattr(settings, "shift", 1.0)


def _a_class_attribute(patch):
    settings = Settings(0.5)
    return lambda params, x: settings.weigh(x).sum(), lambda: patch.setattr(Settings, "scale", 3.0)


def _a_method(patch):
    settings = Settings(0.5)
    return lambda params, x: settings.weigh(x).sum(), lambda: patch.setattr(Settings, "weigh", lambda self, x: x**4)


def _a_bound_method_itself(patch):
    settings = Settings(0.5)
    weigh = settings.weigh
    return lambda params, x: weigh(x).sum(), lambda: setattr(settings, "shift", 1.0)


def _a_static_method(patch):
    return lambda params, x: Settings.bend(x).sum(), lambda: patch.setattr(
        Settings, "bend", staticmethod(lambda x: x**4)
    )


def _a_float_in_a_closure(patch):
    factor = 2.0

    def change():
        nonlocal factor
        factor = 3.0

    return lambda params, x: (factor * x**2).sum(), change


def _a_float_in_the_closure_of_a_helper(patch):
    factor = 2.0

    def scaled(x):
        return factor * x

    def change():
        nonlocal factor
        factor = 3.0

    return lambda params, x: scaled(x**2).sum(), change


def _a_default(patch):
    def energy(params, x, factor=2.0):
        return (factor * x**2).sum()

    return energy, lambda: setattr(energy, "__defaults__", (3.0,))


def _a_default_of_a_keyword(patch):
    def energy(params, x, *, factor=2.0):
        return (factor * x**2).sum()

    return energy, lambda: energy.__kwdefaults__.update(factor=3.0)


def _the_code_of_a_function(patch):
    def bend(x):
        return x**2

    def other(x):
        return x**4

    return lambda params, x: bend(x).sum(), lambda: setattr(bend, "__code__", other.__code__)


def _an_attribute_of_a_function(patch):
    def bend(x):
        return bend.factor * x**2

    bend.factor = 2.0
    return lambda params, x: bend(x).sum(), lambda: setattr(bend, "factor", 3.0)


def _an_argument_of_a_partial(patch):
    numbers = {"factor": 2.0}
    scaled = functools.partial(lambda x, numbers: numbers["factor"] * x, numbers=numbers)
    return lambda params, x: scaled(x**2).sum(), lambda: numbers.update(factor=3.0)


def _a_field_of_a_dataclass(patch):
    numbers = Numbers(1.0, (2.0, [3.0]))
    return lambda params, x: (numbers.a + numbers.b[1][0]) * (x**2).sum(), lambda: numbers.b[1].__setitem__(0, 5.0)


def _a_namespace(patch):
    space = types.SimpleNamespace(inner=types.SimpleNamespace(factor=2.0))
    return lambda params, x: (space.inner.factor * x**2).sum(), lambda: setattr(space.inner, "factor", 3.0)


def _an_array(patch):
    array = np.array([1.0, 2.0, 3.0], dtype=np.float32)
    return lambda params, x: (torch.tensor(array) * x**2).sum(), lambda: array.__setitem__(1, 7.0)


def _a_flag_of_a_module(patch):
    dropout = nn.Sequential(nn.LeakyReLU(0.1))
    return lambda params, x: dropout(x**3).sum() + (x**2).sum(), lambda: setattr(dropout[0], "negative_slope", 0.9)


def _a_value_that_is_asked_for(patch):
    scale = torch.tensor(2.0)
    return lambda params, x: (float(scale) * x**2).sum(), lambda: scale.fill_(3.0)


def _a_branch_on_a_tensor_from_outside(patch):
    is_steep = torch.tensor(False)
    return lambda params, x: (x**4 if is_steep else x**2).sum(), lambda: is_steep.fill_(True)


def _another_shape(patch):
    tensors = {"shift": torch.tensor(0.5)}
    return lambda params, x: ((x - tensors["shift"]) ** 2).sum(), lambda: tensors.update(
        shift=torch.tensor([0.5, 1.0, 2.0])
    )


CONSTANTS = (
    _a_global,
    _a_global_of_a_helper,
    _a_helper,
    _an_entry_of_a_global,
    _a_list_that_grows,
    _an_attribute,
    _an_attribute_behind_a_property,
    _a_class_attribute,
    _a_method,
    _a_bound_method_itself,
    _a_static_method,
    _a_float_in_a_closure,
    _a_float_in_the_closure_of_a_helper,
    _a_default,
    _a_default_of_a_keyword,
    _the_code_of_a_function,
    _an_attribute_of_a_function,
    _an_argument_of_a_partial,
    _a_field_of_a_dataclass,
    _a_namespace,
    _an_array,
    _a_flag_of_a_module,
    _a_value_that_is_asked_for,
    _a_branch_on_a_tensor_from_outside,
    _another_shape,
)


def _in_place(patch):
    weights = torch.tensor([1.0, 2.0, 3.0])
    return lambda params, x: (weights * x**2).sum(), lambda: weights.add_(1.0)


def _in_place_through_a_view(patch):
    weights = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    row = weights[1]
    return lambda params, x: (row * x**2).sum(), lambda: weights.mul_(2.0)


def _a_global_tensor(patch):
    return lambda params, x: (WEIGHTS * x**2).sum(), lambda: patch.setitem(globals(), "WEIGHTS", 2 * WEIGHTS)


def _a_tensor_in_a_closure(patch):
    weights = torch.tensor([1.0, 2.0, 3.0])

    def change():
        nonlocal weights
        weights = torch.tensor([3.0, 1.0, 1.0])

    return lambda params, x: (weights * x**2).sum(), change


def _an_attribute_that_is_a_tensor(patch):
    settings = Settings(torch.tensor(0.5))
    return lambda params, x: settings.weigh(x).sum(), lambda: setattr(settings, "shift", torch.tensor(2.0))


def _parameters_of_a_module(patch):
    layer = nn.Linear(3, 3)

    def change():
        with torch.no_grad():
            layer.weight.add_(0.5)
        layer.bias = nn.Parameter(torch.ones(3))

    return lambda params, x: (layer(x) ** 2).sum(), change


TENSORS = (
    _in_place,
    _in_place_through_a_view,
    _a_global_tensor,
    _a_tensor_in_a_closure,
    _an_attribute_that_is_a_tensor,
    _parameters_of_a_module,
)
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
    monkeypatch.setitem(globals(), "FACTOR", 2.0)
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
