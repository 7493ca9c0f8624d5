"""Transition matrices of informed samplers of discrete states, against detailed balance and their formulas."""

from __future__ import annotations

import itertools

import pytest
import torch

from funcebm import random, samplers, spaces, tree
from funcebm.samplers.discrete_langevin import DiscreteLangevinNoise
from funcebm.samplers.gibbs_with_gradients import GibbsWithGradientsNoise
from funcebm.samplers.locally_balanced import LocallyBalancedNoise
from funcebm.samplers.path_auxiliary import PathAuxiliaryNoise

from .transition import (
    NEVER,
    TARGETS,
    Target,
    assert_kernel,
    bits,
    choices,
    every_target,
    is_invariant,
    level_of,
    move_targets,
    outcomes,
    sequences,
    values_by_uniforms,
)


def _gwg_matrix(target: Target, **options) -> torch.Tensor:
    sampler = samplers.gibbs_with_gradients(target.energy, target.space, **options)
    num_draws, moves = options.get("num_draws", 1), move_targets(target)
    num_moves = moves.shape[1]

    def noise(gumbel):
        gumbel = gumbel if gumbel.ndim == 3 else torch.stack([gumbel, *[first_move(len(gumbel))] * (num_draws - 1)], 1)
        return GibbsWithGradientsNoise(gumbel, torch.zeros(len(gumbel), dtype=torch.float64))

    def first_move(count):
        forced = torch.full((count, num_moves), NEVER, dtype=torch.float64)
        forced[:, 0] = 0.0
        return forced

    single = samplers.gibbs_with_gradients(target.energy, target.space, **{**options, "num_draws": 1})
    one = lambda gumbel: GibbsWithGradientsNoise(gumbel[:, None], torch.zeros(len(gumbel), dtype=torch.float64))  # noqa: E731
    chances = choices(single, target, one, moves)
    if num_draws == 2 and target.space.kind == "binary":  # all draws of a step are from one distribution
        every = torch.arange(8).repeat_interleave(3)
        forced = torch.full((24, 3), NEVER, dtype=torch.float64)
        forced[torch.arange(24), torch.arange(3).repeat(8)] = 0.0
        ends = outcomes(sampler, target, every, noise(forced))[0].reshape(8, 3)
        torch.testing.assert_close(choices(sampler, target, noise, ends), chances, rtol=1e-12, atol=1e-14)
    paths = torch.cartesian_prod(*[torch.arange(num_moves)] * num_draws).reshape(-1, num_draws)
    return sequences(sampler, target, noise, paths, chances)


@every_target
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}, {"num_draws": 2}, {"num_draws": 3}], ids=str)
def test_gibbs_with_gradients(name, options):
    target = TARGETS[name]
    assert_kernel(_gwg_matrix(target, **options), target.probabilities, is_reversible=True)


def test_a_proposal_that_stays_that_of_the_first_state_is_wrong():
    """A published shortcut: one proposal for several inner steps."""
    target, p = TARGETS["bits"], TARGETS["bits"].probabilities
    moves = move_targets(target)
    matrix = torch.zeros(8, 8, dtype=torch.float64)
    for x in range(8):
        slope = torch.func.grad(target.energy, argnums=1)((), target.states[x])
        q = torch.softmax((2 * target.states[x] - 1) * slope / 2, 0)
        inner = torch.zeros(8, 8, dtype=torch.float64)
        for a, i in itertools.product(range(8), range(3)):
            rate = min(1.0, float(p[moves[a, i]] / p[a]))
            inner[a, moves[a, i]] += q[i] * rate
            inner[a, a] += q[i] * (1 - rate)
        assert is_invariant(inner, p)  # each inner step is right
        matrix[x] = torch.linalg.matrix_power(inner, 3)[x]
    assert not is_invariant(matrix, p, 1e-3)


