"""R-hat, ESS and MCSE: ArviZ's numbers, closed forms, invariances."""

import math
import warnings

import pytest
import torch

from funcebm import random
from funcebm.diagnostics import ess, mcse_mean, split_rhat

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import arviz as az


def autoregressive(key, shape, rho):
    """Stationary chains ``x_t = rho x_{t-1} + sqrt(1 - rho^2) xi_t`` of standard normals, along axis 1."""
    noise = random.normal(key, shape, dtype=torch.float64)
    draws = noise.clone()
    for t in range(1, shape[1]):
        draws[:, t] = rho * draws[:, t - 1] + math.sqrt(1 - rho**2) * noise[:, t]
    return draws


def by_arviz(function, draws, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = az.convert_to_dataset({"x": draws.numpy()})
        return torch.as_tensor(function(data, **options).x.values)


@pytest.mark.parametrize("num_chains", [1, 2, 5])
@pytest.mark.parametrize("num", [4, 5, 6, 7, 8, 9, 11, 50, 101, 600])
@pytest.mark.parametrize("rho", [-0.9, 0.0, 0.5, 0.99])
def test_the_numbers_are_those_of_arviz(num_chains, num, rho):
    draws = autoregressive(random.fold_in(random.key(num_chains), num), (num_chains, num, 3, 2), rho)
    exact = {"rtol": 1e-9, "atol": 0}
    torch.testing.assert_close(ess(draws), by_arviz(az.ess, draws, method="mean"), **exact)
    torch.testing.assert_close(mcse_mean(draws), by_arviz(az.mcse, draws, method="mean"), **exact)
    if num_chains > 1:  # ArviZ gives no R-hat of one chain, though it has two halves
        torch.testing.assert_close(split_rhat(draws), by_arviz(az.rhat, draws, method="split"), **exact)


def test_float32_draws_far_from_zero_lose_nothing():
    draws = (autoregressive(random.key(0), (4, 500, 3), 0.7) + 1000).float()
    torch.testing.assert_close(ess(draws), by_arviz(az.ess, draws, method="mean"), rtol=1e-6, atol=0)
    torch.testing.assert_close(split_rhat(draws), by_arviz(az.rhat, draws.double(), method="split"), rtol=1e-6, atol=0)
    assert ess(draws).dtype == split_rhat(draws).dtype == mcse_mean(draws).dtype == torch.float64


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.5, 0.9])
def test_an_autoregression_has_the_ess_of_its_closed_form(rho):
    num_chains, num, repeats = 4, 2000, 50
    draws = autoregressive(random.key(7), (num_chains, num, repeats), rho)
    relative = ess(draws) / (num_chains * num)
    expected = (1 - rho) / (1 + rho)
    error = relative.std() / math.sqrt(repeats)
    assert abs(relative.mean() - expected) < 5 * error + 0.03 * expected  # the truncation has a bias of about tau / n


def test_the_standard_error_of_the_mean_is_one():
    rho, num_chains, num, repeats = 0.8, 4, 1000, 400
    draws = autoregressive(random.key(3), (num_chains, num, repeats), rho)
    z = draws.mean((0, 1)) / mcse_mean(draws)
    assert abs(z.mean()) < 5 / math.sqrt(repeats)
    assert abs(z.var() - 1) < 5 * math.sqrt(2 / repeats)


def test_independent_draws_have_an_ess_of_their_number_and_an_rhat_of_one():
    draws = random.normal(random.key(1), (8, 1000, 20), dtype=torch.float64)
    relative = ess(draws) / 8000
    assert abs(relative.mean() - 1) < 0.02
    assert bool((split_rhat(draws) < 1.005).all())


def test_rhat_sees_shifted_chains_and_drift():
    draws = random.normal(random.key(2), (4, 500, 2), dtype=torch.float64)
    shifted = draws + torch.arange(4.0)[:, None, None]
    drifting = draws + torch.linspace(0, 3, 500, dtype=torch.float64)[:, None]
    assert bool((split_rhat(draws) < 1.02).all())
    assert bool((split_rhat(shifted) > 1.1).all())
    assert bool((split_rhat(drifting[:1]) > 1.1).all()), "one chain that drifts is seen by its halves"
    assert bool((ess(shifted) < 20).all())


