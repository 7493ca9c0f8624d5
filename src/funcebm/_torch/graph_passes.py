"""Passes over recorded graphs that save work: equal operators once, products in the faster orientation, short sums inlined."""

from __future__ import annotations

from typing import Any, cast

import torch

from .layout import contiguous_strides

__all__ = ["improve", "inline_short_sums", "share_equal_nodes", "transpose_products"]

aten = torch.ops.aten
_SHORT, _LONG = 4, 16  # terms of a sum, numbers in a row
_TRANSPOSED = {aten.mm.default: [1, 0], aten.bmm.default: [0, 2, 1]}


def improve(graph: torch.fx.Graph) -> None:
    """All passes, in place. The graph has no loops, and its outputs are contiguous."""
    for node in graph.nodes:
        if node.target is aten.view.default:  # after a pass strides may be others
            node.target = aten.reshape.default
    share_equal_nodes(graph)
    graph.eliminate_dead_code()
    transpose_products(graph)
    inline_short_sums(graph)
    graph.eliminate_dead_code()


def share_equal_nodes(graph: torch.fx.Graph) -> None:
    """Computes once what is computed twice from the same: the derivatives of an activation share its sigmoid.

    Nothing that is recorded draws random numbers (:mod:`generators`), so equal nodes have equal values.
    """
    seen: dict[str, torch.fx.Node] = {}
    for node in list(graph.nodes):
        operator: Any = node.target
        if not isinstance(operator, torch._ops.OpOverload) or operator._schema.is_mutable:
            continue
        if not (_is_view(operator) or torch.Tag.pointwise in operator.tags or operator is aten.reshape.default):
            continue
        name = f"{operator} {node.args} {node.kwargs}"  # nodes go by their names, which are unique in a graph
        if name in seen:
            node.replace_all_uses_with(seen[name])
            graph.erase_node(node)
        else:
            seen[name] = node


def _is_view(operator: Any) -> bool:
    return bool(getattr(operator, "is_view", False))


def transpose_products(graph: torch.fx.Graph) -> None:
    """Rewrites ``A @ B`` as ``(B.T @ A.T).T``, for single and batched products, where that is faster.

    It is faster where the product is only read transposed: under ``vmap`` a matrix times a vector is such a product, and so
    is the gradient of a weight. And it is faster on a CPU where the product has 2 to 15 columns (2 to 7 in a batch) and more
    rows, for which MKL takes up to five times as long (measured on AMD; on others nothing is lost).
    """
    for product in list(graph.nodes):
        operator: Any = product.target
        order = _TRANSPOSED.get(operator)
        if order is None or not product.users:
            continue
        readers = list(product.users)
        reads_transposed = all(user.target is aten.permute.default and list(user.args[1]) == order for user in readers)
        slow, slow_transposed = _is_slow(product, False), _is_slow(product, True)
        if slow or not slow_transposed if reads_transposed else slow and not _goes_by_strides(product):
            _transpose(graph, product, order, readers if reads_transposed else None)


def _transpose(
    graph: torch.fx.Graph, product: torch.fx.Node, order: list[int], readers: list[torch.fx.Node] | None
) -> None:
    with graph.inserting_before(product):
        factors = [graph.call_function(aten.permute.default, (factor, order)) for factor in reversed(product.args)]
        transposed = graph.call_function(cast(Any, product.target), tuple(factors))
        nodes = [*factors, transposed]
        if readers is None:
            nodes.append(graph.call_function(aten.permute.default, (transposed, order)))
    for node in nodes:
        _evaluate(node)
    for reader in [product] if readers is None else readers:
        reader.replace_all_uses_with(nodes[-1])
        graph.erase_node(reader)
    if readers is not None:
        graph.erase_node(product)


def _evaluate(node: torch.fx.Node) -> torch.fx.Node:
    """The node with its value, where the compiler looks up shapes."""
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda argument: argument.meta["val"])
    with next(iter(node.all_input_nodes)).meta["val"].fake_mode:
        node.meta["val"] = cast(Any, node.target)(*args, **kwargs)
    return node


def inline_short_sums(graph: torch.fx.Graph) -> None:
    """Writes products whose sums have at most four terms as these terms, which become a part of the kernel that reads them.

    The first layer of a network on few numbers is such a product: BLAS takes longer to pack its factors and to write the result
    than the sums take, and the activation would read it again. Only on a CPU; on a GPU a product costs one launch as well.
    """
    from torch._inductor import inductor_prims

    ordered: Any = getattr(inductor_prims, "force_stride_order", None)
    for product in list(graph.nodes):
        if product.target not in _TRANSPOSED or not product.users or ordered is None:
            continue
        value, (left, right) = product.meta["val"], product.args
        inner, columns = right.meta["val"].shape[-2:]
        is_short = 1 <= inner <= _SHORT and columns >= _LONG and value.dtype in (torch.float32, torch.float64)
        if not is_short or value.device.type != "cpu" or _goes_by_strides(product):
            continue
        with graph.inserting_before(product):
            if not right.meta["val"].is_contiguous():  # vectors are read along its rows
                right = _with_rows(graph, right) or _evaluate(
                    graph.call_function(ordered, (right, contiguous_strides(right.meta["val"].shape)))
                )
            total: Any = None
            for term in range(inner):
                a = _evaluate(graph.call_function(aten.slice.Tensor, (left, value.dim() - 1, term, term + 1)))
                b = _evaluate(graph.call_function(aten.slice.Tensor, (right, value.dim() - 2, term, term + 1)))
                new = _evaluate(graph.call_function(aten.mul.Tensor, (a, b)))
                total = new if total is None else _evaluate(graph.call_function(aten.add.Tensor, (total, new)))
        product.replace_all_uses_with(total)
        graph.erase_node(product)


def _with_rows(graph: torch.fx.Graph, node: torch.fx.Node) -> torch.fx.Node | None:
    """Transposed parts put together, where the node is the transposed of parts put together and nobody reads these otherwise."""
    whole: Any = node.args[0] if node.target is aten.permute.default else None
    if whole is None or whole.target is not aten.cat.default or whole.kwargs or len(whole.users) > 1:
        return None
    parts, axis, order = whole.args[0], (*whole.args, 0)[1] % whole.meta["val"].dim(), list(cast(Any, node.args[1]))
    parts = [_evaluate(graph.call_function(aten.permute.default, (part, order))) for part in parts]
    return _evaluate(graph.call_function(aten.cat.default, (parts, order.index(axis))))


def _is_slow(product: torch.fx.Node, is_transposed: bool) -> bool:
    """Whether a product, or its transposed, is of the shapes that are slow on a CPU."""
    value = product.meta["val"]
    rows, columns = reversed(value.shape[-2:]) if is_transposed else value.shape[-2:]
    limit = 16 if value.dim() == 2 else 8  # of a batch of small ones the transposing would cost more
    return value.device.type == "cpu" and 2 <= columns < limit and rows >= 16


def _goes_by_strides(node: torch.fx.Node) -> bool:
    """Whether the node, or a view of it, is read by its strides."""
    for user in node.users:
        if user.target in (aten.as_strided.default, aten.as_strided_scatter.default):
            return True
        if _is_view(user.target) and _goes_by_strides(user):
            return True
    return False
