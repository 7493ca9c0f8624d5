"""R-hat and effective sample sizes that a run collects without draws: those of the draws, to rounding."""

from __future__ import annotations

import pytest
import torch
from torch.func import vmap

import funcebm as ebm
from funcebm import diagnostics, random, reducers, tree


def _run(num_samples, reduce=None, num_chains=6, jit=False):
    sampler = ebm.samplers.mala(lambda params, x: (x["a"] ** 2).sum() / 2 + (x["b"] - 30) ** 2, step_size=0.5)
    starts = {"a": random.normal(random.key(3), (num_chains, 2)), "b": torch.full((num_chains,), 30.0)}
    return ebm.sample(random.key(0), sampler, (), starts, num_samples=num_samples, reduce=reduce, jit=jit)


@pytest.mark.parametrize("num_samples", [4, 40, 41])
@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=[pytest.mark.compiled, pytest.mark.slow])])
def test_collected_numbers_are_those_of_the_draws(num_samples, jit):
    draws = _run(num_samples).draws
    found = _run(num_samples, reducers.convergence(num_samples=num_samples, max_lag=num_samples), jit=jit).reduced
    halves = tree.map(lambda leaf: torch.cat([leaf[:, : num_samples // 2], leaf[:, -(num_samples // 2) :]]), draws)
    rtol = 1e-3 if jit else 1e-7
    for got, expected in (
        (found.ess, diagnostics.ess(draws)),
        (found.rhat, diagnostics.split_rhat(draws)),
        (found.mean, tree.map(lambda leaf: leaf.double().mean((0, 1)), halves)),
        (found.sd, tree.map(lambda leaf: leaf.double().flatten(0, 1).std(0), halves)),
    ):
        for name in got:
            torch.testing.assert_close(got[name], expected[name], rtol=rtol, atol=1e-12)
    assert f"{6 * 2 * (num_samples // 2)} draws, 3 coordinates" in str(found)


def test_whole_chains_of_any_length():
    """The chains as they are: of two halves, given as chains of their own, the numbers of the halves."""
    draws = _run(40).draws["a"]
    halves = torch.cat([draws[:, :20], draws[:, 20:]])
    reducer = reducers.convergence(max_lag=20)
    states = vmap(reducer.init)(halves[:, 0])
    for i in range(20):
        states = vmap(reducer.update)(states, halves[:, i])
    summaries = vmap(reducer.close)(states)
    found = reducer.final(reducers.merged(reducer.merge, summaries))
    torch.testing.assert_close(found.rhat, diagnostics.split_rhat(draws), rtol=1e-7, atol=0)
    torch.testing.assert_close(found.ess, diagnostics.ess(draws), rtol=1e-7, atol=0)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    other = reducer.final(reducers.merged(reducer.merge, tree.map(lambda leaf: leaf[order], summaries)))
    for got, expected in zip(tree.leaves(other), tree.leaves(found), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


def test_what_was_not_seen_is_nan():
    """A correlation that outlasts the lags has no sum; a run that was cut has no halves; one chain cannot disagree."""
    slow = _run(400, reducers.convergence(num_samples=400, max_lag=2)).reduced
    assert torch.isnan(slow.ess["a"]).all()
    assert torch.isfinite(slow.rhat["a"]).all()
    cut = _run(30, reducers.convergence(num_samples=400)).reduced
    assert torch.isnan(cut.rhat["a"]).all()
    one = _run(30, reducers.convergence(), num_chains=1).reduced
    assert torch.isnan(one.rhat["a"]).all()
    assert torch.isfinite(one.ess["a"]).all()
