"""Passes over recorded graphs: the same numbers from fewer operators, and products in the order that is faster."""

from __future__ import annotations

import torch

from funcebm._torch import graph_passes, recorder

aten = torch.ops.aten


def _recorded(function, shapes):
    """The arguments, the graph of the function, and how to run it."""
    generator = torch.Generator().manual_seed(0)
    arguments = [torch.randn(shape, generator=generator) for shape in shapes]
    body, _ = recorder.record(lambda *x: list(function(*x)), arguments)
    return arguments, body.graph, lambda: torch.fx.GraphModule({}, body.graph)(*arguments)


def _products_after_the_pass(function, *shapes):
    arguments, graph, run = _recorded(function, shapes)
    graph_passes.transpose_products(graph)
    graph.lint()
    for got, expected in zip(run(), function(*arguments), strict=True):
        torch.testing.assert_close(got, expected)
    return [node for node in graph.nodes if node.target is aten.mm.default]


def test_a_matrix_product_that_is_only_read_transposed_is_transposed():
    def function(a, b, c):
        read_both_ways = a @ c
        transposed = (a @ b).permute(1, 0).sin(), (b.permute(1, 0) @ c).permute(1, 0) + 1
        return (
            *(leaf.contiguous() for leaf in transposed),
            read_both_ways.permute(1, 0).contiguous(),
            read_both_ways + 1,
        )

    products = _products_after_the_pass(function, (3, 4), (4, 5), (4, 2))
    assert [tuple(node.meta["val"].shape) for node in products] == [(3, 2), (5, 3), (2, 5)]
    for node in products[1:]:
        assert node.meta["val"].is_contiguous()
        assert all(user.target is not aten.permute.default for user in node.users)


def test_a_matrix_product_of_few_columns_is_transposed():
    def function(a, b, c):
        return (a @ b).sin(), (a @ b @ c).contiguous(), (a @ b).permute(1, 0).contiguous()

    products = _products_after_the_pass(function, (20, 30), (30, 3), (3, 40))
    assert [tuple(node.meta["val"].shape) for node in products] == [(3, 20), (3, 20), (20, 40), (3, 20)]


def test_what_is_computed_twice_from_the_same_is_computed_once():
    _, graph, _ = _recorded(lambda x, y: (x.sigmoid() * y.sigmoid() + x.sigmoid(),), [(3,), (3,)])
    graph_passes.share_equal_nodes(graph)
    graph.lint()
    targets = [node.target for node in graph.nodes]
    assert targets.count(aten.sigmoid.default) == 2
