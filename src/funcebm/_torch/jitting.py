"""The two caches behind ``jit``: from what a function means to its graph, from a graph to machine code."""

from __future__ import annotations

import contextlib
import functools
import gc
import linecache
import logging
import os
import sys
import threading
import time
import traceback
import warnings
from collections import OrderedDict
from typing import Any, Callable, Iterator, NamedTuple

import torch
from torch import Tensor

from .. import tree
from . import executor, programs, recorder, traced_loops
from .generators import RandomnessAsked
from .graphs import results_of
from .meaning import Meaning, meaning
from .plans import Part
from .static_facts import is_library_file
from .tracing import is_mapped

__all__ = [
    "TracedValueError",
    "asks_for_value",
    "call",
    "call_begin",
    "call_scan",
    "clear",
    "explained",
    "is_inside",
    "log_compiles",
    "users_line",
    "warn_once",
]

_KEPT = 512  # traced functions
_SECONDS = 2.0  # a compilation that takes longer is reported


class TracedValueError(RuntimeError):
    """A function that is traced asks a number for its value."""


class _Traced(NamedTuple):
    """A function after it was traced.

    Attributes:
        run: the compiled function of flat inputs.
        sources: of what it reads from outside: a place in the tensors of its meaning, or the tensor.
        outputs: the structure of its results, and those leaves that are no tensors.
        kept: what must live as long as its key.
    """

    run: Callable[..., list[Tensor]]
    sources: list[int | Tensor]
    outputs: tuple[Any, list[Any]]
    kept: list[Any]


_cache: OrderedDict[Any, _Traced] = OrderedDict()
_lock = threading.RLock()
_log = os.environ.get("FUNCEBM_LOG_COMPILES", "0") not in ("0", "", "false")


def _new_lock() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


def log_compiles(is_on: bool) -> None:
    """See :func:`funcebm.transforms.log_compiles`."""
    global _log
    _log = is_on


def clear() -> None:
    """Forgets what was traced."""
    with _lock:
        _cache.clear()


@functools.cache
def warn_once(text: str) -> None:
    """One warning of a text in a process."""
    warnings.warn(text, RuntimeWarning, stacklevel=4)


def is_inside(leaves: list[Any]) -> bool:
    """Whether a trace, or a transform of these tensors, is at work."""
    return recorder.current() is not None or any(isinstance(leaf, Tensor) and is_mapped(leaf) for leaf in leaves)


# -- calls --------------------------------------------------------------------------------------------------------


def call(function: Callable[..., Any], leaves: list[Any], structure: Any) -> Any:
    """``function(*args)``, compiled, for the flattened arguments."""
    tensors = [_plain(leaf) for leaf in leaves if isinstance(leaf, Tensor)]
    statics = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    is_tensor = tuple(isinstance(leaf, Tensor) for leaf in leaves)
    known = meaning((function, statics))
    key = (known.key, structure, is_tensor, _shapes(tensors), torch.get_default_dtype())

    def flat(*given: Tensor) -> tuple[list[Any], Any]:
        rest = iter(given)
        args = [next(rest) if flag else leaf for flag, leaf in zip(is_tensor, leaves, strict=True)]
        return tree.flatten(function(*tree.unflatten(structure, args)))

    name = getattr(function, "__name__", type(function).__name__)
    traced = _traced(key, known, flat, tensors, False, lambda: f"{name}{_shown(tensors)}")
    results = iter(traced.run([*tensors, *_outside(traced, known)]))
    out_structure, constants = traced.outputs
    return tree.unflatten(out_structure, [next(results) if part is _TENSOR else part for part in constants])


class _Scan:
    """The flat form of a scan ``(shared, carry, x) -> (carry, y)``."""

    def __init__(self, body: Callable[..., Any], shared: Any, carry: Any, xs: Any) -> None:
        shared_leaves, self.shared = tree.flatten(shared)
        carry_leaves, self.carry = tree.flatten(carry)
        x_leaves, self.x = tree.flatten(xs)
        self.body, self.first, self.count = body, len(shared_leaves), len(carry_leaves)
        self.tensors = [_plain(leaf) for leaf in (*shared_leaves, *carry_leaves, *x_leaves)]
        self.length = x_leaves[0].shape[0]
        fixed = _shapes(self.tensors[: self.first + self.count])
        moving = tuple((leaf.shape[1:], leaf.dtype, leaf.device) for leaf in x_leaves)
        self.key = (self.shared, self.carry, self.x, fixed, moving, torch.get_default_dtype())

    def __call__(self, *given: Tensor) -> tuple[list[Any], Any]:
        """Traces it: the leaves of its results, and the structure of ``y``."""
        y_structures = []
        outside = tree.unflatten(self.shared, list(given[: self.first]))
        start = self.first + self.count

        def one(*leaves: Tensor) -> list[Tensor]:
            before = tree.unflatten(self.carry, list(leaves[: self.count]))
            after, y = self.body(outside, before, tree.unflatten(self.x, list(leaves[self.count :])))
            y_leaves, y_structure = tree.flatten(y)
            y_structures.append(y_structure)
            return [*tree.leaves(after), *y_leaves]

        return traced_loops.scan(one, list(given[self.first : start]), list(given[start:])), y_structures[-1]


