"""R-hat in its forms: what each one sees, closed forms, invariances, bad input for all diagnostics of draws."""

import math

import pytest
import torch
from tests.diagnostics.series import autoregressive

from funcebm import random
from funcebm.diagnostics import (
    ess,
    ess_bulk,
    ess_quantile,
    ess_tail,
    folded_rhat,
    mcse_mean,
    mcse_quantile,
    mcse_sd,
    nested_rhat,
    rhat,
    split_rhat,
)

RHATS = [rhat, split_rhat, folded_rhat]
ALL = {
    "rhat": rhat,
    "split_rhat": split_rhat,
    "folded_rhat": folded_rhat,
    "nested_rhat": lambda draws: nested_rhat(draws, 3),
    "ess": ess,
    "ess_bulk": ess_bulk,
    "ess_tail": ess_tail,
    "ess_quantile": lambda draws: ess_quantile(draws, 0.9),
    "mcse_mean": mcse_mean,
    "mcse_sd": mcse_sd,
    "mcse_quantile": lambda draws: mcse_quantile(draws, 0.2),
}


def normals(seed, *shape):
    return random.normal(random.key(seed), shape, dtype=torch.float64)


@pytest.mark.parametrize("function", RHATS)
def test_chains_of_one_law_have_an_rhat_of_one(function):
    assert bool((function(normals(1, 8, 1000, 20)) < 1.006).all())


def test_rhat_sees_shifted_chains_and_drift():
    draws = normals(2, 4, 500, 2)
    shifted = draws + torch.arange(4.0)[:, None, None]
    drifting = draws + torch.linspace(0, 3, 500, dtype=torch.float64)[:, None]
    for function in (rhat, split_rhat):
        assert bool((function(draws) < 1.02).all())
        assert bool((function(shifted) > 1.1).all())
        assert bool((function(drifting[:1]) > 1.1).all()), "one chain that drifts is seen by its halves"


def test_only_the_folded_rhat_sees_another_scale():
    draws = normals(3, 4, 2000) * torch.tensor([1.0, 1.0, 1.0, 2.0])[:, None]
    assert float(split_rhat(draws)) < 1.005
    assert float(folded_rhat(draws)) > 1.05
    assert float(rhat(draws)) == float(folded_rhat(draws))


def test_only_the_rank_normalised_rhat_sees_shifts_of_a_law_without_variance():
    cauchy = torch.tan(math.pi * (random.uniform(random.key(4), (4, 2000), dtype=torch.float64) - 0.5))
    shifted = cauchy + torch.tensor([0.0, 0.0, 0.0, 2.0])[:, None]
    assert float(split_rhat(shifted)) < 1.01
    assert float(rhat(shifted)) > 1.05


def test_rhat_of_shifts_has_its_closed_form():
    """Chains with means +-a and unit variance: R^2 tends to 1 + var(means) over the halves."""
    draws = normals(4, 2, 20_000)
    draws = (draws - draws.reshape(2, 2, -1).mean(2).repeat_interleave(10_000, 1)) + torch.tensor([[-0.5], [0.5]])
    expected = math.sqrt(1 + 4 * 0.25 / 3)
    assert abs(float(split_rhat(draws)) - expected) < 5 * 0.5 * (expected - 1) * math.sqrt(2 / 40_000)


def test_chains_that_stand_still():
    still = torch.full((3, 100), 0.1)
    apart = torch.tensor([0.1, 0.2, 0.7])[:, None].expand(3, 100)
    for function in RHATS:
        assert bool(function(still).isnan())
        assert float(function(apart)) == math.inf
    assert bool(nested_rhat(still, 3).isnan())
    assert float(ess(apart)) < 10


def test_rank_normalised_rhat_is_the_same_under_monotone_maps():
    draws = autoregressive(random.key(5), (3, 200, 4), 0.6)
    for function in RHATS:
        torch.testing.assert_close(function(draws * 2.0**-66), function(draws), rtol=1e-9, atol=0)
        # the two draws beside the median are equally far from it: rounding ranks them
        torch.testing.assert_close(function(draws + 5), function(draws), rtol=1e-3, atol=0)
    from funcebm.diagnostics.convergence import rhat_of
    from funcebm.diagnostics.draws import halves, scores

    torch.testing.assert_close(rhat_of(scores(halves(draws.exp()))), rhat_of(scores(halves(draws))), rtol=0, atol=0)


# -- many short chains --------------------------------------------------------------------------------------------


def test_nested_rhat_is_its_definition():
    draws = normals(6, 12, 5, 2) + normals(7, 3, 1, 1).repeat_interleave(4, 0)
    found = nested_rhat(draws, 3)
    groups = draws.reshape(3, 4, 5, 2)
    means = groups.mean(2)
    within = (means.var(1) + groups.var(2).mean(1)).mean(0)
    torch.testing.assert_close(found, (1 + means.mean(1).var(0) / within).sqrt(), rtol=1e-12, atol=0)
    one_draw = (1 + groups[:, :, 0].mean(1).var(0) / groups[:, :, 0].var(1).mean(0)).sqrt()
    torch.testing.assert_close(nested_rhat(draws[:, :1], 3), one_draw, rtol=1e-12, atol=0)
    one_chain = (1 + draws.mean(1).var(0) / draws.var(1).mean(0)).sqrt()
    torch.testing.assert_close(nested_rhat(draws, 12), one_chain, rtol=1e-12, atol=0)


