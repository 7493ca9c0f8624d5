"""One C++ translation unit for a whole recorded function: kernels, loops, and memory that is laid out before it runs.

Loops are C++ loops over pointers. A carry alternates between two buffers, the slices of what a scan goes over and the places of
what it stacks are pointers that move on, and all memory in between is one block whose layout is known beforehand: nothing is
allocated, copied or asked for in an iteration.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch

from . import products
from .graphs import results_of, scan_loop
from .layout import (
    C_TYPES,
    Arena,
    Buffer,
    Call,
    braces,
    contiguous_strides,
    is_contiguous,
    item_size,
    num_elements,
    span,
)
from .segments import lower
from .stages import last_uses, stages_of

__all__ = ["Writer"]


class Writer:
    def __init__(self, fake_mode: Any, kernels: dict[str, str], operators: list[tuple[str, Any, Any]]) -> None:
        self.fake_mode, self.kernels, self.operators = fake_mode, kernels, operators
        self.lines: list[str] = []
        self.constants: list[torch.Tensor] = []
        self.arena = Arena()
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
        kind = dtype or C_TYPES[buffer.dtype]
        offset = f" + {buffer.offset}" if buffer.offset else ""
        return f"(({kind}*){base}{offset})"

    def block_at(self, expression: str, shape: Any, dtype: torch.dtype) -> Buffer:
        """A contiguous tensor at a pointer."""
        number = next(self.numbers)
        self.base[number] = expression
        return Buffer(number, tuple(shape), contiguous_strides(shape), 0, dtype)

    def new(self, shape: Any, dtype: torch.dtype) -> Buffer:
        """A contiguous tensor in the arena."""
        buffer = self.block_at("", shape, dtype)
        self.allocate(buffer)
        return buffer

    def allocate(self, buffer: Buffer) -> None:
        place = self.arena.take(span(buffer) * item_size(buffer.dtype))
        self.places[buffer.block] = place
        self.base[buffer.block] = f"(arena + {place[0]})"

    def release(self, block: int) -> None:
        if block in self.places:
            self.arena.give(self.places.pop(block))

    def copy(self, source: Buffer, target: str) -> None:
        """Writes a tensor, whatever its strides, in the order of its shape."""
        if is_contiguous(source):
            num_bytes = num_elements(source.shape) * item_size(source.dtype)
            self.write(f"std::memcpy({target}, {self.pointer(source)}, {num_bytes});")
            return
        kind = f"int{8 * item_size(source.dtype)}_t"
        shape, strides = braces(source.shape), braces(source.strides)
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
        outputs = results_of(graph)
        wanted: dict[torch.fx.Node, str] = {}
        for node, target in zip(outputs, targets, strict=True):
            if target is not None and node not in wanted:
                wanted[node] = target
        stages, loops, stage_of = stages_of(graph)
        last_use = last_uses(graph, stage_of, loops)
        for stage in range(len(stages)):
            self._segment(stages[stage], stage, values, wanted, set(outputs), stage_of, loops)
            if stage < len(loops):
                self._loop(loops[stage], values, wanted, dynamic)
            self._release_after(stage, values, last_use, outputs)
        results = []
        for node, target in zip(outputs, targets, strict=True):
            buffer = values[node]
            if target is not None and self.base[buffer.block] != target:
                self.copy(buffer, target)
                buffer = self.block_at(target, buffer.shape, buffer.dtype)
            results.append(buffer)
        return results

    def _release_after(
        self,
        stage: int,
        values: dict[torch.fx.Node, Buffer],
        last_use: dict[torch.fx.Node, int],
        outputs: list[torch.fx.Node],
    ) -> None:
        """Gives back the memory that nobody reads after this stage."""
        needed = {values[node].block for node in values if node in outputs or last_use.get(node, stage + 1) > stage}
        for block in {values[node].block for node in values} - needed:
            self.release(block)

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
        allocated = {step.args[0].block: span(step.args[0]) for step in steps if step.kind == "alloc"}
        for node, buffer in zip(results, buffers, strict=True):
            values[node] = buffer
            is_whole = (
                allocated.get(buffer.block) == span(buffer) and buffer.block not in self.base and buffer.offset == 0
            )
            if node in wanted and is_whole and is_contiguous(buffer):
                self.base[buffer.block] = wanted[node]
        for step in steps:
            self._step(step)
        for node in results:
            if not is_contiguous(values[node]):  # whoever reads it next goes by the order of its shape
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
        self.write(
            f"{{ char* p_[] = {{{pointers}}}; const Threads shared(INT64_MAX); if (operate({index}, p_)) return 1; }}"
        )

    # -- loops ---------------------------------------------------------------------------------------------------

    def _loop(
        self, node: Any, values: dict[torch.fx.Node, Buffer], wanted: dict[torch.fx.Node, str], dynamic: bool
    ) -> list[torch.fx.Node]:
        parts = {user.args[1]: user for user in node.users}
        init_nodes = node.args[1]
        init = [values[n] for n in init_nodes]
        bodies, count = node.meta["bodies"], len(init)
        body = bodies[-1]
        body_inputs = [n for n in body.nodes if n.op == "placeholder"]
        body_outputs = results_of(body)
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
            xs.append((name, self.pointer(buffer), num_elements(shape) * item_size(buffer.dtype)))
            carried.append(self.block_at(name, shape, buffer.dtype))
        carried.extend(values[n] for n in captured_nodes[0])
        for index, out in enumerate(results_of(body)[count:], start=count):
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
                num_bytes = num_elements(results[index].shape) * item_size(results[index].dtype)
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
            num_bytes = num_elements(results[index].shape) * item_size(results[index].dtype)
            result = self.base[results[index].block]
            self.write(f"if ({read[index]} != {result}) std::memcpy({result}, {read[index]}, {num_bytes});")