def call_scan(
    body: Callable[..., Any], known: Meaning, shared: Any, carry: Any, xs: Any, every: int, is_kept: bool, name: str
) -> tuple[Any, Any]:
    """A compiled scan of any length; ``known`` is what its body means."""
    scan = _Scan(body, shared, carry, xs)
    shapes = scan.tensors[scan.first : scan.first + scan.count]
    traced = _traced((known.key, scan.key), known, scan, scan.tensors, True, lambda: f"{name}{_shown(shapes)}")
    results = traced.run([*scan.tensors, *_outside(traced, known)], scan.length, every, is_kept)
    return tree.unflatten(scan.carry, results[: scan.count]), tree.unflatten(traced.outputs[0], results[scan.count :])


def call_begin(
    begin: Callable[..., Any],
    body: Callable[..., Any],
    both: tuple[Meaning, Meaning],
    given: Any,
    shared: Any,
    xs: Any,
    name: str,
) -> tuple[Any, Any]:
    """``begin(*given) -> (carry, other)``, compiled together with the scan that goes on from its carry."""
    leaves, structure = tree.flatten(given)
    tensors = [_plain(leaf) for leaf in leaves]
    known, scan_known = both
    moving = tuple((leaf.shape[1:], leaf.dtype, leaf.device) for leaf in tree.leaves(xs))
    shapes = (_shapes(tensors), _shapes(tree.leaves(shared)), moving, torch.get_default_dtype())
    key = (known.key, scan_known.key, structure, tree.structure((shared, xs)), shapes)

    def flat(*leaves: Tensor) -> tuple[list[Any], Any]:
        return tree.flatten(begin(*tree.unflatten(structure, list(leaves))))

    def follow(leaves: list[Any], out_structure: Any) -> tuple[Any, ...]:
        carry, _ = tree.unflatten(out_structure, leaves)
        scan = _Scan(body, shared, carry, xs)
        return (scan_known.key, scan.key), scan_known, scan, scan.tensors

    traced = _traced(key, known, flat, tensors, False, lambda: f"{name}{_shown(tensors)}", follow)
    return tree.unflatten(traced.outputs[0], traced.run([*tensors, *_outside(traced, known)]))


_TENSOR = object()


def _plain(leaf: Tensor) -> Tensor:
    return leaf.detach().contiguous() if leaf.requires_grad or not leaf.is_contiguous() else leaf


def _shapes(tensors: list[Tensor]) -> tuple[Any, ...]:
    return tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in tensors)


def _shown(tensors: list[Tensor]) -> str:
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors[:4])
    return f" of {shapes}{', ...' if len(tensors) > 4 else ''}"


def _outside(traced: _Traced, known: Any) -> list[Tensor]:
    return [_plain(known.tensors[source] if isinstance(source, int) else source) for source in traced.sources]


# -- tracing ------------------------------------------------------------------------------------------------------


def _traced(
    key: Any,
    known: Any,
    flat: Callable[..., Any],
    tensors: list[Tensor],
    is_dynamic: bool,
    name: Callable[[], str],
    follow: Callable[..., Any] | None = None,
) -> _Traced:
    """The compiled function of this meaning; traced where it is not known, or cannot be known for certain.

    ``follow`` gives a scan that is compiled with it, from its results.
    """
    if known.is_certain:
        with _lock:
            if key in _cache:
                _cache.move_to_end(key)
                return _cache[key]
    with _lock:
        if known.is_certain and key in _cache:  # another thread was faster
            return _cache[key]
        pieces = [(key, known, flat, tensors, is_dynamic)]
        with _told(name()) as times, _without_collections():
            start = time.perf_counter()
            records = [_record(flat, tensors)]
            if follow is not None:
                body, recorded, outputs = records[0]
                values = [node.meta["val"] for node in results_of(body.graph)]
                with recorded.paused():
                    pieces.append((*follow(values, outputs[0]), True))
                records.append(_record(pieces[1][2], pieces[1][3]))
            times["traced"] = time.perf_counter() - start
            runs = _compiled(records, [piece[-1] for piece in pieces], tensors, times)
        results = [_keep(*piece[:2], *record, run) for piece, record, run in zip(pieces, records, runs, strict=True)]
    return results[0]


