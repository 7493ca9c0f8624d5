"""Arithmetic on trees: what holds for vectors holds for trees of them."""

from __future__ import annotations

from typing import NamedTuple

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch.func import vmap

import funcebm as ebm
from funcebm import random, tree


class Pair(NamedTuple):
    left: object
    right: object


quick = settings(deadline=None, max_examples=40)

shapes = st.lists(st.integers(1, 3), max_size=2).map(tuple)
trees = st.recursive(
    shapes,
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from("zyxab"), inner, min_size=1, max_size=3),
        st.tuples(inner, inner).map(list),
        st.tuples(inner, inner),
        st.tuples(inner, inner).map(lambda pair: Pair(*pair)),
    ),
    max_leaves=6,
).filter(lambda shape: shape != ())


def _is_shape(value) -> bool:
    return type(value) is tuple and all(isinstance(size, int) for size in value)


def _build(shape, seed: int):
    """A tree of float64 tensors from a tree of shapes."""
    if _is_shape(shape):
        return random.normal(random.key(seed), shape, dtype=torch.float64)
    if isinstance(shape, dict):
        return {name: _build(part, 7 * seed + i) for i, (name, part) in enumerate(shape.items(), 1)}
    parts = [_build(part, 11 * seed + i) for i, part in enumerate(shape, 1)]
    return Pair(*parts) if isinstance(shape, Pair) else type(shape)(parts)


def _equal(a, b) -> bool:
    same = all(torch.equal(x, y) for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True))
    return tree.structure(a) == tree.structure(b) and same


@quick
@given(trees)
def test_flatten_and_ravel_have_inverses(shape):
    value = _build(shape, 1)
    leaves, structure = tree.flatten(value)
    assert _equal(tree.unflatten(structure, leaves), value)
    vector, back = tree.ravel(value)
    assert vector.ndim == 1
    assert _equal(back(vector), value)
    assert len(tree.paths(value)) == len(leaves)
    assert tree.first(value) is leaves[0]


@quick
@given(trees)
def test_a_tree_is_a_vector(shape):
    a, b = _build(shape, 1), _build(shape, 2)
    x, y = tree.ravel(a)[0], tree.ravel(b)[0]
    cases = [
        (tree.add(a, b), x + y),
        (tree.sub(a, b), x - y),
        (tree.mul(a, b), x * y),
        (tree.scale(0.5, a), 0.5 * x),
        (tree.add_scaled(a, torch.tensor(-2.0).double(), b), x - 2 * y),
        (tree.zeros_like(a), torch.zeros_like(x)),
        (tree.where(torch.tensor(True), a, b), x),
        (tree.where(torch.tensor(False), a, b), y),
    ]
    for got, expected in cases:
        assert tree.structure(got) == tree.structure(a)
        torch.testing.assert_close(tree.ravel(got)[0], expected)
    torch.testing.assert_close(tree.dot(a, b), x @ y)
    torch.testing.assert_close(tree.squared_norm(a), x @ x)


def test_a_batch_leads_with_an_axis():
    with pytest.raises(ValueError, match="a batch must lead with an axis"):
        tree.batch_size(torch.tensor(1.0))


@quick
@given(trees)
def test_stack_and_broadcast_add_an_axis(shape):
    a, b = _build(shape, 1), _build(shape, 2)
    stacked = tree.stack([a, b])
    assert tree.batch_size(stacked) == 2
    assert _equal(tree.map(lambda leaf: leaf[1], stacked), b)
    copies = tree.broadcast(a, 3)
    assert tree.batch_size(copies) == 3
    assert _equal(tree.map(lambda leaf: leaf[2], copies), a)
    assert _equal(tree.stack([a, b], -1), tree.map(lambda leaf: leaf.movedim(0, -1), stacked))


@quick
@given(trees)
def test_all_finite_sees_each_leaf(shape):
    value = _build(shape, 3)
    assert bool(tree.all_finite(value))
    leaves, structure = tree.flatten(value)
    for index, leaf in enumerate(leaves):
        for bad in (torch.nan, torch.inf, -torch.inf):
            broken = leaf.clone()
            broken.view(-1)[-1] = bad
            assert not bool(tree.all_finite(tree.unflatten(structure, [*leaves[:index], broken, *leaves[index + 1 :]])))


@pytest.mark.compiled
def test_compiled_all_finite_sees_each_row_and_no_large_number():
    rows = torch.ones(6, 3)
    rows[1, 2], rows[2, 0], rows[3, 1], rows[4] = torch.nan, torch.inf, -torch.inf, torch.finfo(rows.dtype).max
    assert ebm.jit(vmap(tree.all_finite))({"rows": rows, "count": torch.arange(6)}).tolist() == [
        True,
        *3 * [False],
        True,
        True,
    ]


@quick
@given(trees)
def test_normal_like_gives_leaf_i_the_child_i(shape):
    value, key = _build(shape, 4), random.key(9)
    noise = tree.normal_like(key, value)
    assert tree.structure(noise) == tree.structure(value)
    leaves = tree.leaves(value)
    keys = [key] if len(leaves) == 1 else random.split(key, len(leaves))
    expected = [random.normal(k, tuple(leaf.shape), dtype=leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(noise), expected, strict=True))


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_the_order_of_a_dict_does_not_matter(order):
    value = {name: torch.full((2,), float(ord(name))) for name in order}
    assert tree.paths(value) == ["a", "b"]
    assert tree.ravel(value)[0].tolist() == [97, 97, 98, 98]


def test_where_keeps_the_nan_of_the_other_branch_out():
    nan, one = {"x": torch.tensor(torch.nan)}, {"x": torch.tensor(1.0)}
    assert tree.where(torch.tensor(False), nan, one)["x"] == 1


def test_cast_like_leaves_integers_as_they_are():
    got = tree.cast_like({"a": torch.ones(2).double(), "b": torch.tensor(3)}, torch.zeros(()))
    assert got["a"].dtype == torch.float32
    assert got["b"].dtype == torch.int64


def test_paths_name_the_leaves():
    value = {"layers": [Pair(torch.zeros(1), ()), {"weight": torch.zeros(1)}]}
    assert tree.paths(value) == ["layers/0/left", "layers/1/weight"]
    assert tree.paths(torch.zeros(1)) == [""]
