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
    for group in ("log_likelihood", "posterior_predictive"):
        with pytest.raises(ValueError, match=rf"{group} must lead with the chains and draws.*\(2, 5\).*vmap"):
            to_arviz(draws, **{group: torch.zeros(5, 3)})
    with pytest.raises(TypeError, match="observed_data must hold tensors"):
        to_arviz(draws, observed_data={"y": [1.0]})


def test_without_arviz_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ImportError, match=r"to_arviz needs ArviZ\. .*pip install arviz"):
        to_arviz(torch.zeros(2, 5))


def test_arviz_from_1_on_takes_one_dict_whose_names_have_no_slashes(monkeypatch):
    monkeypatch.setitem(
        sys.modules, "arviz", types.SimpleNamespace(__version__="1.0.0", from_dict=lambda groups: groups)
    )
    found = to_arviz({"a": {"b": torch.zeros(2, 5)}}, observed_data=torch.ones(3))
    assert found["posterior"]["a.b"].shape == (2, 5) and found["observed_data"]["y"].shape == (3,)


def test_loo_of_a_normal_mean_is_the_one_in_closed_form():
    """Densities of y_i ~ N(mu, 1) given the others, with a flat prior, from exact draws: N(mean of others, 1 + 1/(n-1))."""
    num, key = 40, random.key(4)
    y = random.normal(random.fold_in(key, 0), (num,), dtype=torch.float64)
    mu = y.mean() + random.normal(random.fold_in(key, 1), (4, 2000), dtype=torch.float64) / num**0.5
    one = lambda y, mu: -0.5 * (y - mu) ** 2 - 0.5 * torch.log(torch.tensor(2 * torch.pi))  # noqa: E731
    log_likelihood = torch.func.vmap(torch.func.vmap(one, (None, 0)), (None, 0))(y, mu)
    drawn = mu[..., None] + random.normal(random.fold_in(key, 2), (4, 2000, num), dtype=torch.float64)
    prior = {"mu": torch.zeros(50)}
    options = {"posterior_predictive": {"y": drawn}, "prior": prior, "prior_predictive": {"y": torch.zeros(50, num)}}
    data = to_arviz({"mu": mu}, log_likelihood={"y": log_likelihood}, observed_data={"y": y}, **options)
    for group in ("log_likelihood", "posterior_predictive", "prior", "prior_predictive", "observed_data"):
        assert hasattr(data, group), group
    assert data.prior["mu"].shape == (1, 50)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = az.loo(data, pointwise=True)
    others = (y.sum() - y) / (num - 1)
    variance = torch.tensor(1 + 1 / (num - 1), dtype=torch.float64)
    expected = torch.distributions.Normal(others, variance.sqrt()).log_prob(y)
    pointwise = torch.as_tensor(np.asarray(getattr(found, "loo_i", getattr(found, "elpd_i", None))).copy())
    # each is log of a mean of 8000 weights 1 / p(y_i | mu), whose logs vary by (y_i - mean)^2 / n
    errors = (((y - y.mean()) ** 2 / num).exp() - 1 + 1 / num**2).sqrt() / 8000**0.5
    assert bool(((pointwise - expected).abs() < 5 * errors + 1e-3).all())
