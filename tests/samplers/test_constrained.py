"""Samplers of constrained energies: starts and draws in the user's own space, distributions by closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch.func import vmap

import funcebm as ebm
from funcebm import bijections, random, samplers, tree
from funcebm.bijections import constrained, identity, positive, simplex

from ..distributions import assert_mean

DOUBLE = torch.float64
CONCENTRATION = torch.tensor([2.0, 3.0, 1.5], dtype=DOUBLE)


def dirichlet(params, x):
    return -((params - 1) * x.log()).sum()


def _dirichlets(seed: int, num: int):
    uniform = random.uniform(random.key(seed), (num, 3, 40), dtype=DOUBLE)
    # gamma variates of half-integer shape: sums of exponentials, and half the square of a normal
    exponentials = -uniform.log()
    half = random.normal(random.key(seed + 1), (num,), dtype=DOUBLE) ** 2 / 2
    draws = torch.stack(
        [exponentials[:, 0, :2].sum(-1), exponentials[:, 1, :3].sum(-1), exponentials[:, 2, 0] + half], -1
    )
    return draws / draws.sum(-1, keepdim=True)


MAKE = {
    "mala": lambda energy: samplers.mala(energy, step_size=0.3),
    "hmc": lambda energy: samplers.hmc(energy, step_size=0.5, num_leapfrog=3),
    "nuts": lambda energy: samplers.nuts(energy, step_size=0.7),
    "random_walk": lambda energy: samplers.random_walk(energy, step_size=0.6),
    "thin": lambda energy: samplers.thin(samplers.barker(energy, step_size=0.6), 2),
    "cycle": lambda energy: samplers.cycle(samplers.mala(energy, step_size=0.3), samplers.ghmc(energy, step_size=0.4)),
    "parallel_tempering": lambda energy: samplers.parallel_tempering(
        energy, lambda energy, beta: samplers.mala(energy, step_size=0.3), [0.5, 1.0]
    ),
}


@pytest.mark.parametrize("name", list(MAKE))
def test_a_dirichlet_stays_a_dirichlet(name):
    starts = _dirichlets(3, 4000)
    sampler = MAKE[name](constrained(dirichlet, simplex))
    draws = ebm.sample(random.key(5), sampler, CONCENTRATION, starts, num_samples=5, jit=False).draws
    assert draws.shape == (4000, 5, 3)
    last, total = draws[:, -1], float(CONCENTRATION.sum())
    mean = CONCENTRATION / total
    assert_mean(last, mean)
    assert_mean(last.log(), CONCENTRATION.digamma() - CONCENTRATION.sum().digamma())
    assert_mean((last - mean) ** 2, mean * (1 - mean) / (total + 1))
    assert not torch.equal(last, starts)


def test_starts_draws_state_collect_and_resume_are_in_the_users_space():
    energy = constrained(lambda p, x: x["mu"] ** 2 / 2 + x["sigma"] + x["p"].log().sum() * 0, _SPEC)
    sampler = samplers.hmc(energy, step_size=0.1, num_leapfrog=2)
    starts = {"mu": torch.zeros(4), "sigma": 0.5 + torch.arange(4.0), "p": torch.full((4, 3), 1 / 3)}
    key = random.key(1)
    samples = ebm.sample(key, sampler, (), starts, num_samples=6, jit=False)
    assert (samples.draws["sigma"] > 0).all()
    assert torch.allclose(samples.draws["p"].sum(-1), torch.ones(4, 6))
    assert tree.structure(samples.state.position) == tree.structure(starts)
    kept = ebm.sample(key, sampler, (), starts, num_samples=6, jit=False, collect=lambda s, i: s.position["sigma"])
    assert torch.equal(kept.draws, samples.draws["sigma"])
    cut = ebm.sample(key, sampler, (), starts, num_samples=2, jit=False)
    rest = ebm.resume(cut, num_samples=4)
    assert torch.equal(rest.draws["p"], samples.draws["p"][:, 2:])
    assert torch.equal(samples.state.position["mu"], samples.draws["mu"][:, -1])


_SPEC = {"mu": identity, "sigma": positive, "p": simplex}


@pytest.mark.parametrize("name", ["hmc", "mala"])
def test_a_warm_up_tunes_the_free_numbers_and_gives_positions_back(name):
    scale = torch.tensor([3.0, 0.3], dtype=DOUBLE)
    energy = constrained(lambda p, x: ((x.log() / scale) ** 2).sum() / 2 + x.log().sum(), positive)  # log-normal
    sampler = {"hmc": samplers.hmc, "mala": samplers.mala}[name](energy)
    starts = random.normal(random.key(0), (16, 2), dtype=DOUBLE).exp()
    positions, tuning, report = ebm.warm_up(random.key(1), sampler, (), starts, num_steps=300, jit=False)
    assert (positions > 0).all() and not report.warnings
    assert tuning._fields == sampler.tuning._fields
    ratio = tuning.metric.inverse_mass[0] / tuning.metric.inverse_mass[1]
    assert float(ratio) == pytest.approx(100.0, rel=0.6)  # those of log x
    samples = ebm.sample(random.key(2), sampler, (), positions, num_samples=5, tuning=tuning, jit=False)
    assert float(samples.info.acceptance_rate.mean()) > 0.4


def test_many_warm_ups_at_once_and_vmap_over_params():
    sampler = samplers.mala(constrained(lambda rate, x: (rate * x).sum(), positive), step_size=0.5)
    rates, keys = torch.tensor([0.5, 2.0], dtype=DOUBLE), random.split(random.key(3))
    starts = torch.ones(2, 300, 1, dtype=DOUBLE)

    def run(rate, start, key):
        warm = ebm.warm_up(key, sampler, rate, start, num_steps=60, jit=False)
        return ebm.sample(
            key, sampler, rate, warm.positions, num_samples=1, num_burn_in=40, tuning=warm.tuning, jit=False
        ).draws

    draws = vmap(run)(rates, starts, keys)
    for index, rate in enumerate(rates):
        assert_mean(draws[index, :, 0], 1 / float(rate))


def test_losses_draw_negatives_in_the_users_space():
    energy = constrained(lambda params, x: (params * x).sum(), positive)
    sampler = samplers.mala(energy, step_size=0.3)
    loss = ebm.losses.contrastive_divergence(lambda p, x: (p * x).sum(), sampler, 3)
    batch = random.exponential(random.key(0), (200, 1), dtype=DOUBLE)
    params = torch.tensor(1.0, dtype=DOUBLE)
    gradient = torch.func.grad(lambda p: loss(random.key(1), p, batch)[0])(params)
    # E grad = E_data x - E_model x = 0 at the truth
    assert abs(float(gradient)) < 5 * math.sqrt(2 / 200)


def test_particles_of_svgd_obey_the_constraints():
    sampler = samplers.svgd(constrained(lambda p, x: x.sum(), positive), step_size=0.3)
    starts = torch.linspace(0.5, 3.0, 20, dtype=DOUBLE).reshape(1, 20, 1)
    samples = ebm.sample(random.key(0), sampler, (), starts, num_samples=1, num_burn_in=100, jit=False)
    assert (samples.draws > 0).all()
    assert float(samples.draws.mean()) == pytest.approx(1.0, abs=0.15)  # Exp(1), with what 20 particles are short of


def _of_parts(params, x):
    return dirichlet(params, x["p"]) + (x["mu"] ** 2).sum() / 2


def _on_p(energy):
    return samplers.mala(constrained(energy, simplex), step_size=0.3)


PLAIN = samplers.random_walk(dirichlet)
BOUND = MAKE["mala"](constrained(dirichlet, simplex))
PARTS = {"p": torch.full((3,), 1 / 3, dtype=DOUBLE), "mu": torch.zeros(2, dtype=DOUBLE)}


@pytest.mark.parametrize(
    ("sampler", "start"),
    [
        (samplers.cycle(BOUND, PLAIN), PARTS["p"]),
        (samplers.mix(samplers.thin(PLAIN, 2), samplers.thin(BOUND, 2)), PARTS["p"]),
        (samplers.cycle(samplers.cycle(PLAIN), BOUND), PARTS["p"]),
        (samplers.cycle(samplers.on("p", _on_p, _of_parts), samplers.hmc(_of_parts)), PARTS),
        (samplers.cycle(samplers.on("p", _on_p, _of_parts), samplers.on(["mu", "p"], samplers.hmc, _of_parts)), PARTS),
        (
            samplers.cycle(
                samplers.mala(constrained(_of_parts, {"p": simplex, "mu": identity})), samplers.mala(_of_parts)
            ),
            PARTS,
        ),
    ],
)
def test_a_sampler_that_would_leave_the_surface_of_another_is_refused(sampler, start):
    """Its chain went where the free numbers of the other are NaN."""
    starts = tree.map(lambda leaf: leaf.expand(2, *leaf.shape), start)
    with pytest.raises(ValueError, match="must all keep to the surface"):
        ebm.sample(random.key(0), sampler, CONCENTRATION, starts, num_samples=2, jit=False)


def test_cycles_of_samplers_that_obey_their_constraints():
    """Both constrained, or each on leaves of its own, or with the border in the energy of the plain one."""
    both = samplers.cycle(BOUND, MAKE["hmc"](constrained(dirichlet, simplex)))
    draws = ebm.sample(random.key(3), both, CONCENTRATION, _dirichlets(3, 2000), num_samples=1, jit=False).draws[:, 0]
    assert_mean(draws, CONCENTRATION / CONCENTRATION.sum())
    apart = samplers.cycle(samplers.on("p", _on_p, _of_parts), samplers.on("mu", samplers.hmc, _of_parts))
    starts = tree.map(lambda leaf: leaf.expand(3, *leaf.shape), PARTS)
    run = ebm.sample(random.key(3), apart, CONCENTRATION, starts, num_samples=3, jit=False)
    torch.testing.assert_close(run.draws["p"].sum(-1), torch.ones(3, 3, dtype=DOUBLE))
    exponential = lambda params, x: torch.where(x > 0, x, torch.inf).sum()  # noqa: E731
    border = samplers.cycle(MAKE["mala"](constrained(exponential, positive)), samplers.random_walk(exponential))
    starts = -random.uniform(random.key(4), (2000, 1), dtype=DOUBLE).log()
    draws = ebm.sample(random.key(3), border, (), starts, num_samples=1, jit=False).draws[:, 0]
    assert_mean(draws, 1.0)


@pytest.mark.compiled
@pytest.mark.parametrize("name", ["mala", pytest.param("hmc", marks=pytest.mark.slow)])
def test_compiled_runs_give_the_same_numbers(name):
    sampler = MAKE[name](constrained(dirichlet, simplex))
    starts = _dirichlets(3, 8)
    run = lambda jit: ebm.sample(random.key(5), sampler, CONCENTRATION, starts, num_samples=5, jit=jit)  # noqa: E731
    torch.testing.assert_close(run(True).draws, run(False).draws)


OUTSIDE = torch.tensor([[0.2, 0.8], [0.5, 0.6], [0.5, 0.5]])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda energy: _sample(energy, OUTSIDE), ValueError, "sum to one.*start of chains 1"),
        (lambda energy: _warm_up(energy, OUTSIDE), ValueError, "sum to one.*start of chains 1"),
        (lambda energy: _sample(energy, torch.ones(3, 2, 2)), ValueError, "K - 1 numbers to K"),
        (lambda energy: samplers.mala(torch.nn.Linear(2, 1)), TypeError, "mala takes an energy.*from_module"),
        (lambda energy: samplers.hmc(samplers.mala(energy)), TypeError, "hmc takes an energy.*a sampler"),
        (lambda energy: samplers.nuts((energy, ())), TypeError, "nuts takes an energy.*params go to funcebm.sample"),
        (lambda energy: samplers.barker(3.0), TypeError, "barker takes an energy"),
        (lambda energy: constrained(3.0, positive), TypeError, "energy must be a function"),
        (lambda energy: constrained(energy, torch.exp), TypeError, "must be a Bijection"),
    ],
)
def test_bad_input_is_told_at_the_door(call, error, words):
    with pytest.raises(error, match=words):
        call(constrained(lambda p, x: (x**2).sum(), bijections.simplex))


def _sample(energy, starts):
    ebm.sample(random.key(0), samplers.mala(energy), (), starts, num_samples=2, jit=False)


def _warm_up(energy, starts):
    ebm.warm_up(random.key(0), samplers.mala(energy), (), starts, num_steps=5, jit=False)
