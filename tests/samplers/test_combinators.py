"""Cycles, mixtures, powers and temperatures of kernels: what they are made of, step by step, and what they leave invariant."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
import torch
from tests.cases import quartic, quartic_params
from tests.distributions import SIGMAS, assert_covariance, assert_mean, assert_same_distribution, assert_uniform
from tests.targets import draw_skewed, skewed

import funcebm as ebm
from funcebm import random, samplers, schedules, tree
from funcebm.samplers import annealed, cycle, mix, tempered, thin
from funcebm.samplers._relocation import carry_over
from funcebm.types import Info, Sampler

NUM_CHAINS = 16000
PARAMS = quartic_params(torch.float64)
DENSE = torch.tensor([[0.6, 0.4], [0.4, 1.1]])


def _double(sampler: Sampler) -> Sampler:
    return sampler._replace(tuning=tree.map(torch.Tensor.double, sampler.tuning))


def _members(energy: Any = quartic) -> dict[str, Sampler]:
    """One of each kind: with a gradient and without, with a momentum, with a loop inside, and one without noise."""
    made = {
        "hmc": samplers.hmc(energy, step_size=0.3, num_leapfrog=3),
        "mala": samplers.mala(energy, step_size=0.2),
        "random_walk": samplers.random_walk(energy, step_size=0.4),
        "ghmc": samplers.ghmc(energy, step_size=0.4, num_leapfrog=2),
        "underdamped": samplers.underdamped_langevin(energy, step_size=0.3),
        "langevin": samplers.langevin(energy, step_size=0.1),
        "descent": samplers.gradient_descent(energy, step_size=0.1),
        "nesterov": samplers.nesterov(energy, step_size=0.05),
    }
    return {name: _double(sampler) for name, sampler in made.items()}


def _position() -> dict[str, torch.Tensor]:
    return {"a": torch.tensor([0.3, -1.0]).double(), "b": torch.tensor(0.7).double()}


def _close(a: Any, b: Any, tolerance: float = 1e-12) -> None:
    assert tree.structure(a) == tree.structure(b)
    for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


# -- what a step is made of -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("same_energy", [False, True])
def test_a_cycle_is_its_samplers_by_hand(same_energy):
    """Every sampler starts where the last one ended, with a state made anew, but for momentum, slice and velocity."""
    members = _members()
    sampler = cycle(*members.values(), same_energy=same_energy)
    state = sampler.init(PARAMS, _position())
    states = {name: member.init(PARAMS, _position()) for name, member in members.items()}
    position = _position()
    for i in range(4):
        noise = sampler.draw(random.key(i), position)
        state, info = sampler.step(PARAMS, sampler.tuning, state, noise)
        rates, flags = [], []
        for (name, member), part in zip(members.items(), noise, strict=True):
            current = member.init(PARAMS, position)
            kept = {
                field: getattr(states[name], field)
                for field in ("momentum", "slice", "fresh", "is_fresh", "velocity")
                if hasattr(current, field)
            }
            states[name], last = member.step(PARAMS, member.tuning, current._replace(**kept), part)
            position = states[name].position
            rates.append(last.acceptance_rate)
            flags.append(last.is_accepted)
        _close(state.position, position)
        _close(state.states, tuple(states.values()))
        _close(info.energy, quartic(PARAMS, position))
        _close(info.acceptance_rate, torch.stack(rates).mean())
        assert bool(info.is_accepted) == any(flags)
        assert not bool(info.is_divergent)


def test_gradients_are_counted_and_one_energy_is_not_computed_twice():
    members = _members()
    steps = {
        "hmc": 3,
        "mala": 1,
        "random_walk": 0,
        "ghmc": 2,
        "underdamped": 1,
        "langevin": 1,
        "descent": 1,
        "nesterov": 1,
    }
    moves = {
        "hmc": 1,
        "mala": 1,
        "random_walk": 0,
        "ghmc": 1,
        "underdamped": 1,
        "langevin": 1,
        "descent": 1,
        "nesterov": 0,
    }

    def count(names: list[str], make: Any, **options: Any) -> int:
        sampler = make(*(members[name] for name in names), **options)
        return int(sampler(random.key(0), PARAMS, sampler.init(PARAMS, _position()))[1].num_gradients)

    names = list(members)
    assert count(names, cycle) == sum(steps.values()) + sum(moves.values())
    assert count(names, lambda *parts: mix(parts)) == sum(steps.values()) + sum(moves.values())
    # a random walk and Nesterov's method forget the gradient: who comes next makes it anew
    assert count(names, cycle, same_energy=True) == sum(steps.values()) + 2
    assert count(["hmc", "mala"], cycle, same_energy=True) == 4
    assert count(["hmc", "random_walk"], cycle, same_energy=True) == 4
    assert count(["hmc", "mala"], lambda *parts: mix(parts, same_energy=True)) == 4
    assert count(["hmc"], cycle) == 3


def test_energy_and_gradient_are_evaluated_as_often_as_counted():
    """Calls of the energy inside one step of ``cycle(mala, hmc)`` with one energy: one and three."""
    calls = []

    def energy(params, x):
        calls.append(1)
        return quartic(params, x)

    sampler = cycle(_members(energy)["mala"], _members(energy)["hmc"], same_energy=True)
    state = sampler.init(PARAMS, _position())
    noise = sampler.draw(random.key(0), _position())
    calls.clear()
    assert int(sampler.step(PARAMS, sampler.tuning, state, noise)[1].num_gradients) == len(calls) == 4


@pytest.mark.parametrize("same_energy", [False, True])
def test_a_mixture_is_one_sampler_and_the_others_keep_what_they_remember(same_energy):
    members = _members()
    names, parts = list(members), list(members.values())
    sampler = mix(parts, same_energy=same_energy)
    state, seen = sampler.init(PARAMS, _position()), set()
    for i in range(60):
        noise = sampler.draw(random.key(i), _position())
        chosen = int(noise.choice)
        seen.add(chosen)
        expected, info = parts[chosen].step(PARAMS, parts[chosen].tuning, state.states[chosen], noise.noises[chosen])
        before = state.states
        state, mixed = sampler.step(PARAMS, sampler.tuning, state, noise)
        _close(state.states[chosen], expected, 0)
        _close(state.position, expected.position, 0)
        for field in set(Info._fields) - {"num_gradients"}:
            _close(getattr(mixed, field), getattr(info, field), 0)
        for j, member in enumerate(parts):
            if j != chosen:
                _close(state.states[j], carry_over(before[j], member.init(PARAMS, expected.position)))
    assert len(seen) == len(names)


def test_the_samplers_of_a_mixture_are_chosen_with_their_weights():
    weights = torch.tensor([1.0, 5.0, 2.0])
    sampler = mix([_members()["descent"]] * 3, weights=weights.tolist())
    keys = random.split(random.key(1), 20000)
    index = torch.func.vmap(lambda key: sampler.draw(key, _position()).choice)(keys)
    assert_uniform(torch.bincount(index, minlength=3), weights / weights.sum())


@pytest.mark.parametrize("name", list(_members()))
def test_thin_is_a_loop(name):
    sampler = _members()[name]
    thinned = thin(sampler, 4)
    state = expected = sampler.init(PARAMS, _position())
    noise = thinned.draw(random.key(3), _position())
    infos = []
    for k, key in enumerate(random.split(random.key(3), 4)):
        part = sampler.draw(key, _position())
        _close(tree.map(lambda leaf: leaf[k], noise), part)  # noqa: B023
        expected, info = sampler.step(PARAMS, sampler.tuning, expected, part)
        infos.append(info)
    state, info = thinned.step(PARAMS, thinned.tuning, state, noise)
    _close(state, expected)
    assert int(info.num_gradients) == sum(int(each.num_gradients) for each in infos)
    assert bool(info.is_accepted) == any(bool(each.is_accepted) for each in infos)
    _close(info.acceptance_rate, torch.stack([each.acceptance_rate for each in infos]).mean())
    _close(info.energy, infos[-1].energy)


def test_thin_reports_a_divergence_of_any_of_its_steps():
    sampler = samplers.mala(lambda params, x: torch.where(x.abs() < 1, x**2, torch.nan).sum(), step_size=3.0)
    thinned, flags = thin(sampler, 5), []
    for seed in range(20):
        state = sampler.init((), torch.zeros(1))
        noise = thinned.draw(random.key(seed), torch.zeros(1))
        flags.append(bool(thinned.step((), thinned.tuning, state, noise)[1].is_divergent))
        single = []
        for k in range(5):
            state, info = sampler.step((), sampler.tuning, state, tree.map(lambda leaf: leaf[k], noise))  # noqa: B023
            single.append(bool(info.is_divergent))
        assert flags[-1] == any(single)
    assert any(flags)


def _nested(energy: Any = quartic) -> Sampler:
    members = _members(energy)
    inner = mix([thin(members["ghmc"], 2), members["random_walk"]], weights=[2, 1])
    return cycle(thin(cycle(members["hmc"], inner), 2), members["underdamped"], tempered(members["mala"], 1.5))


def test_nested_samplers_step_many_chains_as_one_by_one():
    """The batched step is the step, chain by chain, in every state."""
    sampler = _nested()
    positions = {"a": random.normal(random.key(0), (3, 2)).double(), "b": random.normal(random.key(1), (3,)).double()}
    assert sampler.batched_step is not None
    samples = ebm.sample(random.key(2), sampler, PARAMS, positions, num_samples=3, jit=False)
    for c, chain_key in enumerate(random.split(random.key(2), 3)):
        state = sampler.init(PARAMS, tree.map(lambda leaf: leaf[c], positions))  # noqa: B023
        for i in range(3):
            state, info = sampler(random.fold_in(chain_key, i), PARAMS, state)
        _close(state, tree.map(lambda leaf: leaf[c], samples.state), 1e-11)  # noqa: B023
        _close(info, tree.map(lambda leaf: leaf[c, -1], samples.info), 1e-11)  # noqa: B023


def test_a_moved_composite_keeps_what_its_samplers_remember():
    sampler = _nested()
    state = sampler.init(PARAMS, _position())
    for i in range(3):
        state, _ = sampler(random.key(i), PARAMS, state)
    other = tree.map(lambda leaf: leaf + 0.1, state.position)
    moved = carry_over(state, sampler.init(PARAMS, other))
    ghmc, before = moved.states[0].states[1].states[0], state.states[0].states[1].states[0]
    fresh = _members()["ghmc"].init(PARAMS, other)
    for found, expected in (
        (ghmc.momentum, before.momentum),
        (ghmc.slice, before.slice),
        (ghmc.position, other),
        (ghmc.gradient, fresh.gradient),
        (ghmc.energy, fresh.energy),
        (moved.states[1].momentum, state.states[1].momentum),
    ):
        _close(found, expected, 0)


# -- distributions -------------------------------------------------------------------------------------------------------------


CASES = {
    "cycle": lambda: cycle(
        samplers.ghmc(skewed, step_size=0.9, inverse_mass=DENSE),
        samplers.random_walk(skewed, step_size=1.5),
        samplers.mala(skewed, step_size=0.8),
    ),
    "cycle_one_energy": lambda: cycle(
        samplers.ghmc(skewed, step_size=0.9, inverse_mass=DENSE),
        samplers.barker(skewed, step_size=1.2),
        samplers.hmc(skewed, step_size=1.2, num_leapfrog=2),
        same_energy=True,
    ),
    "mix": lambda: mix(
        [samplers.ghmc(skewed, step_size=0.9, inverse_mass=DENSE), samplers.mala(skewed, step_size=1.0)], weights=[2, 1]
    ),
    "thin": lambda: thin(samplers.ghmc(skewed, step_size=0.9), 3),
}


@pytest.mark.parametrize("name", list(CASES))
def test_the_target_is_invariant_at_large_steps(name):
    start, other = (draw_skewed(random.key(seed), NUM_CHAINS) for seed in (11, 12))
    options = {"num_samples": 1, "thin": 3, "jit": False}
    samples = ebm.sample(random.key(13), CASES[name](), torch.tensor(1.0), start, **options)
    assert 0.15 < float(samples.info.acceptance_rate.mean()) < 0.95
    assert_same_distribution(samples.draws[:, 0], other)


def test_samplers_of_different_energies_leave_their_common_target_invariant():
    """Elliptical slices take the energy of the likelihood, HMC that of the posterior: both of their caches must be their own."""
    likelihood = lambda params, x: ((x - 1.5) ** 2).sum()  # noqa: E731  precision 2
    posterior = lambda params, x: likelihood(params, x) + (x**2).sum() / 2  # noqa: E731  precision 1 + 2, mean 1
    parts = samplers.elliptical_slice(likelihood), samplers.hmc(posterior, step_size=0.8, num_leapfrog=2)
    walk = samplers.random_walk(posterior, step_size=0.8)
    start = 1 + random.normal(random.key(1), (NUM_CHAINS, 2)) / math.sqrt(3)
    for sampler in (cycle(*parts, walk), mix([*parts, walk])):
        draws = ebm.sample(random.key(2), sampler, (), start, num_samples=1, thin=3, jit=False).draws[:, 0]
        assert_mean(draws, 1.0)
        assert_covariance(draws, torch.eye(2) / 3)


def test_tempered_is_the_same_sampler_made_at_that_temperature():
    at_two = samplers.hmc(quartic, step_size=0.3, num_leapfrog=3, temperature=2.0)
    found = tempered(samplers.hmc(quartic, step_size=0.3, num_leapfrog=3), 2.0)
    assert torch.equal(found.tuning.temperature, at_two.tuning.temperature)
    positions = random.normal(random.key(0), (4, 3))
    runs = [
        ebm.sample(random.key(1), sampler, quartic_params(), positions, num_samples=3, jit=False).draws
        for sampler in (found, at_two)
    ]
    assert torch.equal(*runs)
    both = tempered(cycle(found, thin(mix([found]), 2)), 3.0)
    assert [float(leaf) for leaf in (both.tuning[0].temperature, both.tuning[1][0].temperature)] == [3.0, 3.0]


def test_annealed_langevin_on_a_gaussian_has_the_law_of_its_recursion():
    """``m' = (1 - h k) m`` and ``v' = (1 - h k)^2 v + 2 h T_n``, with the temperature of each step."""
    h, k, num_steps = 0.2, 1.5, 12
    schedule = schedules.geometric(5.0, 0.1, 10)
    sampler = samplers.langevin(lambda params, x: k * (x**2).sum() / 2, step_size=h)
    start = 2.0 + torch.zeros(NUM_CHAINS, 2)
    draws = ebm.sample(
        random.key(5), sampler, (), start, num_samples=num_steps, tuning=annealed(sampler, schedule), jit=False
    ).draws
    mean, variance = 2.0, 0.0
    for n in range(num_steps):
        mean = (1 - h * k) * mean
        variance = (1 - h * k) ** 2 * variance + 2 * h * float(schedule(n))
        assert_mean(draws[:, n], mean)
        assert_covariance(draws[:, n], variance * torch.eye(2))


def rugged(params, x):
    """Rastrigin's function: a minimum near each integer, the global one at 0, barriers of about 1."""
    return 0.4 * (x**2).sum() + 0.5 * (1 - torch.cos(2 * torch.pi * x)).sum()


