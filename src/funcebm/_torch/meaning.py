"""What a Python value means to a program traced from it: a key that is equal where a trace would read the same.

A traced program is stale once anything that the function reads from outside its arguments has changed. The walk here goes
through all of that and writes one flat tuple: bytecode (without names, lines and files), closures, defaults, attributes,
the globals that are read by name, classes and the contents of objects. Its rules:

- *Tensors are slots*: shape, dtype, device and strides count, values and identity do not. They become inputs.
- *Libraries stand still*: modules and classes of the standard library, of site-packages, torch and funcebm count by
  identity, and the globals of their functions not at all. What their functions close over is walked like the rest.
- *Doubt is reported*: hidden state (generators, locks, files, random generators), ``eval``, the environment, a module of the
  user that is passed on as a value, and any error on the way: then trace again.

The walk runs on every call; nothing of the user's is called, no property, no ``__getattr__``, no ``__eq__``. Not seen: changes
inside of libraries, files that they read, clocks, the state of their random generators, modes of torch such as autocast.
"""

from __future__ import annotations

import array
import collections
import functools
import hashlib
import logging
import operator
import os
import re
import sys
import types
import weakref
from typing import Any, Callable, NamedTuple, TypeVar

import torch
from torch import Tensor

from .. import tree
from .static_facts import (
    DYNAMIC_IDS,
    DYNAMIC_MODULES,
    MISSING,
    NO_DATA,
    code_facts,
    is_library,
    is_library_class,
    layout_of,
    lineage_of,
    namespace_of,
    remembered_once,
)

__all__ = ["Meaning", "meaning"]


class Meaning(NamedTuple):
    """What a value means.

    Attributes:
        key: hashable; equal for values that mean the same.
        tensors: the tensors that were met, in the order of the walk, each one once.
        is_certain: False where something was met whose meaning cannot be known: trace again.
        kept: objects that are in ``key`` by their id; whoever holds the key must keep them alive.
    """

    key: Any
    tensors: list[Tensor]
    is_certain: bool
    kept: list[Any]


def meaning(value: Any) -> Meaning:
    """Looks through a value and all that it reads.

    Args:
        value: anything; usually a function, or a tuple of functions and constants.

    Returns:
        Its :class:`Meaning`. It never raises: what cannot be looked through is not certain.

    >>> scaled = lambda factor: lambda x: factor * x
    >>> meaning(scaled(2.0)).key == meaning(scaled(2.0)).key
    True
    >>> meaning(scaled(2.0)).key == meaning(scaled(3.0)).key
    False
    >>> one, other = meaning(scaled(torch.zeros(2))), meaning(scaled(torch.ones(2)))
    >>> one.key == other.key, one.tensors, other.tensors
    (True, [tensor([0., 0.])], [tensor([1., 1.])])
    """
    walk = _Walk()
    walk.see(value)
    key: tuple[Any, ...] = tuple(walk.tokens)
    try:
        hash(key)
    except Exception:  # symbolic shapes, say
        walk.doubt(value)
        key = ("is", id(value))
    return Meaning(key, walk.tensors, walk.is_certain, walk.kept)


