"""Keys and draws: known answers, and replay under every transform."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import vmap

from funcebm import jit, random
from funcebm._torch import threefry_kernels

from .distributions import assert_mean

KEY = random.key(2024)
SEEDS = st.integers(-(2**70), 2**70)

KNOWN_ANSWERS = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
]


def _words(*values: int) -> torch.Tensor:
    return torch.tensor([value - 2**32 if value >= 2**31 else value for value in values], dtype=torch.int32)


def _unsigned(words: torch.Tensor) -> np.ndarray:
    return words.numpy().astype(np.int64) % 2**32


# -- the generator ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "counter", "expected"), KNOWN_ANSWERS)
def test_threefry_gives_the_known_answers_of_random123(key, counter, expected):
    words = random.threefry(_words(*key), _words(*counter))
    assert torch.equal(words, _words(*expected))


def test_threefry_gives_the_known_answers_under_vmap_and_in_a_batch():
    keys, counters, expected = (torch.stack([_words(*case[i]) for case in KNOWN_ANSWERS]) for i in range(3))
    assert torch.equal(random.threefry(keys, counters), expected)
    assert torch.equal(vmap(random.threefry)(keys, counters), expected)


def _threefry_in_integers(key: tuple[int, int], counter: tuple[int, int]) -> tuple[int, int]:
    """The definition in Python's integers, written from the paper and the table of its rotations."""
    mask, rotations = 2**32 - 1, (13, 15, 26, 6, 17, 29, 16, 24)
    schedule = (*key, key[0] ^ key[1] ^ 0x1BD11BDA)
    x0, x1 = (counter[0] + key[0]) & mask, (counter[1] + key[1]) & mask
    for index in range(20):
        distance = rotations[index % 8]
        x0 = (x0 + x1) & mask
        x1 = (((x1 << distance) | (x1 >> (32 - distance))) & mask) ^ x0
        if index % 4 == 3:
            injection = index // 4 + 1
            x0 = (x0 + schedule[injection % 3]) & mask
            x1 = (x1 + schedule[(injection + 1) % 3] + injection) & mask
    return x0, x1


word = st.integers(0, 2**32 - 1)


@given(key=st.tuples(word, word), counter=st.tuples(word, word))
def test_threefry_is_the_definition_in_integers(key, counter):
    assert torch.equal(random.threefry(_words(*key), _words(*counter)), _words(*_threefry_in_integers(key, counter)))


def test_bits_are_the_blocks_in_counter_order():
    words = random.bits(KEY, (10,))
    counters = torch.stack([torch.zeros(5, dtype=torch.int32), torch.arange(5, dtype=torch.int32)], -1)
    assert torch.equal(words, random.threefry(KEY, counters).t().reshape(-1))


# -- keys ---------------------------------------------------------------------------------------------------------


@given(seed=SEEDS)
def test_a_seed_is_taken_modulo_two_to_the_64(seed):
    assert torch.equal(random.key(seed), random.key(seed % 2**64))
    assert tuple(_unsigned(random.key(seed))) == ((seed % 2**64) >> 32, seed % 2**32)


@given(seed=SEEDS, few=st.integers(1, 40), more=st.integers(0, 40))
def test_split_has_the_prefix_property(seed, few, more):
    key = random.key(seed)
    assert torch.equal(random.split(key, few), random.split(key, few + more)[:few])


@given(seed=SEEDS, index=st.integers(0, 2**31 - 1))
def test_fold_in_takes_integers_and_tensors_alike(seed, index):
    key = random.key(seed)
    for dtype in (torch.int32, torch.int64):
        assert torch.equal(random.fold_in(key, index), random.fold_in(key, torch.tensor(index, dtype=dtype)))


def test_seeds_and_indices_of_numpy():
    assert torch.equal(random.key(np.int64(7)), random.key(7)) and torch.equal(random.key(np.uint8(7)), random.key(7))
    assert torch.equal(random.fold_in(KEY, np.int32(7)), random.fold_in(KEY, 7))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: random.key(np.array([1, 2])), TypeError, r"a seed must be an int.*Write int\(seed\)"),
        (lambda: random.key(np.bool_(True)), TypeError, "a seed must be an int"),
        (lambda: random.key(torch.tensor(3)), TypeError, r"Write int\(seed\)"),
        (lambda: random.fold_in(KEY, torch.tensor(2**32)), ValueError, r"in \[0, 2\*\*32\). Got 4294967296.*two words"),
        (lambda: random.fold_in(KEY, torch.tensor(-1)), ValueError, "Got -1"),
        (lambda: random.fold_in(KEY, torch.tensor(1.0)), TypeError, "Got a tensor of torch.float32"),
        (lambda: random.fold_in(KEY, torch.arange(3)), ValueError, r"0-d tensor. Got the shape \(3,\).*vmap"),
        (lambda: random.fold_in(KEY, 1.5), TypeError, "must be an integer. Got 1.5"),
    ],
)
def test_what_is_no_seed_or_index_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_fold_in_reaches_all_words():
    keys = [random.fold_in(KEY, index) for index in (0, 1, 2**31 - 1, 2**31, 2**32 - 1)]
    assert len({tuple(key.tolist()) for key in keys}) == 5
    assert torch.equal(keys[3], random.fold_in(KEY, torch.tensor(2**31)))


