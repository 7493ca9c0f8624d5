"""From a graph without loops to C++ kernels and calls of them: inductor's fusion and code, without its wrapper.

Inductor writes a Python function that allocates buffers and calls kernels. It is run once here, with stand-ins for tensors and
kernels, and what it does becomes a list of steps, from which ``driver`` writes C++. So no part of torch has to drive loops.
"""

from __future__ import annotations

import builtins
import contextlib
import inspect
import itertools
import types
import warnings
from typing import Any, Callable

import torch
from torch import Tensor

from . import patches
from .graph_passes import improve
from .graphs import results_of
from .index_ranges import formulas_overflow
from .layout import Buffer, Call, contiguous_strides
from .recorder import Recorder

__all__ = ["SHARED_FROM", "isa", "lower", "prepared"]

aten = torch.ops.aten


class _Block:
    """Memory while the wrapper runs; its end of life is the end of its last name."""

    def __init__(self, trace: _Trace, number: int, is_owned: bool) -> None:
        self.trace, self.number, self.is_owned = trace, number, is_owned

    def __del__(self) -> None:
        if self.is_owned and self.trace.is_running:
            self.trace.steps.append(Call("free", "", (self.number,)))


class _Stand:
    """A stand-in for a tensor in inductor's wrapper."""

    def __init__(self, block: _Block, shape: Any, strides: Any, offset: int, dtype: torch.dtype) -> None:
        self.block, self.shape, self.strides, self.offset, self.dtype = (
            block,
            tuple(shape),
            tuple(strides),
            offset,
            dtype,
        )

    @property
    def buffer(self) -> Buffer:
        """What it stands for."""
        return Buffer(self.block.number, self.shape, self.strides, self.offset, self.dtype)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"inductor's wrapper asks a buffer for {name}")


