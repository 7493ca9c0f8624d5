"""Graphs: lattices have the right edges, colourings separate them, and blocks are checked."""

from __future__ import annotations

import pytest
import torch

from funcebm import graphs, random

GRAPHS = {
    "ring_of_four": (graphs.torus(4), 4, 2),
    "ring_of_five": (graphs.torus(5), 5, 3),
    "chain": (graphs.grid(6), 6, 2),
    "torus": (graphs.torus((4, 6)), 24, 2),
    "odd_torus": (graphs.torus((3, 5)), 15, 5),
    "cube": (graphs.grid((3, 3, 3)), 27, 2),
    "complete": (graphs.complete(5), 5, 5),
    "rbm": (graphs.layers([5, 3]), 8, 2),
    "deep": (graphs.layers([5, 3, 2]), 10, 2),
    "no_edges": (torch.zeros(0, 2, dtype=torch.int64), 3, 1),
}


@pytest.mark.parametrize(("edges", "num", "most"), GRAPHS.values(), ids=GRAPHS)
def test_colourings_are_partitions_without_an_edge_inside(edges, num, most):
    blocks = graphs.colouring(edges, num)
    graphs.check_blocks(blocks, edges)
    assert len(blocks) <= most
    assert blocks.any(1).all()


def test_random_graphs_take_at_most_one_colour_more_than_the_largest_degree():
    for i in range(20):
        pairs = graphs.complete(12)
        edges = pairs[random.uniform(random.key(i), len(pairs)) < 0.3]
        blocks = graphs.colouring(edges, 12)
        graphs.check_blocks(blocks, edges)
        assert len(blocks) <= edges.flatten().bincount().max() + 1


@pytest.mark.parametrize("shape", [(4,), (4, 6), (2, 4, 4)])
def test_a_checkerboard_colours_lattices_with_even_sides(shape):
    blocks = graphs.checkerboard(shape)
    graphs.check_blocks(blocks, graphs.torus(shape))
    graphs.check_blocks(blocks, graphs.grid(shape))


def test_lattices_have_the_edges_of_lattices():
    assert len(graphs.torus((4, 5))) == 40
    assert len(graphs.grid((4, 5))) == 31
    assert (graphs.torus((4, 5)).flatten().bincount() == 4).all()
    assert len(graphs.torus((2, 3))) == 9  # a side of two has one edge
    for edges in (graphs.torus((3, 4)), graphs.grid((3, 4))):
        graphs.check_edges(edges, 12)
        assert graphs.components(edges, 12).tolist() == [0] * 12


def test_components_are_named_by_their_smallest_site():
    edges = torch.tensor([[5, 3], [1, 2], [3, 4]])
    assert graphs.components(edges, 7).tolist() == [0, 1, 1, 3, 3, 3, 6]


@pytest.mark.parametrize(
    ("edges", "error", "words"),
    [
        (torch.zeros(2, 2), TypeError, "integers"),
        (torch.tensor([0, 1]), ValueError, r"\(M, 2\)"),
        (torch.tensor([[0, 0]]), ValueError, "site 0 with itself"),
        (torch.tensor([[0, 5]]), ValueError, "0 .. 3. Got 5"),
        (torch.tensor([[0, -1]]), ValueError, "Got -1"),
        (torch.tensor([[0, 1], [2, 3], [1, 0]]), ValueError, r"\(0, 1\) 2 times"),
    ],
)
def test_bad_edges_are_refused_in_words(edges, error, words):
    with pytest.raises(error, match=words):
        graphs.check_edges(edges, 4)


@pytest.mark.parametrize(
    ("blocks", "error", "words"),
    [
        (torch.ones(2, 3), TypeError, "bool"),
        (torch.tensor([[True, True, False], [False, True, True]]), ValueError, "site 1 in 2 blocks"),
        (torch.tensor([[True, False, False], [False, True, False]]), ValueError, "site 2 in 0 blocks"),
        (torch.tensor([[True, True, True]]), ValueError, r"\(0, 1\) in block 0"),
    ],
)
def test_bad_blocks_are_refused_in_words(blocks, error, words):
    with pytest.raises(error, match=words):
        graphs.check_blocks(blocks, graphs.grid(3))