def _record(flat: Callable[..., Any], tensors: list[Tensor]) -> tuple[Any, Any, tuple[Any, list[Any]]]:
    outputs: list[Any] = []

    def function(*given: Tensor) -> list[Tensor]:
        leaves, structure = flat(*given)
        outputs[:] = [structure, [_TENSOR if isinstance(leaf, Tensor) else leaf for leaf in leaves]]
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    with explained(), _quiet():
        body, recorded = recorder.record(function, tensors)
    return body, recorded, (outputs[0], outputs[1])


def _compiled(records: list[Any], are_dynamic: list[bool], tensors: list[Tensor], times: dict[str, Any]) -> list[Any]:
    captured = [tensor for body, _, _ in records for tensor in body.captured]
    if {tensor.device.type for tensor in (*tensors, *captured)} - {"cpu"}:
        return [
            executor.executor_of(body, recorded.fake_mode, is_dynamic=flag)
            for (body, recorded, _), flag in zip(records, are_dynamic, strict=True)
        ]
    parts = [
        Part(body, recorded.fake_mode, flag) for (body, recorded, _), flag in zip(records, are_dynamic, strict=True)
    ]
    program = programs.program_of(parts, times)
    return [functools.partial(program, index) for index in range(len(parts))]


def _keep(key: Any, known: Any, body: Any, recorded: Any, outputs: Any, run: Callable[..., Any]) -> _Traced:
    places = {id(tensor): index for index, tensor in enumerate(known.tensors)}
    sources: list[int | Tensor] = [places.get(id(tensor), tensor) for tensor in body.captured]
    traced = _Traced(run, sources, outputs, known.kept)
    if known.is_certain and not recorded.values_read:
        _cache[key] = traced
        while len(_cache) > _KEPT:
            _cache.popitem(last=False)
    return traced


@contextlib.contextmanager
def _told(name: str) -> Iterator[dict[str, float]]:
    """Says that it compiles, once that has taken a while; and afterwards what was done, where that is asked for."""
    times: dict[str, Any] = {}
    start = time.perf_counter()
    timer = threading.Timer(_SECONDS, lambda: print(f"funcebm: compiling {name}; the first call ...", file=sys.stderr))
    timer.daemon = True
    if not _log:
        timer.start()
    try:
        yield times
    finally:
        timer.cancel()
    if _log:
        parts = ", ".join(
            f"{what} {value:.2f} s" if isinstance(value, float) else value for what, value in times.items()
        )
        print(f"funcebm: compiled {name} in {time.perf_counter() - start:.2f} s ({parts})", file=sys.stderr)


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Inside, nobody looks for cycles of garbage: graphs are many small objects that live, of which each search visits all."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """An error of a traced number that is asked for its value says where, and what to write; others stay as they are."""
    try:
        yield
    except Exception as error:
        if isinstance(error, RandomnessAsked):
            raise ValueError(draws_numbers(error)) from error
        if not asks_for_value(error):
            raise
        raise TracedValueError(
            "an energy, or another function that is compiled, must not ask a number that is traced for its value, nor make a "
            f"shape depend on it. Got {users_line(error)}. Use torch.where(condition, a, b) in place of if and of masks as "
            "indices, funcebm.loops.while_loop in place of while, tensors in place of numpy, .item() and float(); or pass "
            "jit=False, where that helps."
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Torch logs the errors of shapes that a function makes, which are raised as well."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


def asks_for_value(error: Exception) -> bool:
    """Whether an error of torch is about a number that has no value here."""
    if isinstance(error, recorder.ValueAsked):
        return True
    text = str(error) + type(error).__name__
    return any(word in text for word in _SIGNS)


def draws_numbers(error: Exception) -> str:
    """What to say of a function that draws random numbers of torch."""
    return (
        "an energy, or another function that is mapped or compiled, must not draw random numbers of torch: the same arguments "
        f"must give the same result. Got {users_line(error)}. Draw them outside, by funcebm.random and a key, and pass them in "
        "params; put a module with dropout through funcebm.energies.from_module, which evaluates without."
    )


_SIGNS = (  # of an error that torch raises where a traced number is asked for its value
    "data-dependent control flow",
    "calling .item() on a Tensor",
    "Cannot access data pointer",
    "numpy() is not supported",
    "can't convert a",
    "Can't call numpy()",
    "DataDependentOutput",
    "DynamicOutputShape",
    "does not have data",
    "aten._local_scalar_dense",
    "format string passed to FakeTensor",
    "support dynamic shape",
    "can output dynamic shape",
)


def users_line(error: BaseException) -> str:
    """The last line of the user's own code in a traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not is_library_file(frame.filename)] or list(frames)
    frame = own[-1]
    line = (linecache.getline(frame.filename, frame.lineno or 0) or frame.line or "").strip()
    return f"{line!r} in {frame.name}, {os.path.basename(frame.filename)}, line {frame.lineno}"