def test_annealing_finds_the_global_minimum_and_descent_does_not():
    start = 3.5 * (2 * random.uniform(random.key(6), (1000, 2)) - 1)
    descent, sampler = samplers.gradient_descent(rugged, step_size=0.02), samplers.mala(rugged, step_size=0.03)
    cooling = annealed(sampler, schedules.geometric(2.0, 0.1, 600))
    found = []
    for kernel, tuning in ((descent, None), (sampler, cooling)):
        run = ebm.sample(random.key(7), kernel, (), start, num_samples=1, num_burn_in=600, tuning=tuning, jit=False)
        found.append((run.draws[:, 0].abs().amax(-1) < 0.5).double())
    difference, error = found[1].mean() - found[0].mean(), math.sqrt(sum(float(each.var()) / 1000 for each in found))
    assert difference > SIGMAS * error
    assert_mean(found[0], 1 / 49)  # descent ends in the basin where it began, one of 7 x 7
    assert found[1].mean() > 0.3


def test_parts_come_one_by_one_or_in_a_list():
    one, other = _hmc(), samplers.mala(quartic, step_size=0.1)
    starts = torch.ones(3, 2, dtype=torch.float64)

    def draws(sampler):
        return ebm.sample(random.key(0), sampler, PARAMS, starts, num_samples=4, jit=False).draws

    assert torch.equal(draws(cycle(one, other)), draws(cycle([one, other])))
    expected = draws(mix(one, other, weights=[1, 3]))
    for sampler in (mix([one, other], weights=[1, 3]), mix((one, other), [1, 3])):
        assert torch.equal(draws(sampler), expected)


