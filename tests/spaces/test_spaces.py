"""Spaces: checks at the door, integers, starts, and all states by number."""

from __future__ import annotations

import pytest
import torch
from tests.distributions import assert_mean, assert_uniform

from funcebm import random, spaces, tree

SPACES = {
    "binary": spaces.binary((2, 2)),
    "levels": spaces.binary(3, (-0.5, 2.0)),
    "spins": spaces.spins(3),
    "categorical": spaces.categorical((2, 1), 3),
    "unequal": spaces.categorical(3, [2, 4, 3]),
    "ordinal": spaces.ordinal(2, 5),
    "tree": {"b": spaces.binary(2), "a": (spaces.categorical(1, 3), spaces.ordinal(1, 4))},
}
MIXED = {"x": spaces.real(2), "z": spaces.categorical(2, 3)}
sweep = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


@sweep
def test_states_are_all_different_all_valid_and_numbered(space):
    states = spaces.states(space, torch.float64)
    num = spaces.num_states(space)
    rows = torch.cat([leaf.reshape(num, -1) for leaf in tree.leaves(states)], 1)
    assert len(rows.unique(dim=0)) == num
    spaces.check(space, states)
    numbers = torch.func.vmap(lambda x: spaces.index(space, x))(states)
    assert torch.equal(numbers, torch.arange(num))


@sweep
def test_integers_are_small_and_go_back(space):
    states = spaces.states(space)
    small = spaces.to_integers(space, states)
    assert all(leaf.dtype == torch.int8 for leaf in tree.leaves(small))
    back = spaces.from_integers(space, small)
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(back), tree.leaves(states), strict=True))


@sweep
def test_starts_are_uniform(space):
    num = spaces.num_states(space)
    draws = spaces.sample(random.key(3), space, 200 * num)
    spaces.check(space, draws)
    numbers = torch.func.vmap(lambda x: spaces.index(space, x))(draws)
    assert_uniform(torch.bincount(numbers, minlength=num))


def test_starts_have_the_mean_that_is_asked_for():
    space = {"b": spaces.spins(2), "c": spaces.categorical(1, 3), "x": spaces.real(1)}
    mean = {"b": torch.tensor([0.5, -0.9]), "c": torch.tensor([[0.2, 0.5, 0.3]]), "x": torch.tensor([4.0])}
    draws = spaces.sample(random.key(0), space, 20_000, mean=mean, dtype=torch.float64)
    for name, leaf in draws.items():
        assert leaf.dtype == torch.float64
        assert_mean(leaf, mean[name])


def test_a_start_is_the_same_under_vmap_and_alone():
    begin = spaces.start(MIXED)
    keys = random.split(random.key(0), 3)
    mapped = torch.func.vmap(begin)(keys)
    for i, key in enumerate(keys):
        for a, b in zip(tree.leaves(begin(key)), tree.leaves(mapped), strict=True):
            assert torch.equal(a, b[i])


def test_levels_that_are_no_small_whole_numbers_are_stored_by_number():
    space = spaces.binary(2, (-0.5, 300.0))
    assert spaces.to_integers(space, torch.tensor([300.0, -0.5])).tolist() == [1, 0]
    assert spaces.to_integers(spaces.spins(2), torch.tensor([-1.0, 1.0])).tolist() == [-1, 1]
    assert spaces.to_integers(spaces.ordinal(1, 1000), torch.tensor([999.0])).dtype == torch.int16


def test_spaces_compare_and_hash_by_what_they_say():
    assert spaces.binary(3) == spaces.binary((3,)) != spaces.spins(3)
    assert len({spaces.categorical(2, 3), spaces.categorical(2, [3, 3])}) == 1


@pytest.mark.parametrize(
    ("space", "positions", "error", "words"),
    [
        (
            spaces.binary(2),
            torch.tensor([0.0, 0.5]),
            ValueError,
            r"only the levels of the space, \(0.0, 1.0\). Got 0.5",
        ),
        (spaces.binary(2), torch.tensor([0.0, float("nan")]), ValueError, "Got nan"),
        (spaces.spins(2), torch.tensor([0.0, 1.0]), ValueError, "spaces.binary"),
        (spaces.ordinal(1, 9), torch.tensor([9.0]), ValueError, r"\(0.0, ..., 8.0\)"),
        (spaces.categorical(1, 3), torch.tensor([[1.0, 1.0, 0.0]]), ValueError, "one-hot"),
        (spaces.categorical(2, [2, 3]), torch.eye(3)[[2, 0]], ValueError, "within the values of their site"),
        (spaces.categorical(2, 3), torch.tensor([0.0, 2.0]), ValueError, r"one-hot rows \(\*sites, K\)"),
        (spaces.binary(2), torch.tensor([0, 1]), TypeError, "from_integers"),
        (MIXED, torch.zeros(2), ValueError, "must have the structure|structure"),
        ({"x": 3}, {"x": torch.zeros(2)}, ValueError, "tree of spaces"),
    ],
)
def test_wrong_positions_are_refused_in_words(space, positions, error, words):
    with pytest.raises(error, match=words):
        spaces.check(space, positions)


@pytest.mark.parametrize(
    ("space", "integers", "words"),
    [
        (spaces.binary(2), torch.tensor([0, 2]), "Got 2"),
        (spaces.spins(2), torch.tensor([-1, 0]), "levels"),
        (spaces.ordinal(2, 3), torch.tensor([0, 3]), "0 .. 2. Got 3"),
        (spaces.categorical(2, [2, 3]), torch.tensor([2, 2]), "Got 2"),
        (spaces.categorical(2, 3), torch.tensor([-1, 2]), "Got -1"),
        (spaces.categorical(2, 3), torch.eye(3)[:2].long(), "one-hot axis"),
        (spaces.binary(2), torch.tensor([0.0, 0.4]), "Got 0.4"),
    ],
)
def test_integers_that_are_no_values_are_refused(space, integers, words):
    with pytest.raises(ValueError, match=words):
        spaces.from_integers(space, integers)


def test_bits_are_values_of_spins_and_spins_are_their_levels():
    for integers in ([0, 1], [-1, 1]):
        assert spaces.from_integers(spaces.spins(2), torch.tensor(integers)).tolist() == [-1.0, 1.0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: spaces.binary(0), "each of shape"),
        (lambda: spaces.binary(2, (1.0, 0.0)), "low and high"),
        (lambda: spaces.categorical(2, 1), "at least 2"),
        (lambda: spaces.categorical(2, [2, 3, 4]), "3 for 2 sites"),
        (lambda: spaces.ordinal(2, 1), "num_levels"),
        (lambda: spaces.states(spaces.binary(30)), "energies.exact"),
        (lambda: spaces.num_states(MIXED), "only discrete spaces"),
        (lambda: spaces.start(spaces.ordinal(2, 3), mean=torch.ones(2)), "ordinals"),
        (lambda: spaces.start(spaces.spins(2), mean=torch.tensor([2.0, 0.0])), "mean must be within"),
    ],
)
def test_bad_spaces_are_refused_in_words(make, words):
    with pytest.raises(ValueError, match=words):
        make()
