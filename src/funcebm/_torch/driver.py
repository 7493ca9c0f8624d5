"""One C++ translation unit for a whole recorded function: kernels, loops, and memory that is laid out before it runs.

Loops are C++ loops over pointers. A carry alternates between two buffers, the slices of what a scan goes over and the places of
what it stacks are pointers that move on, and all memory in between is one block whose layout is known beforehand: nothing is
allocated, copied or asked for in an iteration.
"""

from __future__ import annotations

import bisect
import itertools
import operator
import re
from typing import Any, NamedTuple

import torch

from . import products
from .lowering import Buffer, Call, lower
from .recorder import Body, scan_loop, while_loop

__all__ = ["INCLUDE", "Entry", "Part", "Plan", "make_plan", "stages_of"]

_C_TYPES = {
    torch.bool: "bool",
    torch.uint8: "uint8_t",
    torch.int8: "int8_t",
    torch.int16: "int16_t",
    torch.int32: "int32_t",
    torch.int64: "int64_t",
    torch.float16: "c10::Half",
    torch.bfloat16: "c10::BFloat16",
    torch.float32: "float",
    torch.float64: "double",
}
_ALIGN = 64


class Entry(NamedTuple):
    """One function of a plan.

    Attributes:
        outputs: shape and dtype of each output; what the outermost loop stacks has no leading axis here.
        arena: bytes of memory that a call needs.
        stacked: which outputs the outermost loop stacks, where its length is an argument.
        constants: tensors that are further inputs, after those of the function.
    """

    outputs: list[tuple[tuple[int, ...], torch.dtype]]
    arena: int
    stacked: list[bool]
    constants: list[torch.Tensor]


class Plan(NamedTuple):
    """Compiled functions before they are compiled; plain data, which is kept on disk.

    Attributes:
        source: the C++ text.
        entries: its functions, which share kernels and are compiled together.
        operators: calls of operators that have no kernel, ``(name, args, outs)``.
    """

    source: str
    entries: list[Entry]
    operators: list[tuple[str, Any, Any]]


class Part(NamedTuple):
    """A recorded function that becomes an entry.

    Attributes:
        body: from :func:`recorder.record`; what it captured is further inputs.
        fake_mode: of its values.
        is_dynamic: the function is one scan and nothing else, whose length comes with each call, as do how many iterations
            share a place in what it stacks, and whether that is kept: ``n = [length, every, 0 or 1, threads]``.
    """

    body: Body
    fake_mode: Any
    is_dynamic: bool


