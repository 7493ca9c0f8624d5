"""Streaming statistics equal those of all the numbers at once."""

from __future__ import annotations

import pytest
import torch
from torch.func import vmap

import funcebm as ebm
from funcebm import loops, random, reducers, samplers, tree

DRAWS = 1e3 + random.normal(random.key(0), (50, 2, 3), dtype=torch.float64)  # a mean that is far from zero


def _stream(reducer, values):
    accumulator = reducer.init(tree.map(lambda leaf: leaf[0], values))
    return reducer.final(loops.fold(reducer.update, accumulator, values))


def test_mean():
    torch.testing.assert_close(_stream(reducers.mean(), DRAWS), DRAWS.mean(0), rtol=1e-13, atol=0)


def test_mean_counts_flags_as_zero_and_one():
    flags = DRAWS > 1e3
    torch.testing.assert_close(_stream(reducers.mean(), flags), flags.float().mean(0))


def test_variance():
    result = _stream(reducers.variance(), DRAWS)
    torch.testing.assert_close(result["mean"], DRAWS.mean(0), rtol=1e-13, atol=0)
    torch.testing.assert_close(result["variance"], DRAWS.var(0), rtol=1e-11, atol=0)


def test_covariance():
    result = _stream(reducers.covariance(), DRAWS)
    torch.testing.assert_close(result["covariance"], torch.cov(DRAWS.flatten(1).T), rtol=1e-11, atol=1e-13)


def test_statistics_of_trees():
    values = {"a": DRAWS[:, 0], "b": (DRAWS[:, 1, 0],)}
    result = _stream(reducers.variance(), values)
    torch.testing.assert_close(result["variance"]["b"][0], values["b"][0].var(0), rtol=1e-11, atol=0)
    joined = torch.cat([values["a"], values["b"][0][:, None]], 1)
    covariance = _stream(reducers.covariance(), values)["covariance"]
    torch.testing.assert_close(covariance, torch.cov(joined.T), rtol=1e-11, atol=1e-13)


def test_combine_is_each_of_them():
    both = _stream(reducers.combine({"mean": reducers.mean(), "spread": reducers.variance()}), DRAWS)
    torch.testing.assert_close(both["mean"], DRAWS.mean(0), rtol=1e-13, atol=0)
    torch.testing.assert_close(both["spread"]["variance"], DRAWS.var(0), rtol=1e-11, atol=0)


def test_reducers_go_through_vmap():
    result = vmap(lambda draws: _stream(reducers.covariance(), draws), 2)(DRAWS)["covariance"]
    torch.testing.assert_close(result[1], torch.cov(DRAWS[:, :, 1].T), rtol=1e-11, atol=1e-13)


def test_the_example_for_init_does_not_matter():
    for reducer in (reducers.mean(), reducers.covariance()):
        a, b = reducer.init(DRAWS[0]), reducer.init(torch.full_like(DRAWS[0], torch.nan))
        assert all(torch.equal(x, y) for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True))


def _largest() -> reducers.Reducer:
    """A user's own."""
    return reducers.Reducer(lambda x: torch.full_like(x, -torch.inf), torch.maximum, lambda largest: largest)


@pytest.mark.parametrize("cut", [None, 4])
def test_a_run_that_reduces_gives_the_statistics_of_the_draws(cut):
    sampler = samplers.mala(lambda params, x: (x**2).sum() / 2, step_size=0.5)
    positions = random.normal(random.key(1), (3, 2), dtype=torch.float64)
    options = {"num_burn_in": 3, "thin": 2, "jit": False}
    kept = ebm.sample(random.key(2), sampler, (), positions, num_samples=11, **options)
    reduce = {"moments": reducers.covariance(), "largest": _largest(), "mean": reducers.mean()}
    samples = ebm.sample(random.key(2), sampler, (), positions, num_samples=cut or 11, reduce=reduce, **options)
    if cut is not None:
        samples = ebm.resume(samples, num_samples=11 - cut)
    assert samples.draws == ()
    torch.testing.assert_close(samples.reduced["mean"], kept.draws.mean(1), rtol=1e-12, atol=1e-14)
    covariances = torch.stack([torch.cov(draws.T) for draws in kept.draws])
    torch.testing.assert_close(samples.reduced["moments"]["covariance"], covariances, rtol=1e-11, atol=1e-13)
    assert torch.equal(samples.reduced["largest"], kept.draws.amax(1))
    torch.testing.assert_close(samples.info.acceptance_rate, kept.info.acceptance_rate.mean(1))
    torch.testing.assert_close(samples.info.is_accepted, kept.info.is_accepted.float().mean(1), check_dtype=False)
    assert torch.equal(samples.state.position, kept.state.position)


def test_reduce_works_on_what_collect_gives():
    sampler = samplers.langevin(lambda params, x: (x**2).sum() / 2, step_size=0.5)
    options = {"num_samples": 6, "jit": False, "collect": lambda state, info: (state.position.sum(), info.energy)}
    kept = ebm.sample(random.key(2), sampler, (), torch.zeros(3, 2), **options)
    samples = ebm.sample(random.key(2), sampler, (), torch.zeros(3, 2), reduce=reducers.mean(), **options)
    for got, draws in zip(samples.reduced, kept.draws, strict=True):
        torch.testing.assert_close(got, draws.mean(1))