def test_children_and_draws_of_one_key_never_meet():
    """``split``, ``fold_in`` and ``bits`` use blocks of their own: 6,000 of them, no two alike."""
    num = 2000
    split = random.split(KEY, num)
    folded = vmap(random.fold_in, (None, 0))(KEY, torch.arange(num))
    drawn = random.bits(KEY, (2, num)).t()
    blocks = torch.cat([split, folded, drawn])
    assert len({tuple(block) for block in blocks.tolist()}) == 3 * num


def test_streams_of_related_keys_are_uncorrelated():
    num = 20000
    related = [random.key(0), random.key(1), random.key(2**32), random.split(random.key(0))[0]]
    related += [random.split(random.key(0))[1], random.fold_in(random.key(0), 0), random.fold_in(random.key(0), 1)]
    draws = torch.stack([random.normal(key, (num,), dtype=torch.float64) for key in related])
    correlations = torch.corrcoef(draws)[~torch.eye(len(related), dtype=torch.bool)]
    assert float(correlations.abs().max()) < 5 / math.sqrt(num)


def test_neighbours_in_one_stream_are_uncorrelated():
    """Both outputs of a Box-Muller pair, and numbers that are next to one another."""
    num = 200000
    draws = random.normal(KEY, (num,), dtype=torch.float64)
    for lag in (1, num // 2):
        assert_mean(draws[:-lag] * draws[lag:], 0.0)
        assert_mean(draws[:-lag] ** 2 * draws[lag:] ** 2, 1.0)


# -- transforms ---------------------------------------------------------------------------------------------------

DRAWS = {
    "bits": lambda key: random.bits(key, (7,)),
    "uniform": lambda key: random.uniform(key, (2, 3)),
    "uniform64": lambda key: random.uniform(key, (5,), dtype=torch.float64),
    "normal": lambda key: random.normal(key, (3, 3)),
    "normal64": lambda key: random.normal(key, (3,), dtype=torch.float64),
    "normal16": lambda key: random.normal(key, (3,), dtype=torch.bfloat16),
    "scalar": random.normal,
    "rademacher": lambda key: random.rademacher(key, (5,)),
    "bernoulli": lambda key: random.bernoulli(key, torch.tensor([0.2, 0.9])),
    "randint": lambda key: random.randint(key, (4,), -3, 9),
    "exponential": lambda key: random.exponential(key, (4,)),
    "gumbel": lambda key: random.gumbel(key, (4,), dtype=torch.float64),
    "categorical": lambda key: random.categorical(key, torch.tensor([[0.1, 0.5], [1.0, -1.0]]), (3,)),
    "permutation": lambda key: random.permutation(key, 6),
    "split": lambda key: random.split(key, 3),
    "fold_in": lambda key: random.fold_in(key, 5),
    "children": lambda key: random.normal(random.fold_in(random.split(key, 3)[1], 4), (2,)),
}
each_draw = pytest.mark.parametrize("name", list(DRAWS))


def _loop(function, keys):
    return torch.stack([function(key) for key in keys])


def _same(a: torch.Tensor, b: torch.Tensor) -> None:
    """Equal words; equal floats to the rounding of log and cos, which vectorised differ in the last place."""
    if a.is_floating_point():
        torch.testing.assert_close(
            a, b, rtol=1e-6 if a.dtype == torch.float32 else 1e-13, atol=1e-6, check_stride=False
        )
    else:
        assert torch.equal(a, b)


@each_draw
@pytest.mark.parametrize("num", [1, 3, 40])
def test_vmap_is_the_loop(name, num):
    keys = random.split(KEY, num)
    _same(vmap(DRAWS[name])(keys), _loop(DRAWS[name], keys))


@each_draw
@pytest.mark.parametrize("shape", [(2, 3), (5, 7), (20, 2)])
def test_nested_vmaps_are_the_nested_loop(name, shape):
    keys = random.split(KEY, math.prod(shape)).reshape(*shape, 2)
    expected = torch.stack([_loop(DRAWS[name], row) for row in keys])
    _same(vmap(vmap(DRAWS[name]))(keys), expected)
    _same(vmap(vmap(DRAWS[name]), 1)(keys), expected.transpose(0, 1))


@each_draw
def test_the_strides_of_keys_do_not_matter(name):
    keys = random.split(KEY, 20)
    expected = _loop(DRAWS[name], keys)
    _same(vmap(DRAWS[name], 1)(keys.t().contiguous()), expected)
    _same(vmap(DRAWS[name])(keys.t().contiguous().t()), expected)
    _same(vmap(DRAWS[name])(keys.repeat_interleave(2, 0)[::2]), expected)


def test_mapped_indices_are_the_loop():
    """``fold_in`` over indices, over keys, over both, in either order."""
    keys, indices = random.split(KEY, 18), torch.arange(5)
    expected = torch.stack([torch.stack([random.fold_in(key, int(i)) for i in indices]) for key in keys])
    over_indices = vmap(random.fold_in, (None, 0))
    assert torch.equal(vmap(over_indices, (0, None))(keys, indices), expected)
    over_keys = vmap(random.fold_in, (0, None))
    assert torch.equal(vmap(over_keys, (None, 0))(keys, indices), expected.transpose(0, 1))
    assert torch.equal(
        vmap(random.fold_in)(keys, torch.arange(18)),
        expected.new_tensor([random.fold_in(key, i).tolist() for i, key in enumerate(keys)]),
    )
    both = vmap(lambda key, index: vmap(random.fold_in, (None, 0))(key, index + indices))(keys, torch.arange(18))
    assert torch.equal(both[3], over_indices(keys[3], 3 + indices))


def test_a_draw_may_stand_inside_of_grad():
    keys = random.split(KEY, 3)
    slope = torch.func.grad(lambda scale: (scale * random.normal(KEY, (4,))).sum())(torch.tensor(2.0))
    torch.testing.assert_close(slope, random.normal(KEY, (4,)).sum())
    slopes = vmap(lambda key: torch.func.grad(lambda s: (s * random.normal(key)).sum())(torch.tensor(2.0)))(keys)
    torch.testing.assert_close(slopes, vmap(random.normal)(keys))


@settings(deadline=None, max_examples=30)
@given(seed=SEEDS, rows=st.integers(1, 5), columns=st.integers(1, 5))
def test_a_shape_only_reshapes(seed, rows, columns):
    key = random.key(seed)
    for draw in (random.bits, random.uniform, random.normal, random.rademacher):
        assert torch.equal(draw(key, (rows, columns)), draw(key, rows * columns).reshape(rows, columns))


# -- kernels and compiled functions -------------------------------------------------------------------------------


@each_draw
def test_without_kernels_all_is_the_same(name, monkeypatch):
    """Words bit for bit, floats to the rounding of log and cos."""
    keys = random.split(KEY, 20)
    draws = [DRAWS[name](KEY), vmap(DRAWS[name])(keys)]
    monkeypatch.setattr(threefry_kernels, "draw_blocks", lambda *_: False)
    for got, expected in zip([DRAWS[name](KEY), vmap(DRAWS[name])(keys)], draws, strict=True):
        _same(got, expected)


@pytest.mark.compiled
@pytest.mark.parametrize("num", [None, 20])
def test_compiled_draws_are_the_draws(num):
    """Words and normals bit for bit, what is made of them by log to its rounding."""

    def draw_all(key):
        return {name: draw(key) for name, draw in DRAWS.items()}

    function, keys = (draw_all, KEY) if num is None else (vmap(draw_all), random.split(KEY, num))
    got, expected = jit(function)(keys), function(keys)
    for name in DRAWS:
        _same(got[name], expected[name])
        if name not in ("exponential", "gumbel"):
            assert torch.equal(got[name], expected[name]), name


# -- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1.0, "1", None, True])
def test_a_seed_must_be_an_integer(seed):
    with pytest.raises(TypeError, match="a seed must be an int"):
        random.key(seed)


@pytest.mark.parametrize("key", [0, torch.zeros(2), torch.zeros(3, dtype=torch.int32), torch.zeros(1, 2).int()])
def test_a_key_must_be_a_key(key):
    for draw in (random.split, random.bits, random.normal, random.uniform, lambda key: random.fold_in(key, 0)):
        with pytest.raises(ValueError, match=r"a key must be an int32 tensor of shape \(2,\)"):
            draw(key)


def test_arguments_that_make_no_sense_are_errors():
    with pytest.raises(ValueError, match="num must be at least 1"):
        random.split(KEY, 0)
    with pytest.raises(ValueError, match="data must be in"):
        random.fold_in(KEY, -1)
    with pytest.raises(ValueError, match="data must be in"):
        random.fold_in(KEY, 2**32)
    with pytest.raises(ValueError, match="must hold"):
        random.randint(KEY, (2,), 3, 3)
    with pytest.raises(TypeError, match="floating-point dtype"):
        random.normal(KEY, (2,), dtype=torch.int32)
    with pytest.raises(ValueError, match="fewer than"):
        random.bits(KEY, (2**16, 2**16))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (100.0, 101.0), (1.0, 1.001), (-1.0, 0.0), (-3.0, -2.0), (0.0, 0.1), (0.0, 1e-6)]
)
def test_uniform_numbers_never_are_the_upper_bound(dtype, low, high):
    if torch.tensor(low, dtype=dtype) == torch.tensor(high, dtype=dtype):
        pytest.skip("one number in this dtype")
    drawn = random.uniform(random.key(0), (200_000,), low=low, high=high, dtype=dtype)
    assert (drawn < torch.tensor(high, dtype=dtype)).all()
    assert (drawn >= torch.tensor(low, dtype=dtype)).all()


def test_a_range_that_is_one_number_gives_that():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        for low, high in ((1.0, 1.0), (1.0, 1.0 + 1e-17), (-2.0, -2.0), (0.0, 0.0)):
            assert (random.uniform(random.key(0), (100,), low=low, high=high, dtype=dtype) == low).all()
