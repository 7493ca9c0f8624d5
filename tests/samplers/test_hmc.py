"""HMC with other integrators and with the multinomial endpoint: what it proposes, how it chooses, what it costs."""

from __future__ import annotations

import math

import pytest
import torch
from tests.distributions import assert_mean, assert_uniform
from torch.func import vmap

import funcebm as ebm
from funcebm import fields, integrators, metrics, random, samplers, tree
from funcebm.integrators import PhasePoint

INTEGRATORS = {name: getattr(integrators, name) for name in ("leapfrog", "position_leapfrog", "mclachlan", "yoshida")}
DENSE = torch.tensor([[1.0, 0.3], [0.3, 0.5]], dtype=torch.float64)
START = torch.tensor([0.6, -0.4], dtype=torch.float64)
ONE = torch.tensor(1.0, dtype=torch.float64)


def _energy(params, x):
    """Neither even nor separable."""
    return params * ((x**2).sum() / 2 + 0.3 * torch.sin(2 * x[0] + x[1]) + 0.1 * x[0] ** 4 + 0.2 * x[0] * x[1] ** 2)


def _double(sampler):
    return sampler._replace(tuning=tree.map(torch.Tensor.double, sampler.tuning))


def _path(integrator, step_size, num, x, p, temperature=1.0):
    """The points of a trajectory, each with its Hamiltonian, by calls of the integrator alone."""
    both = fields.value_and_gradient(_energy)

    def field(x):
        value, gradient = both(ONE, x)
        return value, gradient / temperature

    point, metric = PhasePoint(x, p, field(x)[1]), metrics.of(DENSE)
    path = []
    for i in range(num + 1):
        if i > 0:
            point, _ = integrator(field, metric, torch.tensor(step_size).double(), point)
        total = field(point.position)[0] / temperature + metrics.kinetic_energy(metric, point.momentum)
        path.append((point.position, total))
    return path


# -- integrators --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_leapfrog", [1, 3])
@pytest.mark.parametrize("name", list(INTEGRATORS))
def test_the_proposal_is_the_end_of_the_steps_of_the_integrator(name, num_leapfrog):
    options = {"num_leapfrog": num_leapfrog, "inverse_mass": DENSE, "temperature": 0.75}
    sampler = _double(samplers.hmc(_energy, step_size=0.5, integrator=INTEGRATORS[name], **options))
    accepted = 0
    state = sampler.init(ONE, START)
    for i in range(12):
        noise = sampler.draw(random.key(i), START)
        after, info = sampler.step(ONE, sampler.tuning, state, noise)
        momentum = metrics.momentum(sampler.tuning.metric, noise.momentum)
        path = _path(INTEGRATORS[name], 0.5, num_leapfrog, state.position, momentum, 0.75)
        rate = torch.exp(path[0][1] - path[-1][1]).clamp(max=1)
        torch.testing.assert_close(info.acceptance_rate, rate, rtol=1e-11, atol=1e-12)
        assert bool(info.is_accepted) == bool(noise.uniform < rate)
        torch.testing.assert_close(after.position, path[-1 if info.is_accepted else 0][0], rtol=1e-11, atol=1e-11)
        accepted += int(info.is_accepted)
        state = after
    assert accepted > 0


COSTS = {"leapfrog": (5, 5), "position_leapfrog": (6, 10), "mclachlan": (10, 10), "yoshida": (15, 15)}


@pytest.mark.parametrize("endpoint", ["metropolis", "multinomial"])
@pytest.mark.parametrize("name", list(INTEGRATORS))
def test_a_step_costs_what_its_info_says(name, endpoint):
    calls = []

    def energy(params, x):
        calls.append(x)
        return (x**2).sum() / 2

    sampler = samplers.hmc(energy, num_leapfrog=5, integrator=INTEGRATORS[name], endpoint=endpoint)
    state = sampler.init((), torch.ones(2))
    for i in range(3):
        calls.clear()
        state, info = sampler(random.key(i), (), state)
        assert len(calls) == int(info.num_gradients) == COSTS[name][endpoint == "multinomial"]


# -- the multinomial endpoint -------------------------------------------------------------------------------------


def _multinomial(num_leapfrog=4, step_size=0.9, **options):
    options = {"num_leapfrog": num_leapfrog, "inverse_mass": DENSE, "endpoint": "multinomial", **options}
    return _double(samplers.hmc(_energy, step_size=step_size, **options))


@pytest.mark.parametrize(("num_leapfrog", "num_backward"), [(1, 0), (1, 1), (4, 0), (4, 1), (4, 3), (4, 4)])
def test_the_states_of_a_trajectory_are_chosen_by_their_weights(num_leapfrog, num_backward):
    """With momentum and direction fixed: each of the states with probability ``exp(-H) / sum exp(-H)``."""
    sampler, num = _multinomial(num_leapfrog), 20000
    state = sampler.init(ONE, START)
    normal = random.normal(random.key(1), (2,), dtype=torch.float64)
    uniforms = random.uniform(random.key(2), (num, num_leapfrog), dtype=torch.float64)
    noise = sampler.draw(random.key(0), START)._replace(momentum=normal, num_backward=torch.tensor(num_backward))
    step = vmap(lambda u: sampler.step(ONE, sampler.tuning, state, noise._replace(uniform=u)))
    after, info = step(uniforms)
    momentum = metrics.momentum(sampler.tuning.metric, normal)
    forward = _path(integrators.leapfrog, 0.9, num_leapfrog - num_backward, START, momentum)
    backward = _path(integrators.leapfrog, -0.9, num_backward, START, momentum)
    positions = torch.stack([x for x, _ in forward + backward[1:]])
    energies = torch.stack([total for _, total in forward + backward[1:]])
    distances = (after.position[:, None] - positions).norm(dim=-1)
    assert float(distances.min(1).values.max()) < 1e-10
    chosen = distances.argmin(1)
    assert_uniform(torch.bincount(chosen, minlength=num_leapfrog + 1), torch.softmax(-energies, 0))
    assert torch.equal(info.is_accepted, chosen > 0)
    rates = torch.exp(energies[0] - energies[1:]).clamp(max=1)
    torch.testing.assert_close(info.acceptance_rate, rates.mean().expand(num), rtol=1e-11, atol=1e-12)


