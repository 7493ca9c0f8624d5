"""Running covariances: equal to those of all draws at once, however the draws came."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.func import vmap

from funcebm import random, tree
from funcebm.adaptation import welford

SHAPES = pytest.mark.parametrize("shape", ["diagonal", "dense"])


def _draws(num: int, dtype=torch.float64):
    key_a, key_b = random.split(random.key(0))
    mixed = random.normal(key_a, (num, 4), dtype=dtype) @ random.normal(key_b, (4, 4), dtype=dtype) + 3
    return {"b": mixed[:, :1], "a": mixed[:, 1:].reshape(num, 3, 1)}, torch.cat([mixed[:, 1:], mixed[:, :1]], 1)


def _feed(algorithm, draws, sizes):
    state, start = algorithm.init(tree.map(lambda leaf: leaf[0], draws)), 0
    for size in sizes:
        state = algorithm.update(state, tree.map(lambda leaf: leaf[start : start + size], draws))  # noqa: B023
        start += size
    return state


def _flat(variance):
    return variance if isinstance(variance, torch.Tensor) else tree.ravel(variance)[0]


def _expected(rows, shape):
    covariance = torch.cov(rows.T)
    return covariance if shape == "dense" else covariance.diagonal()


@SHAPES
@pytest.mark.parametrize("sizes", [[50], [1] * 50, [7, 1, 30, 12]])
def test_it_is_the_covariance_of_all_draws(shape, sizes):
    draws, rows = _draws(50)
    state = _feed(welford(shape), draws, sizes)
    assert float(state.num) == 50
    torch.testing.assert_close(_flat(state.mean), rows.mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(_flat(welford(shape).final(state)), _expected(rows, shape), rtol=1e-12, atol=1e-12)


@SHAPES
def test_parts_merge_to_the_whole_and_an_empty_part_is_nothing(shape):
    draws, rows = _draws(50)
    algorithm = welford(shape)
    first, second = tree.map(lambda leaf: leaf[:20], draws), tree.map(lambda leaf: leaf[20:], draws)
    merged = algorithm.merge(_feed(algorithm, first, [20]), _feed(algorithm, second, [15, 15]))
    torch.testing.assert_close(_flat(algorithm.final(merged)), _expected(rows, shape), rtol=1e-12, atol=1e-12)
    empty = algorithm.init(tree.map(lambda leaf: leaf[0], draws))
    for both in (algorithm.merge(merged, empty), algorithm.merge(empty, merged)):
        for a, b in zip(tree.leaves(both), tree.leaves(merged), strict=True):
            torch.testing.assert_close(a, b)


@SHAPES
def test_float32_does_far_from_zero(shape):
    """Mean 10,000, deviation 1: a sum of squares less the square of the sum would have no right digit."""
    rows = 1e4 + random.normal(random.key(1), (2000, 3))
    state = _feed(welford(shape), rows, [8] * 250)
    expected = _expected(rows.double(), shape)
    # positions themselves are rounded to 0.001; what Welford adds is less
    torch.testing.assert_close(welford(shape).final(state).double(), expected, rtol=1e-4, atol=1e-4)
    naive = (rows**2).mean(0) - rows.mean(0) ** 2
    assert float((naive - rows.double().var(0)).abs().max()) > 0.5


@SHAPES
def test_shrinkage_is_that_of_stan(shape):
    draws, rows = _draws(12)
    state = _feed(welford(shape), draws, [12])
    n = 12
    expected = n / (n + 5) * np.cov(rows.numpy().T) + 1e-3 * 5 / (n + 5) * np.eye(4)
    expected = expected if shape == "dense" else np.diagonal(expected)
    np.testing.assert_allclose(_flat(welford(shape).shrunk(state)), expected, rtol=1e-12, atol=1e-14)


@SHAPES
def test_one_draw_shrinks_to_something_positive(shape):
    state = _feed(welford(shape), torch.ones(1, 2), [1])
    expected = 1e-3 * 5 / 6 * (torch.eye(2) if shape == "dense" else torch.ones(2))
    torch.testing.assert_close(welford(shape).shrunk(state), expected)


@SHAPES
def test_chains_that_are_not_finite_are_left_out(shape):
    draws, rows = _draws(50)
    draws["b"][3], draws["a"][10, 1] = torch.nan, torch.inf
    keep = [i for i in range(50) if i not in (3, 10)]
    state = _feed(welford(shape), draws, [25, 25])
    assert float(state.num) == 48
    torch.testing.assert_close(_flat(welford(shape).final(state)), _expected(rows[keep], shape))


@SHAPES
def test_it_goes_through_vmap(shape):
    stacked = random.normal(random.key(2), (3, 10, 4), dtype=torch.float64)
    algorithm = welford(shape)
    mapped = vmap(lambda rows: algorithm.final(algorithm.update(algorithm.init(rows[0]), rows)))(stacked)
    torch.testing.assert_close(mapped, torch.stack([_expected(rows, shape) for rows in stacked]))


def test_another_shape_is_refused():
    with pytest.raises(ValueError, match=r'must be "diagonal" or "dense". Got full'):
        welford("full")
