"""Changes of what a function reads: each case gives an energy, and changes what it depends on."""

from __future__ import annotations

import dataclasses
import functools
import types

import numpy as np
import torch
from torch import nn

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