class _Trace:
    """One run of a wrapper."""

    def __init__(self, numbers: Any, fake_mode: Any, constants: dict[str, Tensor]) -> None:
        self.steps: list[Call] = []
        self.numbers, self.fake_mode = numbers, fake_mode
        self.constants: list[tuple[int, Tensor]] = []
        self.is_running = True
        self.named_constants = {name: self._constant(value) for name, value in constants.items()}

    def new(self, shape: Any, strides: Any, dtype: torch.dtype, is_owned: bool = True) -> _Stand:
        block = _Block(self, next(self.numbers), is_owned)
        stand = _Stand(block, shape, strides, 0, dtype)
        if is_owned:
            self.steps.append(Call("alloc", "", (stand.buffer,)))
        return stand

    def _constant(self, value: Tensor) -> _Stand:
        value = value.detach().contiguous()
        stand = self.new(value.shape, value.stride(), value.dtype, is_owned=False)
        self.constants.append((stand.block.number, value))
        return stand

    # -- what the wrapper calls ----------------------------------------------------------------------------------

    def kernel(self, types: list[str], source: str) -> Callable[..., None]:
        def call(*args: Any) -> None:
            self.steps.append(Call("kernel", source, tuple(zip(types, _buffers(args), strict=True))))

        return call

    def empty(self, shape: Any, strides: Any, dtype: torch.dtype) -> _Stand:
        return self.new(shape, strides, dtype)

    def reinterpret(self, stand: _Stand, shape: Any, strides: Any, offset: int) -> _Stand:
        return _Stand(stand.block, shape, strides, stand.offset + offset, stand.dtype)

    def operator(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """An operator that inductor does not generate code for."""

        def call(*args: Any, **kwargs: Any) -> Any:
            fakes: dict[int, tuple[Tensor, _Stand]] = {}

            def fake(stand: _Stand) -> Tensor:
                made = torch.empty_strided(stand.shape, stand.strides, dtype=stand.dtype)
                fakes[id(made)] = (made, stand)
                return made

            with self.fake_mode:
                results = function(*_map(args, fake), **_map(kwargs, fake))
            is_many = isinstance(results, (tuple, list))
            outs: list[Any] = []
            made: list[Buffer | None] = []
            for result in results if is_many else [results]:
                if not isinstance(result, Tensor):
                    outs.append(result)
                    made.append(None)
                elif id(result) in fakes:  # changed in place, or an out= argument
                    outs.append(fakes[id(result)][1])
                    made.append(None)
                else:
                    outs.append(self.new(result.shape, result.stride(), result.dtype))
                    made.append(outs[-1].buffer)
            call_args = (_buffers(args), _buffers(kwargs))
            if not any(made) and not _changes(function):
                return tuple(outs) if is_many else outs[0]  # one of its arguments, as it is
            kind = "draw" if name == "funcebm.draw_blocks.default" else "operator"
            if name in ("mm", "bmm", "addmm", "baddbmm") and isinstance(kwargs.get("out"), _Stand):
                kind = "product"
            self.steps.append(Call(kind, name, call_args, tuple(made)))
            return tuple(outs) if is_many else outs[0]

        return call


def _buffers(value: Any) -> Any:
    return _map(value, lambda stand: stand.buffer)


def _map(value: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(value, _Stand):
        return function(value)
    if isinstance(value, _Anything):
        raise RuntimeError("inductor's wrapper hands on what funcebm does not know")
    if isinstance(value, (tuple, list)):
        return type(value)(_map(part, function) for part in value)
    if isinstance(value, dict):
        return {name: _map(part, function) for name, part in value.items()}
    return value


def _changes(function: Any) -> bool:
    """Whether a call may change its arguments: functions without a schema take ``out=``."""
    schema = getattr(function, "_schema", None)
    return schema is None or schema.is_mutable


class _Names:
    """A namespace of operators: ``torch.ops``, ``torch.ops.aten``, ``extern_kernels``."""

    def __init__(self, trace: _Trace, path: tuple[str, ...], real: Any) -> None:
        self._trace, self._path, self._real = trace, path, real

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._real, name)
        path = (*self._path, name)
        if isinstance(value, torch._ops.OpOverload) or (callable(value) and not isinstance(value, _PACKET)):
            return self._trace.operator(".".join(path), value)
        return _Names(self._trace, path, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._trace.operator(".".join(self._path), self._real)(*args, **kwargs)


SHARED_FROM = (
    2**22
)  # steps of a loop from which on threads share it: a thread that waits for another process costs milliseconds
_PACKET = (torch._ops.OpOverloadPacket, torch._ops._OpNamespace, torch._ops._Ops)


class _Over:
    """A module with some names replaced."""

    def __init__(self, real: Any, **names: Any) -> None:
        self.__dict__.update(names, _real=real)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def _namespace(trace: _Trace) -> dict[str, Any]:
    """The globals in which the wrapper runs: its imports give stand-ins."""
    anything = _Anything()  # checks of sizes and alignment, memory of other devices
    guards = _Over(anything, _empty_strided_cpu=trace.empty, _reinterpret_tensor=trace.reinterpret)
    ops = _Names(trace, (), torch.ops)
    stand_in = _Over(torch, ops=ops, _C=_Over(anything, _dynamo=_Over(anything, guards=guards)))
    compiler = types.SimpleNamespace(
        cpp_pybinding=lambda kinds, source, *_, **__: trace.kernel(kinds, source), wait=lambda _: None
    )
    extern = _Names(trace, (), torch)

    def importer(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        if name == "torch":
            return stand_in
        if name.startswith("torch."):
            return _Over(anything, AsyncCompile=lambda: compiler, extern_kernels=extern)
        return builtins.__import__(name, globals, locals, fromlist, level)

    return {"__builtins__": {**vars(builtins), "__import__": importer}, **trace.named_constants}


class _Anything:
    """A name that the wrapper binds and whose results it does not use."""

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self


# -- inductor -----------------------------------------------------------------------------------------------------


def prepared() -> None:
    """Imports the compiler, without the warnings of its parts about one another."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch._inductor.compile_fx  # noqa: F401


def isa() -> Any:
    """The vector instructions that kernels are written for: what the processor has, without trying the compiler on each."""
    prepared()
    from torch._inductor import config, cpu_vec_isa

    with config.patch(_known({"cpp.vec_isa_ok": True})), patches.applied():
        return cpu_vec_isa.pick_vec_isa()


def _known(options: dict[str, Any]) -> dict[str, Any]:
    """The options that the installed inductor has."""
    from torch._inductor import config

    names = config.get_config_copy() if hasattr(config, "get_config_copy") else config.shallow_copy_dict()
    return {name: value for name, value in options.items() if name in names}


def _decompositions() -> dict[Any, Any]:
    """Inductor's, where SiLU is made of the sigmoid, as its derivative is: together they take one exponential, not two."""
    from torch._inductor.decomposition import select_decomp_table

    def silu(x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)

    return {**select_decomp_table(), aten.silu.default: silu}


def lower(
    nodes: list[torch.fx.Node],
    inputs: list[tuple[torch.fx.Node, Buffer]],
    outputs: list[torch.fx.Node],
    numbers: itertools.count[int],
    fake_mode: Any,
) -> tuple[list[Call], list[Buffer], list[tuple[int, Tensor]]]:
    """Kernels and calls for some nodes of a graph.

    Args:
        nodes: operators in order, without loops.
        inputs: what they read that they do not make, and where it is.
        outputs: which of them are wanted.
        numbers: gives names to blocks of memory.
        fake_mode: of the values of the nodes.

    Returns:
        The steps; where the outputs are; the constants that came up, by block.
    """
    prepared()
    table = _decompositions()
    recorder = Recorder(fake_mode, None, table)
    places: dict[torch.fx.Node, Any] = {}
    examples = []
    for node, buffer in inputs:
        like = node.meta["val"]
        places[node] = recorder.add_input(like, buffer.strides)
        examples.append(places[node])
    with fake_mode, recorder:
        for node in nodes:
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda argument: places[argument])
            # strides may be others than they were in the trace
            target: Any = aten.reshape.default if node.target is aten.view.default else node.target
            places[node] = target(*args, **kwargs)
        # results are in the order of memory of their shapes, and no input or other result
        values, seen = [], {id(example) for example in examples}
        for node in outputs:
            value = places[node]
            if id(value) in seen or not value.is_contiguous() or value.untyped_storage()._cdata in _storages(examples):
                value = value.clone(memory_format=torch.contiguous_format)
            seen.add(id(value))
            values.append(value)
    graph = recorder.finish(values).graph
    improve(graph)
    try:
        source, constants = _generate(graph, examples, fake_mode, table)
    except Exception:
        # inductor has faults of its own (2.13): in vector code, a scatter into an axis of length 1; where it computes
        # with constants, the larger of NaN and another number
        plain = {"cpp.simdlen": 1, "constant_and_index_propagation": False}
        source, constants = _generate(graph, examples, fake_mode, table, plain)
    trace = _Trace(numbers, fake_mode, constants)
    namespace = _namespace(trace)
    exec(compile(source, "<inductor>", "exec"), namespace)
    stands = []
    for _, buffer in inputs:
        block = _Block(trace, buffer.block, is_owned=False)
        stands.append(_Stand(block, buffer.shape, buffer.strides, buffer.offset, buffer.dtype))
    results = namespace["call"](list(stands))
    trace.is_running = False
    captured = recorder.captured
    if captured:
        raise RuntimeError("a part of a graph reads what it was not given")
    return trace.steps, [stand.buffer for stand in results], trace.constants


def _storages(tensors: list[Tensor]) -> set[int]:
    return {tensor.untyped_storage()._cdata for tensor in tensors}


def _generate(
    graph: torch.fx.Graph,
    examples: list[Tensor],
    fake_mode: Any,
    table: dict[Any, Any],
    others: dict[str, Any] | None = None,
) -> tuple[str, Any]:
    """Inductor's Python wrapper, kernels included, as text; and its constants by name."""
    from torch._inductor import config
    from torch._inductor.debug import DebugContext
    from torch._inductor.graph import GraphLowering
    from torch._inductor.virtualized import V

    isa()
    num_threads = max(2, torch.get_num_threads())
    options = {
        "cpp_wrapper": False,
        "cpp.min_chunk_size": SHARED_FROM // num_threads,
        "cpp.threads": num_threads,
        "cpp.dynamic_threads": False,
        "cpp.vec_isa_ok": True,
        "cpp.descriptive_names": False,
        "size_asserts": False,
        "alignment_asserts": False,
        "memory_planning": False,
        "max_autotune": False,
        "graph_partition": False,
        "freezing": False,
        **({"constant_and_index_propagation": False} if formulas_overflow(graph) else {}),
        **(others or {}),
    }
    end = graph.output_node()
    values = [node.meta["val"] for node in results_of(graph)]
    end.meta["user_visible_output_idxs"] = list(
        range(len(values))
    )  # results lie in memory in the order of their shapes
    end.meta["original_output_strides"] = [contiguous_strides(value.shape) for value in values]
    module = torch.fx.GraphModule({}, graph)
    extra: dict[str, Any] = (
        {"get_decomp_fn": lambda: table} if "get_decomp_fn" in inspect.signature(GraphLowering).parameters else {}
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(config.patch(_known(options)))
        stack.enter_context(V.set_fake_mode(fake_mode))
        stack.enter_context(DebugContext())
        stack.enter_context(patches.applied())
        lowering: Any = GraphLowering(module, example_inputs=examples, is_inference=True, **extra)
        stack.enter_context(V.set_graph_handler(lowering))
        stack.enter_context(V.set_extern_kernel_nodes([]))
        lowering.run(*examples)
        code = lowering.codegen()[0]
    return getattr(code, "value", code), lowering.constants