def test_rhat_of_shifts_has_its_closed_form():
    """Chains with means +-a and unit variance: R^2 tends to 1 + var(means) over the halves."""
    draws = random.normal(random.key(4), (2, 20_000), dtype=torch.float64)
    draws = (draws - draws.reshape(2, 2, -1).mean(2).repeat_interleave(10_000, 1)) + torch.tensor([[-0.5], [0.5]])
    expected = math.sqrt(1 + 4 * 0.25 / 3)
    assert abs(float(split_rhat(draws)) - expected) < 5 * 0.5 * (expected - 1) * math.sqrt(2 / 40_000)


def test_chains_that_stand_still():
    still = torch.full((3, 100), 0.1)
    apart = torch.tensor([0.1, 0.2, 0.7])[:, None].expand(3, 100)
    assert bool(split_rhat(still).isnan())
    assert float(ess(still)) == 300
    assert float(mcse_mean(still)) == 0
    assert float(split_rhat(apart)) == math.inf
    assert float(ess(apart)) < 10


@pytest.mark.parametrize("function", [split_rhat, ess, mcse_mean])
def test_scale_and_shift_change_nothing_but_the_standard_error(function):
    draws = autoregressive(random.key(5), (3, 200, 4), 0.6)
    factor = 1e-20 if function is mcse_mean else 1.0
    torch.testing.assert_close(function(draws * 1e-20), factor * function(draws), rtol=1e-9, atol=0)
    torch.testing.assert_close(function(draws + 5), function(draws), rtol=1e-9, atol=0)


@pytest.mark.parametrize("function", [split_rhat, ess, mcse_mean])
def test_trees_vmap_and_the_event_axes_agree(function):
    draws = autoregressive(random.key(6), (3, 101, 2, 3), 0.4)
    whole = function(draws)
    assert whole.shape == (2, 3)
    each = torch.func.vmap(torch.func.vmap(function, in_dims=-1), in_dims=-1)(draws)
    torch.testing.assert_close(each.T, whole, rtol=1e-12, atol=0)
    found = function({"a": draws, "b": (draws[..., 0, 0],)})
    torch.testing.assert_close(found["a"], whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(found["b"][0], whole[0, 0], rtol=1e-12, atol=0)


def test_many_chains_are_transformed_in_parts(monkeypatch):
    from funcebm.diagnostics import convergence

    draws = autoregressive(random.key(8), (7, 64, 2), 0.5)
    whole = ess(draws)
    monkeypatch.setattr(convergence, "_CHUNK", 700)
    torch.testing.assert_close(ess(draws), whole, rtol=1e-12, atol=0)


def test_integers_and_bools_are_numbers():
    flags = random.bernoulli(random.key(9), 0.3, (4, 1000))
    torch.testing.assert_close(ess(flags), ess(flags.double()))
    assert abs(float(mcse_mean(flags)) - math.sqrt(0.21 / 4000)) < 0.002


@pytest.mark.parametrize("function", [split_rhat, ess, mcse_mean])
def test_bad_draws_are_refused_in_words(function):
    with pytest.raises(ValueError, match=r"\(C, N, \*event\).*draws\[None\]"):
        function(torch.zeros(100))
    with pytest.raises(ValueError, match="at least 4 draws a chain"):
        function(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="at least one chain"):
        function(torch.zeros(0, 10))
    with pytest.raises(ValueError, match="same chain and draw axes"):
        function({"a": torch.zeros(2, 10), "b": torch.zeros(3, 10)})
    with pytest.raises(ValueError, match="at least one tensor"):
        function(())
    with pytest.raises(TypeError, match="tensors of real numbers"):
        function([1.0])
    draws = torch.zeros(4, 10, 2)
    draws[1, 3], draws[3, 9, 1] = math.nan, math.inf
    with pytest.raises(ValueError, match=r"finite.*in a, chains 1, 3"):
        function({"a": draws})
