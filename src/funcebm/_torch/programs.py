"""Compiled functions: from recorded graphs to a shared library, and its calls."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import os
import pickle
import threading
import time
from collections import OrderedDict
from typing import Any, Iterator

import torch
from torch import Tensor

from . import headers, lowering, native, segments, threefry_kernels
from .graphs import described
from .index_ranges import formulas_overflow
from .layout import Buffer
from .plans import INCLUDE, Part, Plan, make_plan

__all__ = ["Program", "clear", "digest", "one_thread", "program_of", "why_not"]

_FORMAT = 8  # of what is kept on disk
_KEPT = 256  # programs
_ROOM = 2048  # bytes, for the text of an error


class Program:
    """A loaded library with the functions of a :class:`Plan`; calls may come from several threads."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        flags = plan.flags
        self.library = native.load(
            plan.source, name="program", language="c++", flags=flags, hints=lambda: headers.precompiled(INCLUDE, flags)
        )
        self._operators = [_operator(name) for name, _, _ in plan.operators]
        self._errors = threading.local()
        # the library keeps the address of this function: it must live as long
        self._operate = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.POINTER(ctypes.c_void_p))(
            self._call_operator
        )
        operate = ctypes.cast(self._operate, ctypes.c_void_p).value
        functions = (ctypes.c_void_p * 5)(threefry_kernels.address(), operate, *_blas().values())
        self.library.funcebm_init(functions)
        self._run = self.library.funcebm_run
        self._run.restype = ctypes.c_int
        self._run.argtypes = [ctypes.c_int] + [ctypes.c_void_p] * 5 + [ctypes.c_int64]
        self._arenas: list[Tensor] = []
        self._arena_size = max(entry.arena for entry in plan.entries)

    def __call__(
        self, index: int, inputs: list[Tensor], length: int | None = None, every: int = 1, is_kept: bool = True
    ) -> list[Tensor]:
        """The outputs of a function, new tensors. All inputs are contiguous, those captured included."""
        entry = self.plan.entries[index]
        sizes = (ctypes.c_int64 * 4)(length or 0, every, int(is_kept), _num_threads())
        outputs = []
        for (shape, dtype), is_stacked in zip(entry.outputs, entry.stacked, strict=True):
            if is_stacked:
                shape = ((length or 0) // every if is_kept else 1, *shape)
            outputs.append(torch.empty(shape, dtype=dtype))
        given = [tensor.data_ptr() for tensor in inputs] + [tensor.data_ptr() for tensor in entry.constants]
        pointers = (ctypes.c_void_p * max(len(given), 1))(*given)
        places = (ctypes.c_void_p * max(len(outputs), 1))(*[tensor.data_ptr() for tensor in outputs])
        try:
            arena = self._arenas.pop()
        except IndexError:
            arena = torch.empty(self._arena_size, dtype=torch.uint8)
        error = _error_buffer()
        status = self._run(index, pointers, places, sizes, arena.data_ptr(), error, _ROOM)
        self._arenas.append(arena)
        if status == 1:
            raise self._errors.raised
        if status == 2:
            raise RuntimeError(ctypes.string_at(error).decode(errors="replace"))
        return outputs

    def _call_operator(self, index: int, pointers: Any) -> int:
        """Runs an operator that has no kernel, on memory of the library."""
        try:
            _, args, outs = self.plan.operators[index]
            args, kwargs = _tensors(args, pointers)
            with torch.no_grad():
                results = self._operators[index](*args, **kwargs)
                results = results if isinstance(results, (tuple, list)) else (results,)
                for result, out in zip(results, outs, strict=True):
                    if out is not None:
                        _tensor(out, pointers).copy_(result)
        except BaseException as error:  # it cannot go through C++
            self._errors.raised = error
            return 1
        return 0


_local = threading.local()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Inside, calls from this thread use no other threads."""
    before = getattr(_local, "is_alone", False)
    _local.is_alone = True
    try:
        yield
    finally:
        _local.is_alone = before


def _num_threads() -> int:
    return 1 if getattr(_local, "is_alone", False) else torch.get_num_threads()


def _error_buffer() -> Any:
    if not hasattr(_local, "error"):
        _local.error = ctypes.create_string_buffer(_ROOM)
    return _local.error


def _tensors(value: Any, pointers: Any) -> Any:
    if isinstance(value, Buffer):
        return _tensor(value, pointers)
    if isinstance(value, (tuple, list)):
        return type(value)([_tensors(part, pointers) for part in value])
    if isinstance(value, dict):
        return {name: _tensors(part, pointers) for name, part in value.items()}
    return value


def _tensor(buffer: Buffer, pointers: Any) -> Tensor:
    """A view of memory that is not ours."""
    if 0 in buffer.shape:
        return torch.empty(buffer.shape, dtype=buffer.dtype)
    span = buffer.offset + 1 + sum((n - 1) * s for n, s in zip(buffer.shape, buffer.strides, strict=True))
    size = torch.empty((), dtype=buffer.dtype).element_size()
    memory = (ctypes.c_char * (span * size)).from_address(pointers[buffer.block])
    flat = torch.frombuffer(memory, dtype=torch.uint8).view(buffer.dtype)
    return flat.as_strided(buffer.shape, buffer.strides, buffer.offset)


def _operator(name: str) -> Any:
    """The function of a name such as ``aten.sort.stable``, or of torch where it has no overload, such as ``convolution``."""
    parts = name.split(".")
    return functools.reduce(getattr, parts, torch if len(parts) == 1 else torch.ops)


@functools.cache
def _blas() -> dict[str, int]:
    """Addresses of the functions of torch's BLAS that programs call, 0 where it exports none."""
    path = os.path.join(os.path.dirname(torch.__file__), "lib", "libtorch_cpu.so")
    found = {"sgemm_": 0, "dgemm_": 0, "MKL_Set_Num_Threads_Local": 0}
    try:
        library = ctypes.CDLL(path)
        for name in found:
            if hasattr(library, name):
                found[name] = ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0
    except OSError:
        pass
    return found


@functools.cache
def _flags() -> tuple[str, ...]:
    """How kernels are compiled: as inductor does it, but for debug information."""
    instructions = lowering.isa()
    root = os.path.dirname(torch.__file__)
    folder = os.path.join(root, "lib")
    macros = instructions.build_macro() if hasattr(instructions, "build_macro") else []
    return (
        "-std=c++17",
        "-O3",
        "-DNDEBUG",
        "-DC10_USING_CUSTOM_GENERATED_MACROS",
        "-DSTANDALONE_TORCH_HEADER",
        *(f"-D{macro}" for macro in macros),
        "-march=native",
        *(
            flag for flag in instructions.build_arch_flags().split() if not flag.startswith("-mamx")
        ),  # no kernel uses it
        "-fno-math-errno",
        "-fno-trapping-math",
        "-ffp-contract=off",
        "-fno-tree-loop-vectorize",
        "-fopenmp",
        f"-I{root}/include",
        f"-I{root}/include/torch/csrc/api/include",
        f"-L{folder}",
        "-ltorch_cpu",
        "-lc10",
        f"-Wl,-rpath,{folder}",
    )


# -- what is the same ---------------------------------------------------------------------------------------------


def digest(parts: list[Part]) -> str:
    """What tells recorded functions apart; equal ones share machine code, in memory and on disk."""
    text = [str(_FORMAT), str(lowering.SHARED_FROM), torch.__version__, str(torch.__file__), native.processor()]
    for part in parts:
        text.append(f"is_dynamic {part.is_dynamic}")
        text += ["integers wrap"] if formulas_overflow(part.body.graph) else []  # programs of before did not
        text += described(part.body.graph.nodes, {})
    return hashlib.sha256("\n".join(text).encode()).hexdigest()


_programs: OrderedDict[str, Program] = OrderedDict()


def program_of(parts: list[Part], times: dict[str, Any] | None = None) -> Program:
    """The compiled functions: from memory, from disk, or made; ``times`` notes which, and how long it took."""
    times = {} if times is None else times
    name = digest(parts)
    if name in _programs:
        times["from"] = "an equal graph in memory"
        _programs.move_to_end(name)
        return _programs[name]
    start = time.perf_counter()
    plan = _kept_plan(name)
    times["from"] = "disk" if plan is not None else "scratch"
    if plan is None:
        flags = _flags()
        headers.begin(INCLUDE, flags)
        plan = make_plan(parts)._replace(flags=flags)
        native.write(f"plan-{name}", pickle.dumps(plan))
    times["generated"] = time.perf_counter() - start
    start = time.perf_counter()
    _programs[name] = Program(plan)
    times["C++"] = time.perf_counter() - start
    while len(_programs) > _KEPT:
        _programs.popitem(last=False)
    return _programs[name]


def _kept_plan(name: str) -> Plan | None:
    kept = native.read(f"plan-{name}")
    if kept is None:
        return None
    try:
        plan = pickle.loads(kept)
    except Exception:  # damaged, or of another version: it is made again
        return None
    return plan if isinstance(plan, Plan) else None


def clear() -> None:
    """Forgets the programs of this process."""
    _programs.clear()
    segments.clear()


@functools.cache
def why_not() -> str | None:
    """What this torch lacks for traced functions, or None."""
    if not hasattr(torch.library, "custom_op") or not hasattr(torch.library, "register_vmap"):
        return "this torch has no custom operators under vmap"
    if importlib.util.find_spec("torch._inductor") is None:
        return "this torch has no inductor"
    return None
