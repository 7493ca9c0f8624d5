"""One C++ text for recorded functions, and what a caller must know of it."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import torch

from . import exponentials, products
from .driver import Writer
from .graphs import Body, results_of, scan_loop

__all__ = ["INCLUDE", "Entry", "Part", "Plan", "make_plan"]


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
        flags: for the C++ compiler.
    """

    source: str
    entries: list[Entry]
    operators: list[tuple[str, Any, Any]]
    flags: tuple[str, ...] = ()


class Part(NamedTuple):
    """A recorded function that becomes an entry.

    Attributes:
        body: from :func:`~funcebm._torch.recorder.record`; what it captured is further inputs.
        fake_mode: of its values.
        is_dynamic: the function is one scan and nothing else, whose length comes with each call, as do how many iterations
            share a place in what it stacks, and whether that is kept: ``n = [length, every, 0 or 1, threads]``.
    """

    body: Body
    fake_mode: Any
    is_dynamic: bool


_HELPERS = r"""
#include <atomic>
#include <cstring>
#include <stdexcept>
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
_THREADS = re.compile(r"omp parallel num_threads\((\d+)\)")
# a kernel has room for the partial sums of as many threads as it was written for, and no more
_AS_MANY = r"omp parallel num_threads(threads < \1 ? threads : \1) if(threads > 1)"
_CHECK = re.compile(r"TORCH_CHECK\((.*), (\"[^\"]*\")\);")
_PRAGMA = re.compile(r"^ *#pragma omp .*\n", re.MULTILINE)
INCLUDE = "#include <torch/csrc/inductor/cpp_prefix.h>"


_INIT = r"""
extern "C" void funcebm_init(void** f) {
    draw = (draw_t)f[0]; operate = (operate_t)f[1];
    sgemm = (sgemm_t)f[2]; dgemm = (dgemm_t)f[3]; mkl_threads = (int (*)(int))f[4];
}
typedef int (*run_t)(char**, char**, const int64_t*, char*);
static const run_t runs[] = {RUNS};
extern "C" int funcebm_run(int entry, char** in, char** out, const int64_t* n, char* arena, char* error, int64_t room) {
    threads = n[3];
    const int before = mkl_threads ? mkl_threads(1) : -1;
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
        writer = Writer(part.fake_mode, kernels, operators)
        entries.append(_entry(writer, part))
        functions.append(f"static int run{index}(char** in, char** out, const int64_t* n, char* arena) {{")
        functions.extend(line.replace("{num_inputs}", str(_num_inputs(part))) for line in writer.lines)
        functions.append("    return 0;\n}")
    text = [INCLUDE, _HELPERS, products.HELPERS]
    named = {name: exponentials.inlined(source.replace(INCLUDE, "")) for source, name in kernels.items()}
    if any("funcebm::" in source for source in named.values()):
        text.append(exponentials.functions())
    for name, source in named.items():
        source = _THREADS.sub(_AS_MANY, _checked_after(source))
        text.append(_KERNEL_HEAD.sub(f"static void {name}(", source))
    text.extend(functions)
    text.append(_INIT.replace("RUNS", ", ".join(f"run{index}" for index in range(len(parts)))))
    return Plan("\n".join(text), entries, operators)


def _checked_after(source: str) -> str:
    """A kernel whose threads check indices: an error must not leave a thread, which would end the process."""
    if "omp parallel" not in source or not _CHECK.search(source):
        return source
    if not all(_is_in_loop(source[: check.start()]) for check in _CHECK.finditer(source)):
        return _PRAGMA.sub("", source)
    source = _CHECK.sub(r"if (!(\1)) { failed = \2; continue; }", source)
    start, end = source.index("{") + 1, source.rindex("}")
    after = "    if (failed) throw std::runtime_error(failed.load());\n"
    return f"{source[:start]}\n    std::atomic<const char*> failed{{nullptr}};{source[start:end]}{after}{source[end:]}"


def _is_in_loop(before: str) -> bool:
    """Whether the innermost block that is open at the end of a text, of loops and lambdas, is a loop."""
    num_closed = 0
    for place in range(len(before) - 1, -1, -1):
        if before[place] == "}":
            num_closed += 1
        elif before[place] == "{" and num_closed:
            num_closed -= 1
        elif before[place] == "{":
            head = before[:place].rstrip()
            if head.endswith("[&]"):
                return False
            if head.splitlines()[-1].lstrip().startswith("for"):
                return True
    return False


def _num_inputs(part: Part) -> int:
    return sum(node.op == "placeholder" for node in part.body.graph.nodes)


def _entry(writer: Writer, part: Part) -> Entry:
    graph = part.body.graph
    inputs = []
    for index, node in enumerate(node for node in graph.nodes if node.op == "placeholder"):
        inputs.append(writer.block_at(f"in[{index}]", node.meta["val"].shape, node.meta["val"].dtype))
    results = results_of(graph)
    writer.graph(graph, inputs, [f"out[{index}]" for index in range(len(results))], dynamic=part.is_dynamic)
    outputs = [(tuple(node.meta["val"].shape), node.meta["val"].dtype) for node in results]
    stacked = [False] * len(outputs)
    if part.is_dynamic:
        loop: Any = next(node for node in graph.nodes if node.target is scan_loop)
        parts: Any = results
        stacked = [node.args[1] >= len(loop.args[1]) for node in parts]
        outputs = [(shape[1:] if flag else shape, dtype) for (shape, dtype), flag in zip(outputs, stacked, strict=True)]
    return Entry(outputs, writer.arena.end, stacked, writer.constants)