# -- errors -----------------------------------------------------------------------------------------------------------


class _Bare(NamedTuple):
    step_size: torch.Tensor


def _hmc():
    return samplers.hmc(quartic, step_size=0.3)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: cycle(), ValueError, "cycle takes one sampler or more"),
        (
            lambda: cycle(_hmc(), samplers.hmc),
            TypeError,
            r"cycle takes samplers.*Call it with an energy: hmc\(energy\)",
        ),
        (lambda: cycle(_hmc(), [_hmc()]), TypeError, "one by one or in one list"),
        (lambda: mix(_hmc(), _hmc(), [1, 3]), TypeError, r"weights by name: weights=\["),
        (lambda: mix([]), ValueError, "mix takes one sampler or more"),
        (lambda: mix([_hmc(), 3]), TypeError, "mix takes samplers"),
        (lambda: mix([_hmc()], weights=[1, 2]), ValueError, "one for each sampler. Got 2 for 1"),
        (lambda: mix([_hmc(), _hmc()], weights=[1, 0]), ValueError, "each of weights must be positive"),
        (lambda: thin(_hmc(), 0), ValueError, "num must be an integer of at least 1"),
        (lambda: thin(quartic, 2), TypeError, "thin takes samplers"),
        (lambda: tempered(_hmc(), 0.0), ValueError, "temperature must be positive"),
        (
            lambda: tempered(samplers.gradient_descent(quartic), 1.0),
            ValueError,
            "must have a temperature. Got step_size",
        ),
        (lambda: tempered(_hmc()._replace(tuning=()), 1.0), ValueError, r"energies.tempered\(energy"),
        (lambda: annealed(_hmc(), 2.0), ValueError, "schedule must be a function"),
        (
            lambda: annealed(cycle(_hmc(), samplers.nesterov(quartic)), schedules.constant(1.0)),
            ValueError,
            "must have a temperature",
        ),
    ],
)
def test_bad_arguments_say_what_must_hold(make, error, words):
    with pytest.raises(error, match=words):
        make()
