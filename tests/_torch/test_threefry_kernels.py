"""The kernels in C: the words of Threefry, accurate normals, and the same bits however they are asked for."""

from __future__ import annotations

import ctypes
import itertools
import pathlib
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from funcebm import _threefry as threefry
from funcebm._torch import native, threefry_kernels

pytestmark = pytest.mark.skipif(native.why_not("c") is not None, reason="no C compiler")

WORDS, NORMAL32, NORMAL64 = KINDS = threefry.WORDS, threefry.NORMAL32, threefry.NORMAL64
DTYPES = {WORDS: torch.int32, NORMAL32: torch.float32, NORMAL64: torch.float64}
TOLERANCES = {NORMAL32: 3e-7, NORMAL64: 2e-15}
TILE, SHARE = 256, 1 << 18  # of the C source: lanes worked on together, blocks for one more thread


@pytest.fixture
def threads():
    """Sets the number of threads; puts the old one back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def _int32(word: int) -> int:
    return (word + 2**31) % 2**32 - 2**31


def _random_words(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(-(2**31), 2**31, shape, dtype=np.int32))


def _bits(numbers: torch.Tensor) -> torch.Tensor:
    return numbers.contiguous().view(torch.int64 if numbers.dtype == torch.float64 else torch.int32)


def _draw(key, counter, kind, *, domain=0, keys_inner=False, out=None) -> torch.Tensor:
    shape = (key.shape[0], 2, counter.shape[1])
    if out is None:
        out = torch.empty(shape[1], shape[2], shape[0], dtype=DTYPES[kind]).permute(2, 0, 1) if keys_inner else None
    out = torch.empty(shape, dtype=DTYPES[kind]) if out is None else out
    assert threefry_kernels.draw_blocks(key, counter, domain, kind, out)
    return out


def _reference_words(key, counter, domain=0) -> torch.Tensor:
    """``(K, 2, m)`` by plain tensor operations."""
    low = counter.expand(key.shape[0], -1)
    pair = torch.stack((torch.full_like(low, _int32(domain)), low), -1)
    return threefry.threefry(key.unsqueeze(1).expand_as(pair), pair).movedim(-1, 1)


def _reference_normals(key, counter, kind, domain=0) -> tuple[np.ndarray, np.ndarray]:
    """Normals ``(K, 2, m)`` and their radius ``(K, m)``, from the same uniforms, in more precision."""
    if kind == NORMAL32:
        word0, word1 = _reference_words(key, counter, domain).unbind(1)
        uniform, turns = threefry.open_uniform32(word0), word1.float() * 2.0**-31
    else:
        first, second = (_reference_words(key, 2 * counter + part, domain).unbind(1) for part in (0, 1))
        uniform, turns = threefry.open_uniform64(*first), 2 * threefry.open_uniform64(*second) - 1
    precise = np.float64 if kind == NORMAL32 else np.longdouble
    radius = np.sqrt(-2 * np.log(uniform.numpy().astype(precise)))
    angle = turns.numpy().astype(precise) * np.arccos(precise(-1))
    return np.stack((radius * np.cos(angle), radius * np.sin(angle)), 1), radius


def _assert_accurate(normals, key, counter, kind, domain=0) -> None:
    expected, radius = _reference_normals(key, counter, kind, domain)
    errors = np.abs(normals.numpy() - expected)
    assert (errors <= TOLERANCES[kind] * radius[:, None]).all(), float(errors.max())


# -- words --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [
        ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
@pytest.mark.parametrize("num", [1, 15, 16, 17, TILE, TILE + 1])
def test_the_known_answers_of_random123_in_every_lane(key, counter, expected, num):
    keys = torch.tensor([[_int32(word) for word in key]], dtype=torch.int32)
    counters = torch.full((1, num), _int32(counter[1]), dtype=torch.int32)
    expected = torch.tensor([_int32(word) for word in expected], dtype=torch.int32)
    along_counters = _draw(keys, counters, WORDS, domain=_int32(counter[0]))
    along_keys = _draw(keys.expand(num, -1), counters[:, :1], WORDS, domain=_int32(counter[0]))
    assert torch.equal(along_counters, expected[None, :, None].expand(1, 2, num))
    assert torch.equal(along_keys, expected[None, :, None].expand(num, 2, 1))


@given(
    num_keys=st.integers(0, 40) | st.integers(250, 600),
    num_counters=st.integers(0, 40),
    own_counters=st.booleans(),
    kind=st.sampled_from(KINDS),
    domain=st.sampled_from([0, 1, 2, -1, -(2**31)]),
    keys_inner=st.booleans(),
    swapped=st.booleans(),
    seed=st.integers(0, 2**16),
)
@settings(deadline=None, max_examples=150)
def test_every_shape_and_layout(num_keys, num_counters, own_counters, kind, domain, keys_inner, swapped, seed):
    if swapped:
        num_keys, num_counters = num_counters, num_keys
    key = _random_words(num_keys, 2, seed=seed)
    counter = _random_words(num_keys if own_counters else 1, num_counters, seed=seed + 1)
    drawn = _draw(key, counter, kind, domain=domain, keys_inner=keys_inner)
    if kind == WORDS:
        assert torch.equal(drawn, _reference_words(key, counter, domain))
    else:
        _assert_accurate(drawn, key, counter, kind, domain)


# -- normals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [NORMAL32, NORMAL64])
def test_a_million_normals_are_accurate(kind):
    key, counter = torch.tensor([[123, -456]], dtype=torch.int32), torch.arange(500_000, dtype=torch.int32)[None]
    _assert_accurate(_draw(key, counter, kind), key, counter, kind)


def _counter_of(word0: int, word1: int) -> tuple[int, int]:
    """The counter whose block under the key (0, 0) is these words: the cipher backwards."""
    schedule, rotations, mask = (0, 0, 0x1BD11BDA), (13, 15, 26, 6, 17, 29, 16, 24), 2**32 - 1
    for index in reversed(range(20)):
        if index % 4 == 3:
            injection = index // 4 + 1
            word0 = (word0 - schedule[injection % 3]) & mask
            word1 = (word1 - schedule[(injection + 1) % 3] - injection) & mask
        word1, distance = word1 ^ word0, rotations[index % 8]
        word1 = ((word1 >> distance) | (word1 << (32 - distance))) & mask
        word0 = (word0 - word1) & mask
    return word0, word1


def _blocks_at(words0, words1, kind, second=False) -> tuple[np.ndarray, np.ndarray]:
    """Normals of blocks with the given words (for float64, of its first or second block), and their errors by radius."""
    key, drawn, errors = torch.zeros(1, 2, dtype=torch.int32), [], []
    for word0, word1 in itertools.product(words0, words1):
        high, low = _counter_of(word0, word1)
        while kind == NORMAL64 and low % 2 != second:  # its lower bits are not used
            word1 += 1
            high, low = _counter_of(word0, word1)
        counter = torch.tensor([[_int32(low // 2 if kind == NORMAL64 else low)]], dtype=torch.int32)
        assert _reference_words(key, torch.tensor([[_int32(low)]], dtype=torch.int32), high).flatten()[0] == _int32(
            word0
        )
        normals = _draw(key, counter, kind, domain=_int32(high)).double().numpy()
        expected, radius = _reference_normals(key, counter, kind, high)
        drawn.append(normals.flatten())
        errors.append((np.abs(normals - expected) / np.where(radius > 0, radius, 1)[:, None]).max())
    return np.array(drawn), np.array(errors, dtype=np.float64)


ANGLES = [word for turn in range(0, 2**32, 2**29) for word in (turn, turn + 1, turn - 1, turn + 2**20)]
ANGLES = [word % 2**32 for word in ANGLES]


def test_float32_normals_reach_the_tails_and_the_middle():
    # the first word's upper 31 bits are the uniform, the first is the smallest and the third is 1
    smallest, _, largest = 0, 1, 2**32 - 1
    normals, errors = _blocks_at([smallest, 1, 2, 3, 4, 7, 1000], ANGLES, NORMAL32)
    assert errors.max() < TOLERANCES[NORMAL32]
    radius = np.hypot(*normals.T)
    assert abs(radius.max() - np.sqrt(64 * np.log(2))) < 1e-6  # 6.66 standard deviations
    normals, errors = _blocks_at([largest, largest - 1, largest - 2**9, largest - 2**12], ANGLES, NORMAL32)
    assert errors.max() < TOLERANCES[NORMAL32]
    assert (normals[: len(ANGLES)] == 0).all()  # u = 1
    middle = [word + shift for word in (0x5A827999, 0xB504F333, 2**31) for shift in (-256, -2, 0, 2, 256)]
    _, errors = _blocks_at(middle, [0, 2**29], NORMAL32)  # where the logarithm changes its exponent
    assert errors.max() < TOLERANCES[NORMAL32]


def test_float64_normals_reach_the_tails_and_the_middle():
    # its words are signed, and an offset makes them uniform: the smallest is 2**31
    normals, errors = _blocks_at([2**31, 2**31 + 1], [0, 2**11, 2**12, 2**20, 2**31], NORMAL64)
    assert errors.max() < TOLERANCES[NORMAL64]
    assert abs(np.hypot(*normals.T).max() - np.sqrt(108 * np.log(2))) < 1e-14  # u = 2**-54
    normals, errors = _blocks_at([2**31 - 1], [2**32 - 2**11, 2**32 - 2**12, 2**20, 0], NORMAL64)
    assert errors.max() < TOLERANCES[NORMAL64]
    assert (normals[0] == 0).all()  # u = 1
    _, errors = _blocks_at([word % 2**32 for word in ANGLES], [0, 2**31], NORMAL64, second=True)
    assert errors.max() < TOLERANCES[NORMAL64]


def test_the_quarter_turns_are_exact():
    normals, _ = _blocks_at(
        [0], [0, 2**30, 2**31, 3 * 2**30], NORMAL32
    )  # cos and sin of 0, 1/2, -1 and -1/2 half turns
    radius = np.float64(np.float32(np.sqrt(64 * np.log(2))))
    np.testing.assert_allclose(normals / radius, [[1, 0], [0, 1], [-1, 0], [0, -1]], rtol=0, atol=2e-7)
    assert (normals[[0, 1, 2, 3], [1, 0, 1, 0]] == 0).all()


# -- the same bits ------------------------------------------------------------------------------------------------

NUM_KEYS, NUM_COUNTERS = 75, 70
KEY = _random_words(NUM_KEYS, 2)
COUNTER = _random_words(1, NUM_COUNTERS, seed=1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_has_the_same_bits_alone_in_every_part_and_in_every_layout(kind):
    whole = _draw(KEY, COUNTER, kind)
    assert torch.equal(_bits(_draw(KEY, COUNTER, kind, keys_inner=True)), _bits(whole))
    own = COUNTER.repeat(NUM_KEYS, 1)
    assert torch.equal(_bits(_draw(KEY, own, kind)), _bits(whole))
    for keys_inner, first, last in itertools.product((False, True), (0, 1, 7), (8, 15, 16, 17, 63, 64, 70)):
        some_counters = _draw(KEY[:3], COUNTER[:, first:last], kind, keys_inner=keys_inner)
        some_keys = _draw(KEY[first:last], COUNTER[:, :2], kind, keys_inner=keys_inner)
        assert torch.equal(_bits(some_counters), _bits(whole[:3, :, first:last]))
        assert torch.equal(_bits(some_keys), _bits(whole[first:last, :, :2]))
    for k, c in itertools.product(range(0, NUM_KEYS, 9), range(0, NUM_COUNTERS, 9)):
        alone = _draw(KEY[k : k + 1], COUNTER[:, c : c + 1], kind)
        assert torch.equal(_bits(alone[0, :, 0]), _bits(whole[k, :, c]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 3 * SHARE + 5), (3 * SHARE + 5, 1), (SHARE + 3, 3), (300, 200)])
def test_the_number_of_threads_changes_no_bit(kind, shape, threads):
    key, counter = _random_words(shape[0], 2), torch.arange(shape[1], dtype=torch.int32)[None]
    for keys_inner in (False, True):
        threads(1)
        expected = _draw(key, counter, kind, keys_inner=keys_inner)
        for number in (2, 3, 8):
            threads(number)
            drawn = torch.full_like(expected, 7)
            assert torch.equal(_bits(_draw(key, counter, kind, out=drawn)), _bits(expected))


@pytest.mark.parametrize("kind", KINDS)
def test_strided_inputs_and_outputs(kind):
    expected = _bits(_draw(KEY, COUNTER, kind))
    wide_key = torch.full((NUM_KEYS, 7), 99, dtype=torch.int32)
    wide_key[:, 1], wide_key[:, 4] = KEY.unbind(1)
    wide_counter = torch.full((NUM_COUNTERS, 3), 99, dtype=torch.int32)
    wide_counter[:, 1] = COUNTER[0]
    keys = (wide_key[:, 1:5:3], KEY.t().contiguous().t())
    counters = (wide_counter[:, 1:2].t(), wide_counter[:, 1:2].t().expand(NUM_KEYS, -1), COUNTER.expand(NUM_KEYS, -1))
    for key, counter in itertools.product(keys, counters):
        assert torch.equal(_bits(_draw(key, counter, kind)), expected)
        room = torch.full((3, NUM_COUNTERS + 2, NUM_KEYS + 1, 2), 7, dtype=DTYPES[kind])
        out = room[:2, 1:-1, 1:, 1].permute(2, 0, 1)
        assert torch.equal(_bits(_draw(key, counter, kind, out=out)), expected)
        out.fill_(7)
        assert (room == 7).all()  # it wrote nowhere else
    same_key = _draw(KEY[:1].expand(20, -1), COUNTER, kind, keys_inner=True)
    assert torch.equal(_bits(same_key), expected[:1].expand(20, -1, -1))
    same_counter = _draw(KEY, COUNTER[:, :1].expand(-1, 20), kind)
    assert torch.equal(_bits(same_counter), expected[:, :, :1].expand(-1, -1, 20))


def _call(address: int, key, counter, kind, domain=0) -> torch.Tensor:
    """Draws by the function at an address."""
    integer, pointer, out = (
        ctypes.c_int64,
        ctypes.c_void_p,
        torch.empty(len(key), 2, counter.shape[1], dtype=DTYPES[kind]),
    )
    function = ctypes.CFUNCTYPE(
        *(None, ctypes.c_int, integer, integer, pointer, integer, integer, pointer, integer, integer, ctypes.c_int32),
        *(pointer, integer, integer, integer, ctypes.c_int),
    )(address)
    places = (key.data_ptr(), *key.stride(), counter.data_ptr(), 0, 1, domain, out.data_ptr(), *out.stride())
    function(kind, len(key), counter.shape[1], *places, 1)
    return out


def _address(*flags: str) -> int:
    """Of the kernel, compiled with other flags."""
    source = pathlib.Path(threefry_kernels.__file__).with_name("threefry.c").read_text()
    library = native.load(source, name="threefry-test", flags=flags)
    return ctypes.cast(library.funcebm_threefry, ctypes.c_void_p).value


@pytest.mark.parametrize("kind", KINDS)
def test_code_without_vectors_gives_the_same_bits(kind):
    address = _address("-march=native", "-O1", "-fno-tree-vectorize", "-ffp-contract=off")
    counter = torch.arange(20_000, dtype=torch.int32)[None]
    assert torch.equal(_bits(_call(address, KEY[:3], counter, kind)), _bits(_draw(KEY[:3], counter, kind)))


def test_code_for_any_processor_is_accurate_too():
    address, counter = _address(*threefry_kernels._OTHERS[-1]), torch.arange(20_000, dtype=torch.int32)[None]
    assert torch.equal(_call(address, KEY[:3], counter, WORDS), _draw(KEY[:3], counter, WORDS))
    for kind in (NORMAL32, NORMAL64):
        _assert_accurate(_call(address, KEY[:3], counter, kind), KEY[:3], counter, kind)


# -- the door -----------------------------------------------------------------------------------------------------


def test_its_address_serves_callers_in_c():
    drawn = _call(threefry_kernels.address(), KEY, COUNTER, NORMAL32, domain=2)
    assert torch.equal(drawn, _draw(KEY, COUNTER, NORMAL32, domain=2))


@pytest.mark.parametrize(
    ("key", "counter", "out"),
    [
        ((3, 2), (1, 4), (3, 2, 5)),
        ((3, 2), (2, 4), (3, 2, 4)),
        ((3, 2), (1, 4), (2, 2, 4)),
        ((3, 2), (1, 4), (3, 3, 4)),
        ((3, 3), (1, 4), (3, 3, 4)),
        ((3, 1), (1, 4), (3, 2, 4)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(key, counter, out):
    key, counter = torch.zeros(key, dtype=torch.int32), torch.zeros(counter, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"keys must be \(K, 2\) int32"):
        threefry_kernels.draw_blocks(key, counter, 0, NORMAL32, torch.zeros(out))


@pytest.mark.parametrize("wrong", range(3))
def test_other_dtypes_are_refused(wrong):
    given = [torch.zeros(3, 2, dtype=torch.int32), torch.zeros(1, 4, dtype=torch.int32), torch.zeros(3, 2, 4)]
    given[wrong] = given[wrong].double()
    with pytest.raises(ValueError, match="float64"):
        threefry_kernels.draw_blocks(*given[:2], 0, NORMAL32, given[2])


def test_other_devices_are_left_to_the_caller():
    key, counter, out = KEY, COUNTER, torch.empty(NUM_KEYS, 2, NUM_COUNTERS)
    assert not threefry_kernels.draw_blocks(key.to("meta"), counter.to("meta"), 0, NORMAL32, out.to("meta"))


def test_without_a_compiler_the_caller_draws_and_a_broken_one_is_said_once(monkeypatch):
    out = torch.full((NUM_KEYS, 2, NUM_COUNTERS), 7.0)
    for compiler, is_said in (("no-such-compiler", False), ("false", True)):
        monkeypatch.setenv("CC", compiler)
        monkeypatch.setattr(threefry_kernels, "_library", None)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert not threefry_kernels.draw_blocks(KEY, COUNTER, 0, NORMAL32, out)
            assert not threefry_kernels.draw_blocks(KEY, COUNTER, 0, NORMAL32, out)
            assert threefry_kernels.address() == 0
        assert [str(warning.message)[:50] for warning in caught] == [
            "random numbers come from plain tensor operations, "
        ] * is_said
        assert (out == 7).all()
