"""The distributions of the draws, at up to ten million of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch.func import vmap

from funcebm import _threefry as threefry
from funcebm import random

from .distributions import assert_mean, assert_uniform

KEY = random.key(2024)


def _words(*values: int) -> torch.Tensor:
    return torch.tensor([value - 2**32 if value >= 2**31 else value for value in values], dtype=torch.int32)


def _unsigned(words: torch.Tensor) -> np.ndarray:
    return words.numpy().astype(np.int64) % 2**32


@pytest.fixture(scope="module")
def ten_million():
    return random.normal(KEY, (10**7,))


def test_ten_million_normals_pass_kolmogorov_and_smirnov(ten_million):
    probabilities = torch.special.ndtr(ten_million.double()).sort().values
    num = len(probabilities)
    grid = torch.arange(num + 1, dtype=torch.float64) / num
    distance = max(float((grid[1:] - probabilities).max()), float((probabilities - grid[:-1]).max()))
    assert scipy.stats.kstwobign.sf(distance * math.sqrt(num)) > 1e-6


def test_ten_million_normals_have_the_moments_and_the_tails(ten_million):
    num = len(ten_million)
    draws = ten_million.double()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10395 - 225)):
        assert abs(float((draws**power).mean()) - moment) < 5 * math.sqrt(variance / num)
    for threshold in (1.0, 2.0, 3.0, 4.0, 4.8):
        tail = scipy.stats.norm.sf(threshold)
        for side in (draws > threshold, draws < -threshold):
            assert abs(float(side.double().mean()) - tail) < 5 * math.sqrt(tail / num)
    assert float(draws.abs().max()) > 4.9


def test_float64_normals_have_the_law():
    draws = random.normal(KEY, (200000,), dtype=torch.float64)
    assert scipy.stats.kstest(draws.numpy(), "norm").pvalue > 1e-6
    assert len(torch.unique(draws)) == len(draws)


def test_the_extreme_words_give_finite_normals_past_six_and_a_half_sigma():
    words = _words(0, 1, 2, 3, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)
    unit = threefry.open_uniform32(words)
    assert float(unit.min()) > 0
    assert float(unit.max()) <= 1
    radius = threefry._box_muller(unit, torch.zeros(()))[0]
    assert torch.isfinite(radius).all()
    assert 6.5 < float(radius.max()) < 6.7
    unit = threefry.open_uniform64(words[:, None], words)
    assert 0 < float(unit.min()) <= 2.0**-53
    assert float(unit.max()) <= 1
    radius = threefry._box_muller(unit, torch.zeros(()).double())[0]
    assert torch.isfinite(radius).all()
    assert float(radius.max()) > 8.5


def test_uniforms_have_their_range_law_and_resolution():
    draws = random.uniform(KEY, (10**6,))
    assert 0 <= float(draws.min()) < 1e-5
    assert 1 - 1e-5 < float(draws.max()) < 1
    assert torch.equal(draws * 2**24, (draws * 2**24).round())
    assert scipy.stats.kstest(draws.double().numpy(), "uniform").pvalue > 1e-6
    scaled = random.uniform(KEY, (1000,), -2.0, 3.0)
    torch.testing.assert_close(scaled, -2 + 5 * random.uniform(KEY, (1000,)), atol=1e-6, rtol=0)


def test_float64_uniforms_have_53_bits():
    draws = random.uniform(KEY, (10**5,), dtype=torch.float64)
    integers = draws * 2.0**53
    assert torch.equal(integers, integers.round())
    odd = (integers % 2 == 1).double()
    assert_mean(odd, 0.5)
    low_bits = torch.remainder(integers, 2.0**21).long()
    assert_uniform(torch.bincount(low_bits % 64, minlength=64))
    assert float(draws.max()) < 1
    assert scipy.stats.kstest(draws.numpy(), "uniform").pvalue > 1e-6


def test_each_bit_is_fair():
    words = random.bits(KEY, (50000,))
    for position in range(32):
        assert_mean(((words >> position) & 1).double(), 0.5)


def test_signs_and_flags_have_their_probabilities():
    assert_mean(random.rademacher(KEY, (10**5,)), 0.0)
    assert set(random.rademacher(KEY, (100,)).tolist()) == {-1.0, 1.0}
    probabilities = torch.tensor([0.0, 0.1, 0.5, 0.97, 1.0])
    flags = random.bernoulli(KEY, probabilities, (10**5, 5))
    assert flags.dtype == torch.bool
    assert_mean(flags.double(), probabilities)
    assert random.bernoulli(KEY, 0.5).shape == ()


@pytest.mark.parametrize(("low", "high"), [(0, 2), (-3, 4), (5, 15), (0, 1000)])
def test_integers_are_uniform(low, high):
    draws = random.randint(KEY, (10**5,), low, high)
    assert draws.dtype == torch.int64
    assert_uniform(torch.bincount(draws - low, minlength=high - low))


def test_integers_of_a_large_range_are_the_64_bit_words_modulo_the_range():
    span = 2**31 - 1
    word0, word1 = _unsigned(random.bits(KEY, (2, 50)))
    expected = [((int(a) << 32) | int(b)) % span for a, b in zip(word0, word1, strict=True)]
    assert random.randint(KEY, (50,), 7, 7 + span).tolist() == [7 + value for value in expected]


def test_exponential_and_gumbel_have_their_laws():
    assert scipy.stats.kstest(random.exponential(KEY, (10**5,), dtype=torch.float64).numpy(), "expon").pvalue > 1e-6
    assert scipy.stats.kstest(random.gumbel(KEY, (10**5,), dtype=torch.float64).numpy(), "gumbel_r").pvalue > 1e-6
    for draw in (random.exponential, random.gumbel):
        assert torch.isfinite(draw(KEY, (10**6,))).all()


def test_categorical_draws_have_the_probabilities_of_their_logits():
    logits = torch.tensor([[0.3, -1.0, 2.0], [5.0, 5.0, -torch.inf]])
    draws = random.categorical(KEY, logits, (10**5,))
    assert draws.shape == (10**5, 2)
    probabilities = torch.softmax(logits, -1)
    assert_uniform(torch.bincount(draws[:, 0], minlength=3), probabilities[0])
    assert_uniform(torch.bincount(draws[:, 1], minlength=3)[:2], probabilities[1, :2])
    assert not (draws[:, 1] == 2).any()


def test_all_orders_are_equally_likely():
    orders = vmap(lambda key: random.permutation(key, 4))(random.split(KEY, 24000))
    assert torch.equal(orders.sort(-1).values, torch.arange(4).expand(24000, 4))
    codes = (orders * torch.tensor([64, 16, 4, 1])).sum(-1)
    _, counts = torch.unique(codes, return_counts=True)
    assert len(counts) == 24
    assert_uniform(counts)


def test_half_precision_is_float32_rounded():
    full = random.normal(KEY, (100,))
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(random.normal(KEY, (100,), dtype=dtype), full.to(dtype))
