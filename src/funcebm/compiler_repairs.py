"""What torch's compiler gets wrong in our loops, and what it could do better: repairs of dynamo, a graph pass of inductor.

Each repair looks for what it repairs, and does nothing where this torch does not have it.
"""

from __future__ import annotations

import functools
import math
from typing import Any, cast

import torch

from . import loop_buffers

__all__ = [
    "decompositions",
    "drives_loops_in_cpp",
    "graph_pass",
    "has_nested_loops",
    "repair_dynamo",
    "repair_inductor",
    "share_equal_nodes",
    "turn_products",
]


# -- inductor -----------------------------------------------------------------------------------------------------


def has_nested_loops(graph: torch.fx.GraphModule) -> bool:
    """Whether a loop of the graph, as dynamo makes it, has a loop in its body."""
    bodies = [module for name, module in graph.named_modules() if name and isinstance(module, torch.fx.GraphModule)]
    targets = [node.target for body in bodies for node in body.graph.nodes if node.op == "call_function"]
    return any(getattr(target, "_name", "") in ("scan", "while_loop") for target in targets)


def drives_loops_in_cpp() -> bool:
    """Whether inductor's C++ wrapper can run our loops; where it cannot, the one in Python does, with more time between kernels.

    That of torch 2.11 and 2.12 forgets what a loop changes in place, such as the outputs that a scan fills.
    """
    try:
        from torch._inductor.codegen.cpp_wrapper_cpu import CppWrapperCpu
    except ImportError:
        return False
    return hasattr(CppWrapperCpu, "_get_while_loop_carried_output_names")