def test_nested_rhat_of_chains_that_forgot_their_start_has_its_closed_form():
    """One draw each: the square is 1 + B / W with means of M draws, B of mean W / M."""
    num_super, size, repeats = 16, 32, 400
    square = nested_rhat(normals(8, num_super * size, 1, repeats), num_super).square() - 1
    error = square.std() / math.sqrt(repeats)
    assert abs(square.mean() - 1 / size) < 5 * error + 2 / (size**2 * num_super)


def test_nested_rhat_sees_starts_that_are_remembered_where_rhat_sees_only_short_chains():
    """Starts 3 sd apart, forgotten at rate 0.9 a draw: 5 draws remember, 100 do not."""
    starts = 3 * normals(9, 8).repeat_interleave(64, 0)
    draws = [starts]
    noise = normals(10, 512, 110)
    for t in range(110):
        draws.append(0.9 * draws[-1] + math.sqrt(1 - 0.81) * noise[:, t])
    draws = torch.stack(draws[1:], 1)
    assert float(nested_rhat(draws[:, :5], 8)) > 1.5
    assert float(nested_rhat(draws[:, 100:], 8)) < 1.02
    assert float(rhat(draws[:, 100:])) > 1.3, "ten draws of each chain are not enough for the plain one"


def test_superchains_are_checked():
    draws = normals(11, 12, 5)
    with pytest.raises(ValueError, match=r"num_superchains must divide the 12 chains. Got 5. .*repeat_interleave"):
        nested_rhat(draws, 5)
    with pytest.raises(ValueError, match="num_superchains must be an integer of at least 2"):
        nested_rhat(draws, 1)
    with pytest.raises(ValueError, match="a superchain must hold more than one draw"):
        nested_rhat(draws[:, :1], 12)
    with pytest.raises(ValueError, match="at least 1 draw a chain"):
        nested_rhat(draws[:, :0], 3)


# -- trees, dtypes, bad input, for all ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_trees_vmap_and_the_event_axes_agree(name, monkeypatch):
    function = ALL[name]
    draws = autoregressive(random.key(6), (3, 101, 2, 3), 0.4)
    whole = function(draws)
    assert whole.shape == (2, 3)
    assert whole.dtype == torch.float64
    each = torch.func.vmap(torch.func.vmap(function, in_dims=-1), in_dims=-1)(draws)
    torch.testing.assert_close(each.T, whole, rtol=1e-12, atol=0)
    found = function({"a": draws, "b": (draws[..., 0, 0],)})
    torch.testing.assert_close(found["a"], whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(found["b"][0], whole[0, 0], rtol=1e-12, atol=0)
    from funcebm.diagnostics import draws as module

    monkeypatch.setattr(module, "_BLOCK", 700)  # two coordinates at once
    torch.testing.assert_close(function(draws), whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ALL)
def test_a_nan_under_vmap_gives_nan_there_and_nowhere_else(name):
    draws = autoregressive(random.key(6), (3, 100, 4), 0.4)
    draws[1, 7, 2] = math.nan
    found = torch.func.vmap(ALL[name], in_dims=-1)(draws)
    assert found.isnan().tolist() == [False, False, True, False]


@pytest.mark.parametrize("name", ALL)
def test_integers_and_bools_are_numbers(name):
    flags = random.bernoulli(random.key(9), 0.3, (3, 1000))
    torch.testing.assert_close(ALL[name](flags), ALL[name](flags.double()), equal_nan=True)


@pytest.mark.parametrize("name", ALL)
def test_bad_draws_are_refused_in_words(name):
    function = ALL[name]
    with pytest.raises(ValueError, match=r"\(C, N, \*event\).*draws\[None\]"):
        function(torch.zeros(100))
    if name != "nested_rhat":
        with pytest.raises(ValueError, match="at least 4 draws a chain"):
            function(torch.zeros(3, 3))
    with pytest.raises(ValueError, match="at least one chain"):
        function(torch.zeros(0, 10))
    with pytest.raises(ValueError, match="same chain and draw axes"):
        function({"a": torch.zeros(2, 10), "b": torch.zeros(3, 10)})
    with pytest.raises(ValueError, match="at least one tensor"):
        function(())
    with pytest.raises(TypeError, match="tensors of real numbers"):
        function([1.0])
    draws = torch.zeros(6, 10, 2)
    draws[1, 3], draws[3, 9, 1] = math.nan, math.inf
    with pytest.raises(ValueError, match=r"finite.*in a, chains 1, 3"):
        function({"a": draws})
