"""Mixed HMC against exact moments, where conditionals of three values overlap: there its first published form was wrong."""

from __future__ import annotations

import pytest
import torch

import funcebm as ebm
from funcebm import random, samplers, spaces, tree

from ..distributions import assert_mean, assert_same_distribution

SPACE = {"x": spaces.real(2), "z": spaces.categorical(2, 3)}
MEANS = torch.tensor([[-1.0, 0.2, 1.3], [0.5, -0.4, 1.0]])
WEIGHTS = torch.tensor([[0.5, -0.7, 0.1], [-0.3, 0.6, 0.0]])


def energy(params, x):
    """Two normals with unknown labels, whose labels interact."""
    centred = x["x"] - (MEANS.to(x["z"]) * x["z"]).sum(-1)
    return (centred**2).sum() / 2 - (WEIGHTS.to(x["z"]) * x["z"]).sum() - params * (x["z"][0] * x["z"][1]).sum()


def _exact(num, key):
    """Independent draws: labels from their table, then normals."""
    labels = spaces.states(SPACE["z"])
    still = torch.func.vmap(lambda z: energy(torch.tensor(0.8), {"x": (MEANS * z).sum(-1), "z": z}))(labels)
    z = labels[random.categorical(key, -still, (num,))]
    return {"x": (MEANS * z).sum(-1) + random.normal(random.fold_in(key, 1), (num, 2)), "z": z}


def _features(draws):
    return torch.cat([draws["x"], draws["z"].flatten(1)[:, [0, 1, 3, 4]], draws["x"] * draws["z"][:, :, 0]], 1)


@pytest.mark.parametrize("temperature", [1.0, 1.6])
def test_what_starts_in_the_distribution_stays(temperature):
    """At another temperature against the moments of a table of labels."""
    sampler = samplers.mixed_hmc(energy, SPACE, step_size=0.7, num_visits=3, num_leapfrog=2, temperature=temperature)
    start = _exact(4000, random.key(1))
    burn_in = 3 if temperature == 1.0 else 40
    options = {"num_samples": 1, "num_burn_in": burn_in, "jit": False}
    run = ebm.sample(random.key(2), sampler, torch.tensor(0.8), start, **options)
    draws = tree.map(lambda leaf: leaf[:, 0], run.draws)
    assert 0.5 < float(run.info.acceptance_rate.mean()) < 0.999
    if temperature == 1.0:
        assert_same_distribution(_features(draws), _features(_exact(4000, random.key(3))))
        return
    labels = spaces.states(SPACE["z"])
    still = torch.func.vmap(lambda z: energy(torch.tensor(0.8), {"x": (MEANS * z).sum(-1), "z": z}))(labels)
    chances = torch.softmax(-still / temperature, 0)
    assert_mean(draws["z"].flatten(1), chances @ labels.flatten(1), bias=1e-3)
    means = (MEANS * labels).sum(-1)
    assert_mean(draws["x"] ** 2, chances @ means**2 + temperature, bias=1e-3)


def test_a_step_without_its_payments_would_be_seen():
    """The same test, with a kernel whose sites move as if each change were free half of the time."""
    sampler = samplers.mixed_hmc(energy, SPACE, step_size=0.7, num_visits=3, num_leapfrog=2)

    def draw(key, position):
        noise = sampler.draw(key, position)
        return noise._replace(kinetic=2 * noise.kinetic)

    start = _exact(4000, random.key(1))
    options = {"num_samples": 1, "num_burn_in": 3, "jit": False}
    run = ebm.sample(random.key(2), sampler._replace(draw=draw), torch.tensor(0.8), start, **options)
    draws = tree.map(lambda leaf: leaf[:, 0], run.draws)
    features, expected = _features(draws), _features(_exact(4000, random.key(3)))
    with pytest.raises(AssertionError):
        assert_same_distribution(features, expected)


