"""The one-step matrices of discrete samplers on three bits, and on two sites of three values, exactly."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.func import vmap

from funcebm import graphs, samplers, spaces, tree
from funcebm.samplers._heat_bath import value_of
from funcebm.samplers.gibbs import BlockGibbsNoise
from funcebm.samplers.single_site import SingleSiteNoise

from .transition import (
    TARGETS,
    Target,
    assert_kernel,
    categories,
    every_target,
    is_invariant,
    level_of,
    outcomes,
    rank_of_change,
    values_by_uniforms,
)

# -- one site at a time -------------------------------------------------------------------------------------------


def _random_scan(target: Target, make) -> torch.Tensor:
    """The mean over sites of the matrices of one site."""
    sampler = make(target.energy, target.space)
    level, num_sites = level_of(target), target.states.shape[1]
    num_values = 2 if target.space.kind == "binary" else 3
    matrices = []
    for site in range(num_sites):
        choice = lambda u: torch.full((len(u), 1), site)  # noqa: E731, B023
        is_gibbs = sampler.draw(_key(), target.states[0]).test == ()
        noise = lambda u: SingleSiteNoise(u, () if is_gibbs else torch.zeros_like(u), choice(u))  # noqa: E731, B023
        if is_gibbs:
            observe = lambda _, ends: level[ends[:, 1], site]  # noqa: E731, B023
            matrices.append(values_by_uniforms(sampler, target, noise, observe, [0], num_values))
        else:  # the proposal never is the current value; the test is in the rate
            rank = rank_of_change(target)
            observe = lambda _, ends: rank(site, ends)  # noqa: E731, B023
            matrices.append(values_by_uniforms(sampler, target, noise, observe, [0], num_values - 1, is_tested=True))
    return torch.stack(matrices).mean(0)


def _key():
    from funcebm import random

    return random.key(0)


@every_target
@pytest.mark.parametrize("rule", ["gibbs", "single_site_metropolis", "metropolised_gibbs"])
def test_one_random_site(name, rule):
    target = TARGETS[name]
    make = {
        "gibbs": lambda energy, space: samplers.gibbs(energy, space=space, scan="random"),
        "single_site_metropolis": samplers.single_site_metropolis,
        "metropolised_gibbs": samplers.metropolised_gibbs,
    }[rule]
    assert_kernel(_random_scan(target, make), target.probabilities, is_reversible=True)


@every_target
def test_a_sweep_of_single_sites_is_invariant_but_not_reversible(name):
    target = TARGETS[name]
    sampler = samplers.gibbs(target.energy, space=target.space)
    level, num_sites = level_of(target), target.states.shape[1]
    observe = lambda site, ends: level[ends[:, 1], site]  # noqa: E731
    noise = lambda u: SingleSiteNoise(u, (), ())  # noqa: E731
    num_values = 2 if target.space.kind == "binary" else 3
    matrix = values_by_uniforms(sampler, target, noise, observe, list(range(num_sites)), num_values)
    assert_kernel(matrix, target.probabilities, is_reversible=False)


def test_a_metropolis_sweep_is_the_product_of_its_sites():
    target = TARGETS["bits"]
    sampler = samplers.single_site_metropolis(target.energy, target.space, scan="systematic")
    level = level_of(target)
    noise = lambda u: SingleSiteNoise(torch.zeros_like(u), u, ())  # noqa: E731
    observe = lambda site, ends: (level[ends[:, 0], site] != level[ends[:, 1], site]).long()  # noqa: E731
    matrix = values_by_uniforms(sampler, target, noise, observe, [0, 1, 2], 2)
    assert_kernel(matrix, target.probabilities, is_reversible=False)


@every_target
@pytest.mark.parametrize("rule", ["gibbs", "single_site_metropolis", "metropolised_gibbs"])
def test_a_palindromic_sweep_is_one_forth_and_one_back(name, rule):
    from funcebm import random

    target = TARGETS[name]
    make = getattr(samplers, rule)
    sweep, both = (make(target.energy, space=target.space, scan=scan) for scan in ("systematic", "palindromic"))
    num = target.states.shape[1]
    for seed, x in itertools.product(range(3), target.states):
        noise = both.draw(random.key(seed), x)
        state, _ = both.step((), both.tuning, both.init((), x), noise)
        by_hand = sweep.init((), x)
        for place, site in enumerate([*range(num), *reversed(range(num))]):
            one = make(target.energy, space=target.space, scan="random")
            part = tree.map(lambda leaf: leaf[place : place + 1], noise._replace(choice=torch.zeros(2 * num)))  # noqa: B023
            by_hand, _ = one.step((), one.tuning, by_hand, part._replace(choice=torch.tensor([site])))
        assert torch.equal(state.position, by_hand.position)


# -- blocks -------------------------------------------------------------------------------------------------------


def _chain(levels=(0.0, 1.0)) -> tuple[Target, torch.Tensor]:
    """Three bits in a chain with fields: the outer ones do not interact."""

    def energy(params, x):
        x = (x - levels[0]) / (levels[1] - levels[0])
        return -0.7 * x[0] + 0.4 * x[1] + 0.2 * x[2] + 0.9 * x[0] * x[1] - 1.3 * x[1] * x[2]

    states = torch.tensor(list(itertools.product(levels, repeat=3)), dtype=torch.float64)
    p = torch.softmax(-torch.func.vmap(energy, (None, 0))((), states), 0)
    return Target(energy, spaces.binary(3, levels), states, p), torch.tensor(
        [[True, False, True], [False, True, False]]
    )


@pytest.mark.parametrize("levels", [(0.0, 1.0), (-1.0, 1.0)])
def test_colours_of_bits(levels):
    target, blocks = _chain(levels)
    level = level_of(target)
    sampler = samplers.gibbs(target.energy, blocks, space=target.space)
    observe = lambda site, ends: level[ends[:, 1], site]  # noqa: E731
    matrix = values_by_uniforms(sampler, target, lambda u: BlockGibbsNoise(u, ()), observe, [0, 2, 1], 2)
    assert_kernel(matrix, target.probabilities, is_reversible=False)
    one_block = samplers.gibbs(target.energy, blocks, space=target.space, scan="random")
    matrices = []
    for block, sites in enumerate(([0, 2], [1])):
        noise = lambda u: BlockGibbsNoise(u, torch.full((len(u),), block))  # noqa: E731, B023
        order = sites + [i for i in range(3) if i not in sites]
        # the others stay: whatever their numbers, one value
        keep = lambda site, ends: level[ends[:, 1], site] if site in sites else torch.zeros(len(ends))  # noqa: E731, B023
        matrices.append(values_by_uniforms(one_block, target, noise, keep, order, 2))
    assert_kernel(sum(matrices) / 2, target.probabilities, is_reversible=True)
    # forth and back: the second colour once, in the middle
    first, second = matrices
    both = samplers.gibbs(target.energy, blocks, space=target.space, scan="palindromic")
    assert_kernel(first @ second @ first, target.probabilities, is_reversible=True)
    low, high = torch.zeros(8, 3).double(), torch.full((8, 3), 1 - 1e-12).double()
    for back, other in itertools.product((low, high), repeat=2):
        ends, _ = outcomes(both, target, torch.arange(8), BlockGibbsNoise(torch.stack([other, back], 1), ()))
        assert (level[ends][:, [0, 2]] == (back[0, 0] == 0).long()).all()  # the last to be drawn are the outer ones
        assert (level[ends][:, 1] == (other[0, 1] == 0).long()).all()


def test_blocks_of_categories_and_given_conditionals():
    target = categories(is_multilinear=True)
    level = level_of(target)
    blocks = torch.eye(2).bool()
    by_gradient = samplers.gibbs(target.energy, blocks, space=target.space)
    slope = torch.func.grad(target.energy, argnums=1)
    given = samplers.gibbs(blocks=blocks, space=target.space, conditional=lambda params, x, block: -slope((), x))
    observe = lambda site, ends: level[ends[:, 1], site]  # noqa: E731
    for sampler in (by_gradient, given):
        matrix = values_by_uniforms(sampler, target, lambda u: BlockGibbsNoise(u, ()), observe, [0, 1], 3)
        assert_kernel(matrix, target.probabilities, is_reversible=False)


def test_all_sites_at_once_is_another_distribution():
    target, _ = _chain()
    level = level_of(target)
    slope = torch.func.grad(target.energy, argnums=1)
    wrong = samplers.gibbs(
        blocks=torch.ones(1, 3).bool(), space=target.space, conditional=lambda params, x, block: -slope((), x)
    )
    observe = lambda site, ends: level[ends[:, 1], site]  # noqa: E731
    matrix = values_by_uniforms(wrong, target, lambda u: BlockGibbsNoise(u, ()), observe, [0, 1, 2], 2)
    assert not is_invariant(matrix, target.probabilities, 1e-3)


FORBIDDEN = {
    # two neighbours are never both occupied, or have the same value; of two named blocks one pair is never both occupied
    "bits": (spaces.binary(4), lambda x: (x[1:] * x[:-1]).sum() > 0),
    "categories": (spaces.categorical(3, 3), lambda x: (x[1:] * x[:-1]).sum() > 0),
    "names": ({"a": spaces.binary(2), "b": spaces.binary(2)}, lambda x: x["a"][0] * x["b"][1] > 0),
}


@pytest.mark.parametrize("scan", ["systematic", "palindromic", "random"])
@pytest.mark.parametrize("name", list(FORBIDDEN))
def test_blocks_never_lead_to_forbidden_states(name, scan):
    """A slope knows no walls: the exact matrix leaves the density invariant, and goes from no allowed state to another."""
    space, is_forbidden = FORBIDDEN[name]
    parts = tree.leaves(space)
    width = 3 if parts[0].kind == "categorical" else 1
    field = torch.tensor([0.7, -0.2, 0.4][:width], dtype=torch.float64)

    def energy(params, x):
        walls = torch.where(is_forbidden(x), torch.inf, torch.zeros((), dtype=torch.float64))
        return walls - torch.stack([(field * leaf.reshape(-1, width)).sum() for leaf in tree.leaves(x)]).sum()

    blocks = ("a", "b") if name == "names" else graphs.colouring(graphs.grid(parts[0].num_sites))
    sampler = samplers.gibbs(energy, blocks, space=space, scan=scan)
    every = tree.map(lambda leaf: leaf.double(), spaces.states(space))
    weights = (-vmap(energy, (None, 0))((), every)).exp()
    target = weights / weights.sum()

    # a uniform number for each value of each site: what it draws does not depend on the other sites
    logits = field if width > 1 else torch.stack([torch.zeros(()).double(), field[0]])
    chances = torch.softmax(logits, 0)
    middles = chances.flip(0).cumsum(0).flip(0) - chances / 2
    num_sites, num_sweeps = sum(part.num_sites for part in parts), 2 if scan == "palindromic" else 1
    drawn = torch.cartesian_prod(*[torch.arange(len(chances))] * (num_sites * num_sweeps))
    weight = chances[drawn].prod(1)
    uniform = middles[drawn].reshape(-1, *(() if num_sweeps == 1 else (2,)), num_sites)
    pieces = uniform.split([part.num_sites for part in parts], -1)
    noise = BlockGibbsNoise(tree.unflatten(tree.flatten(space)[1], list(pieces)), ())

    rows = torch.cat([leaf.flatten(1) for leaf in tree.leaves(every)], 1)
    matrix = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    tuning = tree.cast_like(sampler.tuning, rows)
    for start in torch.nonzero(target)[:, 0].tolist():
        state = sampler.init((), tree.map(lambda leaf, start=start: leaf[start], every))
        for choice in range(2 if scan == "random" else 1):
            own = noise._replace(choice=torch.full((len(drawn),), choice)) if scan == "random" else noise
            after, info = vmap(sampler.step, (None, None, None, 0))((), tuning, state, own)
            ends = torch.cat([leaf.flatten(1) for leaf in tree.leaves(after.position)], 1)
            end = (ends[:, None] == rows).all(-1).double().argmax(1)
            matrix[start].index_add_(0, end, weight / (2 if scan == "random" else 1))
            assert bool(torch.isfinite(after.energy).all())
            torch.testing.assert_close(after.energy, -weights[end].log())
            assert bool((info.is_divergent == (info.acceptance_rate < 1)).all())
    assert not bool(matrix[:, target == 0].any())
    allowed = target > 0
    assert_kernel(matrix[allowed][:, allowed], target[allowed], is_reversible=scan != "systematic")


def test_values_without_probability_are_not_drawn_by_rounding():
    """In float32 the sum of the others is below one, which the largest uniform number can exceed."""
    weights = torch.cat([torch.tensor([-torch.inf]), 0.1 * torch.arange(299.0)])
    chances = torch.softmax(weights.repeat(50, 1) * torch.linspace(0.5, 1.5, 50)[:, None], -1)
    largest = torch.full((50,), 1 - 2.0**-24)
    assert bool((value_of(largest, chances) > 0).all())
    assert bool((value_of(torch.zeros(50), chances) == 299).all())
