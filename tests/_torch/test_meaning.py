"""Equal meaning: a trace would read the same. Every row of a table below is a change and what it does to the meaning."""

from __future__ import annotations

import collections
import functools
import operator
import types

import numpy as np
import pytest
import torch
from tests._torch.meanings import CLASS, FUNCTION, around, build, cell, factory, is_same
from tests.cases import SAMPLERS, quartic
from torch import nn

import funcebm as ebm
from funcebm import samplers
from funcebm._torch.meaning import meaning

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
