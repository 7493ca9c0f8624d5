"""The adaptation that comes without a choice, for every sampler of the table."""

from __future__ import annotations

from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from tests.adaptation.driver import run
from tests.cases import SAMPLERS, quartic, quartic_params
from torch import Tensor
from torch.func import vmap

from funcebm import adaptation, metrics, random, samplers, tree
from funcebm.adaptation import chees, default, meads, unchanged, window_adaptation
from funcebm.samplers.adjusted_mclmc import adjusted_mclmc
from funcebm.samplers.mclmc import mclmc


def _energy(params, x):
    return (x**2).sum() / 2


def _kind(chosen):
    """The factory that an adaptation comes from."""
    return chosen.update.__qualname__.split(".")[0]


@pytest.mark.parametrize(
    ("sampler", "num_chains", "expected"),
    [
        (samplers.hmc(_energy), 1, "window_adaptation"),
        (samplers.mala(_energy), 100, "window_adaptation"),
        (samplers.barker(_energy), 4, "window_adaptation"),
        (samplers.langevin(_energy), 4, "window_adaptation"),
        (samplers.dynamic_hmc(_energy), 2, "chees"),
        (samplers.dynamic_hmc(_energy), 1, "window_adaptation"),
        (samplers.ghmc(_energy), 8, "meads"),
        (samplers.ghmc(_energy), 10, "window_adaptation"),
        (samplers.ghmc(_energy), 4, "window_adaptation"),
        (mclmc(_energy), 1, "mclmc_adaptation"),
        (adjusted_mclmc(_energy), 1, "window_adaptation"),
    ],
)
def test_it_suits_the_sampler_and_the_number_of_chains(sampler, num_chains, expected):
    assert _kind(default(sampler, num_chains)) == expected


def test_nuts_goes_for_more_and_heeds_the_chain_whose_rate_is_lowest():
    """After one update with the rates 1 and 0.5 the step size says which average was taken: 0.75, or 2/3."""
    used = {}
    for name, sampler in (("nuts", samplers.nuts(_energy)), ("hmc", samplers.hmc(_energy))):
        chosen = default(sampler, 2)
        state = vmap(sampler.init, (None, 0))((), torch.tensor([[0.5], [1.0]]))
        memory = chosen.init(random.key(0), sampler, (), state)
        info = SimpleNamespace(acceptance_rate=torch.tensor([1.0, 0.5]))
        after = chosen.update(memory, state, info)
        error = float(memory.target) - torch.log(after.tuning.step_size / memory.tuning.step_size / 10) * -0.05 * 11
        used[name] = float(error)
        assert float(memory.target) == pytest.approx({"nuts": 0.9, "hmc": 0.8}[name])
    assert used["nuts"] == pytest.approx(2 / 3, abs=1e-4)
    assert used["hmc"] == pytest.approx(3 / 4, abs=1e-4)


def test_adjusted_mclmc_gets_its_length():
    _, _, tuning, _ = run(
        random.key(0), adjusted_mclmc(_energy), (), torch.zeros(2, 4), default(adjusted_mclmc(_energy), 2), 1
    )
    assert float(tuning.trajectory_length) == pytest.approx(2.6)


@pytest.mark.parametrize("factory", [samplers.hmc, samplers.dynamic_hmc, mclmc, adjusted_mclmc])
def test_a_dense_metric_stays_dense(factory):
    sampler = factory(_energy, inverse_mass=torch.eye(2))
    starts = random.normal(random.key(1), (4, 2))
    _, _, tuning, _ = run(random.key(0), sampler, (), starts, default(sampler, 4), 3)
    assert isinstance(tuning.metric, metrics.Dense)


def _without_metric(tuning):
    if type(tuning) is tuple:  # of several samplers
        return tuple(_without_metric(part) for part in tuning)
    return tuning._replace(metric=()) if hasattr(tuning, "metric") else tuning


@pytest.mark.parametrize("name", list(SAMPLERS))
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)], ids=str)
def test_every_sampler_can_be_warmed_up_on_a_tree(name, dtype):
    normal = lambda key, *shape: random.normal(random.key(key), (8, *shape), dtype=dtype)  # noqa: E731
    positions = {"b": normal(1, 2, 2), "a": (normal(2), normal(3, 3))}
    sampler = SAMPLERS[name](quartic, tree.map(lambda leaf: leaf[0], positions))
    sampler = sampler._replace(tuning=tree.cast_like(sampler.tuning, tree.first(positions)))
    one = sampler.init(quartic_params(dtype), tree.map(lambda leaf: leaf[0], positions))
    if hasattr(sampler.tuning, "rungs"):  # of a ladder
        with pytest.raises(ValueError, match="needs a tuning that it knows"):
            default(sampler, 8)
        return
    is_by_hand = sampler.target_acceptance is None and sampler.adaptation != "unchanged"
    if is_by_hand and hasattr(sampler.tuning, "step_size") and not hasattr(one, "gradient"):
        with pytest.raises(ValueError, match="Set the step size by hand"):
            run(random.key(0), sampler, quartic_params(dtype), positions, default(sampler, 8), 3)
        return
    state, _, tuning, _ = run(random.key(0), sampler, quartic_params(dtype), positions, default(sampler, 8), 24)
    assert tree.structure(_without_metric(tuning)) == tree.structure(_without_metric(sampler.tuning))
    assert bool(tree.all_finite((state.position, tuning)))
    for leaf in tree.leaves(tuning):
        assert not leaf.is_floating_point() or leaf.dtype == dtype
    assert float(getattr(tuning, "step_size", 1.0)) > 0
    # what comes back is what the sampler's step takes
    noise = sampler.draw(random.key(5), one.position)
    sampler.step(quartic_params(dtype), tuning, one, noise)


class _Phase(NamedTuple):
    phase: Tensor


def test_a_sampler_with_nothing_to_tune_is_left_as_it_is():
    slices = samplers.elliptical_slice(_energy, covariance=2.0)
    for sampler in (samplers.mala(_energy)._replace(tuning=()), slices):
        memory = default(sampler, 3).init(random.key(0), sampler, (), sampler.init((), torch.zeros(2)))
        assert tree.leaves(default(sampler, 3).final(memory)) == tree.leaves(sampler.tuning)
    positions = random.normal(random.key(0), (3, 2))
    state, _, tuning, _ = run(random.key(0), samplers.mala(_energy), (), positions, unchanged(), 3)
    assert tuning == samplers.mala(_energy).tuning
    assert not torch.equal(state.position, positions)


@pytest.mark.parametrize("tuning", [{"step_size": torch.tensor(0.1)}, (torch.tensor(0.1),), _Phase(torch.tensor(1.0))])
def test_an_unknown_tuning_is_refused_and_the_choices_are_named(tuning):
    sampler = samplers.mala(_energy)._replace(tuning=tuning)
    with pytest.raises(
        ValueError, match=r"a default adaptation needs a tuning that it knows.*window_adaptation, chees"
    ):
        default(sampler, 4)


def test_bad_counts_are_refused():
    with pytest.raises(ValueError, match=r"num_chains must be an integer of at least 1. Got 0"):
        default(samplers.hmc(_energy), 0)


def test_everything_public_is_exported():
    for name in adaptation.__all__:
        assert hasattr(adaptation, name)
    assert adaptation.chees is chees
    assert adaptation.meads is meads
    assert adaptation.window_adaptation is window_adaptation