class _Arena:
    """Places in one block of memory: first fit, with neighbours merged when they are free again."""

    def __init__(self) -> None:
        self.free: list[tuple[int, int]] = []  # (start, size), sorted
        self.end = 0

    def take(self, size: int) -> tuple[int, int]:
        size = max(-(-size // _ALIGN) * _ALIGN, _ALIGN)
        for index, (start, length) in enumerate(self.free):
            if length >= size:
                self.free[index : index + 1] = [(start + size, length - size)] if length > size else []
                return start, size
        if self.free and sum(self.free[-1]) == self.end:  # grow the last one
            start, _ = self.free.pop()
        else:
            start = self.end
        self.end = start + size
        return start, size

    def give(self, place: tuple[int, int]) -> None:
        index = bisect.bisect(self.free, place)
        self.free.insert(index, place)
        merged: list[tuple[int, int]] = []
        for start, size in self.free:
            if merged and sum(merged[-1]) == start:
                merged[-1] = (merged[-1][0], merged[-1][1] + size)
            else:
                merged.append((start, size))
        self.free = merged


class _Writer:
    def __init__(self, fake_mode: Any, kernels: dict[str, str], operators: list[tuple[str, Any, Any]]) -> None:
        self.fake_mode, self.kernels, self.operators = fake_mode, kernels, operators
        self.lines: list[str] = []
        self.constants: list[torch.Tensor] = []
        self.arena = _Arena()
        self.numbers = itertools.count()
        self.base: dict[int, str] = {}  # the C++ expression of a block
        self.places: dict[int, tuple[int, int]] = {}  # of blocks in the arena
        self.names = itertools.count()
        self.indent = 1

    # -- text ----------------------------------------------------------------------------------------------------

    def write(self, line: str) -> None:
        self.lines.append("    " * self.indent + line)

    def variable(self, prefix: str) -> str:
        return f"{prefix}{next(self.names)}"

    def pointer(self, buffer: Buffer, dtype: str | None = None) -> str:
        base = self.base[buffer.block]
        kind = dtype or _C_TYPES[buffer.dtype]
        offset = f" + {buffer.offset}" if buffer.offset else ""
        return f"(({kind}*){base}{offset})"

    def block_at(self, expression: str, shape: Any, dtype: torch.dtype) -> Buffer:
        """A contiguous tensor at a pointer."""
        number = next(self.numbers)
        self.base[number] = expression
        return Buffer(number, tuple(shape), _strides(shape), 0, dtype)

    def new(self, shape: Any, dtype: torch.dtype) -> Buffer:
        """A contiguous tensor in the arena."""
        buffer = self.block_at("", shape, dtype)
        self.allocate(buffer)
        return buffer

    def allocate(self, buffer: Buffer) -> None:
        place = self.arena.take(_span(buffer) * _size(buffer.dtype))
        self.places[buffer.block] = place
        self.base[buffer.block] = f"(arena + {place[0]})"

    def release(self, block: int) -> None:
        if block in self.places:
            self.arena.give(self.places.pop(block))

    def copy(self, source: Buffer, target: str) -> None:
        """Writes a tensor, whatever its strides, in the order of its shape."""
        if _is_contiguous(source):
            num_bytes = _numel(source.shape) * _size(source.dtype)
            self.write(f"std::memcpy({target}, {self.pointer(source)}, {num_bytes});")
            return
        kind = f"int{8 * _size(source.dtype)}_t"
        shape, strides = _braces(source.shape), _braces(source.strides)
        self.write(
            f"{{ const int64_t s_[] = {shape}, t_[] = {strides}; "
            f"copy_strided<{kind}>(({kind}*){target}, {self.pointer(source, kind)}, {len(source.shape)}, s_, t_); }}"
        )

    # -- graphs --------------------------------------------------------------------------------------------------

    def graph(
        self, graph: torch.fx.Graph, inputs: list[Buffer], targets: list[str | None], dynamic: bool = False
    ) -> list[Buffer]:
        """Code for a graph; each output is written to its target, where there is one.

        Returns:
            Where the outputs are.
        """
        values: dict[torch.fx.Node, Buffer] = {}
        placeholders = [node for node in graph.nodes if node.op == "placeholder"]
        values.update(zip(placeholders, inputs, strict=True))
        outputs = list(graph.output_node().args[0])
        wanted: dict[torch.fx.Node, str] = {}
        for node, target in zip(outputs, targets, strict=True):
            if target is not None and node not in wanted:
                wanted[node] = target
        stages, loops, stage_of = stages_of(graph)
        last_use = _last_uses(graph, stage_of, loops)
        for stage in range(len(stages)):
            made = self._segment(stages[stage], stage, values, wanted, set(outputs), stage_of, loops)
            if stage < len(loops):
                made += self._loop(loops[stage], values, wanted, dynamic)
            for node in [node for node in values if last_use.get(node) == stage and node not in outputs]:
                block = values[node].block
                if not any(
                    other is not node and values[other].block == block and last_use.get(other, 0) > stage
                    for other in values
                ):
                    if not any(values[out].block == block for out in outputs if out in values):
                        self.release(block)
        results = []
        for node, target in zip(outputs, targets, strict=True):
            buffer = values[node]
            if target is not None and self.base[buffer.block] != target:
                self.copy(buffer, target)
                buffer = self.block_at(target, buffer.shape, buffer.dtype)
            results.append(buffer)
        return results

    def _segment(
        self,
        nodes: list[torch.fx.Node],
        stage: int,
        values: dict[torch.fx.Node, Buffer],
        wanted: dict[torch.fx.Node, str],
        outputs: set[torch.fx.Node],
        stage_of: dict[torch.fx.Node, int],
        loops: list[torch.fx.Node],
    ) -> list[torch.fx.Node]:
        inside = set(nodes)
        results = [
            node
            for node in nodes
            if isinstance(node.meta.get("val"), torch.Tensor)
            and (node in outputs or any(user not in inside for user in node.users))
        ]
        if not results:
            return []
        read: dict[torch.fx.Node, Buffer] = {}
        for node in nodes:
            for argument in node.all_input_nodes:
                if argument not in inside:
                    read[argument] = values[argument]
        steps, buffers, constants = lower(nodes, list(read.items()), results, self.numbers, self.fake_mode)
        for block, value in constants:
            self.base[block] = f"in[{{num_inputs}} + {len(self.constants)}]"
            self.constants.append(value)
        allocated = {step.args[0].block: _span(step.args[0]) for step in steps if step.kind == "alloc"}
        for node, buffer in zip(results, buffers, strict=True):
            values[node] = buffer
            is_whole = (
                allocated.get(buffer.block) == _span(buffer) and buffer.block not in self.base and buffer.offset == 0
            )
            if node in wanted and is_whole and _is_contiguous(buffer):
                self.base[buffer.block] = wanted[node]
        for step in steps:
            self._step(step)
        for node in results:
            if not _is_contiguous(values[node]):  # whoever reads it next goes by the order of its shape
                ordered = self.new(values[node].shape, values[node].dtype)
                self.copy(values[node], self.base[ordered.block])
                values[node] = ordered
        return results

    def _step(self, step: Call) -> None:
        if step.kind == "alloc":
            if step.args[0].block not in self.base:
                self.allocate(step.args[0])
        elif step.kind == "free":
            self.release(step.args[0])
        elif step.kind == "kernel":
            self._kernel(step)
        elif step.kind == "draw":
            self._draw(step)
        elif step.kind == "product" and (lines := products.product(self, step)):
            for line in lines:
                self.write(line)
        else:
            self._operator(step)

    def _kernel(self, step: Call) -> None:
        if step.name not in self.kernels:
            self.kernels[step.name] = f"kernel{len(self.kernels)}"
        args = [f"({kind}){self.pointer(arg)}" if isinstance(arg, Buffer) else str(arg) for kind, arg in step.args]
        self.write(f"{self.kernels[step.name]}({', '.join(args)});")

    def _draw(self, step: Call) -> None:
        (key, counter, domain, kind), _ = step.args
        out = step.outs[0]
        assert out is not None
        row = counter.strides[0] if counter.shape[0] > 1 else 0
        numbers = [kind, key.shape[0], counter.shape[1]]
        args = [
            *map(str, numbers),
            self.pointer(key),
            *map(str, key.strides),
            self.pointer(counter),
            str(row),
            str(counter.strides[1]),
            str(domain),
            self.pointer(out),
            *map(str, out.strides),
            "threads",
        ]
        self.write(f"draw({', '.join(args)});")

    def _operator(self, step: Call) -> None:
        buffers: list[Buffer] = []

        def number(value: Any) -> Any:
            if isinstance(value, Buffer):
                buffers.append(value)
                return value._replace(block=len(buffers) - 1)
            if isinstance(value, (tuple, list)):
                return type(value)([number(part) for part in value])
            if isinstance(value, dict):
                return {name: number(part) for name, part in value.items()}
            return value

        args = number(step.args)
        outs = tuple(None if out is None else number(out) for out in step.outs)
        pointers = ", ".join(f"(char*){self.base[buffer.block]}" for buffer in buffers)
        index = len(self.operators)
        self.operators.append((step.name, args, outs))
        self.write(f"{{ char* p_[] = {{{pointers}}}; if (operate({index}, p_)) return 1; }}")

    # -- loops ---------------------------------------------------------------------------------------------------

    def _loop(
        self, node: torch.fx.Node, values: dict[torch.fx.Node, Buffer], wanted: dict[torch.fx.Node, str], dynamic: bool
    ) -> list[torch.fx.Node]:
        parts = {user.args[1]: user for user in node.users}
        _, init_nodes, x_nodes, captured_nodes = node.args
        init = [values[n] for n in init_nodes]
        bodies, count = node.meta["bodies"], len(init)
        body = bodies[-1]
        body_inputs = [n for n in body.nodes if n.op == "placeholder"]
        body_outputs = list(body.output_node().args[0])
        is_fixed = [body_outputs[index] is body_inputs[index] for index in range(count)]
        results: list[Buffer] = []
        for index in range(count):
            if is_fixed[index]:
                results.append(init[index])
            elif index in parts and parts[index] in wanted:
                results.append(self.block_at(wanted[parts[index]], init[index].shape, init[index].dtype))
            else:
                results.append(self.new(init[index].shape, init[index].dtype))
        others = [None if is_fixed[index] else self.new(init[index].shape, init[index].dtype) for index in range(count)]
        moving = [index for index in range(count) if not is_fixed[index]]
        read = {index: self.variable("c") for index in moving}
        write = {index: self.variable("d") for index in moving}
        carried = [
            init[index] if is_fixed[index] else self.block_at(read[index], init[index].shape, init[index].dtype)
            for index in range(count)
        ]
        self.write("{")
        self.indent += 1
        for index in moving:
            self.write(f"char* {read[index]} = (char*){self.pointer(init[index])};")
        step = self.variable("t")
        if node.target is scan_loop:
            self._scan(node, values, wanted, dynamic, parts, results, others, moving, read, write, carried, step)
        else:
            self._while(node, values, results, others, moving, read, write, carried, step)
        self.indent -= 1
        self.write("}")
        for other in others:
            if other is not None:
                self.release(other.block)
        for index in range(count):
            if index in parts:
                values[parts[index]] = results[index]
            elif not is_fixed[index]:
                self.release(results[index].block)
        return list(parts.values())

    def _scan(
        self, node: Any, values: Any, wanted: Any, dynamic: bool, parts: Any, results: Any, others: Any,
        moving: Any, read: Any, write: Any, carried: Any, step: str,
    ) -> None:  # fmt: skip
        _, init_nodes, x_nodes, captured_nodes = node.args
        count, body = len(init_nodes), node.meta["bodies"][0]
        length = "n[0]" if dynamic else str(node.meta["length"])
        xs, ys, targets = [], [], []
        for x_node in x_nodes:
            buffer, name = values[x_node], self.variable("x")
            shape = buffer.shape[1:]
            xs.append((name, self.pointer(buffer), _numel(shape) * _size(buffer.dtype)))
            carried.append(self.block_at(name, shape, buffer.dtype))
        carried.extend(values[n] for n in captured_nodes[0])
        for index, out in enumerate(list(body.output_node().args[0])[count:], start=count):
            value, name = out.meta["val"], self.variable("y")
            part = parts.get(index)
            num_bytes = value.numel() * value.element_size()
            if part is None:  # nobody reads it: one place for all of its values
                place = self.new(value.shape, value.dtype)
                ys.append((name, self.base[place.block], 0))
            else:
                shape = (node.meta["length"], *value.shape)
                stacked = (
                    self.block_at(wanted[part], shape, value.dtype) if part in wanted else self.new(shape, value.dtype)
                )
                values[part] = stacked
                ys.append((name, self.base[stacked.block], num_bytes))
            targets.append(name)
        self.write(f"for (int64_t {step} = 0; {step} < {length}; ++{step}) {{")
        self.indent += 1
        for index in moving:
            other, result = self.base[others[index].block], self.base[results[index].block]
            self.write(f"char* {write[index]} = (({length} - 1 - {step}) & 1) ? {other} : {result};")
        for name, base, num_bytes in xs:
            self.write(f"char* {name} = (char*){base} + {step} * {num_bytes};")
        for name, base, num_bytes in ys:
            at = f"({step} / n[1]) * n[2] * {num_bytes}" if dynamic else f"{step} * {num_bytes}"
            self.write(f"char* {name} = {base} + {at};")
        places: list[str | None] = [write.get(index) for index in range(count)]
        self.graph(body, carried, [*places, *targets])
        for index in moving:
            self.write(f"{read[index]} = {write[index]};")
        self.indent -= 1
        self.write("}")
        if dynamic or node.meta["length"] == 0:
            for index in moving:
                num_bytes = _numel(results[index].shape) * _size(results[index].dtype)
                result = self.base[results[index].block]
                self.write(f"if ({length} == 0) std::memcpy({result}, {read[index]}, {num_bytes});")

    def _while(
        self,
        node: Any,
        values: Any,
        results: Any,
        others: Any,
        moving: Any,
        read: Any,
        write: Any,
        carried: Any,
        step: str,
    ) -> None:
        condition, body = node.meta["bodies"]
        for_condition, for_body = node.args[3]
        flag = self.new((), torch.bool)
        self.write(f"for (int64_t {step} = 0;; ++{step}) {{")
        self.indent += 1
        name = self.base[flag.block]
        self.graph(condition, [*carried, *(values[n] for n in for_condition)], [name])
        self.write(f"if (!*(bool*){name}) break;")
        for index in moving:
            other, result = self.base[others[index].block], self.base[results[index].block]
            self.write(f"char* {write[index]} = ({step} & 1) ? {other} : {result};")
        count = len(carried)
        self.graph(body, [*carried, *(values[n] for n in for_body)], [write.get(index) for index in range(count)])
        for index in moving:
            self.write(f"{read[index]} = {write[index]};")
        self.indent -= 1
        self.write("}")
        self.release(flag.block)
        for index in moving:
            num_bytes = _numel(results[index].shape) * _size(results[index].dtype)
            result = self.base[results[index].block]
            self.write(f"if ({read[index]} != {result}) std::memcpy({result}, {read[index]}, {num_bytes});")


def stages_of(graph: torch.fx.Graph) -> tuple[list[list[torch.fx.Node]], list[torch.fx.Node], dict[torch.fx.Node, int]]:
    """Operators before the first loop, between the loops, after the last: each as late as those who read it allow."""
    loops = [node for node in graph.nodes if node.target in (scan_loop, while_loop)]
    index = {node: place for place, node in enumerate(loops)}
    earliest: dict[torch.fx.Node, int] = {}
    for node in graph.nodes:
        if node in index:
            earliest[node] = index[node]
        elif node.all_input_nodes and node.all_input_nodes[0] in index:  # a part of a loop's results
            earliest[node] = index[node.all_input_nodes[0]] + 1
        else:
            earliest[node] = max((earliest[n] for n in node.all_input_nodes), default=0)
    stage_of: dict[torch.fx.Node, int] = {}
    for node in reversed(graph.nodes):
        if node.op in ("placeholder", "output") or node in index:
            stage_of[node] = len(loops) if node.op == "output" else earliest[node]
        elif node.all_input_nodes and node.all_input_nodes[0] in index:
            stage_of[node] = earliest[node]
        else:
            users = [len(loops) if user.op == "output" else stage_of[user] for user in node.users]
            stage_of[node] = max(min(users, default=earliest[node]), earliest[node])
    for node in graph.nodes:  # a part of several results is where they are
        if node.target is operator.getitem and node.args[0] not in index:
            stage_of[node] = stage_of[node.args[0]]
    stages: list[list[torch.fx.Node]] = [[] for _ in range(len(loops) + 1)]
    for node in graph.nodes:
        is_part = bool(node.all_input_nodes) and node.all_input_nodes[0] in index
        if node.op == "call_function" and node not in index and not is_part:
            stages[stage_of[node]].append(node)
    return stages, loops, stage_of


def _last_uses(
    graph: torch.fx.Graph, stage_of: dict[torch.fx.Node, int], loops: list[torch.fx.Node]
) -> dict[torch.fx.Node, int]:
    """The stage after which nobody reads a value; inputs are not ours to give back."""
    last: dict[torch.fx.Node, int] = {}
    for node in graph.nodes:
        if node.op == "call_function":
            last[node] = max([stage_of[node], *(stage_of[user] for user in node.users)])
    return last


def _strides(shape: Any) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(tuple(shape)):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _is_contiguous(buffer: Buffer) -> bool:
    ordered = _strides(buffer.shape)
    return all(
        size <= 1 or step == wanted for size, step, wanted in zip(buffer.shape, buffer.strides, ordered, strict=True)
    )


def _numel(shape: Any) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def _span(buffer: Buffer) -> int:
    """How many elements lie between the first and the last, both included."""
    if 0 in buffer.shape:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(buffer.shape, buffer.strides, strict=True))


def _size(dtype: torch.dtype) -> int:
    return dtype.itemsize if hasattr(dtype, "itemsize") else torch.empty((), dtype=dtype).element_size()


def _braces(numbers: Any) -> str:
    return "{" + ", ".join(map(str, numbers)) + "}"


_HELPERS = r"""
#include <cstring>
template <typename T>
static void copy_strided(T* to, const T* from, int dims, const int64_t* shape, const int64_t* strides) {
    if (dims == 0) { *to = *from; return; }
    int64_t inner = 1;
    for (int d = 1; d < dims; ++d) inner *= shape[d];
    for (int64_t i = 0; i < shape[0]; ++i) copy_strided(to + i * inner, from + i * strides[0], dims - 1, shape + 1, strides + 1);
}
typedef void (*draw_t)(int, int64_t, int64_t, const int32_t*, int64_t, int64_t, const int32_t*, int64_t, int64_t, int32_t, void*,
                       int64_t, int64_t, int64_t, int);
typedef int (*operate_t)(int, char**);
static draw_t draw;
static int (*mkl_threads)(int);
static thread_local int threads;
static operate_t operate;
"""

_KERNEL_HEAD = re.compile(r'extern "C"\s+void\s+kernel\(')
_THREADS = re.compile(r"omp parallel num_threads\(\d+\)")
INCLUDE = "#include <torch/csrc/inductor/cpp_prefix.h>"


_INIT = r"""
extern "C" void funcebm_init(void** f) {
    draw = (draw_t)f[0]; operate = (operate_t)f[1]; sgemm = (sgemm_t)f[2]; dgemm = (dgemm_t)f[3]; mkl_threads = (int (*)(int))f[4];
}
typedef int (*run_t)(char**, char**, const int64_t*, char*);
static const run_t runs[] = {RUNS};
extern "C" int funcebm_run(int entry, char** in, char** out, const int64_t* n, char* arena, char* error, int64_t room) {
    threads = n[3];
    const int before = threads == 1 && mkl_threads ? mkl_threads(1) : -1;
    int status = 2;
    try { status = runs[entry](in, out, n, arena); }
    catch (const std::exception& e) { std::strncpy(error, e.what(), room - 1); }
    if (before >= 0) mkl_threads(before);
    return status;
}
"""


def make_plan(parts: list[Part]) -> Plan:
    """The C++ of recorded functions, in one text."""
    kernels: dict[str, str] = {}
    operators: list[tuple[str, Any, Any]] = []
    entries, functions = [], []
    for index, part in enumerate(parts):
        writer = _Writer(part.fake_mode, kernels, operators)
        entries.append(_entry(writer, part))
        functions.append(f"static int run{index}(char** in, char** out, const int64_t* n, char* arena) {{")
        functions.extend(line.replace("{num_inputs}", str(_num_inputs(part))) for line in writer.lines)
        functions.append("    return 0;\n}")
    text = [INCLUDE, _HELPERS, products.HELPERS]
    for source, name in kernels.items():
        source = _THREADS.sub("omp parallel num_threads(threads) if(threads > 1)", source.replace(INCLUDE, ""))
        text.append(_KERNEL_HEAD.sub(f"static void {name}(", source))
    text.extend(functions)
    text.append(_INIT.replace("RUNS", ", ".join(f"run{index}" for index in range(len(parts)))))
    return Plan("\n".join(text), entries, operators)


def _num_inputs(part: Part) -> int:
    return sum(node.op == "placeholder" for node in part.body.graph.nodes)


def _entry(writer: _Writer, part: Part) -> Entry:
    graph = part.body.graph
    inputs = []
    for index, node in enumerate(node for node in graph.nodes if node.op == "placeholder"):
        inputs.append(writer.block_at(f"in[{index}]", node.meta["val"].shape, node.meta["val"].dtype))
    results = list(graph.output_node().args[0])
    writer.graph(graph, inputs, [f"out[{index}]" for index in range(len(results))], dynamic=part.is_dynamic)
    outputs = [(tuple(node.meta["val"].shape), node.meta["val"].dtype) for node in results]
    stacked = [False] * len(outputs)
    if part.is_dynamic:
        loop = next(node for node in graph.nodes if node.target is scan_loop)
        stacked = [node.args[1] >= len(loop.args[1]) for node in results]
        outputs = [(shape[1:] if flag else shape, dtype) for (shape, dtype), flag in zip(outputs, stacked, strict=True)]
    return Entry(outputs, writer.arena.end, stacked, writer.constants)