class _Walk:
    """One walk. Every value writes a token of its kind first, so a list of tokens can be read in one way only."""

    __slots__ = ("alive", "is_certain", "kept", "seen", "tensors", "tokens")

    def __init__(self) -> None:
        self.tokens: list[Any] = []
        self.tensors: list[Tensor] = []
        self.kept: list[Any] = []
        self.is_certain = True
        self.seen: dict[int, int] = {}  # id to number; cycles and shared objects end at the number
        self.alive: list[Any] = []  # whatever has a number, so that no id comes twice in one walk

    def see(self, value: Any) -> None:
        """Writes what a value means."""
        kind = type(value)
        try:
            if kind in _PLAIN:
                self.tokens.extend((kind, value))
            elif kind is float:
                self.tokens.extend((kind, value if value and value == value else repr(value)))  # 0.0, -0.0, nan
            elif kind is complex:
                self.tokens.extend((kind, repr(value)))
            elif kind is tuple and _write_flat(self, value):
                pass
            elif id(value) in self.seen:
                self.tokens.extend(("seen", self.seen[id(value)]))
            else:
                self.seen[id(value)] = len(self.alive)
                self.alive.append(value)
                (_HANDLERS.get(kind) or _handler_of(kind))(self, value)
        except Exception:  # whatever it is, the value cannot be known
            self.doubt(value)

    def identity(self, value: Any) -> None:
        """Writes who a value is."""
        self.tokens.extend(("is", id(value)))
        self.kept.append(value)

    def doubt(self, value: Any) -> None:
        """Writes who a value is, and that this does not tell what it means."""
        self.is_certain = False
        self.identity(value)

    def attributes(self, value: Any) -> None:
        """Writes the slots and the ``__dict__`` of an object, read past any property and ``__getattr__``."""
        kind = type(value)
        layout, lineage = layout_of(kind), lineage_of(kind)
        for index, name in layout.slots:
            try:
                content = namespace_of(lineage[index])[name].__get__(value, kind)
            except AttributeError:
                self.tokens.append("unbound")
            else:
                self.see(content)
        if layout.dictionary is not None:
            self.named(namespace_of(lineage[layout.dictionary])["__dict__"].__get__(value, kind))

    def named(self, contents: Any) -> None:
        """Writes a dict whose keys are names."""
        self.tokens.append(len(contents))
        for name, content in contents.items():
            kind = type(content)
            if kind in _PLAIN:
                self.tokens.extend((name, kind, content))
            else:
                self.tokens.append(name)
                self.see(content)


_Handler = Callable[[_Walk, Any], Any]


def _function(walk: _Walk, function: Any) -> None:
    code, tokens = code_facts(function.__code__), walk.tokens
    tokens.extend((types.FunctionType, code.number))
    for cell in function.__closure__ or ():
        try:
            content = cell.cell_contents
        except ValueError:
            tokens.append("unbound")
        else:
            walk.see(content)
    if function.__defaults__:
        tokens.append("defaults")
        walk.see(function.__defaults__)
    if function.__kwdefaults__:
        tokens.append("keyword defaults")
        walk.named(function.__kwdefaults__)
    if function.__dict__:
        tokens.append("attributes")
        walk.named(function.__dict__)
    if code.is_doubtful:
        walk.doubt(function)
    for name, level in code.imports:
        module = sys.modules.get(name)
        if level != 0 or module is None or name in DYNAMIC_MODULES or not is_library(module):
            walk.doubt(name)
    for name, chain in code.reads:
        value = function.__globals__.get(name, MISSING)
        if value is MISSING:
            value = function.__builtins__.get(name, MISSING)
        if value is MISSING:
            tokens.append("missing")
        else:
            _attribute(walk, value, chain)


def _attribute(walk: _Walk, value: Any, names: tuple[str, ...]) -> None:
    """What is read from a module by name, through its submodules; of data in a library it counts who it is."""
    for depth, name in enumerate(names):
        if not issubclass(type(value), types.ModuleType):
            break
        content, stands_still = vars(value).get(name, MISSING), is_library(value)
        if content is MISSING:
            return (walk.identity if stands_still else walk.doubt)(value)
        walk.tokens.extend(("module", depth))
        if stands_still and not issubclass(type(content), NO_DATA):
            return (walk.doubt if id(content) in DYNAMIC_IDS else walk.identity)(content)
        value = content
    walk.see(value)


def _module(walk: _Walk, module: types.ModuleType) -> None:
    is_dynamic = vars(module).get("__name__") in DYNAMIC_MODULES
    (walk.identity if is_library(module) and not is_dynamic else walk.doubt)(module)


def _builtin(walk: _Walk, value: Any) -> None:
    """A function of C, or a method of C bound to an object."""
    owner = value.__self__
    if id(value) in DYNAMIC_IDS:
        walk.doubt(value)
    elif owner is None or issubclass(type(owner), types.ModuleType) or type(owner).__name__ == "PyCapsule":
        walk.identity(value)
    else:
        walk.tokens.extend((types.BuiltinFunctionType, value.__name__))
        walk.see(owner)