def test_the_steps_backwards_are_as_many_as_any():
    sampler = _multinomial(6)
    noise = vmap(sampler.draw, (0, None))(random.split(random.key(3), 14000), START)
    assert_uniform(torch.bincount(noise.num_backward, minlength=7))
    assert noise.uniform.shape == (14000, 6)


def test_the_batched_multinomial_step_is_the_step_of_each_chain():
    sampler = _multinomial(5, jitter=0.4)
    start = random.normal(random.key(0), (9, 2), dtype=torch.float64)
    state = vmap(sampler.init, (None, 0))(ONE, start)
    noise = vmap(sampler.draw)(random.split(random.key(1), 9), start)
    got = sampler.batched_step(ONE, sampler.tuning, state, noise)
    expected = vmap(sampler.step, (None, None, 0, 0))(ONE, sampler.tuning, state, noise)
    assert tree.structure(got) == tree.structure(expected)
    for a, b in zip(tree.leaves(got), tree.leaves(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def _power(params, x):
    """``x^1.5``, NaN below zero."""
    return (x**1.5).sum()


def _half_line(params, x):
    """Infinite below zero, and with a gradient of zero there."""
    return torch.where(x > 0, x.abs() ** 1.5, torch.inf).sum()


@pytest.mark.parametrize("energy", [_power, _half_line])
def test_states_outside_the_support_have_no_weight(energy):
    sampler = samplers.hmc(energy, step_size=0.3, num_leapfrog=4, endpoint="multinomial")
    samples = ebm.sample(random.key(0), sampler, (), torch.full((2000, 1), 0.7), num_samples=1, thin=40, jit=False)
    assert float(samples.draws.min()) > 0
    assert_mean(samples.draws[:, 0], math.gamma(4 / 3) / math.gamma(2 / 3))
    assert 0.01 < float(samples.info.is_divergent.double().mean()) < 0.99
    assert torch.isfinite(samples.info.acceptance_rate).all()


def test_a_trajectory_that_leaves_the_support_is_flagged_and_its_good_part_is_used():
    """Two steps back from 0.5, at speed 1, stay inside; the one forward, at speed -1, is outside."""
    sampler = samplers.hmc(_power, step_size=0.6, num_leapfrog=3, endpoint="multinomial")
    state = sampler.init((), torch.tensor([0.5]))
    noise = sampler.draw(random.key(0), state.position)._replace(momentum=torch.tensor([-1.0]))
    noise = noise._replace(num_backward=torch.tensor(2), uniform=torch.full((3,), 1e-6))
    after, info = sampler.step((), sampler.tuning, state, noise)
    assert bool(info.is_divergent)
    assert bool(info.is_accepted)
    assert float(after.position) > 0.5
    assert 0 < float(info.acceptance_rate) <= 2 / 3


def test_from_outside_the_support_any_state_inside_is_chosen():
    sampler = samplers.hmc(_half_line, step_size=0.5, num_leapfrog=1, endpoint="multinomial")
    state = sampler.init((), torch.tensor([-0.1]))
    assert not bool(torch.isfinite(state.energy))
    noise = sampler.draw(random.key(0), state.position)._replace(momentum=torch.ones(1))
    noise = noise._replace(num_backward=torch.tensor(0), uniform=torch.full((1,), 1 - 2.0**-24))
    after, info = sampler.step((), sampler.tuning, state, noise)
    assert float(after.position) > 0
    assert (bool(info.is_accepted), bool(info.is_divergent), float(info.acceptance_rate)) == (True, False, 1.0)


def test_a_large_error_of_the_energy_is_a_divergence():
    options = {"num_leapfrog": 3, "endpoint": "multinomial"}
    sampler = samplers.hmc(lambda params, x: (x**4).sum(), step_size=1.0, **options)
    state = sampler.init((), torch.tensor([5.0]))
    after, info = sampler(random.key(0), (), state)
    assert bool(info.is_divergent)
    assert not bool(info.is_accepted)
    assert torch.equal(after.position, state.position)
    assert float(info.acceptance_rate) == 0


# -- the door -----------------------------------------------------------------------------------------------------


def test_an_unknown_endpoint_or_integrator_is_an_error():
    with pytest.raises(ValueError, match=r"endpoint must be one of .*multinomial.*Got last"):
        samplers.hmc(_energy, endpoint="last")
    with pytest.raises(TypeError, match=r"integrator must be an Integrator\. Got leapfrog\. Use one of"):
        samplers.hmc(_energy, integrator="leapfrog")
