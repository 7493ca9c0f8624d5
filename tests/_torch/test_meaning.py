"""Equal meaning: a trace would read the same. Every row of a table below is a change and what it does to the meaning."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import gc
import operator
import os
import random as python_random
import sys
import threading
import types
import weakref

import numpy as np
import pytest
import torch
from tests.cases import SAMPLERS, quartic
from torch import nn

import funcebm as ebm
from funcebm import samplers
from funcebm._torch import static_facts
from funcebm._torch.meaning import meaning


def cell(source, **names):
    """Runs source text as a notebook cell would, in a namespace of its own or in the one given; returns the namespace."""
    namespace = names.pop("namespace", None) or {"__name__": "__main__", "torch": torch, **names}
    exec(compile(source, f"<cell {id(source)}>", "exec"), namespace)
    return namespace


def is_same(one, other):
    one, other = meaning(one), meaning(other)
    assert one.is_certain and other.is_certain
    return one.key == other.key and hash(one.key) == hash(other.key)


FUNCTION = (
    "a = 2.0\ndef helper(x):\n    return a * x\ndef f(x, k=1, *, c=3):\n    return helper(x) + torch.sin(x) * k\n"
)
CLASS = """
import abc, dataclasses, enum, functools, typing
class Base:
    scale: float = 2.0
    def __init__(self, k):
        self.k = k
class Kind(enum.Enum):
    FLAT = 1
    CURVED = "curved"
class Flags(enum.IntFlag):
    ONE = 1
    TWO = 2
@dataclasses.dataclass(frozen=True)
class Data:
    width: int | None = 3
    names: list[str] = dataclasses.field(default_factory=list)
class Pair(typing.NamedTuple):
    one: float
    two: float = 2.0
T = typing.TypeVar("T")
class Box(typing.Generic[T]):
    pass
class Abstract(abc.ABC):
    @abc.abstractmethod
    def f(self): ...
