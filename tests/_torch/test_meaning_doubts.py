"""What cannot be known of a function, cycles, hostile objects, and what is remembered of meanings."""

from __future__ import annotations

import collections
import dataclasses
import enum
import gc
import os
import random as python_random
import sys
import threading
import types
import weakref

import pytest
import torch
from tests._torch.meanings import CLASS, FUNCTION, around, cell, factory, is_same

from funcebm._torch import static_facts
from funcebm._torch.meaning import meaning


@pytest.fixture
def helpers():
    """A package of the user with a submodule, as after ``import helpers.sub``."""
    package, sub = types.ModuleType("helpers"), types.ModuleType("helpers.sub")
    package.sub, package.torch, package.scale, sub.scale = sub, torch, 2.0, 3.0
    sub.inner = cell("b = 1.0\ndef inner(x): return b * x")["inner"]
    sys.modules |= {"helpers": package, "helpers.sub": sub}
    yield package
    del sys.modules["helpers"], sys.modules["helpers.sub"]


@pytest.mark.parametrize(
    "source", ["helpers.scale * x", "helpers.sub.scale * x", "helpers.sub.inner(x)", "helpers.torch.sin(x)"]
)
def test_an_attribute_of_a_module_of_the_user_counts_where_it_is_read(helpers, source):
    f = cell(f"f = lambda x: {source}", helpers=helpers)["f"]
    before = meaning(f)
    assert before.is_certain
    helpers.other = helpers.sub.other = 1  # what is not read does not count
    assert meaning(f).key == before.key
    helpers.scale = helpers.sub.scale = 4.0
    helpers.sub.inner.__globals__["b"] = 5.0
    helpers.torch = torch.nn
    assert meaning(f).is_certain and meaning(f).key != before.key


class Rng(python_random.Random):
    pass


DOUBTS = {
    "globals": "f = lambda x: globals()['a']",
    "locals": "f = lambda x: locals()",
    "vars": "f = lambda x: vars(x)",
    "eval": "f = lambda x: eval('a')",
    "exec in a nested function": "def f(x):\n    def g(): exec('a')\n    return g",
    "eval under another name": "e = eval\nf = lambda x: e('a')",
    "eval as an attribute": "import builtins\nf = lambda x: builtins.eval('a')",
    "a file": "f = lambda x: open('a')",
    "the environment": "import os\nf = lambda x: os.environ['A']",
    "the environment by name": "from os import environ\nf = lambda x: environ['A']",
    "the environment by function": "import os\nf = lambda x: os.getenv('A')",
    "the function of the environment": "from os import getenv as g\nf = lambda x: g('A')",
    "the environment, late": "def f(x):\n    import os as o\n    return o.environ['A']",
    "the environment in a closure": "def make():\n    import os\n    return lambda x: os.environ\nf = make()",
    "the modules": "import sys as s\nf = lambda x: s.modules['helpers'].scale",
    "a module that reads others, passed on": "import sys\nf = lambda x: getattr(sys, x)",
    "an import by name": "import importlib\nf = lambda x: importlib.import_module('helpers')",
    "a global that is written": "a = 1\ndef f(x):\n    global a\n    a = x",
    "the globals of a function": "f = lambda x: make.__globals__",
    "a module of the user": "import helpers\nf = lambda x: getattr(helpers, x)",
    "a module under another name": "import helpers\ndef f(x):\n    h = helpers\n    return h.scale",
    "a module of the user in a module": "import helpers\ndef f(x):\n    h = helpers.sub\n    return h.scale",
    "a module in a closure": "def make():\n    import helpers\n    return lambda x: helpers.scale\nf = make()",
    "a module in a list": "import helpers\nk = [helpers]\nf = lambda x: k",
    "an attribute that a module lacks": "import helpers\nf = lambda x: helpers.missing",
    "a module of the user, late": "def f(x):\n    import helpers\n    return helpers.scale",
    "a name of it, late": "def f(x):\n    from helpers.sub import scale\n    return scale",
    "a relative import": "def f(x):\n    from . import scale\n    return scale",
    "a module that is not there": "def f(x):\n    import nowhere_to_be_found\n    return x",
    "a generator": "k = (i for i in range(3))\nf = lambda x: next(k)",
    "an iterator": "k = iter([1])\nf = lambda x: next(k)",
    "a random generator": "k = torch.Generator()\nf = lambda x: k",
    "a random generator of Python": "import random\nk = random.Random(0)\nf = lambda x: k.random()",
    "a function of one": "from random import gauss\nf = lambda x: gauss(0, 1)",
    "a function of its module": "import random\nf = lambda x: random.gauss(0, 1)",
    "a function of a module of numpy": "import numpy as np\nf = lambda x: np.random.normal()",
    "a subclass of one": "f = lambda x: rng.random()",
    "a random generator of numpy": "import numpy\nk = numpy.random.default_rng(0)\nf = lambda x: k.random()",
    "a lock": "import threading\nk = threading.Lock()\nf = lambda x: k",
    "an open file": "import io\nk = io.StringIO('a')\nf = lambda x: k.read()",
}


