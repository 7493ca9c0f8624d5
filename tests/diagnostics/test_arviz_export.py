"""What ArviZ gets: groups, names, numbers."""

import sys
import types
import warnings
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from funcebm import chains, random, samplers
from funcebm.diagnostics import ess_bulk, rhat, to_arviz

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import arviz as az


class Info(NamedTuple):
    acceptance_rate: Any
    is_accepted: Any
    is_divergent: Any
    num_gradients: Any
    energy: Any
    total_energy: Any
    tree_depth: Any
    is_max_depth: Any
    swap_rate: Any


class Samples(NamedTuple):
    draws: Any
    info: Any


def energy(params, x):
    return 0.5 * (x["a"] ** 2).sum() + 0.5 * (x["b"]["c"] ** 2).sum()


def test_a_run_has_its_variables_and_statistics():
    starts = {"a": torch.zeros(3, 2), "b": {"c": torch.zeros(3)}}
    sampler = samplers.hmc(energy, step_size=0.3, num_leapfrog=3)
    run = chains.sample(random.key(0), sampler, (), starts, num_samples=20, jit=False)
    data = to_arviz(run)
    assert set(data.groups()) == {"posterior", "sample_stats"}
    assert set(data.posterior.data_vars) == {"a", "b/c"}
    np.testing.assert_array_equal(data.posterior["a"], run.draws["a"])
    np.testing.assert_array_equal(data.posterior["b/c"], run.draws["b"]["c"])
    stats = data.sample_stats
    assert set(stats.data_vars) == {"acceptance_rate", "accepted", "diverging", "n_steps", "lp", "step_size"}
    np.testing.assert_array_equal(stats["lp"], -run.info.energy)
    np.testing.assert_array_equal(stats["n_steps"], 3)
    np.testing.assert_array_equal(stats["step_size"], np.full((3, 20), np.float32(0.3)))
    assert stats["diverging"].dtype == bool
    assert set(to_arviz(run, names=["position", "velocity"]).posterior.data_vars) == {"position", "velocity"}


def test_every_statistic_has_the_name_that_arviz_reads():
    flags = torch.zeros(4, 100, dtype=torch.bool)
    numbers = random.normal(random.key(1), (9, 4, 100), dtype=torch.float64)
    info = Info(
        numbers[0], flags, flags, numbers[1].long(), numbers[2], numbers[3], numbers[4].long(), flags, numbers[5]
    )
    data = to_arviz(Samples(random.normal(random.key(2), (4, 100, 2)), info))
    assert set(data.sample_stats.data_vars) == {
        "acceptance_rate", "accepted", "diverging", "n_steps", "lp", "energy", "tree_depth", "reached_max_treedepth", "swap_rate",
    }  # fmt: skip
    np.testing.assert_array_equal(data.sample_stats["energy"], info.total_energy)
    np.testing.assert_allclose(az.bfmi(data), az.bfmi(info.total_energy.numpy()))


def test_draws_alone_are_read_and_judged_alike():
    draws = random.normal(random.key(3), (4, 100, 3), dtype=torch.float64)
    data = to_arviz(draws)
    assert data.groups() == ["posterior"]
    table = az.summary(data, round_to="none")
    np.testing.assert_allclose(table["r_hat"], rhat(draws), rtol=1e-12)
    np.testing.assert_allclose(table["ess_bulk"], ess_bulk(draws), rtol=1e-12)
    assert set(to_arviz(draws, names="theta").posterior.data_vars) == {"theta"}
    assert to_arviz(draws.bfloat16()).posterior["x"].dtype == np.float32
    data.posterior["x"].values[:] = 0
    assert float(draws.abs().sum()) > 0, "a copy"


def test_bad_names_and_draws_are_refused_in_words():
    draws = torch.zeros(2, 5)
    with pytest.raises(ValueError, match="names must be one for each leaf"):
        to_arviz(draws, names=["a", "b"])
    with pytest.raises(ValueError, match="all different"):
        to_arviz({"a": draws, "b": draws}, names=["x", "x"])
    with pytest.raises(ValueError, match="chain axis and a draw axis"):
        to_arviz(torch.zeros(5))


def test_without_arviz_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ImportError, match=r'to_arviz needs ArviZ\. .*pip install "arviz<1"'):
        to_arviz(torch.zeros(2, 5))
    monkeypatch.setitem(sys.modules, "arviz", types.SimpleNamespace(__version__="1.0.0"))
    with pytest.raises(ImportError, match=r"to_arviz needs ArviZ below 1\. Got 1\.0\.0"):
        to_arviz(torch.zeros(2, 5))
