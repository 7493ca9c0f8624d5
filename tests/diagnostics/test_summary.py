"""The table of a run: its numbers, its names, its warnings."""

import math
from typing import Any, NamedTuple

import pytest
import torch

import funcebm as ebm
from funcebm import random
from funcebm.diagnostics import ess_bulk, ess_tail, mcse_mean, mcse_sd, rhat, summary


class Info(NamedTuple):
    acceptance_rate: Any = None
    is_divergent: Any = None
    num_gradients: Any = None
    total_energy: Any = None
    tree_depth: Any = None
    is_max_depth: Any = None


class Samples(NamedTuple):
    draws: Any
    info: Any


def good(*shape):
    return random.normal(random.key(11), shape, dtype=torch.float64)


@pytest.mark.parametrize("num", [500, 501])
def test_the_columns_are_the_functions_of_each_coordinate(num):
    draws = {"w": good(4, num, 2, 3), "b": 3 + 2 * good(4, num)}
    result = summary(draws)
    assert result.names == ("b", "w[0,0]", "w[0,1]", "w[0,2]", "w[1,0]", "w[1,1]", "w[1,2]")
    functions = {"ess_bulk": ess_bulk, "ess_tail": ess_tail, "rhat": rhat, "mcse_mean": mcse_mean, "mcse_sd": mcse_sd}
    for column, function in functions.items():
        value = function(draws)
        expected = torch.cat([value["b"].reshape(1), value["w"].flatten()])
        torch.testing.assert_close(getattr(result, column), expected, rtol=1e-12, atol=0)
    assert result.ess is result.ess_bulk
    assert result.mcse is result.mcse_mean
    torch.testing.assert_close(result.q05[0], draws["b"].flatten().quantile(0.05))
    torch.testing.assert_close(result.q95[1:], draws["w"].flatten(0, 1).quantile(0.95, 0).flatten())
    torch.testing.assert_close(result.mean[0], draws["b"].mean())
    torch.testing.assert_close(result.sd[1:], draws["w"].flatten(0, 1).std(0).flatten())
    assert result.acceptance_rate is None
    assert result.num_divergent is None
    assert result.warnings == ()
    assert (result.num_chains, result.num_samples) == (4, num)


def test_the_text_shows_every_coordinate_and_lines_up():
    draws = good(4, 1000, 2, 2)
    info = Info(torch.full((4, 1000), 0.75), torch.zeros(4, 1000, dtype=torch.bool))
    text = str(summary(Samples(draws, info)))
    lines = text.splitlines()
    assert lines[0] == "4 chains of 1,000 draws, 4 coordinates"
    assert lines[2].split() == ["mean", "sd", "5%", "95%", "mcse_mean", "mcse_sd", "ess_bulk", "ess_tail", "rhat"]
    assert [line.split()[0] for line in lines[3:7]] == ["x[0,0]", "x[0,1]", "x[1,0]", "x[1,1]"]
    assert len({len(line) for line in lines[2:7]}) == 1
    assert "acceptance rate  0.750" in lines
    assert "divergences      0" in lines
    assert "warning" not in text
    assert repr(summary(draws)) == str(summary(draws))


def test_a_large_event_is_cut_to_the_worst_rows():
    draws = good(4, 200, 10, 10).clone()
    draws[0, :, 7, 3] += 4
    text = str(summary(draws))
    assert "100 coordinates, shown: the 20 of the largest R-hat" in text
    rows = [line.split()[0] for line in text.splitlines() if line.startswith("x[")]
    assert len(rows) == 20
    assert rows[0] == "x[7,3]"
    assert len([line for line in summary(draws).table(3).splitlines() if line.startswith("x[")]) == 3
    draws[2, 5, 0, 1] = math.nan
    assert [line.split()[0] for line in summary(draws).table(2).splitlines() if line.startswith("x[")] == [
        "x[0,1]",
        "x[7,3]",
    ]