def _factorised_matrix(target: Target, sampler) -> torch.Tensor:
    """Of a proposal that chooses the value of every site by itself."""
    level = level_of(target)
    if target.space.kind == "binary":
        noise = lambda u: DiscreteLangevinNoise(u, torch.zeros(len(u)).double())  # noqa: E731
        observe = lambda site, ends: (level[ends[:, 0], site] != level[ends[:, 1], site]).long()  # noqa: E731
        return values_by_uniforms(sampler, target, noise, observe, [0, 1, 2], 2, is_tested=True)
    number = {tuple(row): i for i, row in enumerate(level.tolist())}
    tables = []
    for site in range(2):  # the other one goes to its value 0

        def noise(gumbel, site=site):
            both = torch.full((len(gumbel), 2, 3), NEVER, dtype=torch.float64)
            both[:, 1 - site, 0] = 0.0
            both[:, site] = gumbel
            return DiscreteLangevinNoise(both, torch.zeros(len(gumbel)).double())

        ends = torch.tensor([number[(v, 0) if site == 0 else (0, v)] for v in range(3)]).expand(9, 3)
        tables.append(choices(sampler, target, noise, ends))
    paths = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    both = lambda gumbel: DiscreteLangevinNoise(gumbel, torch.zeros(len(gumbel)).double())  # noqa: E731
    chances = tables[0][:, paths[:, 0]] * tables[1][:, paths[:, 1]]
    return sequences(sampler, target, both, paths, tables[0], chances)


def _per_site(target: Target):
    return torch.linspace(0.5, 2.0, target.states.shape[1], dtype=torch.float64)


@every_target
@pytest.mark.parametrize("step_size", [0.2, 1.0])
@pytest.mark.parametrize("is_scaled", [False, True])
def test_discrete_langevin(name, step_size, is_scaled):
    target = TARGETS[name]
    scales = _per_site(target) if is_scaled else None
    step_size = 4 * step_size if name == "spins" else step_size  # levels two apart
    sampler = samplers.discrete_langevin(target.energy, target.space, step_size=step_size, preconditioner=scales)
    assert_kernel(_factorised_matrix(target, sampler), target.probabilities, is_reversible=True)


@every_target
@pytest.mark.parametrize(
    "options", [{}, {"solver": "euler"}, {"solver": "euler", "step_size": 5.0}, {"balance": "barker"}], ids=str
)
@pytest.mark.slow
def test_discrete_langevin_in_continuous_time(name, options):
    target = TARGETS[name]
    sampler = samplers.dlmc(target.energy, target.space, **options)
    assert_kernel(_factorised_matrix(target, sampler), target.probabilities, is_reversible=True)


def test_two_values_are_solved_exactly_in_continuous_time():
    """Independent bits: the interpolated kernel is the matrix exponential, and needs no test."""
    fields, time = torch.tensor([0.8, -0.3, 1.5], dtype=torch.float64), 0.75
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)), dtype=torch.float64)
    target = Target(lambda params, x: -(fields * x).sum(), spaces.binary(3), states, torch.softmax(states @ fields, 0))
    sampler = samplers.dlmc(target.energy, target.space, step_size=time, adjusted=False)
    expected = torch.ones(1, 1, dtype=torch.float64)
    for field in fields:
        up, down = torch.exp(field / 2), torch.exp(-field / 2)
        rates = torch.stack([torch.stack([-up, up]), torch.stack([down, -down])])
        expected = torch.kron(expected, torch.linalg.matrix_exp(time * rates))
    matrix = _factorised_matrix(target, sampler)
    torch.testing.assert_close(matrix, expected, rtol=0, atol=1e-12)
    assert is_invariant(matrix, target.probabilities)


@pytest.mark.parametrize("make", ["discrete_langevin", "dlmc"])
def test_without_a_test_they_are_other_distributions(make):
    target = TARGETS["bits"]
    sampler = getattr(samplers, make)(target.energy, target.space, adjusted=False)
    assert not is_invariant(_factorised_matrix(target, sampler), target.probabilities, 1e-3)


