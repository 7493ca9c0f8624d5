"""``jit``, the only caller of ``torch.compile``. With ``compiler_repairs`` the only module that imports torch's compiler."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shutil
import sysconfig
import types
import warnings
from typing import Any, Callable, Iterator

import torch

from . import compiler_repairs, cuda_graphs, loops, random, tree
from .cuda_graphs import use_cuda_graphs

__all__ = ["can_compile", "dynamic_axis", "jit", "jit_once", "use_cuda_graphs"]

_SCAN_NAMES = ("torch._higher_order_ops.scan.scan", "torch.ops.higher_order.scan")


@functools.cache
def _why_eager() -> str | None:
    """What this installation lacks for compiled chains, or None. Features are looked for, versions never compared."""
    if not hasattr(torch, "compile") or not loops.has_scan:
        return "this torch has no compiled scan"
    if not hasattr(torch.library, "custom_op") or not hasattr(torch.library, "register_vmap"):
        return "this torch has no custom operators under vmap"
    if importlib.util.find_spec("torch._inductor") is None:
        return "this torch has no inductor"
    compiler = os.environ.get("CXX", "").split(" ")[0] or "g++"
    if not torch.cuda.is_available() and not any(shutil.which(name) for name in (compiler, "clang++", "cl")):
        return "there is no C++ compiler (install g++, or name one in the environment variable CXX)"
    include = sysconfig.get_paths()["include"]
    if not os.path.exists(os.path.join(include, "Python.h")):
        return f"the Python headers are missing (no Python.h in {include}; install python3-dev)"
    return None


@functools.cache
def _why_untraceable() -> str | None:
    """What dynamo of this torch cannot trace of our loops over trees, or None. Asked late: it imports the compiler."""
    _prepare()

    def loop_over_tree(x: torch.Tensor) -> Any:
        return loops.fold(lambda carry, _: tree.map(torch.add, carry, carry), {"x": x}, x)

    try:
        with torch.no_grad():
            torch.compile(loop_over_tree, fullgraph=True, backend="eager")(torch.ones(2, 2))
    except Exception as error:
        return f"dynamo of this torch does not trace a scan over trees ({type(error).__name__}); torch 2.13 does"
    return None


@functools.cache
def _warn_once(why: str) -> None:
    warnings.warn(
        f"funcebm runs eagerly: {why}. Results are the same, chains are slower.", RuntimeWarning, stacklevel=3
    )


def can_compile() -> bool:
    """Whether :func:`jit` compiles here; if not, it warns once and runs eagerly."""
    return _why_eager() is None


def _options(device: str) -> dict[str, Any]:
    from torch._inductor import config

    # the wrapper drives the loops; compiled apart from the kernels, and less hard, it is ready in half the time
    in_cpp = device == "cpu" and compiler_repairs.drives_loops_in_cpp()
    options: dict[str, Any] = {"cpp_wrapper": in_cpp, "cpp_wrapper_build_separate": in_cpp}
    if hasattr(config, "unsafe_marked_cacheable_functions"):
        # without it, a graph with a scan is compiled anew in each process
        options["unsafe_marked_cacheable_functions"] = dict.fromkeys(_SCAN_NAMES, "1")
    options["post_grad_custom_post_pass"] = compiler_repairs.graph_pass()
    options["cpp.min_chunk_size"] = 4096  # a second thread for less costs more than it does
    return _known(options)


def _backend(device: str) -> Callable[..., Any]:
    """Inductor with our options."""
    options = _options(device)

    def compile_graph(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        from torch._inductor.compile_fx import compile_fx

        # inductor gives the memory that a loop in a loop closes over to others while that loop still reads it
        nested = _known({"allow_buffer_reuse": False}) if compiler_repairs.has_nested_loops(graph) else {}
        patches = {**options, **nested}
        is_replayable = device == "cuda" and cuda_graphs.is_replayable(graph)  # asked before it is changed
        compiled: Any = compile_fx(
            graph, inputs, config_patches=patches, decompositions=compiler_repairs.decompositions()
        )
        return cuda_graphs.replayed(compiled) if is_replayable else compiled

    return compile_graph


def _known(options: dict[str, Any]) -> dict[str, Any]:
    """The options that the installed inductor has."""
    from torch._inductor import config

    names = config.get_config_copy() if hasattr(config, "get_config_copy") else config.shallow_copy_dict()
    return {name: value for name, value in options.items() if name in names}


_has_failed: list[bool] = []


@contextlib.contextmanager
def _second_thoughts() -> Iterator[None]:
    """Swallows an error of a compilation where it is one of a compiler that traces no loop of ours."""
    try:
        yield
    except Exception:
        # asked now and not before: the trial costs a second, and most compilers pass it
        if _why_untraceable() is None:
            raise
        _has_failed.append(True)


def _own_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """A wrapper with a code object of its own: dynamo keeps its cache, and its limit, by code object."""

    def call(*args: Any) -> Any:
        return function(*args)

    return types.FunctionType(call.__code__.replace(), call.__globals__, "call", None, call.__closure__)


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles a function of trees of tensors into one graph, loops included.

    Use it last, outermost, once: ``jit(vmap(grad(f)))``, never ``vmap(jit(f))``. Tensors are traced; everything
    else among the arguments is a constant, and a new value of it compiles again. The function runs without autograd
    (``torch.func.grad`` inside it works).

    Args:
        function: pure, with positional arguments.

    Returns:
        A function with the same results. It has a code object of its own, so any number of closures of one factory
        compile. What cannot be compiled whole is an error of torch, never a silent return to eager.

    >>> double = jit(lambda x: 2 * x)
    >>> double(torch.ones(2))  # doctest: +SKIP
    tensor([2., 2.])
    """
    compiled: dict[str, Callable[..., Any]] = {}

    @functools.wraps(function)
    def jitted(*args: Any) -> Any:
        why = _why_eager() or (_why_untraceable() if _has_failed else None)
        with torch.no_grad():
            if why is not None:
                _warn_once(why)
                return function(*args)
            device = _device(args)
            if device in compiled:
                with _second_thoughts():
                    return compiled[device](*args)
                return jitted(*args)
            _prepare()
            compiled[device] = torch.compile(
                _own_code(function), fullgraph=True, dynamic=False, backend=_backend(device)
            )
            with warnings.catch_warnings(), _second_thoughts():
                # torch's scan asks for the first slice of what it goes over; under vmap one at a time, while tracing only
                warnings.filterwarnings("ignore", message=".*batching rule for aten::select_copy")
                # and its parts warn of one another
                warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.")
                return compiled[device](*args)
            del compiled[device]
        return jitted(*args)

    return jitted