def test_several_leaves_and_bad_input():
    space = {"a": spaces.real(2), "b": spaces.real(()), "z": spaces.spins(2), "w": spaces.ordinal(1, 4)}
    together = lambda params, x: (x["a"] ** 2).sum() + (x["b"] - x["z"].sum() * x["w"].sum()) ** 2 + x["w"].sum() ** 2  # noqa: E731
    sampler = samplers.mixed_hmc(together, space, step_size=0.2)
    start = {"a": torch.zeros(5, 2), "b": torch.zeros(5), "z": torch.ones(5, 2), "w": torch.zeros(5, 1)}
    run = ebm.sample(random.key(0), sampler, (), start, num_samples=4, jit=False)
    spaces.check(space, run.draws)
    assert (run.draws["z"] == -1).any() and (run.draws["w"] > 0).any()
    with pytest.raises(ValueError, match="levels of the space"):
        ebm.sample(random.key(0), sampler, (), {**start, "w": start["w"] + 0.5}, num_samples=1, jit=False)
    with pytest.raises(ValueError, match="a real and a discrete leaf"):
        samplers.mixed_hmc(together, {"z": spaces.spins(2)})
    with pytest.raises(TypeError, match="a dict of spaces"):
        samplers.mixed_hmc(together, spaces.spins(2))


def _draws(num_chains=5, num_samples=6, params=torch.tensor(0.8), **options):
    sampler = samplers.mixed_hmc(energy, SPACE, step_size=0.4, num_visits=2, num_leapfrog=2)
    start = _exact(num_chains, random.key(1)) if num_chains == 5 else _first(_exact(5, random.key(1)), num_chains)
    return ebm.sample(random.key(3), sampler, params, start, num_samples=num_samples, jit=False, **options)


def _first(value, count):
    return tree.map(lambda leaf: leaf[:count], value)


def _equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(tree.leaves(one), tree.leaves(other), strict=True))


def test_chains_do_not_depend_on_chunks_cuts_or_their_number():
    whole = _draws()
    assert _equal(whole.draws, _draws(chunk_size=1).draws) and _equal(whole.draws, _draws(chunk_size=4).draws)
    cut = _draws(num_samples=2)
    rest = ebm.resume(cut, num_samples=4)
    assert _equal(whole.draws, tree.map(lambda a, b: torch.cat([a, b], 1), cut.draws, rest.draws))
    assert torch.equal(whole.draws["z"][:2], _draws(num_chains=2).draws["z"])
    torch.testing.assert_close(whole.draws["x"][:2], _draws(num_chains=2).draws["x"])


def test_couplings_and_temperatures_map():
    tuning = samplers.mixed_hmc(energy, SPACE, step_size=0.4).tuning

    def draws(coupling, temperature):
        return _draws(params=coupling, tuning=tuning._replace(temperature=temperature)).draws

    couplings, temperatures = torch.tensor([0.2, 0.8, 1.5]), torch.tensor([1.0, 2.0, 0.5])
    mapped = torch.func.vmap(draws)(couplings, temperatures)
    each = tree.stack([draws(*pair) for pair in zip(couplings, temperatures, strict=True)])
    assert torch.equal(mapped["z"], each["z"])
    torch.testing.assert_close(mapped["x"], each["x"])


@pytest.mark.compiled
def test_compiled_draws_are_eager_ones():
    sampler = samplers.mixed_hmc(energy, SPACE, step_size=0.4, num_visits=2, num_leapfrog=2)
    start = tree.map(lambda leaf: leaf.double(), _exact(6, random.key(1)))
    runs = [
        ebm.sample(random.key(0), sampler, torch.tensor(0.8).double(), start, num_samples=5, jit=jit)
        for jit in (True, False)
    ]
    assert torch.equal(runs[0].draws["z"], runs[1].draws["z"])
    torch.testing.assert_close(runs[0].draws["x"], runs[1].draws["x"], rtol=1e-9, atol=1e-9)
