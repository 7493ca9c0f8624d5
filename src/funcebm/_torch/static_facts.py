"""What can be known once of a code object, a class or a module, for ``meaning``: what it reads, whose it is."""

from __future__ import annotations

import dis
import functools
import importlib
import itertools
import os
import re
import struct
import sys
import sysconfig
import types
import weakref
from typing import Any, Callable, NamedTuple

import torch

__all__ = [
    "DYNAMIC_IDS",
    "DYNAMIC_MODULES",
    "MISSING",
    "NO_DATA",
    "code_facts",
    "is_library",
    "is_library_class",
    "is_library_file",
    "layout_of",
    "lineage_of",
    "namespace_of",
    "remembered_once",
]

lineage_of: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__
namespace_of: Callable[[type], Any] = type.__dict__["__dict__"].__get__


def remembered_once(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Calls a function once for each object, distinguished by identity, for as long as the object lives."""
    entries: dict[int, tuple[Any, Any]] = {}

    def remembered(thing: Any) -> Any:
        entry = entries.get(id(thing))
        if entry is None:
            key, result = id(thing), make(thing)
            entry = entries[key] = (result, weakref.ref(thing, lambda _: entries.pop(key, None)))
        return entry[0]

    return remembered


# ---- libraries ----

_IS_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: not a static type of C
_FOLDERS = [os.path.dirname(os.path.dirname(os.path.abspath(__file__))), os.path.dirname(str(torch.__file__))]
_FOLDERS += [os.path.dirname(os.__file__), *map(sysconfig.get_paths().__getitem__, ("stdlib", "platstdlib"))]
_LIBRARIES = ("<frozen", *(path + os.sep for name in _FOLDERS for path in (name, os.path.realpath(name))))


@functools.cache
def is_library_file(name: str) -> bool:
    return name.startswith(_LIBRARIES) or not {"site-packages", "dist-packages"}.isdisjoint(re.split(r"[\\/]", name))


@remembered_once
def is_library(module: types.ModuleType) -> bool:
    contents = vars(module)
    name = str(contents.get("__name__"))
    for path in (contents.get("__file__"), *(contents.get("__path__") or ())):
        if isinstance(path, str) and os.path.isabs(path):
            return is_library_file(path)
    if name in sys.builtin_module_names:
        return sys.modules.get(name) is module
    package = sys.modules.get(name.partition(".")[0])  # torch.ops has no file of its own
    return package is not None and package is not module and is_library(package)


@remembered_once
def is_library_class(cls: type) -> bool:
    """Whether a class is one of C, or what a module of a library holds under its name."""
    found: Any = sys.modules.get(str(namespace_of(cls).get("__module__")))
    if found is None or not is_library(found):
        return not cls.__flags__ & _IS_HEAP_TYPE
    for part in type.__dict__["__qualname__"].__get__(cls).split("."):
        found = getattr(found, "__dict__", {}).get(part)
    return found is cls or not cls.__flags__ & _IS_HEAP_TYPE


# ---- functions ----

_LOADS_GLOBAL = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
_LOADS_ATTRIBUTE = ("LOAD_ATTR", "LOAD_METHOD")
# what reads more than its name tells: as an attribute of anything, as a module that is passed on, as a value
_DYNAMIC_NAMES = {"environ", "environb", "getenv", "getenvb", "import_module", "_getframe", "f_globals", "__globals__"}
DYNAMIC_MODULES = {"builtins", "importlib", "inspect", "sys"}
_DYNAMIC: list[Any] = [eval, exec, globals, input, locals, open, vars, __import__]
_DYNAMIC += [sys.modules, sys._getframe, os.environ, os.getenv, importlib.import_module]
DYNAMIC_IDS = {id(getattr(value, "__code__", value)) for value in _DYNAMIC}
_NUMBERS = itertools.count()
_FINGERPRINTS: dict[Any, int] = {}
MISSING = object()
NO_DATA = (types.ModuleType, types.FunctionType, types.MethodType, types.BuiltinFunctionType, type)


class _Code(NamedTuple):
    """What is known of a code object: a number for what it does, and what it reads by name."""

    number: int
    reads: tuple[tuple[str, tuple[str, ...]], ...] = ()  # a global, and the attributes that are read from it
    imports: tuple[tuple[str, int], ...] = ()  # a module, and how many packages up the import starts
    is_doubtful: bool = False


def _constant(value: Any) -> Any:
    """A constant of a code object, with its type: 1, 1.0 and True are three."""
    if isinstance(value, types.CodeType):
        return (types.CodeType, code_facts(value).number)
    if isinstance(value, (tuple, frozenset)):
        return (type(value), type(value)(map(_constant, value)))
    return (type(value), repr(value) if isinstance(value, (float, complex, slice)) else value)


@remembered_once
def code_facts(code: types.CodeType) -> _Code:
    stands_still = is_library_file(code.co_filename)
    counts = (code.co_flags, code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    body = (code.co_code, getattr(code, "co_exceptiontable", b""), tuple(map(_constant, code.co_consts)))
    number = _FINGERPRINTS.setdefault((stands_still, counts, names, body), next(_NUMBERS))
    if stands_still:
        return _Code(number, is_doubtful=id(code) in DYNAMIC_IDS)
    skipped = ("EXTENDED_ARG", "CACHE", "NOP")
    steps = [(step.opname, step.argval) for step in dis.get_instructions(code) if step.opname not in skipped]
    reads: dict[Any, None] = {}
    imports: dict[Any, None] = {}
    is_doubtful = False
    for index, (operation, argument) in enumerate(steps):
        if operation in _LOADS_GLOBAL:
            chain = itertools.takewhile(lambda step: step[0] in _LOADS_ATTRIBUTE, steps[index + 1 :])
            reads[argument, tuple(name for _, name in chain)] = None
        elif operation == "IMPORT_NAME":
            imports[argument, steps[index - 2][1]] = None
        elif operation in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            is_doubtful = True
        elif operation in (*_LOADS_ATTRIBUTE, "IMPORT_FROM"):
            is_doubtful |= argument in _DYNAMIC_NAMES
    for part in (code_facts(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)):
        reads.update(dict.fromkeys(part.reads))
        imports.update(dict.fromkeys(part.imports))
        is_doubtful |= part.is_doubtful
    return _Code(number, tuple(reads), tuple(imports), is_doubtful)


# ---- classes ----


class _Layout(NamedTuple):
    """Where the objects of a class keep what they hold; ``is_visible`` says that this is all, no state of C beside it."""

    slots: list[tuple[int, str]]  # each in the class at this place of the MRO
    dictionary: int | None  # likewise
    is_visible: bool


@remembered_once
def layout_of(kind: type) -> _Layout:
    places = {types.MemberDescriptorType: [], types.GetSetDescriptorType: []}  # type: dict[type, list[tuple[int, str]]]
    for index, base in enumerate(lineage_of(kind)):
        for name, content in namespace_of(base).items():
            places.get(type(content), []).append((index, name))
    members, others = places.values()
    slots = [(index, name) for index, name in members if name != "__dict__"]
    dictionaries = [index for index, name in members + others if name == "__dict__"]
    words = len(slots) + (kind.__dictoffset__ > 0) + (kind.__weakrefoffset__ > 0)
    is_visible = kind.__itemsize__ == 0 and kind.__basicsize__ == object.__basicsize__ + words * struct.calcsize("P")
    is_visible = is_visible and all(base.__flags__ & _IS_HEAP_TYPE for base in lineage_of(kind)[:-1])
    return _Layout(slots, min(dictionaries, default=None), is_visible)
