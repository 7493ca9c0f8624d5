"""What torch's compiler gets wrong in our loops, and what it could do better: repairs of dynamo, a graph pass of inductor.

Each repair looks for what it repairs, and does nothing where this torch does not have it.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

__all__ = ["graph_pass", "repair_dynamo", "turn_products"]


# -- inductor -----------------------------------------------------------------------------------------------------


def turn_products(graph: torch.fx.Graph) -> None:
    """Makes of a matrix product ``A B`` that is only read transposed the product ``B^T A^T``.

    Under ``vmap`` a matrix times a vector is such a one, and all that reads it would go against the order of memory.
    """
    mm, permute = torch.ops.aten.mm.default, torch.ops.aten.permute.default
    for product in list(graph.nodes):
        if product.target is not mm or not all(
            user.target is permute and list(user.args[1]) == [1, 0] for user in product.users
        ):
            continue
        with graph.inserting_before(product):
            factors = [graph.call_function(permute, (factor, [1, 0])) for factor in reversed(product.args)]
            turned = graph.call_function(mm, tuple(factors))
        for node, operator in zip((*factors, turned), (permute, permute, mm), strict=True):
            values = torch.fx.node.map_arg(node.args, lambda arg: arg.meta["val"])
            node.meta = {**product.meta, "val": operator(*values)}  # where the compiler looks up shapes
        for user in list(product.users):
            user.replace_all_uses_with(turned)
            graph.erase_node(user)
        graph.erase_node(product)


@functools.cache
def graph_pass() -> Any:
    """A pass of inductor that turns products, and after which no graph returns one buffer twice.

    Inductor drops the copies of a number that a loop carries in two places, and the C++ wrapper, which moves the buffers of
    a body to the next turn of its loop, then moves one of them twice and crashes.
    """
    try:
        from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
    except ImportError:  # a torch that does not compile our loops
        return None

    class GraphPass(CustomGraphPass):
        def __call__(self, graph: torch.fx.Graph) -> None:
            turn_products(graph)
            output = next(node for node in reversed(graph.nodes) if node.op == "output")
            values = output.args[0]
            if not isinstance(values, (list, tuple)):
                return
            seen: set[torch.fx.Node] = set()
            distinct: list[Any] = []
            for value in values:
                if isinstance(value, torch.fx.Node) and value in seen:
                    with graph.inserting_before(output):
                        copy = graph.call_function(torch.ops.aten.clone.default, (value,))
                    copy.meta = dict(value.meta)
                    if isinstance(value.meta.get("val"), torch.Tensor):
                        copy.meta["val"] = value.meta["val"].clone()
                    value = copy
                elif isinstance(value, torch.fx.Node):
                    seen.add(value)
                distinct.append(value)
            output.args = (type(values)(distinct), *output.args[1:])

        def uuid(self) -> Any:
            return get_hash_for_files((__file__,))

    return GraphPass()


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
