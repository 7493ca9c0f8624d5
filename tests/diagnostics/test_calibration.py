"""Ranks of simulation-based calibration: uniform for right posteriors, and told for wrong ones."""

from __future__ import annotations

import pytest
import torch
from tests.distributions import assert_uniform

import funcebm as ebm
from funcebm import random
from funcebm.diagnostics import simulation_based_calibration

KEY = random.key(8)
NUM_DATA = 5


def prior(key):
    return {"mean": random.normal(key, (2,), dtype=torch.float64)}


def simulate(key, theta):
    return theta["mean"] + random.normal(key, (NUM_DATA, 2), dtype=torch.float64)


def posterior(key, data, shift=0.0, spread=1.0, num=NUM_DATA):
    """The exact one of a normal mean, from the first ``num`` data, and its faults."""
    scale = (1 + num) ** -0.5
    draws = data[:num].sum(0) / (1 + num) + spread * scale * random.normal(key, (19, 2), dtype=torch.float64)
    return {"mean": draws + shift * scale}


def log_likelihood(theta, data):
    return {**theta, "log_likelihood": -((data - theta["mean"]) ** 2).sum() / 2}


def run(quantities=log_likelihood, num=1000, **faults):
    wrong = lambda key, data: posterior(key, data, **faults)  # noqa: E731
    return simulation_based_calibration(KEY, prior, simulate, wrong, num_simulations=num, quantities=quantities)


def test_ranks_of_the_right_posterior_are_uniform():
    found = run()
    assert found.warnings == () and "all ranks are uniform" in str(found)
    assert found.ranks["mean"].shape == (1000, 2) and found.ranks["log_likelihood"].shape == (1000,)
    for ranks in (*found.ranks["mean"].T, found.ranks["log_likelihood"]):
        assert_uniform(torch.bincount(ranks, minlength=20))


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        ({"shift": 0.3}, "the draws are too high"),
        ({"shift": -0.3}, "the draws are too low"),
        ({"spread": 0.7}, "spread too little"),
        ({"spread": 1.5}, "spread too much"),
    ],
)
def test_a_wrong_posterior_is_told_and_how(faults, words):
    found = run(None, **faults)
    assert any(words in warning and "mean[0]" in warning for warning in found.warnings), str(found)


def test_only_a_quantity_of_the_data_sees_that_data_were_ignored():
    wrong = lambda key, data: posterior(key, data, num=2)  # noqa: E731
    options = {"num_simulations": 1000}
    alone = simulation_based_calibration(KEY, prior, simulate, wrong, **options)
    assert alone.warnings == ()
    both = simulation_based_calibration(KEY, prior, simulate, wrong, quantities=log_likelihood, **options)
    assert len(both.warnings) == 1 and "log_likelihood" in both.warnings[0]


def test_p_values_are_uniform_and_ties_broken():
    """Whole numbers among draws of the same distribution; p-values of 400 calibrations at once."""
    level = lambda key: random.randint(key, (), 0, 3).double()  # noqa: E731
    draws = lambda key, data: random.randint(key, (9,), 0, 3).double()  # noqa: E731

    def one(key):
        found = simulation_based_calibration(key, level, lambda key, theta: theta * 0, draws, num_simulations=200)
        return found.p_value

    p = torch.func.vmap(one)(random.split(KEY, 400))
    assert_uniform(torch.bincount((p * 8).long().clamp(max=7), minlength=8))


def test_a_sampler_is_calibrated_under_vmap():
    energy = lambda data, x: (x**2).sum() / 2 + ((data - x) ** 2).sum() / 2  # noqa: E731
    sampler = ebm.samplers.mala(energy, step_size=0.2)

    def chains(key, data):
        starts = torch.zeros(9, 2, dtype=torch.float64)
        options = {"num_samples": 1, "num_burn_in": 40, "jit": False}
        return {"mean": ebm.sample(key, sampler, data, starts, **options).draws[:, 0]}

    found = simulation_based_calibration(KEY, prior, simulate, chains, num_simulations=300)
    assert found.warnings == ()


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="num_simulations must be an integer of at least 20"):
        run(num=3)
    wrong = lambda key, data: {"mean": posterior(key, data)["mean"][:, 0]}  # noqa: E731
    with pytest.raises(ValueError, match=r"draws like the parameters.*mean \(19,\) for \(2,\)"):
        simulation_based_calibration(KEY, prior, simulate, wrong, num_simulations=30)
    with pytest.raises(ValueError, match="num_bins must be at most"):
        simulation_based_calibration(KEY, prior, simulate, posterior, num_simulations=30, num_bins=50)
    with pytest.raises(ValueError, match=r"draws must be finite. Got NaN or infinity in simulations \[0, 1"):
        run(shift=float("nan"), num=30)
