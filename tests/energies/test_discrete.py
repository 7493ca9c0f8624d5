"""Discrete energies: against formulas by hand, sums on trees, exact draws, coupling from the past."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from tests.distributions import assert_mean, assert_uniform

from funcebm import energies, graphs, random, spaces, tree
from funcebm.energies import exact

F64 = torch.float64


def _normal(seed: int, *shape: int) -> torch.Tensor:
    return random.normal(random.key(seed), shape, dtype=F64)


def _plainly(energy):
    return lambda params, x: energy(params, x)


def _numbers(space, draws):
    return torch.func.vmap(lambda x: spaces.index(space, x))(draws)


TREE = torch.tensor([[0, 1], [2, 1], [1, 3], [4, 3], [6, 5]])  # two trees, edges written both ways
CASES = {
    "ising_tree": lambda: (energies.ising(TREE), (_normal(0, 5), _normal(1, 7))),
    "ising_alone": lambda: (
        energies.ising(torch.zeros(0, 2, dtype=torch.int64), 3),
        (torch.ones(0).double(), _normal(1, 3)),
    ),
    "potts_tree": lambda: (energies.potts(TREE, 3), (_normal(0, 5), _normal(1, 7, 3))),
    "field_tree": lambda: (energies.categorical_field(TREE, 3), (_normal(0, 5, 3, 3), _normal(1, 7, 3))),
    "independent": lambda: (energies.independent_sites(spaces.categorical(3, [2, 4, 3])), (None,)),
}


def _case(name):
    energy, arguments = CASES[name]()
    if arguments == (None,):
        mean = torch.tensor([[0.3, 0.7, 0, 0], [0.1, 0.2, 0.3, 0.4], [0.2, 0.2, 0.6, 0]], dtype=F64)
        return energy, energy.params(mean)
    return energy, energy.params(*arguments)


@pytest.mark.parametrize("name", CASES)
def test_what_an_energy_knows_is_what_enumeration_finds(name):
    energy, params = _case(name)
    plain = exact.log_normalizer(_plainly(energy), energy.space)
    torch.testing.assert_close(energy.log_normalizer(params), plain(params), rtol=0, atol=1e-11)
    slopes, expected = torch.func.grad(energy.log_normalizer)(params), torch.func.grad(plain)(params)
    torch.testing.assert_close(slopes, expected, rtol=0, atol=1e-11)
    assert exact.log_normalizer(energy, energy.space) is energy.log_normalizer


@pytest.mark.parametrize("name", CASES)
def test_draws_of_an_energy_have_its_law(name):
    energy, params = _case(name)
    draws = energy.sample(random.key(0), params, 20_000)
    spaces.check(energy.space, draws)
    distribution = exact.log_probabilities(_plainly(energy), energy.space)(params).exp()
    counts = torch.bincount(_numbers(energy.space, draws), minlength=len(distribution)).double()
    usual = distribution * len(draws) > 5
    rest = lambda values: torch.cat([values[usual], values[~usual].sum()[None]])  # noqa: E731
    assert_uniform(rest(counts), rest(distribution)) if bool((~usual).any()) else assert_uniform(counts, distribution)


def test_graphs_with_circles_know_nothing_by_themselves():
    for energy in (energies.ising(graphs.torus(4)), energies.potts(graphs.torus(4), 3)):
        assert energy.log_normalizer is None
        assert energy.sample is None
    with pytest.raises(ValueError, match="one with a circle"):
        exact.tree_log_normalizer(graphs.torus(4), torch.zeros(4, 2), torch.zeros(4, 2, 2))


def test_a_long_chain_is_its_transfer_matrix():
    n, k = 200, 0.4
    energy = energies.ising(graphs.grid(n))
    found = energy.log_normalizer(energy.params(torch.tensor(k, dtype=F64)))
    assert abs(found.item() - (n * math.log(2) + (n - 1) * math.log(math.cosh(k)))) < 1e-10


# -- Potts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("coupling", "known"), [(0.5, 13.5171439425), (math.log(1 + math.sqrt(3)), 19.6889397318)])
def test_potts_is_the_table(coupling, known):
    energy = energies.potts(graphs.torus((3, 3)), 3)
    found = exact.log_normalizer(energy, energy.space)(energy.params(torch.tensor(coupling, dtype=F64)))
    assert abs(found.item() - known) < 1e-9


def test_potts_with_two_values_is_ising_of_half_the_coupling():
    edges, k = graphs.torus((3, 4)), torch.tensor(0.9, dtype=F64)
    potts = energies.potts(edges, 2)
    found = exact.log_normalizer(potts, potts.space)(potts.params(k))
    torch.testing.assert_close(found, exact.kaufman((3, 4), k / 2) + len(edges) * k / 2)


def test_potts_is_a_categorical_field_of_the_identity():
    edges, coupling, field = graphs.torus((2, 3)), _normal(0, 9), _normal(1, 6, 3)
    potts, general = energies.potts(edges, 3), energies.categorical_field(edges, 3)
    tables = coupling[:, None, None] * torch.eye(3, dtype=F64)
    for x in spaces.sample(random.key(0), potts.space, 10, dtype=F64):
        here = potts(potts.params(coupling, field), x)
        torch.testing.assert_close(here, general(general.params(tables, field), x))


def test_a_table_is_of_the_first_site_then_of_the_second():
    energy = energies.categorical_field(torch.tensor([[1, 0]]), 2)
    params = energy.params(torch.tensor([[0.0, 5.0], [0.0, 0.0]]))
    first, second = torch.eye(2)
    assert energy(params, torch.stack([second, first])) == -5  # site 1 has value 0, site 0 has value 1
    assert energy(params, torch.stack([first, second])) == 0


# -- Boltzmann machines -------------------------------------------------------------------------------------------


def _symmetric(n: int, seed: int = 0) -> torch.Tensor:
    weight = _normal(seed, n, n)
    return (weight + weight.T) * (1 - torch.eye(n, dtype=F64)) / 2


def test_a_boltzmann_machine_of_bits_is_ising_in_other_words():
    n, weight, bias = 4, _symmetric(4), _normal(1, 4)
    machine, ising = energies.boltzmann(n), energies.ising(graphs.complete(n))
    pairs = graphs.complete(n)
    # bits x = (1 + s) / 2: W x x / 2 has J = W / 4, and so on
    coupling = weight[pairs[:, 0], pairs[:, 1]] / 4
    field = bias / 2 + weight.sum(1) / 4
    constant = weight.sum() / 8 + bias.sum() / 2
    params = ising.params(coupling, field)
    for x in spaces.states(machine.space, F64):
        expected = energies.on_bits(ising)(params, x) - constant
        torch.testing.assert_close(machine(machine.params(weight, bias), x), expected)


def test_a_boltzmann_machine_does_not_see_its_diagonal():
    machine = energies.boltzmann(3)
    params = machine.params(_symmetric(3), 0.1)
    x = torch.tensor([1.0, 0.0, 1.0], dtype=F64)
    slope = torch.func.grad(machine)(params, x)["weight"]
    assert not slope.diagonal().any()
    params["weight"] = params["weight"] + torch.eye(3, dtype=F64)
    assert machine(params, x) == machine(machine.params(_symmetric(3), 0.1), x)


@pytest.mark.parametrize("widths", [(3, 2), (3, 4, 2), (2, 2, 3, 2)])
def test_a_deep_boltzmann_machine_sums_out_one_colour(widths):
    energy = energies.deep_boltzmann(widths)
    weights = [_normal(i, a, b) for i, (a, b) in enumerate(itertools.pairwise(widths))]
    params = energy.params(weights, [_normal(9 + i, n) for i, n in enumerate(widths)])
    graphs.check_blocks(energy.blocks, energy.edges)
    plain = exact.log_normalizer(_plainly(energy), energy.space)
    torch.testing.assert_close(energy.log_normalizer(params), plain(params), rtol=0, atol=1e-11)
    for x in spaces.sample(random.key(1), energy.space, 5, dtype=F64):
        # linear in each unit: the log odds are minus the gradient
        torch.testing.assert_close(energy.conditional(params, x), -torch.func.grad(energy, 1)(params, x))


def test_a_deep_boltzmann_machine_of_two_layers_is_an_rbm():
    deep, machine = energies.deep_boltzmann((4, 3)), energies.rbm(4, 3)
    weight, b, c = _normal(0, 4, 3), _normal(1, 4), _normal(2, 3)
    for x in spaces.sample(random.key(0), machine.joint_space, 6, dtype=F64):
        here = deep(deep.params([weight], [b, c]), x)
        torch.testing.assert_close(here, machine(machine.params(weight, b, c), x))


# -- Hopfield -----------------------------------------------------------------------------------------------------

PATTERNS = torch.tensor([[1.0, -1, 1, 1, -1], [1, 1, -1, 1, 1]], dtype=F64)


def test_a_classical_hopfield_network_is_a_boltzmann_machine():
    network, machine = energies.hopfield(5), energies.boltzmann(5, levels=(-1.0, 1.0))
    weight = PATTERNS.T @ PATTERNS / 5
    params = machine.params(weight - torch.diag(weight.diagonal()))
    for x in spaces.states(network.space, F64):
        torch.testing.assert_close(network(network.params(PATTERNS), x), machine(params, x))
    slope = torch.func.grad(network, 1)(network.params(PATTERNS), PATTERNS[0])
    torch.testing.assert_close(slope, torch.func.grad(machine, 1)(params, PATTERNS[0]))


def test_dense_and_modern_networks_are_their_formulas():
    x = torch.tensor([1.0, 1, 1, -1, -1], dtype=F64)
    overlaps = PATTERNS @ x
    dense, exponential = energies.hopfield(5, "dense", degree=4), energies.hopfield(5, "exponential")
    assert dense(dense.params(PATTERNS, 0.5), x) == -(overlaps**4).sum() / 2
    torch.testing.assert_close(exponential(exponential.params(PATTERNS), x), -overlaps.exp().sum())
    modern = energies.hopfield(5, "modern")
    expected = -torch.logsumexp(2 * overlaps, 0) / 2 + 2.5
    torch.testing.assert_close(modern(modern.params(PATTERNS, 2.0), x), expected)
    assert modern.space == spaces.real(5)


def test_stored_patterns_are_where_the_energy_is_least():
    network = energies.hopfield(5, "dense")
    states = spaces.states(network.space, F64)
    values = torch.func.vmap(network, (None, 0))(network.params(PATTERNS), states)
    assert torch.equal(states[values.argmin()].abs(), torch.ones(5, dtype=F64))
    assert any(torch.equal(states[values.argmin()], pattern) for pattern in PATTERNS)


# -- encodings ----------------------------------------------------------------------------------------------------


def test_encodings_go_there_and_back():
    energy = lambda params, x: params * (x * torch.arange(1.0, 4)).sum() + torch.sin(x.sum())  # noqa: E731
    bits = torch.tensor([1.0, 0.0, 1.0])
    assert energies.on_spins(energy)(2.0, 2 * bits - 1) == energy(2.0, bits)
    assert energies.on_bits(energies.on_spins(energy))(2.0, bits) == energy(2.0, bits)
    levels = torch.tensor([2, 0, 1])
    there = energies.on_integers(energies.on_one_hot(energy), 3)
    assert there(2.0, levels) == there(2.0, levels.float()) == energy(2.0, levels.float())


# -- coupling from the past ---------------------------------------------------------------------------------------


def test_coupling_from_the_past_is_exact():
    energy = energies.ising(graphs.torus((3, 3)))
    params = energy.params(torch.tensor(0.2, dtype=F64), 0.2 * _normal(3, 9))
    draws = exact.coupling_from_the_past(random.key(0), energy, energy.space, energy.blocks, params, 3000)
    distribution = exact.log_probabilities(energy, energy.space)(params).exp()
    counts = torch.bincount(_numbers(energy.space, draws), minlength=512).double()
    groups = torch.func.vmap(lambda x: (x.sum() + 9) / 2)(spaces.states(energy.space)).long() * 2
    groups = groups + (spaces.states(energy.space)[:, 0] > 0)
    together = lambda values: torch.zeros(20, dtype=F64).index_add(0, groups, values)  # noqa: E731
    found, expected = together(counts), together(distribution)
    assert_uniform(found[expected > 3e-3], expected[expected > 3e-3] / expected[expected > 3e-3].sum())
    moments = draws.reshape(-1, 9, 1) * draws.reshape(-1, 1, 9)
    states = spaces.states(energy.space, F64)
    assert_mean(moments, torch.einsum("s,si,sj->ij", distribution, states, states), bias=1e-12)


def test_coupling_from_the_past_of_the_torus_has_the_bonds_of_kaufman():
    energy = energies.ising_torus((6, 6))
    k = torch.tensor(0.3, dtype=F64)
    params = energy.params(k)
    draws = exact.coupling_from_the_past(random.key(1), energy, energy.space, energy.blocks, params, 300)
    bonds = -torch.func.vmap(energy, (None, 0))(energy.params(torch.tensor(1.0, dtype=F64)), draws)
    assert_mean(bonds, torch.func.grad(lambda k: exact.kaufman((6, 6), k))(k))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda e: exact.coupling_from_the_past(random.key(0), e, e.space, e.blocks, e.params(-0.3), 2),
            ValueError,
            "attractive",
        ),
        (
            lambda e: exact.coupling_from_the_past(random.key(0), e, e.space, e.blocks, e.params(3.0), 2, max_sweeps=4),
            RuntimeError,
            "within 4 sweeps",
        ),
        (
            lambda e: exact.coupling_from_the_past(random.key(0), e, spaces.real(16), e.blocks, e.params(0.1), 2),
            ValueError,
            "binary",
        ),
        (lambda e: energies.boltzmann(2).params([[0.0, 1.0], [2.0, 0.0]]), ValueError, "symmetric"),
        (lambda e: energies.boltzmann(2).params([[1.0, 1.0], [1.0, 0.0]]), ValueError, "diagonal of zeros"),
        (lambda e: energies.deep_boltzmann([3]), ValueError, "two layers"),
        (lambda e: energies.deep_boltzmann([3, 2]).params([torch.zeros(2, 3)]), ValueError, r"\(3, 2\)"),
        (lambda e: energies.hopfield(3, "other"), ValueError, "classical"),
        (lambda e: energies.hopfield(3).params(torch.ones(2, 4)), ValueError, r"\(P, 3\)"),
        (lambda e: energies.potts(graphs.grid(3), 1), ValueError, "num_values"),
        (lambda e: energies.categorical_field(graphs.grid(3), 2).params(torch.ones(3)), ValueError, "One table"),
        (lambda e: energies.independent_sites(spaces.ordinal(2, 3)), ValueError, "bits, spins or categories"),
    ],
)
def test_bad_calls_are_refused_in_words(call, error, words):
    with pytest.raises(error, match=words):
        call(energies.ising_torus((4, 4)))


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_energies_keep_the_dtype_of_the_position(dtype):
    cases = [
        (energies.ising(TREE), (0.3, 0.1)),
        (energies.potts(TREE, 3), (0.3,)),
        (energies.categorical_field(TREE, 3), (torch.ones(3, 3),)),
        (energies.boltzmann(3), (torch.zeros(3, 3),)),
        (energies.deep_boltzmann([2, 2]), ([torch.ones(2, 2)],)),
        (energies.hopfield(4), (torch.ones(2, 4),)),
        (energies.rbm(3, 2), (torch.ones(3, 2),)),
        (energies.independent_sites(spaces.spins(2)), ()),
    ]
    for energy, arguments in cases:
        params, x = energy.params(*arguments), spaces.start(energy.space, dtype=dtype)(random.key(0))
        assert energy(params, x).dtype == dtype
        assert energy(params, x).shape == ()
        assert torch.func.grad(energy, 1)(params, x).shape == x.shape
        assert all(torch.isfinite(leaf).all() for leaf in tree.leaves(torch.func.grad(energy)(params, x)))


def test_coupling_from_the_past_reuses_its_numbers():
    """With fresh numbers after each doubling, pairs that meet late would be missing."""
    energy = energies.ising(graphs.grid(2))
    params = energy.params(torch.tensor(0.8, dtype=F64), torch.tensor([0.0, 1.0], dtype=F64))
    draws = exact.coupling_from_the_past(random.key(3), energy, energy.space, energy.blocks, params, 4000)
    distribution = exact.log_probabilities(energy, energy.space)(params).exp()
    assert_uniform(torch.bincount(_numbers(energy.space, draws), minlength=4), distribution)
