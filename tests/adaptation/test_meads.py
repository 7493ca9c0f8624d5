"""MEADS: its eigenvalues, folds and numbers, transcribed; what it freezes; what it finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.adaptation.driver import run
from tests.distributions import assert_covariance
from torch.func import vmap

from funcebm import random, samplers, tree
from funcebm.adaptation import largest_eigenvalue, meads

CHAINS, FOLDS = 24, 4
SCALES = torch.tensor([0.1, 1.0, 5.0])


def _energy(params, x):
    return params * (((x["a"] / SCALES[:2]) ** 2).sum() + (x["b"] / SCALES[2]).square().sum()) / 2


def _starts(num=CHAINS, dtype=torch.float32):
    drawn = random.normal(random.key(1), (num, 3), dtype=dtype) * SCALES + 1
    return {"a": drawn[:, :2], "b": drawn[:, 2:, None]}


def _flat(x):
    return torch.cat([x["a"], x["b"][:, :, 0]], 1).numpy()


def _lam(X):
    """The estimate of the paper, with loops."""
    n = len(X)
    S = X @ X.T
    off = sum(S[i, j] ** 2 for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return off / (np.trace(S) / n)


def test_the_eigenvalue_is_that_of_the_paper_and_unbiased_in_its_parts():
    matrix = random.normal(random.key(0), (7, 4), dtype=torch.float64)
    assert float(largest_eigenvalue(matrix)) == pytest.approx(_lam(matrix.numpy()), rel=1e-12)
    spectrum = torch.tensor([9.0, 4.0, 1.0, 1.0], dtype=torch.float64)
    many = random.normal(random.key(1), (4000, 4), dtype=torch.float64) * spectrum.sqrt()
    expected = float((spectrum**2).sum() / spectrum.sum())
    assert float(largest_eigenvalue(many)) == pytest.approx(expected, rel=0.1)
    assert float(largest_eigenvalue(torch.zeros(3, 2))) == 0


def _transcription(x, g, order, t):
    """Numbers of each chain in step t, and of each fold, fold by fold."""
    size = CHAINS // FOLDS
    folds = [order[k * size : (k + 1) * size] for k in range(FOLDS)]
    mean = [x[fold].mean(0) for fold in folds]
    sd = [x[fold].std(0) for fold in folds]
    eps = [min(1.0, 0.5 / np.sqrt(_lam(g[fold] * sd[k]))) for k, fold in enumerate(folds)]
    step, alpha, scale, gammas = np.zeros(CHAINS), np.zeros(CHAINS), np.zeros((CHAINS, 3)), []
    for k, fold in enumerate(folds):
        before = (k - 1) % FOLDS
        gamma = max(1 / np.sqrt(_lam((x[fold] - mean[k]) / sd[before])), 1 / (t * eps[before]))
        gammas.append(gamma)
        scale[fold] = sd[before]
        if k != t % FOLDS:
            step[fold] = eps[before]
            alpha[fold] = 1 - np.exp(-2 * eps[before] * gamma)
    return step, alpha, scale, np.array(eps), np.array(gammas), np.array(sd)


def test_numbers_and_folds_are_those_of_the_paper():
    sampler = samplers.ghmc(_energy, temperature=1.0)
    params = torch.tensor(1.0, dtype=torch.float64)
    positions = _starts(dtype=torch.float64)
    adaptation = meads(num_folds=FOLDS)
    state = vmap(sampler.init, (None, 0))(params, positions)
    memory = adaptation.init(random.key(2), sampler, params, state)
    assert sorted(memory.shuffles[3].tolist()) == list(range(CHAINS))
    assert len({tuple(row.tolist()) for row in memory.shuffles}) == 16
    orders = set()
    for t in range(1, 11):
        order = memory.shuffles[t // FOLDS].numpy()  # dealt anew every four steps
        orders.add(tuple(order))
        step, alpha, scale, eps, gamma, sd = _transcription(_flat(state.position), _flat(state.gradient), order, t)
        np.testing.assert_allclose(memory.tuning.step_size, step, rtol=1e-10)
        np.testing.assert_allclose(memory.tuning.alpha, alpha, rtol=1e-10)
        np.testing.assert_allclose(memory.tuning.delta, alpha / 2, rtol=1e-10)
        np.testing.assert_allclose(_flat(memory.tuning.metric.inverse_mass), scale**2, rtol=1e-10)
        before = state
        noise = vmap(sampler.draw)(random.split(random.key(100 + t), CHAINS), state.position)
        state, info = vmap(sampler.step, (None, 0, 0, 0))(params, memory.tuning, state, noise)
        frozen = torch.as_tensor(step == 0)
        assert int(frozen.sum()) == CHAINS // FOLDS
        for new, old in zip(tree.leaves(state), tree.leaves(before), strict=True):
            assert torch.equal(new[frozen], old[frozen])
        assert not torch.equal(state.position["a"][~frozen], before.position["a"][~frozen])
        final = adaptation.final(memory)
        memory = adaptation.update(memory, state, info)
    assert len(orders) == 3
    assert float(final.step_size) == pytest.approx(eps.mean(), rel=1e-10)
    expected = 1 - np.exp(-2 * eps.mean() * gamma.mean())
    assert float(final.alpha) == pytest.approx(expected, rel=1e-10)
    assert float(final.delta) == pytest.approx(expected / 2, rel=1e-10)
    np.testing.assert_allclose(tree.ravel(final.metric.inverse_mass)[0], sd.mean(0) ** 2, rtol=1e-10)
    assert tree.structure(final.metric.inverse_mass) == tree.structure(positions)
    assert final.temperature.shape == ()


def test_the_numbers_of_a_fold_do_not_depend_on_where_it_is():
    """But for the refreshment: the step size and the metric come from the fold before."""
    sampler = samplers.ghmc(_energy)
    params = torch.tensor(1.0, dtype=torch.float64)
    adaptation = meads(num_folds=FOLDS)
    state = vmap(sampler.init, (None, 0))(params, _starts(dtype=torch.float64))
    late = adaptation.init(random.key(2), sampler, params, state)._replace(num=torch.tensor(1000))
    memory = adaptation.update(late, state, ())  # of step 1001, in which fold 1 is frozen
    fold = memory.shuffles[1001 // FOLDS % 16][CHAINS // FOLDS * 2 : CHAINS // FOLDS * 3]
    moved = tree.map(torch.clone, state.position)
    moved["a"][fold, 0] *= 3
    again = adaptation.update(late, vmap(sampler.init, (None, 0))(params, moved), ())
    assert (memory.tuning.step_size[fold] > 0).all()
    assert torch.equal(again.tuning.step_size[fold], memory.tuning.step_size[fold])
    for a, b in zip(tree.leaves(again.tuning.metric), tree.leaves(memory.tuning.metric), strict=True):
        assert torch.equal(a[fold], b[fold])
    assert not torch.isclose(again.tuning.alpha[fold], memory.tuning.alpha[fold]).any()


def test_it_finds_scales_and_accepts_most_steps():
    """Standard deviations from 64 chains have an error of 9 %; exact draws stay exact in the warm-up."""
    sampler = samplers.ghmc(_energy)
    params = torch.tensor(1.0)
    starts = tree.map(lambda leaf: leaf - 1, _starts(1024))
    state, _, tuning, _ = run(random.key(0), sampler, params, starts, meads(), 60)
    ratio = tree.ravel(tuning.metric.inverse_mass)[0] / SCALES**2
    assert (torch.log(ratio).abs() < 5 * (2 / 1024) ** 0.5).all()
    draws = torch.as_tensor(_flat(state.position)) / SCALES
    assert_covariance(draws, torch.eye(3))
    noise = vmap(sampler.draw)(random.split(random.key(5), 1024), state.position)
    _, info = vmap(sampler.step, (None, None, 0, 0))(params, tuning, state, noise)
    assert 0.8 < float(info.acceptance_rate.mean()) < 1
    assert 0.3 < float(tuning.step_size) <= 1


def test_the_temperature_counts():
    """At temperature 4 a Gaussian is twice as wide, and its step sizes in the coordinates of the metric are the same."""
    params = torch.tensor(1.0)
    found = []
    for temperature in (1.0, 4.0):
        sampler = samplers.ghmc(_energy, temperature=temperature)
        starts = tree.map(lambda leaf: (leaf - 1) * temperature**0.5, _starts())  # noqa: B023
        state = vmap(sampler.init, (None, 0))(params, starts)
        found.append(meads().init(random.key(2), sampler, params, state).tuning)
    torch.testing.assert_close(found[0].step_size, found[1].step_size)
    torch.testing.assert_close(found[0].alpha, found[1].alpha)


def test_chains_that_start_in_one_place_get_numbers_too():
    starts = tree.map(lambda leaf: leaf[:1].expand(CHAINS, *leaf.shape[1:]).clone(), _starts())
    state, _, tuning, _ = run(random.key(0), samplers.ghmc(_energy), torch.tensor(1.0), starts, meads(), 200)
    assert bool(tree.all_finite((state.position, tuning)))
    ratio = tree.ravel(tuning.metric.inverse_mass)[0] / SCALES**2
    assert (ratio > 0.2).all()
    assert (ratio < 3).all()


def test_every_part_goes_through_vmap_over_parameters():
    adaptation, sampler = meads(), samplers.ghmc(_energy)

    def whole(params):
        state = vmap(sampler.init, (None, 0))(params, _starts(8))
        memory = adaptation.init(random.key(1), sampler, params, state)
        for i in range(5):
            noise = vmap(sampler.draw)(random.split(random.key(10 + i), 8), state.position)
            state, info = vmap(sampler.step, (None, 0, 0, 0))(params, memory.tuning, state, noise)
            memory = adaptation.update(memory, state, info)
        return adaptation.final(memory)

    params = torch.tensor([0.5, 2.0])
    mapped = vmap(whole)(params)
    for i in range(2):
        for a, b in zip(tree.leaves(mapped), tree.leaves(whole(params[i])), strict=True):
            torch.testing.assert_close(a[i], b, rtol=1e-4, atol=1e-6)


def test_bad_input_is_refused_with_a_fix():
    params = torch.tensor(1.0)
    with pytest.raises(ValueError, match=r"meads is for samplers.ghmc. Got a sampler with HMCTuning"):
        run(random.key(0), samplers.hmc(_energy), params, _starts(), meads(), 5)
    for num, fix in ((1, 8), (4, 8), (10, 12)):
        message = rf"multiple of num_folds=4 chains, and at least 8. Got {num}. Start {fix} chains"
        with pytest.raises(ValueError, match=message):
            run(random.key(0), samplers.ghmc(_energy), params, _starts(num), meads(), 5)
    with pytest.raises(ValueError, match=r"num_folds must be an integer of at least 2. Got 1"):
        meads(num_folds=1)