def decompositions() -> dict[Any, Any] | None:
    """Inductor's, where SiLU is made of the sigmoid, as its derivative is: together they take one exponential, not two."""
    try:
        from torch._inductor.decomposition import select_decomp_table
    except ImportError:  # another inductor: its own
        return None

    def silu(x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(x)

    return {**select_decomp_table(), torch.ops.aten.silu.default: silu}


def turn_products(graph: torch.fx.Graph) -> None:
    """Makes of a matrix product ``A B`` the transposed of ``B^T A^T`` where that is faster; of batches of them too.

    That is so where it is only read transposed, which would go against the order of memory: under ``vmap`` a matrix times a
    vector is such a product, and so is the gradient of a weight. And it is so on CPU where it has 2 to 15 columns (2 to 7
    in a batch) and more rows, which MKL takes up to five times as long for (measured on AMD; on others nothing is lost).
    Strides follow; those of outputs are promised, and kept by copies, which the compiler merges into what makes them.
    """
    output = next(node for node in reversed(graph.nodes) if node.op == "output")
    given_out = [node for node in output.all_input_nodes if isinstance(node.meta.get("val"), torch.Tensor)]
    if not all(node.meta["val"].is_contiguous() for node in given_out):
        return
    is_changed = False
    before_loops = _before_loops(graph)
    permute = torch.ops.aten.permute.default
    transpositions = {torch.ops.aten.mm.default: [1, 0], torch.ops.aten.bmm.default: [0, 2, 1]}
    for product in list(graph.nodes):
        operator: Any = product.target
        order = transpositions.get(operator)
        if order is None or not product.users or product in before_loops:
            continue
        is_slow, is_slow_turned = _is_slow(product, False), _is_slow(product, True)
        readers = list(product.users)
        is_read_turned = all(user.target is permute and list(user.args[1]) == order for user in readers)
        if not (is_slow or not is_slow_turned if is_read_turned else is_slow and not _goes_by_strides(product)):
            continue
        with graph.inserting_before(product):
            factors = [graph.call_function(permute, (factor, order)) for factor in reversed(product.args)]
            turned = graph.call_function(operator, tuple(factors))
            nodes = [*factors, turned]
            if not is_read_turned:
                nodes.append(graph.call_function(permute, (turned, order)))
        for node in nodes:
            values, target = torch.fx.node.map_arg(node.args, lambda arg: arg.meta["val"]), cast(Any, node.target)
            node.meta = {**product.meta, "val": target(*values)}  # where the compiler looks up shapes
        for reader in readers if is_read_turned else [product]:
            reader.replace_all_uses_with(nodes[-1])
            graph.erase_node(reader)
        if is_read_turned:
            graph.erase_node(product)
        is_changed = True
    if not is_changed:
        return
    for node in output.all_input_nodes:
        if node.op != "placeholder" and isinstance(node.meta.get("val"), torch.Tensor):
            output.replace_input_with(node, _copy(graph, output, node, memory_format=torch.contiguous_format))


def _copy(graph: torch.fx.Graph, output: torch.fx.Node, node: torch.fx.Node, **options: Any) -> torch.fx.Node:
    """A copy of a node, made just before the output."""
    with graph.inserting_before(output):
        copy = graph.call_function(torch.ops.aten.clone.default, (node,), options)
    copy.meta = dict(node.meta)
    if isinstance(node.meta.get("val"), torch.Tensor):
        copy.meta["val"] = node.meta["val"].clone(**options)
    return copy


def _is_slow(product: torch.fx.Node, is_turned: bool) -> bool:
    """Whether a product, or its transposed, is of the shapes that are slow on CPU."""
    value = product.meta["val"]
    rows, columns = reversed(value.shape[-2:]) if is_turned else value.shape[-2:]
    is_known = isinstance(rows, int) and isinstance(columns, int)
    limit = 16 if value.dim() == 2 else 8  # of a batch of small ones the transposing would cost more
    return is_known and value.device.type == "cpu" and 2 <= columns < limit and rows >= 16


def _goes_by_strides(node: torch.fx.Node) -> bool:
    """Whether the node, or a view of it, is read by its strides."""
    for user in node.users:
        if user.target is torch.ops.aten.as_strided.default:
            return True
        if getattr(user.target, "is_view", False) and _goes_by_strides(user):
            return True
    return False


def share_equal_nodes(graph: torch.fx.Graph) -> None:
    """Computes once what is computed twice from the same: the derivatives of an activation share its sigmoid."""
    seen: dict[str, torch.fx.Node] = {}
    before_loops = _before_loops(graph)
    for node in list(graph.nodes):
        operator: Any = node.target
        if node in before_loops:
            continue
        if not isinstance(operator, torch._ops.OpOverload) or operator._schema.is_mutable:
            continue
        if not (operator.is_view or torch.Tag.pointwise in operator.tags):
            continue
        if torch.Tag.nondeterministic_seeded in operator.tags:
            continue
        name = f"{operator} {node.args} {node.kwargs}"  # nodes go by their names, which are unique in a graph
        if name in seen:
            node.replace_all_uses_with(seen[name])
            graph.erase_node(node)
        else:
            seen[name] = node


def _before_loops(graph: torch.fx.Graph) -> set[torch.fx.Node]:
    """What a loop of the graph starts from, at any remove: it has strides and buffers of its own, which stay as they are."""
    waiting = [node for node in graph.nodes if isinstance(node.target, torch._ops.HigherOrderOperator)]
    before: set[torch.fx.Node] = set()
    while waiting:
        new = set(waiting.pop().all_input_nodes) - before
        before |= new
        waiting.extend(new)
    return before


@functools.cache
def graph_pass() -> Any:
    """A pass of inductor that saves work, and after which no graph returns one buffer twice.

    Inductor drops the copies of a number that a loop carries in two places, and the C++ wrapper, which moves the buffers of
    a body to the next turn of its loop, then moves one of them twice and crashes.
    """
    try:
        from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
    except ImportError:  # a torch that does not compile our loops
        return None

    class GraphPass(CustomGraphPass):
        def __call__(self, graph: torch.fx.Graph) -> None:
            share_equal_nodes(graph)
            turn_products(graph)
            output = next(node for node in reversed(graph.nodes) if node.op == "output")
            values = output.args[0]
            if not isinstance(values, (list, tuple)):
                return
            seen: set[torch.fx.Node] = set()
            distinct: list[Any] = []
            for value in values:
                if isinstance(value, torch.fx.Node) and value in seen:
                    value = _copy(graph, output, value)
                elif isinstance(value, torch.fx.Node):
                    seen.add(value)
                distinct.append(value)
            output.args = (type(values)(distinct), *output.args[1:])

        def uuid(self) -> Any:
            return get_hash_for_files((__file__, loop_buffers.__file__))

    return GraphPass()


@functools.cache
def repair_inductor() -> None:
    """Once, before anything is compiled; other people's graphs are left as they are."""
    _let_loops_keep_their_buffers()
    _keep_threads_outside()


def _is_ours() -> bool:
    """Whether inductor is at work on a graph with our options."""
    from torch._inductor import config

    return type(config.post_grad_custom_post_pass) is type(graph_pass())


def _let_loops_keep_their_buffers() -> None:
    """Buffers of compiled loops are made once, and not in each turn; see :mod:`loop_buffers`."""
    try:
        from torch._inductor.codegen.cpp_wrapper_cpu import CppWrapperCpu
        from torch._inductor.utils import DeferredLineBase
    except ImportError:  # another inductor
        return
    finish = getattr(CppWrapperCpu, "finalize_prefix", None)
    if finish is None or graph_pass() is None:
        return

    def finish_with_buffers_moved_out(self: Any) -> None:
        if _is_ours() and hasattr(self.wrapper_call, "_lines"):
            lines = [line() if isinstance(line, DeferredLineBase) else line for line in self.wrapper_call._lines]
            self.wrapper_call._lines = loop_buffers.move_out([line for line in lines if line is not None])
        finish(self)

    CppWrapperCpu.finalize_prefix = finish_with_buffers_moved_out  # type: ignore[method-assign]


def _keep_threads_outside() -> None:
    """Inductor counts the steps of a loop shorter than a vector as none, and then starts threads anew inside of its outer loops.

    Sums over the batch of the gradients of 32 networks of 8 units were thus 32 parallel sections each. Threads go inside only
    where the outer loops, counted right, have few steps for each of the inner one.
    """
    try:
        from torch._inductor.codegen.cpp import LoopNest, ParallelDepth
    except ImportError:
        return
    choose = getattr(LoopNest, "max_parallel_depth", None)
    if choose is None or graph_pass() is None:
        return

    def choose_outside(self: Any) -> Any:
        depth = choose(self)
        start = getattr(depth, "start_depth", 0)
        if start == 0 or not _is_ours():
            return depth
        steps = [-(-loop.size // loop.steps) for loop in self.loops[: start + 1]]
        are_known = all(getattr(count, "is_number", True) for count in steps)
        if are_known and 300 * math.prod(steps[:-1]) < steps[-1]:
            return depth
        return ParallelDepth(parallel_depth=start, start_depth=0)

    LoopNest.max_parallel_depth = choose_outside  # type: ignore[method-assign, assignment]


# -- dynamo -------------------------------------------------------------------------------------------------------


@functools.cache
def repair_dynamo() -> None:
    """Once, before anything is traced."""
    _let_while_loops_be_mapped()
    _let_loops_close_over_transposed()


def _let_while_loops_be_mapped() -> None:
    """Dynamo asks what a ``while_loop`` works on for its storage, to find out who mutates it; under ``vmap`` there is none."""
    from torch._dynamo.variables import higher_order_ops

    ask = getattr(higher_order_ops, "get_tensor_storages", None)
    if ask is not None:

        def ask_plain_tensors(tensor: torch.Tensor) -> set[Any]:
            return set() if torch._C._functorch.is_functorch_wrapped_tensor(tensor) else ask(tensor)

        higher_order_ops.get_tensor_storages = ask_plain_tensors


def _let_loops_close_over_transposed() -> None:
    """In a loop, dynamo takes ``matrix.T`` of a tensor from outside of it out of the loop, and out of ``grad``, where it fails.

    As the call of a method it stays where it is.
    """
    try:
        from torch._dynamo.variables import ConstantVariable
        from torch._dynamo.variables.tensor import TensorVariable
    except ImportError:  # another dynamo
        return

    def transposed(self: Any, tx: Any) -> Any:
        if self.ndim is None or self.ndim < 2:
            return None  # as ever
        order = range(self.ndim - 1, -1, -1)
        return self.call_method(tx, "permute", [ConstantVariable.create(axis) for axis in order], {})

    def last_two_transposed(self: Any, tx: Any) -> Any:
        return self.call_method(tx, "transpose", [ConstantVariable.create(axis) for axis in (-2, -1)], {})

    for name, method in (("method_attr_T", transposed), ("method_attr_mT", last_two_transposed)):
        if hasattr(TensorVariable, "call_method") and not hasattr(TensorVariable, name):
            setattr(TensorVariable, name, method)