@pytest.mark.parametrize("name", DOUBTS)
def test_what_cannot_be_known_is_not_certain(helpers, name):
    assert not meaning(cell(DOUBTS[name], rng=Rng())["f"]).is_certain


CERTAIN = {
    "a library, late": "def f(x):\n    import numpy as np, os.path\n    from math import pi\n    return np.exp(pi)",
    "a module of a library": "import os\nf = lambda x: os.path.join",
    "functions of libraries": "from numpy import exp, sum, linalg\nfrom math import sin\nf = lambda x: (exp, sum, sin, linalg)",
    "a logger": "import logging\nk = logging.getLogger('a')\nf = lambda x: k.debug('a')",
    "a pattern": "import re\nk = re.compile('a')\nf = lambda x: k.match(x)",
    "a missing name": "f = lambda x: nothing",
    "an unbound cell": "def make():\n    f = lambda x: k\n    return f\n    k = 1\nf = make()",
    "gradients": "import torch.func\nf = torch.func.vmap(torch.func.grad(lambda x: x.sum()))",
    "a decorator": "f = torch.no_grad()(lambda x: x)",
    "a network": "k = torch.nn.LSTM(2, 2)\nf = lambda x: k(x)",
    "a distribution": "k = torch.distributions.Normal(0.0, 1.0)\nf = lambda x: k.log_prob(x)",
    "weak containers": "import weakref\nk = weakref.WeakValueDictionary()\nf = lambda x: k",
}


def test_a_function_of_a_library_that_was_replaced_counts(monkeypatch):
    f = cell("f = lambda x: torch.nn.functional.relu(x)")["f"]
    before = meaning(f)
    assert before.is_certain
    monkeypatch.setattr(torch.nn.functional, "relu", lambda x: 2 * x)
    one = meaning(f)
    monkeypatch.setattr(torch.nn.functional, "relu", lambda x: 3 * x)
    assert len({before.key, one.key, meaning(f).key}) == 3


@pytest.mark.parametrize("name", CERTAIN)
def test_what_can_be_known_is_certain(name):
    f = cell(CERTAIN[name])["f"]
    assert meaning(f).is_certain
    assert meaning(f).key == meaning(f).key


@dataclasses.dataclass
class Config:
    width: int = 1
    kind: object = None


def _self_reference(k):
    def f(x):
        return f(x) * k

    return f


def _mutual(k):
    return cell(f"def f(x): return g(x)\ndef g(x): return f(x) * {k}")["f"]


def _in_itself(kind):
    def make(k):
        value = kind([k]) if kind is not dict else {"k": k}
        value.update(self=value) if kind is dict else value.append(value)
        return value

    return make


def _object_cycle(k):
    one, other = Config(k), Config()
    one.kind, other.kind = other, weakref.ref(one)
    return one