def test_rhat_and_ess_warn_with_the_worst_coordinate():
    draws = good(4, 500, 3).clone()
    draws[2, :, 1] += 3
    words = summary(draws).warnings
    assert len(words) == 3
    assert words[0].startswith("R-hat is above 1.01 for 1 of 3 coordinates")
    assert "x[1]" in words[0]
    assert words[1].startswith("ESS is below 400 for 1 of 3 coordinates")
    assert words[2].startswith("tail ESS is below 400 for 1 of 3 coordinates")
    assert summary(draws, max_rhat=10.0, min_ess=1.0).warnings == ()


def test_the_least_ess_is_100_a_chain_and_400_at_most():
    assert any("ESS is below 200" in words for words in summary(good(2, 50)).warnings)
    assert not any("ESS" in words for words in summary(good(64, 20)).warnings)


def test_divergences_are_counted_and_placed():
    divergent = torch.zeros(4, 500, dtype=torch.bool)
    divergent[1, :3] = divergent[3, 7] = True
    result = summary(Samples(good(4, 500, 2), Info(torch.ones(4, 500), divergent)))
    assert result.num_divergent == 4
    assert result.warnings == (
        "4 draws of 2,000 diverged (0.20%), in chains 1 and 3: the draws may miss regions; lower step_size, or "
        "reparameterise.",
    )


def test_nan_and_stuck_chains_are_named_and_nothing_is_replaced():
    draws = good(5, 400, 3).clone()
    draws[4, 10, 2] = math.nan
    draws[1] = draws[1, :1]
    draws[3] = draws[3, :1]
    result = summary(draws)
    assert any(words.startswith("NaN or infinite draws in chain 4 (in x[2])") for words in result.warnings)
    assert any(words.startswith("chains 1 and 3 never moved") for words in result.warnings)
    assert all(bool(column[2].isnan()) for column in result[1:10])
    assert all(bool(column[:2].isfinite().all()) for column in result[1:10])
    assert "nan" in str(result)


def test_a_coordinate_that_never_changes_is_named():
    draws = good(4, 500, 3).clone()
    draws[:, :, 1] = 2.0
    words = summary(draws).warnings
    assert len(words) == 1
    assert words[0].startswith("x[1] never changed in any chain")


def test_many_chains_are_not_listed_one_by_one():
    draws = good(30, 40).clone()
    draws[5:] = draws[5:, :1]
    words = next(words for words in summary(draws).warnings if "never moved" in words)
    assert words.startswith("chains 5, 6, 7, 8, 9, 10, 11, 12 and 17 more never moved")


def test_bad_samples_are_refused_in_words():
    with pytest.raises(ValueError, match="chain axis and a draw axis"):
        summary(torch.zeros(10))
    with pytest.raises(ValueError, match="at least 4 draws"):
        summary(torch.zeros(10, 2))
    with pytest.raises(ValueError, match=r"acceptance_rate must be of shape \(C, N\)"):
        summary(Samples(good(4, 10), Info(torch.ones(4), None)))
    with pytest.raises(ValueError, match="max_rhat must be positive"):
        summary(good(4, 10), max_rhat=-1.0)


def test_the_foot_tells_of_trees_energies_and_cost():
    depth = torch.full((4, 1000), 3)
    depth[0, 0] = 7
    info = Info(num_gradients=torch.full((4, 1000), 8), total_energy=good(4, 1000), tree_depth=depth)
    lines = str(summary(Samples(good(4, 1000, 2), info), seconds=0.5)).splitlines()
    result = summary(Samples(good(4, 1000, 2), info))
    assert "tree depth       3.0, at most 7" in lines
    assert f"E-BFMI           {result.report.ebfmi.min():.2f} at least" in lines
    rate = result.ess_bulk.min() / 32_000
    assert lines[-1] == f"least ess_bulk   {rate:.3g} a gradient (32,000), {result.ess_bulk.min() / 0.5:,.3g} a second"
    assert result.warnings == ()


def test_a_chain_that_stands_still_for_long_is_named():
    draws = good(4, 500, 3).clone()
    draws[2, 100:160] = draws[2, 100]
    words = summary(draws, max_rhat=2.0, min_ess=1.0).warnings
    assert len(words) == 1
    assert words[0].startswith(
        "chain 2 stood still for long (at most 59 draws in a row), though 3% of all draws repeat"
    )