# ---- data ----


def _tensor(walk: _Walk, value: Tensor) -> None:
    walk.tokens.extend((Tensor, value.shape, value.dtype, value.device, value.requires_grad, value.layout))
    walk.tensors.append(value)
    if value.layout is torch.strided:
        walk.tokens.extend((None if value.is_contiguous() else value.stride(), value.is_conj(), value.is_neg()))
    walk.see(None if type(value) is Tensor else type(value))
    walk.named(value.__dict__)


def _array(walk: _Walk, value: Any) -> None:
    """An array or a scalar of numpy, by its contents."""
    walk.tokens.extend(("array", value.dtype, value.shape, value.strides))
    walk.see(type(value))
    is_bytes = not value.dtype.hasobject
    walk.see(hashlib.blake2b(value.tobytes(), digest_size=16).digest() if is_bytes else value.tolist())
    walk.attributes(value)


def _write_flat(walk: _Walk, value: Any) -> bool:
    """Writes a tuple or list of plain values, or of floats, at once; says whether it is one."""
    kinds = set(map(type, value))
    if kinds <= _PLAIN:
        kind = kinds.pop() if len(kinds) == 1 else tuple(map(type, value))
        walk.tokens.extend((type(value), "plain", kind, tuple(value)))
        return True
    if len(kinds) == 1 and float in kinds:
        walk.tokens.extend((type(value), "floats", array.array("d", value).tobytes()))
        return True
    return False


def _sequence(walk: _Walk, value: Any) -> None:
    if not _write_flat(walk, value):
        walk.tokens.extend((type(value), len(value)))
        for item in value:
            walk.see(item)


def _set(walk: _Walk, value: Any) -> None:
    if set(map(type, value)) <= _PLAIN:
        walk.tokens.extend((type(value), "plain", frozenset((type(item), item) for item in value)))
    else:  # equal sets may differ in order: they are then traced twice, which is safe
        walk.tokens.append(type(value))
        _sequence(walk, list(value))


def _mapping(walk: _Walk, value: Any) -> None:
    walk.tokens.extend((type(value), len(value)))
    for key, item in value.items():
        walk.see(key)
        walk.see(item)


# ---- classes and objects ----

_SKIPPED = set(
    """__dict__ __weakref__ __module__ __doc__ __qualname__ __firstlineno__ __static_attributes__ __annotations__
    __annotate__ __annotate_func__ __annotations_cache__ __abstractmethods__ _abc_impl __orig_bases__ __parameters__
    __type_params__ __classcell__ __classdictcell__ _backward_cls _autograd_function_id""".split()  # noqa: SIM905
)


def _class(walk: _Walk, cls: type) -> None:
    if is_library_class(cls):
        return walk.identity(cls)
    walk.tokens.extend((type, type.__dict__["__name__"].__get__(cls)))
    walk.see(type(cls))
    walk.see(type.__dict__["__bases__"].__get__(cls))
    walk.named({name: content for name, content in namespace_of(cls).items() if name not in _SKIPPED})


def _instance(walk: _Walk, value: Any) -> None:
    walk.tokens.append("instance")
    walk.see(type(value))
    walk.attributes(value)


def _opaque(walk: _Walk, value: Any) -> None:
    """An object with state of C; certain only if a module of a library holds it under its name, as it does functions."""
    # else its attributes may be properties of the user
    module = sys.modules.get(str(getattr(value, "__module__", ""))) if is_library_class(type(value)) else None
    if module is not None and is_library(module) and vars(module).get(str(getattr(value, "__name__", ""))) is value:
        return walk.identity(value)
    walk.doubt(value)


def _with(contents: Callable[[Any], Any]) -> _Handler:
    """The handler of a builtin type and its subclasses: type and attributes, then what the builtin type holds."""

    def handle(walk: _Walk, value: Any) -> None:
        _instance(walk, value)
        walk.see(contents(value))

    return handle