@pytest.mark.parametrize(
    "make", [_self_reference, _mutual, _in_itself(list), _in_itself(collections.deque), _in_itself(dict), _object_cycle]
)
def test_cycles_end_and_still_tell_constants_apart(make):
    assert is_same(make(1), make(1))
    assert not is_same(make(1), make(2))


def test_cycles_of_different_lengths_differ():
    short, long = [], [[]]
    short.append(short)
    long[0].append(long)
    assert not is_same((short,), (long,))


def test_deep_and_wide_values_end():
    deep, shared = [], ()
    for _ in range(10_000):
        deep = [deep]
    for _ in range(200):
        shared = (shared, shared)
    assert not meaning(deep).is_certain
    assert meaning(shared).is_certain


def test_tensors_come_in_the_order_of_the_walk_each_once():
    a, b, c = torch.zeros(2), torch.ones(3), torch.ones(2)
    found = meaning((lambda x, k=c: a + b, {"a": a, "c": [c, b]})).tensors
    assert [id(tensor) for tensor in found] == [id(tensor) for tensor in (a, b, c)]
    assert not is_same([a, a], [a, c])
    assert is_same([a, c, a], [c, a, c])


def test_a_tensor_is_not_read():
    one = torch.zeros(2)
    before = meaning(around(one))
    one += 1
    assert meaning(around(one)).key == before.key


def test_attributes_of_a_tensor_count():
    one = torch.zeros(2)
    before = meaning(one)
    one.scale = 2.0
    assert meaning(one).key != before.key


def test_what_counts_by_identity_is_kept_alive():
    sentinel = iter([1])
    found = meaning(factory((sentinel, torch, len)))
    assert {id(value) for value in found.kept} >= {id(sentinel), id(torch), id(len)}


class Hostile:
    def __getattribute__(self, name):
        raise RuntimeError("no attribute may be looked up")

    @property
    def __dict__(self):
        raise RuntimeError("not even this one")

    def __eq__(self, other):
        raise RuntimeError("nothing may be compared")


class Unhashable(type):
    def __eq__(cls, other):
        raise RuntimeError("nothing may be compared")


STRANGE = {
    "an object": Hostile,
    "one in a list": lambda: [Hostile()],
    "one in a dict": lambda: {"a": Hostile()},
    "a class": lambda: Unhashable("A", (), {}),
    "an object of it": lambda: Unhashable("A", (), {})(),
}


@pytest.mark.parametrize("name", STRANGE)
def test_strange_objects_raise_nothing(name):
    value = STRANGE[name]()
    hash(meaning(value).key)
    assert meaning(value).key == meaning(value).key


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


def test_instances_of_classes_in_files_mean_what_they_hold():
    assert is_same(Config(2, Colour.RED), Config(2, Colour.RED))
    assert not is_same(Config(2, Colour.RED), Config(2, Colour.BLUE))
    assert not is_same(Config(2), Config(2.0))


def test_what_is_known_of_dead_code_is_forgotten():
    counts = []
    for _ in range(3):
        meaning(cell(CLASS)["f"])
        gc.collect()
        counts.append(len(_entries(static_facts.code_facts)) + len(_entries(static_facts.layout_of)))
    assert counts[1] == counts[2]


def _entries(remembered):
    return remembered.__closure__[[*remembered.__code__.co_freevars].index("entries")].cell_contents


def test_bytecode_is_read_once_for_each_code_object(monkeypatch):
    first, second = factory(1), factory(2)
    meaning(first)
    monkeypatch.setattr(static_facts.dis, "get_instructions", None)
    assert meaning(first).is_certain and meaning(second).is_certain
    assert not meaning(cell(FUNCTION)["f"]).is_certain


def test_threads_get_the_same_meaning():
    keys, functions = [], [cell(FUNCTION)["f"] for _ in range(20)]
    threads = [threading.Thread(target=lambda f=f: keys.append(meaning(f).key)) for f in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(keys)) == 1


def test_the_environment_itself_is_not_certain():
    assert not meaning(os.environ).is_certain
