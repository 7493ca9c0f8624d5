"""Passes over recorded graphs: the same numbers from fewer operators, and products in the order that is faster."""

from __future__ import annotations

import pytest
import torch

import funcebm as ebm
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


@pytest.mark.compiled
@pytest.mark.parametrize("inner", [1, 3, 4])
def test_a_product_of_few_terms_becomes_these_terms(inner):
    """Single and batched; of a matrix, its transposed, and parts that were put together for it; others stay products."""

    def function(a, b, batch, x, last):
        inputs = torch.cat([x, last.expand(len(x), 1)], 1)
        return a @ b, a @ a.T, batch @ b, batch @ batch.mT, a @ inputs.T, a.T @ a, a @ b[:, :9]

    shapes = (20, inner), (inner, 30), (3, 20, inner), (40, inner - 1), ()
    arguments, graph, run = _recorded(function, shapes)
    graph_passes.inline_short_sums(graph)
    graph.lint()
    for got, expected in zip(run(), function(*arguments), strict=True):
        torch.testing.assert_close(got, expected)
    left = [node.meta["val"].shape for node in graph.nodes if node.target in (aten.mm.default, aten.bmm.default)]
    assert sorted(map(tuple, left)) == [(inner, inner), (20, 9)]
    if inner != 3:
        return
    compiled = ebm.jit(function)
    for got, expected in zip(compiled(*arguments), function(*arguments), strict=True):
        torch.testing.assert_close(got, expected)


def test_what_is_computed_twice_from_the_same_is_computed_once():
    _, graph, _ = _recorded(lambda x, y: (x.sigmoid() * y.sigmoid() + x.sigmoid(),), [(3,), (3,)])
    graph_passes.share_equal_nodes(graph)
    graph.lint()
    targets = [node.target for node in graph.nodes]
    assert targets.count(aten.sigmoid.default) == 2