@pytest.mark.slow
def test_unadjusted_langevin_is_right_for_small_steps_where_the_energy_is_linear_in_each_bit():
    def distance(target, step_size):
        sampler = samplers.discrete_langevin(target.energy, target.space, step_size=step_size, adjusted=False)
        values, vectors = torch.linalg.eig(_factorised_matrix(target, sampler).T)
        distribution = vectors[:, values.abs().argmax()].real
        return float((distribution / distribution.sum() - target.probabilities).abs().sum() / 2)

    linear = [distance(bits(is_multilinear=True), step_size) for step_size in (0.2, 0.1)]
    assert linear[1] < linear[0] / 5 < 0.02
    assert min(distance(bits(), step_size) for step_size in (0.2, 0.1)) > 0.02


@every_target
@pytest.mark.parametrize("balance", ["sqrt", "barker", "min", "max"])
def test_locally_balanced(name, balance):
    target, moves = TARGETS[name], move_targets(TARGETS[name])
    sampler = samplers.locally_balanced(target.energy, target.space, balance=balance)
    noise = lambda gumbel: LocallyBalancedNoise(gumbel, torch.zeros(len(gumbel)).double())  # noqa: E731
    chances = choices(sampler, target, noise, moves)
    paths = torch.arange(moves.shape[1])[:, None]
    matrix = sequences(sampler, target, lambda gumbel: noise(gumbel[:, 0]), paths, chances)
    assert_kernel(matrix, target.probabilities, is_reversible=True)


@every_target
@pytest.mark.parametrize("balance", ["sqrt", "barker"])
def test_jumps_need_their_holding_times(name, balance):
    """The skeleton has another distribution, which the holding times turn into the right one."""
    target, moves = TARGETS[name], move_targets(TARGETS[name])
    sampler = samplers.locally_balanced(target.energy, target.space, balance=balance, rejection_free=True)
    noise = lambda gumbel: LocallyBalancedNoise(gumbel, ())  # noqa: E731
    chances = choices(sampler, target, noise, moves)
    num = len(target.states)
    matrix, times = torch.zeros(num, num, dtype=torch.float64), torch.zeros(num, dtype=torch.float64)
    for x, (row, chance) in enumerate(zip(moves.tolist(), chances, strict=True)):
        for move, y in enumerate(row):
            if y >= 0:
                matrix[x, y] += chance[move]
                forced = torch.full((len(row),), NEVER, dtype=torch.float64)
                forced[move] = 0.0
                state = sampler.init((), target.states[x])
                state, info = sampler.step((), sampler.tuning, state, noise(forced))
                assert torch.equal(state.position, target.states[y])
                times[y] = info.holding_time
    assert not is_invariant(matrix, target.probabilities, 1e-3)
    skeleton = target.probabilities / times
    assert is_invariant(matrix, skeleton / skeleton.sum())


def test_holding_times_of_far_apart_energies():
    """In float32 the weight of a deep state is beyond 3e38; its logarithm is not, and averages are finite and right."""
    depth = torch.tensor(400.0)
    sampler = samplers.locally_balanced(lambda params, x: params * x.sum(), rejection_free=True)
    state, infos, draws = sampler.init(depth, torch.zeros(1)), [], []
    for _ in range(4):  # one bit: every jump is to the other value
        state, info = sampler(random.key(0), depth, state)
        infos.append(info.log_holding_time)
        draws.append(state.position[0])
    assert torch.stack(infos).tolist() == [-200.0, 200.0, -200.0, 200.0]
    weights = torch.softmax(torch.stack(infos), 0)
    assert float((weights * torch.stack(draws)).sum()) == 0.0