class Double(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return 2 * x
    @staticmethod
    def setup_context(ctx, inputs, output): ...
    @staticmethod
    def backward(ctx, grad):
        return 2 * grad
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
    def forward(self, x):
        return self.layer(x)
class Energy(Base):
    __slots__ = ("extra", "unbound")
    def __init__(self, k):
        super().__init__(k)
        self.extra = (Kind.FLAT, Flags.ONE, Flags.ONE | Flags.TWO, Data(), Pair(1.0), Box(), Abstract, Double, Net())
    @property
    def twice(self):
        return 2 * self.k
    @functools.cached_property
    def thrice(self):
        return 3 * self.k
    @staticmethod
    def static(x):
        return x
    @classmethod
    def make(cls, k):
        return cls(k)
    def __getattr__(self, name):
        raise RuntimeError("no attribute may be looked up")
    def __eq__(self, other):
        raise RuntimeError("nothing may be compared")
    def __hash__(self):
        raise RuntimeError("nothing may be hashed")
    def __call__(self, x):
        return self.twice * self.scale * x
energy = Energy(1.0)
f = lambda x: energy(x)
"""


def factory(constant):
    return lambda x: constant * x


def around(tensor):
    def inner(x):
        return x @ tensor

    return functools.partial(inner)


def build(make, *args):
    return lambda: make(*args)


SAME = {
    "a comment above": (build(cell, FUNCTION), build(cell, FUNCTION.replace("def", "# a remark\ndef"))),
    "lines moved": (build(cell, FUNCTION), build(cell, "\n\n\n" + FUNCTION.replace("return", "\n    return"))),
    "a lambda retyped": (build(cell, "f = lambda x: x + 1"), build(cell, "\ng = 1\nf  =  (lambda x:\n  x + 1)")),
    "another name": (build(cell, "def f(x): return x + 1"), build(cell, "def g(x): return x + 1\nf = g")),
    "a cell run again": (build(cell, CLASS), build(cell, CLASS)),
    "a bound method": (build(cell, CLASS + "f = energy.__call__"), build(cell, CLASS + "f = energy.__call__")),
    "a class itself": (build(cell, CLASS + "f = Energy"), build(cell, CLASS + "f = Energy")),
    "a global that is not read": (build(cell, FUNCTION), build(cell, "b = 7\n" + FUNCTION)),
    "the order of a set": (
        build(cell, "s = set('abcdef')\nf = lambda x: x in s"),
        build(cell, "s = set('fedcba')\nf = lambda x: x in s"),
    ),
    "a nan": (build(cell, "f = lambda x, k=float('nan'): k"), build(cell, "f = lambda x, k=float('nan'): k")),
}


@pytest.mark.parametrize("name", SAME)
def test_what_a_trace_would_read_the_same_has_equal_meaning(name):
    one, other = SAME[name]
    assert is_same(one()["f"], other()["f"])


@pytest.mark.parametrize("make", [factory, lambda c: functools.partial(torch.mul, c), lambda c: [c, {"c": c}]])
@pytest.mark.parametrize("constant", [1, 2.5, "x", None, (1, 2.0), torch.float32, float("nan"), 1j, slice(1, 2), len])
def test_a_factory_called_twice_makes_equal_meaning(make, constant):
    assert is_same(make(constant), make(constant))


def test_functions_around_different_tensors_of_equal_shape_differ_in_the_tensors_only():
    one, other = torch.zeros(3, 2), torch.ones(3, 2)
    assert is_same(around(one), around(other))
    assert meaning(around(one)).tensors[0] is one
    assert meaning(around(other)).tensors[0] is other


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_built_again_means_the_same_and_one_of_another_energy_does_not(name):
    one, again = (SAMPLERS[name](quartic, torch.zeros(3)) for _ in range(2))
    other = SAMPLERS[name](lambda params, x: quartic(params, x) + 1, torch.zeros(3))
    assert is_same(one, again)
    assert not is_same(one, other)


def test_a_run_changes_no_meaning():
    sampler = samplers.mala(lambda params, x: (x**2).sum() / 2)
    before = meaning(sampler)
    state = sampler.init((), torch.zeros(2))
    sampler(ebm.random.key(0), (), state)
    assert meaning(sampler).key == before.key


CONSTANTS = [0, 1, 2, True, False, 0.0, -0.0, 1.0, 1.5, float("nan"), float("inf"), "1", b"1", 1j, complex(-0.0, 1)]
CONSTANTS += [None, (), (1,), (1.0,), (True,), [1], {1}, frozenset((1,)), {1: 2}, {2: 1}, (1, (2,)), ((1, 2),), (1, 2)]
CONSTANTS += [..., range(3), range(0, 3, 2), range(0, 4, 2), torch.float32, torch.float64, int, float, torch.Size([1])]
CONSTANTS += [np.float64(1.0), np.float32(1.0), np.ones(2), np.ones(3), np.zeros(2), np.ones(2, int), np.eye(2)]
CONSTANTS += [
    torch,
    np,
    len,
    sum,
    torch.sin,
    torch.cos,
    torch.ops.aten.sin,
    torch.ops.aten.sin.default,
    torch.sin.__call__,
]
CONSTANTS += [
    "x",
    (None,),
    [],
    {},
    set(),
    slice(1),
    slice(1.0),
    [1.0, 2.0],
    [1, 2],
    [1, 2.0],
    (1.0, 2.0),
    [0.0],
    [-0.0],
]
CONSTANTS += [
    collections.deque([1]),
    collections.deque([1], maxlen=2),
    collections.OrderedDict(a=1),
    {"a": 1},
    {"a": 1.0},
]
CONSTANTS += [collections.defaultdict(int, a=1), collections.defaultdict(float, a=1), types.MappingProxyType({"a": 1})]
CONSTANTS += [functools.partial(max, 1), functools.partial(max, 2), functools.partial(max, key=1), list[int], int | str]
CONSTANTS += [operator.itemgetter(0), operator.itemgetter(1), operator.attrgetter("a"), types.SimpleNamespace(a=1)]
CONSTANTS += [torch.device("cpu"), torch.device("meta"), "abc".join, "abd".join, [1.0, 2.0, None], {None: 1}, [[1], 2]]


def test_every_two_constants_differ():
    keys = [meaning(factory(constant)).key for constant in CONSTANTS]
    assert all(meaning(factory(constant)).is_certain for constant in CONSTANTS)
    assert len(set(keys)) == len(keys)


TENSORS = [torch.zeros(2), torch.zeros(3), torch.zeros(2, 1), torch.zeros(2, dtype=torch.float64), torch.zeros(4)[::2]]
TENSORS += [torch.zeros(2, device="meta"), torch.zeros(2, requires_grad=True), nn.Parameter(torch.zeros(2))]
TENSORS += [torch.zeros(2, dtype=torch.cfloat), torch.zeros(2, dtype=torch.cfloat).conj(), torch.eye(2).to_sparse()]


def test_every_two_kinds_of_tensors_differ():
    meant = [meaning(around(tensor)) for tensor in TENSORS]
    assert all(one.is_certain for one in meant)
    assert len({one.key for one in meant}) == len(TENSORS)


EDITS = {
    "a constant": (FUNCTION, ("a * x", "a * x * 2"), ""),
    "int for float": (FUNCTION, ("a = 2.0", "a = 2"), ""),
    "the sign of zero": (FUNCTION.replace("2.0", "0.0"), ("0.0", "-0.0"), ""),
    "a default": (FUNCTION, ("k=1", "k=2"), ""),
    "a keyword default": (FUNCTION, ("c=3", "c=3.0"), ""),
    "a global": (FUNCTION, None, "a = 3.0"),
    "a global gone": (FUNCTION, None, "del a"),
    "a builtin hidden": ("f = lambda x: abs(x)", None, "abs = 3"),
    "a global of another type": (FUNCTION, None, "a = True"),
    "a helper": (FUNCTION, None, "def helper(x): return a + x"),
    "a helper's default": (FUNCTION, None, "helper.__defaults__ = (1.0,)"),
    "a helper's code": (FUNCTION, None, "helper.__code__ = (lambda x: x).__code__"),
    "a helper's keyword default": ("def f(x, *, k=1): return x * k", None, "f.__kwdefaults__['k'] = 2"),
    "an attribute of a function": (FUNCTION, None, "helper.scale = 2.0"),
    "what a nested function reads": ("a = 1\ndef f(x):\n    def g(): return a\n    return g()", None, "a = 2"),
    "what a class body in it reads": ("a = 1\ndef f(x):\n    class A:\n        b = a\n    return A", None, "a = 2"),
    "what a comprehension reads": ("a = 1\nf = lambda x: [x * a for _ in x]", None, "a = 2"),
    "what a default reads": ("a = 1\nf = lambda x, g=lambda: a: g()", None, "a = 2"),
    "what a wrapped function reads": ("a = 1\nimport functools\nf = functools.cache(lambda x: x * a)", None, "a = 2"),
    "a partial's argument": ("import functools\nk = [1]\nf = functools.partial(max, k)", None, "k.append(2)"),
    "a list in a closure": ("k = [1]\nf = (lambda k: lambda x: x * k[0])(k)", None, "k[0] = 2"),
    "a dict": ("k = {'a': 1}\nf = lambda x: x * k['a']", None, "k['b'] = 2"),
    "an array in place": ("import numpy\nk = numpy.zeros(2)\nf = lambda x: k * x", None, "k[0] = 1"),
    "an array of objects": (
        "import numpy\nk = numpy.array([[], 1], dtype=object)\nf = lambda x: k",
        None,
        "k[0].append(1)",
    ),
    "a nonlocal": (
        "def make():\n    k = 1\n    def f(x): return x * k\n    def change():\n        nonlocal k\n"
        "        k = 2\n    return f, change\n"
        "f, change = make()",
        None,
        "change()",
    ),
    "a method of a dict": ("k = {}\nf = k.get", None, "k[1] = 1"),
    "a weak reference's object": ("import weakref\nk = {1}\nf = weakref.ref(k)", None, "k.add(2)"),
    "a class attribute": (CLASS, None, "Base.scale = 3.0"),
    "a new class attribute": (CLASS, None, "Energy.offset = 3.0"),
    "a method": (CLASS, None, "Energy.__call__ = lambda self, x: x"),
    "a method of a base": (CLASS, None, "Base.late = lambda self: 1"),
    "a property": (CLASS, None, "Energy.twice = property(lambda self: 3)"),
    "a static method": (CLASS, None, "Energy.static = staticmethod(lambda x: 3)"),
    "the bases": (CLASS, ("class Energy(Base)", "class Other(Base):\n    pass\nclass Energy(Other)"), ""),
    "a field's default": (CLASS, ("width: int | None = 3", "width: int | None = 4"), ""),
    "an enum's value": (CLASS, ("FLAT = 1", "FLAT = 2"), ""),
    "what a method reads": (
        "a = 1\nclass A:\n    def __call__(self, x): return a * x\nf = A().__call__",
        None,
        "a = 2",
    ),
    "an attribute": (CLASS, None, "energy.k = 2.0"),
    "a new attribute": (CLASS, None, "energy.extra_k = 2.0"),
    "a slot": (CLASS, None, "energy.unbound = 1"),
    "an attribute of a nested object": (CLASS, None, "energy.extra[3].names.append('a')"),
    "another class": (CLASS, None, "energy.__class__ = type('Energy2', (Base,), {'__slots__': ('extra', 'unbound')})"),
    "a module in evaluation": (CLASS, None, "energy.extra[-1].eval()"),
    "a layer of a module": (CLASS, None, "energy.extra[-1].layer = torch.nn.Linear(2, 3)"),
    "a hook of a module": (CLASS, None, "energy.extra[-1].register_forward_hook(lambda *_: None)"),
    "the size of a dropout": ("net = torch.nn.Dropout(0.1)\nf = lambda x: net(x)", None, "net.p = 0.2"),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_change_of_anything_that_is_read_changes_the_meaning(name):
    source, edit, statement = EDITS[name]
    namespace = cell(source)
    before = meaning(namespace["f"])
    assert before.is_certain
    assert meaning(namespace["f"]).key == before.key
    if edit is not None:
        namespace = cell(source.replace(*edit))
    cell(statement, namespace=namespace)
    after = meaning(namespace["f"])
    assert after.is_certain
    assert after.key != before.key


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