def _items(base: Any) -> Callable[[Any], Any]:
    """What an object of a subclass of a builtin container holds, past the methods of the subclass."""
    return lambda value: base(base.__iter__(value))


def _cached_function(walk: _Walk, value: Any) -> None:
    walk.identity(value)
    walk.attributes(value)


_PLAIN = {type(None), bool, int, str, bytes, type(...), type(NotImplemented), type(tree.structure(()))}
_PLAIN |= {torch.dtype, torch.device, torch.layout, torch.memory_format}

_FIELD: type = type(collections.namedtuple("_", "x").x)  # type: ignore[attr-defined]
_HANDLERS: dict[type, _Handler] = {
    types.FunctionType: _function,
    types.BuiltinFunctionType: _builtin,
    types.MethodWrapperType: _builtin,
    torch.nn.Parameter: _tensor,
    **dict.fromkeys((list, tuple), _sequence),
    **dict.fromkeys((set, frozenset), _set),
    **dict.fromkeys((dict, collections.OrderedDict, types.MappingProxyType), _mapping),
    types.CodeType: lambda walk, value: walk.tokens.extend((types.CodeType, code_facts(value).number)),
    types.CellType: _with(lambda value: value.cell_contents),
    **dict.fromkeys((operator.itemgetter, operator.attrgetter, _FIELD), _with(lambda value: value.__reduce__()[1])),
    type(functools.cache(len)): _cached_function,
    # before Python 3.12 it holds a lock
    functools.cached_property: lambda walk, value: walk.see(("cached property", value.func)),
    # types of C whose members tell everything
    **dict.fromkeys((types.MethodType, types.SimpleNamespace, types.GenericAlias, types.UnionType), _instance),
    **dict.fromkeys((types.MemberDescriptorType, types.GetSetDescriptorType, slice, range, super), _instance),
}

_OPERATORS = [getattr(torch._ops, name, None) for name in ("OperatorBase", "OpOverloadPacket")]
_OPERATORS.append(getattr(getattr(torch.library, "_custom_ops", None), "CustomOpDef", None))
_METHODS = (types.MethodDescriptorType, types.WrapperDescriptorType, types.ClassMethodDescriptorType)
# the first of these in the MRO decides
_HANDLERS_OF_BASES: dict[Any, _Handler] = {
    **dict.fromkeys((re.Pattern, TypeVar, torch.finfo, torch.iinfo, *_METHODS, *_OPERATORS), _Walk.identity),
    **dict.fromkeys((torch.SymInt, torch.SymFloat, torch.SymBool, type(os.environ)), _Walk.doubt),
    logging.Logger: _Walk.identity,
    Tensor: _tensor,
    types.ModuleType: _module,
    type: _class,
    **{base: _with(base.__pos__) for base in (int, float, complex)},
    **{base: _with(_items(base)) for base in (tuple, list, set, frozenset, bytes)},
    dict: _with(lambda value: dict(dict.items(value))),
    collections.OrderedDict: _with(lambda value: dict(collections.OrderedDict.items(value))),
    str: _with(str.__str__),
    bytearray: _with(bytes),
    collections.deque: _with(lambda value: (value.maxlen, list(collections.deque.__iter__(value)))),
    weakref.ref: _with(weakref.ref.__call__),
    **dict.fromkeys((functools.partial, property, staticmethod, classmethod), _instance),
}


@remembered_once
def _handler_of(kind: type) -> _Handler:
    handlers, numpy = _HANDLERS_OF_BASES, sys.modules.get("numpy")
    if numpy is not None:
        handlers = {**handlers, **dict.fromkeys((numpy.ndarray, numpy.generic), _array)}
        handlers |= dict.fromkeys((numpy.ufunc, numpy.dtype), _Walk.identity)
    found = [handlers[base] for base in lineage_of(kind) if base in handlers]
    return found[0] if found else _instance if layout_of(kind).is_visible else _opaque