def _path_matrix(target: Target, lengths: dict[int, tuple[float, float]], **options) -> torch.Tensor:
    """``lengths``: to each number of flips its probability, and a uniform number that gives it."""
    sampler, moves = samplers.path_auxiliary(target.energy, target.space, **options), move_targets(target)
    num_moves, per_site = moves.shape[1], moves.shape[1] // target.states.shape[1]
    alone = samplers.path_auxiliary(target.energy, target.space, max_flips=1, num_flips=1.0)

    def noise(gumbel, uniform):
        order = -100.0 * torch.arange(gumbel.shape[1]).double()[:, None]
        whole = torch.where(gumbel == 0, order, NEVER).amax(1) if gumbel.shape[1] > 1 else gumbel[:, 0]
        filled = torch.full((len(gumbel),), uniform, dtype=torch.float64)
        return PathAuxiliaryNoise(whole, filled, torch.zeros_like(filled))

    chances = choices(alone, target, lambda gumbel: noise(gumbel[:, None], 0.5), moves)
    matrix = torch.zeros(len(moves), len(moves), dtype=torch.float64)
    for length, (probability, uniform) in lengths.items():
        paths = torch.cartesian_prod(*[torch.arange(num_moves)] * length).reshape(-1, length)
        sites = paths // per_site
        distinct = torch.tensor([len(set(row)) == length for row in sites.tolist()])
        paths, sites = paths[distinct], sites[distinct]
        whole = torch.ones(len(moves), len(paths), dtype=torch.float64)
        of_site = chances.reshape(len(moves), -1, per_site).sum(-1)
        left = torch.ones(len(moves), len(paths), dtype=torch.float64)
        for r in range(length):
            whole = whole * chances[:, paths[:, r]] / left
            left = left - of_site[:, sites[:, r]]
            left = left.clamp(min=1e-300) if r == length - 1 else left
        made = lambda gumbel, uniform=uniform: noise(gumbel, uniform)  # noqa: E731
        matrix += probability * sequences(sampler, target, made, paths, chances, whole)
    return matrix


@every_target
def test_paths_of_random_length(name):
    target = TARGETS[name]
    num_sites = target.states.shape[1]
    pmf = torch.tensor([0.8**k / [1, 1, 2][k] for k in range(num_sites)])
    pmf = pmf.double() / pmf.double().sum()
    tails = pmf.flip(0).cumsum(0).flip(0)  # a falling number gives a longer path
    middle = (tails + torch.cat([tails[1:], torch.zeros(1).double()])) / 2
    lengths = {k + 1: (float(pmf[k]), float(middle[k])) for k in range(num_sites)}
    matrix = _path_matrix(target, lengths, num_flips=1.8, max_flips=8)
    assert_kernel(matrix, target.probabilities, is_reversible=True)


@pytest.mark.parametrize(
    ("space", "length"),
    [
        (spaces.ordinal(3, 4), 2),
        (spaces.categorical(3, 2), 2),
        ({"a": spaces.binary(2), "b": spaces.ordinal(1, 3)}, 2),
        (spaces.binary(3), 3),
        (spaces.binary(3), 16),
        (spaces.ordinal(3, 4), 3),
        ({"a": spaces.binary(2), "b": spaces.categorical(1, 3)}, 3),
    ],
)
def test_fixed_lengths_that_do_not_reach_every_state_are_refused(space, length):
    energy = lambda params, x: torch.stack([leaf.sum() for leaf in tree.leaves(x)]).sum()  # noqa: E731
    sampler = samplers.path_auxiliary(energy, space, max_flips=length, num_flips=1.0, is_fixed=True)
    with pytest.raises(ValueError, match="reducible"):
        sampler.init((), spaces.start(space)(random.key(0)))


def test_a_fixed_even_number_of_flips_keeps_the_parity():
    target = TARGETS["bits"]
    with pytest.raises(ValueError, match=r"must be odd.*reducible"):
        samplers.path_auxiliary(target.energy, target.space, max_flips=2, is_fixed=True).init((), target.states[0])
    odd = samplers.path_auxiliary(target.energy, target.space, max_flips=1, is_fixed=True, num_flips=1.0)
    assert odd.init((), target.states[0]).energy == target.energy((), target.states[0])
    parity = target.states.sum(1) % 2
    matrix = _path_matrix(target, {2: (1.0, 0.3)}, num_flips=2.0, max_flips=2)  # the length 2, always
    assert is_invariant(matrix, target.probabilities)
    assert not matrix[parity == 0][:, parity == 1].any()
    with pytest.raises(AssertionError, match="eigenvalues"):
        assert_kernel(matrix, target.probabilities, is_reversible=True)