class _Call:
    """A call ``make(*arguments)``, equal to another where the functions among the arguments do the same."""

    def __init__(self, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.make, self.arguments = make, arguments
        self.signature = _signature((make, arguments))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Call) and self.signature == other.signature

    def __hash__(self) -> int:
        return hash(self.signature)


def _signature(value: Any, outer: tuple[int, ...] = ()) -> Any:
    """What tells whether two values mean the same: of functions the code and what it closes over, of objects who they are."""
    if id(value) in outer:
        return "recursion"
    inner = (*outer, id(value))
    if isinstance(value, types.FunctionType):
        parts = (_contents(value), value.__defaults__, value.__kwdefaults__)
        return (value.__code__, id(value.__globals__), *(_signature(part, inner) for part in parts))
    if isinstance(value, (tuple, list)):
        return (type(value), *(_signature(part, inner) for part in value))
    if isinstance(value, dict):
        return (dict, *((name, _signature(part, inner)) for name, part in value.items()))
    if value is None or isinstance(value, (bool, int, float, str, torch.dtype, type)):
        return (type(value), value)
    return ("object", id(value))


def _contents(function: types.FunctionType) -> list[Any]:
    """What a function closes over; a name that is not yet bound is an object of its own."""
    contents: list[Any] = []
    for cell in function.__closure__ or ():
        try:
            contents.append(cell.cell_contents)
        except ValueError:
            contents.append(cell)
    return contents


@functools.lru_cache(maxsize=128)
def _jit_call(call: _Call) -> Callable[..., Any]:
    return jit(call.make(*call.arguments))


def jit_once(make: Callable[..., Callable[..., Any]], *arguments: Any) -> Callable[..., Any]:
    """``jit(make(*arguments))``, and the same compiled function for arguments that mean the same.

    A sampler, a loss or an energy that is built anew from the same code and the same constants does not compile anew.

    >>> def make(factory):
    ...     return lambda x: factory(x)
    >>> jit_once(make, lambda x: x + 1) is jit_once(make, lambda x: x + 2)
    False
    """
    return _jit_call(_Call(make, arguments))


def dynamic_axis(xs: Any) -> Any:
    """Marks the leading axis of each leaf as one whose length varies from call to call, so that it compiles once."""
    if not loops.is_compiling() and can_compile():
        from torch._dynamo import maybe_mark_dynamic

        for leaf in tree.leaves(xs):
            if leaf.shape[0] > 1:
                maybe_mark_dynamic(leaf, 0)
    return xs


def _device(args: Any) -> str:
    for leaf in tree.leaves(args):
        if isinstance(leaf, torch.Tensor) and leaf.device.type != "cpu":
            return leaf.device.type
    return "cpu"


@functools.cache
def _prepare() -> None:
    """Once: import the compiler, and spare it the trial compilations of each instruction set, seconds on an empty cache."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own parts about one another
        import torch._inductor.compile_fx
        from torch._inductor import config

    if hasattr(config.cpp, "vec_isa_ok") and config.cpp.vec_isa_ok is None:
        config.cpp.vec_isa_ok = True
    compiler_repairs.repair_dynamo()
    compiler_repairs.repair_inductor()
    # freeing a large block once teaches the C allocator to keep what a run frees for its next slab, instead of handing
    # it to the system and taking the page faults again; nothing is written to the block
    torch.empty(31 * 2**20, dtype=torch.uint8)


def _compile_kernel(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel of :mod:`funcebm.random`: elementwise, of any size, called from eager code."""
    _prepare()
    options = _known({"realize_opcount_threshold": 12, "realize_reads_threshold": 8})
    compiled = torch.compile(_own_code(kernel), fullgraph=True, dynamic=True, options=options)
    if not hasattr(torch._C, "_ForceDispatchKeyGuard"):
        return compiled

    def call(*args: Any) -> Any:
        # from inside an operator other dispatch keys are off than from outside, and dynamo would compile anew for each
        with torch._C._ForceDispatchKeyGuard(*_PLAIN_DISPATCH):
            return compiled(*args)

    return call


def _dispatch_keys() -> tuple[Any, Any]:
    return torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set()


_PLAIN_DISPATCH = _dispatch_keys() if hasattr(torch._C, "_dispatch_tls_local_include_set") else ()


if can_compile():
    random.use_kernels(_compile_kernel)
