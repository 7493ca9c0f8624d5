"""A first step size: within a factor of two of the crossing, or below the edge of stability."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.func import vmap

from funcebm import metrics, random, samplers, tree
from funcebm.adaptation import find_step_size, stable_step_size
from funcebm.adaptation.step_size import pooled_acceptance_rate

DIM, CHAINS = 20, 400


def _energy(params, x):
    return params * (x**2).sum() / 2


def _states(sampler, params=torch.tensor(1.0), num=CHAINS):
    positions = random.normal(random.key(5), (num, DIM)) / params.sqrt()
    return vmap(sampler.init, (None, 0))(params, positions)


def _rate(sampler, params, state, step_size):
    """The mean acceptance rate at a step size, from many chains."""
    tuning = sampler.tuning._replace(step_size=step_size)
    keys = random.split(random.key(77), CHAINS)
    noise = vmap(sampler.draw)(keys, state.position)
    return float(vmap(sampler.step, (None, None, 0, 0))(params, tuning, state, noise)[1].acceptance_rate.mean())


SAMPLERS = {
    "mala": lambda h: samplers.mala(_energy, step_size=h),
    "hmc": lambda h: samplers.hmc(_energy, step_size=h, num_leapfrog=3),
}


@pytest.mark.parametrize("name", list(SAMPLERS))
@pytest.mark.parametrize("first", [1e-4, 0.37, 50.0])
@pytest.mark.parametrize("target", [0.5, 0.8])
def test_the_rate_crosses_the_target_within_a_factor_of_two(name, first, target):
    sampler = SAMPLERS[name](first)
    params = torch.tensor(1.0)
    state = _states(sampler)
    found = find_step_size(random.key(0), sampler, params, state, sampler.tuning, target=target)
    ratio = torch.log2(found / sampler.tuning.step_size)
    assert float(ratio) == round(float(ratio))
    assert found.dtype == torch.float32
    rates = [_rate(sampler, params, state, found * factor) for factor in (0.5, 1.0, 2.0)]
    noise = 5 * 0.35 / CHAINS**0.5  # five standard errors of a mean rate
    assert rates[0] > target - noise
    assert rates[2] < target + noise
    # going up it stops below the target, going down above it
    assert (rates[1] < target + noise) if float(ratio) > 0 else (rates[1] > target - noise)


def test_a_search_that_is_not_wanted_makes_no_trial():
    sampler = SAMPLERS["mala"](0.37)
    draws = []
    counted = sampler._replace(draw=lambda *arguments: draws.append(1) or sampler.draw(*arguments))
    state = _states(sampler)
    arguments = (random.key(0), counted, torch.tensor(1.0), state, sampler.tuning)
    assert float(find_step_size(*arguments, is_wanted=torch.tensor(False))) == pytest.approx(0.37)
    assert not draws


def test_a_search_without_an_end_is_cut_off():
    flat = samplers.mala(lambda params, x: 0 * x.sum(), step_size=1.0)
    state = vmap(flat.init, (None, 0))((), torch.zeros(3, 2))
    assert float(find_step_size(random.key(0), flat, (), state, flat.tuning)) == 2.0**60


def test_the_search_goes_through_vmap_over_parameters():
    sampler = SAMPLERS["hmc"](0.37)
    params = torch.tensor([0.01, 1.0, 400.0])
    search = lambda k: find_step_size(random.key(0), sampler, k, _states(sampler, k), sampler.tuning)  # noqa: E731
    mapped = vmap(search)(params)
    torch.testing.assert_close(mapped, torch.stack([search(k) for k in params]))
    assert float(mapped[0]) > 10 * float(mapped[1]) * 0.5
    assert float(mapped[2]) < float(mapped[1]) / 10


def _stiff(params, x):
    return (x["a"] ** 2 * torch.tensor([1.0, 30.0])).sum() / 2 - params * x["b"].sum() ** 2 / 2


@pytest.mark.parametrize("factor", [5.0, 100.0])
def test_without_a_test_the_step_size_is_a_tenth_of_the_inverse_curvature(factor):
    """Curvatures 1, 30, and minus ``factor``: the largest in absolute value counts."""
    sampler = samplers.langevin(_stiff)
    positions = {"a": torch.zeros(4, 2), "b": torch.ones(4, 1)}
    state = vmap(sampler.init, (None, 0))(torch.tensor(factor), positions)
    found = stable_step_size(random.key(0), sampler, torch.tensor(factor), state, sampler.tuning)
    assert float(found) == pytest.approx(0.1 / max(30.0, factor), rel=1e-3)


def test_with_friction_a_step_size_is_a_time():
    """``sqrt(2 f / curvature)``: a tenth of 25 gives ``sqrt(0.2) / 5``."""
    sampler = samplers.underdamped_langevin(lambda params, x: 25 * (x**2).sum() / 2)
    state = vmap(sampler.init, (None, 0))((), torch.zeros(3, 2))
    found = stable_step_size(random.key(0), sampler, (), state, sampler.tuning)
    assert float(found) == pytest.approx(0.2**0.5 / 5, rel=1e-4)


def test_the_curvature_is_that_in_the_coordinates_of_the_metric():
    matrix = torch.tensor([[2.0, 0.8], [0.8, 1.0]])
    covariance = torch.tensor([[0.5, -0.2], [-0.2, 3.0]])
    energy = lambda params, x: x @ matrix @ x / 2  # noqa: E731
    for metric in (metrics.diagonal(torch.tensor([0.5, 3.0])), metrics.dense(covariance)):
        sampler = samplers.langevin(energy, preconditioner=metric)
        state = vmap(sampler.init, (None, 0))((), torch.zeros(3, 2))
        found = stable_step_size(random.key(0), sampler, (), state, sampler.tuning, fraction=0.2)
        inverse = metric.inverse_mass if metric.inverse_mass.ndim == 2 else torch.diag(metric.inverse_mass)
        largest = torch.linalg.eigvals(inverse @ matrix).real.max()
        assert float(found) == pytest.approx(0.2 / float(largest), rel=1e-3)


def test_the_stiffest_chain_counts_and_chains_that_are_not_finite_do_not():
    sampler = samplers.langevin(lambda params, x: (x**4).sum() / 12)  # curvature x^2
    state = vmap(sampler.init, (None, 0))((), torch.tensor([[1.0], [-3.0], [torch.nan]]))
    found = stable_step_size(random.key(0), sampler, (), state, sampler.tuning)
    assert float(found) == pytest.approx(0.1 / 9, rel=1e-4)


def test_a_flat_energy_keeps_its_step_size():
    sampler = samplers.langevin(lambda params, x: 0 * x.sum(), step_size=0.3)
    state = vmap(sampler.init, (None, 0))((), torch.zeros(3, 2))
    assert float(stable_step_size(random.key(0), sampler, (), state, sampler.tuning)) == pytest.approx(0.3)


def test_stability_goes_through_vmap_over_parameters():
    sampler = samplers.langevin(_energy)
    params = torch.tensor([1.0, 25.0])
    find = lambda k: stable_step_size(random.key(0), sampler, k, _states(sampler, k, 5), sampler.tuning)  # noqa: E731
    torch.testing.assert_close(vmap(find)(params), 0.1 / params, rtol=1e-4, atol=0)


def test_samplers_that_they_are_not_for_are_named():
    sampler = samplers.langevin(_energy)
    state = _states(sampler, num=2)
    with pytest.raises(ValueError, match=r"find_step_size is for samplers with a step_size.* Got tuple"):
        find_step_size(random.key(0), sampler, torch.tensor(1.0), state, ())
    with pytest.raises(ValueError, match=r"stable_step_size is for samplers with.*a gradient in their state"):
        stable_step_size(random.key(0), sampler, torch.tensor(1.0), (tree.first(state),), sampler.tuning)


# -- one rate of all chains ----------------------------------------------------------------------------------------------


def _pooled(rates, average):
    return float(pooled_acceptance_rate(SimpleNamespace(acceptance_rate=torch.tensor(rates)), average))


def test_averages_over_chains_are_what_their_names_say():
    rates = [0.9, 0.8, 0.2, 0.6]
    assert _pooled(rates, "mean") == pytest.approx(sum(rates) / 4)
    assert _pooled(rates, "harmonic") == pytest.approx(4 / sum(1 / rate for rate in rates))


@pytest.mark.parametrize("rate", [0.8, 1.0, 0.0, 1e-6])
def test_one_chain_is_itself_by_either_average(rate):
    for average in ("mean", "harmonic"):
        assert _pooled([rate], average) == pytest.approx(rate, abs=1e-5)


@pytest.mark.parametrize("lost", [0.0, torch.nan, 1e-5])
@pytest.mark.parametrize("average", ["mean", "harmonic"])
def test_a_chain_that_is_stuck_counts_for_no_more_than_its_share(average, lost):
    assert _pooled([0.8] * 31 + [lost], average) == pytest.approx(0.8 * 31 / 32, abs=1e-5)
    assert _pooled([lost] * 4, average) == pytest.approx(0.0, abs=1e-5)