def test_rejections_at_one_rate_are_not_called_standing_still():
    """Half of all proposals rejected everywhere, over many chains: the longest stretch is about log2(C N)."""
    for seed in range(20):
        accepted = random.bernoulli(random.key(seed), 0.5, (100, 500))
        index = torch.where(accepted, torch.arange(500), 0).cummax(1).values
        draws = torch.take_along_dim(good(100, 500), index, 1)
        assert not any("still" in words for words in summary(draws, max_rhat=2.0, min_ess=1.0).warnings)


def test_low_energies_fractions_are_named():
    energies = good(4, 500)
    energies = torch.where(torch.arange(4)[:, None] == 1, energies.cumsum(1), energies)
    words = summary(Samples(good(4, 500, 2), Info(total_energy=energies))).warnings
    assert len(words) == 1
    assert words[0].startswith("E-BFMI is below 0.3 in chain 1 (least 0.0")


def test_trees_that_were_cut_are_named():
    cut = torch.zeros(4, 500, dtype=torch.bool)
    cut[3, :10] = True
    words = summary(Samples(good(4, 500, 2), Info(is_max_depth=cut))).warnings
    assert len(words) == 1
    assert words[0].startswith("10 of 2,000 trajectories (0.50%) reached the largest tree depth")
    assert "in chain 3" in words[0]


def test_chains_that_accept_little_are_named():
    rate = torch.full((4, 500), 0.6)
    rate[1] = 0.02
    words = summary(Samples(good(4, 500, 2), Info(acceptance_rate=rate))).warnings
    assert words == ("The acceptance rate is below 0.05 in chain 1 (least 0.020): lower step_size.",)


def test_few_effective_draws_of_a_step_too_small_get_the_advice():
    from funcebm import chains, samplers

    sampler = samplers.mala(lambda params, x: 0.5 * (x * x).sum(), step_size=0.001)
    starts = random.normal(random.key(1), (4, 2))
    run = chains.sample(random.key(0), sampler, (), starts, num_samples=300, jit=False)
    words = [words for words in summary(run).warnings if words.startswith("ESS")]
    assert "or raise step_size (acceptance 1.00, best near 0.57)" in words[0]


def test_short_chains_are_told_from_bad_ones():
    """Many short chains with enough effective draws together: R-hat is high, and the words say why it may be."""
    from tests.diagnostics.series import autoregressive

    words = summary(autoregressive(random.key(3), (200, 30), 0.8)).warnings
    assert len(words) == 1
    assert "chains of few effective draws give that too" in words[0]
    assert "see nested_rhat" in words[0]


def test_well_sampled_normals_are_silent():
    """A false alarm in 200 runs of 4 chains, 500 draws, 3 coordinates would already be one too many."""
    alarms = [words for seed in range(40) for words in summary(random.normal(random.key(seed), (4, 500, 3))).warnings]
    assert alarms == []


def test_an_event_without_numbers_and_scalars():
    assert summary(torch.zeros(4, 10, 0)).names == ()
    assert "0 coordinates" in str(summary(torch.zeros(4, 10, 0)))
    assert summary(good(4, 500)).names == ("x",)


def test_a_run_of_chains_sample_is_read():
    from funcebm import chains, samplers

    sampler = samplers.mala(lambda params, x: 0.5 * (x * x).sum() / params, step_size=0.8)
    run = chains.sample(random.key(0), sampler, torch.tensor(4.0), torch.zeros(4, 2), num_samples=300, jit=False)
    result = summary(run)
    assert result.names == ("x[0]", "x[1]")
    assert abs(result.acceptance_rate - float(run.info.acceptance_rate.mean())) < 1e-6
    assert result.num_divergent == 0
    assert bool((result.mean.abs() < 5 * result.mcse + 0.2).all())


def test_a_run_that_kept_no_draws_is_told_where_its_statistics_are():
    sampler = ebm.samplers.mala(lambda params, x: (x**2).sum() / 2)
    options = {"num_samples": 5, "reduce": ebm.reducers.mean(), "jit": False}
    samples = ebm.sample(random.key(0), sampler, (), torch.zeros(2, 3), **options)
    with pytest.raises(
        ValueError, match=r"samples must hold draws. Got a run that kept none. Its statistics are samples.reduced"
    ):
        summary(samples)
