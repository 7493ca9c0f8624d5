"""Swendsen-Wang and Wolff: labels, exact matrices on three sites, exact values on the torus, bad input."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.func import vmap

import funcebm as ebm
from funcebm import energies, graphs, random, samplers, spaces, tree
from funcebm._torch import cluster_kernels
from funcebm.samplers._clusters import _hooked_labels, cluster_labels
from funcebm.samplers.swendsen_wang import SwendsenWangNoise
from funcebm.samplers.wolff import WolffNoise

from ..distributions import assert_mean
from ..references import ISING_MOMENTS
from .transition import Target, _bisect, assert_kernel, outcomes, values_by_uniforms

TRIANGLE = torch.tensor([[0, 1], [1, 2], [0, 2]])
COUPLINGS = torch.tensor([0.3, 0.7, 0.15], dtype=torch.float64)
K_C = 0.4406867935


@pytest.mark.parametrize("cluster_labels", [cluster_labels, _hooked_labels], ids=["union and find", "hooking"])
def test_labels_are_the_components(cluster_labels):
    for seed, (edges, num) in enumerate(
        [(graphs.torus((16, 16)), 256), (graphs.grid(200), 200), (graphs.complete(12), 12)]
    ):
        is_open = random.uniform(random.key(seed), (6, len(edges))) < torch.linspace(0.1, 1, 6)[:, None]
        labels = vmap(lambda row: cluster_labels(edges, row, num))(is_open)  # noqa: B023
        for row, label in zip(is_open, labels, strict=True):
            assert torch.equal(label, graphs.components(edges[row], num))


def test_labels_map_over_graphs_and_over_open_edges(monkeypatch):
    is_open = random.uniform(random.key(0), (3, 2, 24)) < 0.4
    edges = torch.stack([graphs.torus((3, 4)), graphs.torus((3, 4)).flip(0), (graphs.torus((3, 4)) + 5) % 12])
    expected = torch.stack(
        [
            torch.stack([graphs.components(one[row], 12) for row in rows])
            for one, rows in zip(edges, is_open, strict=True)
        ]
    )
    each = vmap(lambda one, rows: vmap(lambda row: cluster_labels(one, row, 12))(rows))
    assert torch.equal(each(edges, is_open), expected)
    swapped = vmap(vmap(lambda row, one: cluster_labels(one, row, 12), (0, None)), (1, 0))
    assert torch.equal(swapped(is_open.transpose(0, 1), edges), expected)
    assert torch.equal(vmap(lambda one: cluster_labels(one, is_open[0, 0], 12))(edges)[0], expected[0, 0])
    monkeypatch.setattr(cluster_kernels, "_function", lambda: None)  # a machine without a compiler
    assert torch.equal(vmap(lambda row: cluster_labels(edges[0], row, 12))(is_open[0]), expected[0])


def _triangle(name: str) -> tuple[Target, dict]:
    """Three sites with three couplings: spins, bits, spins in a field; two sites of three categories."""
    field = torch.tensor([0.4, -0.9, 0.25], dtype=torch.float64)
    if name == "categories":
        space = spaces.categorical(2, 3)
        states = torch.stack([torch.eye(3).double()[list(v)] for v in itertools.product(range(3), repeat=2)])
        energy = lambda p, x: -COUPLINGS[0] * (x[0] * x[1]).sum()  # noqa: E731
    else:
        space = spaces.binary(3) if name == "bits" else spaces.spins(3)
        states = torch.tensor(list(itertools.product(space.levels, repeat=3)), dtype=torch.float64)

        def energy(p, x):
            s = 2 * x - 1 if name == "bits" else x
            value = -(COUPLINGS * s[TRIANGLE[:, 0]] * s[TRIANGLE[:, 1]]).sum()
            return value - (field * s).sum() if name == "field" else value

    edges = TRIANGLE[:1] if name == "categories" else TRIANGLE
    options = {"edges": edges, "coupling": lambda params: COUPLINGS[: len(edges)], "space": space, "energy": energy}
    if name == "field":
        options["field"] = lambda params: field
    p = torch.softmax(-vmap(energy, (None, 0))((), states), 0)
    return Target(energy, space, states, p), options


def _levels(target):
    return (
        target.states.argmax(-1) if target.space.kind == "categorical" else (target.states > target.states.min()).long()
    )


def _bond_chances(sampler, target, num_bonds, noise_of, is_joined):
    """How likely each bond is, from each state ``(S, M)``, by bisection; alone, the others never."""
    num = len(target.states)
    every, chances = torch.arange(num), []
    for bond in range(num_bonds):

        def joins(u, bond=bond):
            bonds = torch.ones(num, num_bonds, dtype=torch.float64)
            bonds[:, bond] = u
            ends, _ = outcomes(sampler, target, every, noise_of(bonds, bond))
            return is_joined(bond, every, ends)

        chances.append(_bisect(joins, torch.zeros(num).double(), torch.ones(num).double(), 46))
    return torch.stack(chances, 1)


@pytest.mark.parametrize("name", ["spins", "bits", "field", "categories"])
def test_swendsen_wang(name):
    target, options = _triangle(name)
    sampler = samplers.swendsen_wang(**options)
    level, num, edges = _levels(target), len(target.states), options["edges"]
    top = int(level.max())

    def noise_of(bonds, bond):
        values = torch.full((num, level.shape[1]), 1 - 1e-12, dtype=torch.float64)
        values[:, TRIANGLE[bond, 0]] = 0.0  # the largest value, for the first site and what is joined to it
        return SwendsenWangNoise(bonds, values)

    joined = lambda bond, before, ends: level[ends, TRIANGLE[bond, 1]] == top  # noqa: E731
    chances = _bond_chances(sampler, target, len(edges), noise_of, joined)
    equal = level[:, edges[:, 0]] == level[:, edges[:, 1]]
    assert ((chances > 1e-12) == equal).all()
    matrix = torch.zeros(num, num, dtype=torch.float64)
    for config in itertools.product((False, True), repeat=len(edges)):
        is_open = torch.tensor(config)
        chance = torch.where(is_open, chances, 1 - chances).prod(1)
        bonds = torch.where(is_open, 0.0, 1.0).double()
        noise = lambda u: SwendsenWangNoise(bonds.expand(len(u), -1), u)  # noqa: E731, B023
        observe = lambda site, ends: level[ends[:, 1], site]  # noqa: E731
        matrix += chance[:, None] * values_by_uniforms(
            sampler, target, noise, observe, list(range(level.shape[1])), top + 1
        )
    assert_kernel(matrix, target.probabilities, is_reversible=True)


@pytest.mark.parametrize("name", ["spins", "bits", "categories"])
def test_wolff(name):
    target, options = _triangle(name)
    sampler = samplers.wolff(**options)
    level, num, edges = _levels(target), len(target.states), options["edges"]
    shifts = range(1, int(level.max()) + 1)

    def noise(bonds, site, shift):
        return WolffNoise(bonds, torch.full((num, 1), site), torch.full((num,), shift))

    alone = lambda bonds, bond: noise(bonds, int(TRIANGLE[bond, 0]), 1)  # noqa: E731
    moved = lambda bond, before, ends: level[before, TRIANGLE[bond, 1]] != level[ends, TRIANGLE[bond, 1]]  # noqa: E731
    chances = _bond_chances(sampler, target, len(edges), alone, moved)
    matrix = torch.zeros(num, num, dtype=torch.float64)
    every = torch.arange(num)
    for config, site, shift in itertools.product(
        itertools.product((False, True), repeat=len(edges)), range(level.shape[1]), shifts
    ):
        is_open = torch.tensor(config)
        chance = torch.where(is_open, chances, 1 - chances).prod(1) / level.shape[1] / len(shifts)
        bonds = torch.where(is_open, 0.0, 1.0).double().expand(num, -1)
        ends, _ = outcomes(sampler, target, every, noise(bonds, site, shift))
        matrix.index_put_((every, ends), chance, accumulate=True)
    assert_kernel(matrix, target.probabilities, is_reversible=True)


@pytest.mark.parametrize(("shape", "coupling"), ISING_MOMENTS)
@pytest.mark.parametrize("make", ["swendsen_wang", "wolff"])
def test_small_tori_have_the_moments_of_the_table(make, shape, coupling):
    edges = graphs.torus(shape)
    sampler = getattr(samplers, make)(edges, lambda params: params)
    starts = spaces.sample(random.key(1), spaces.spins(shape), 3000)
    num_burn_in = 25 if make == "swendsen_wang" or coupling > 0.4 else 60  # clusters of few sites
    options = {"num_samples": 1, "num_burn_in": num_burn_in, "jit": False}
    run = ebm.sample(random.key(2), sampler, torch.tensor(coupling), starts, **options)
    magnetisation = run.draws[:, 0].double().mean((1, 2)).abs()
    bonds, first, second = ISING_MOMENTS[shape, coupling]
    assert_mean(-run.info.energy[:, 0].double() / coupling / magnetisation.new_tensor(shape).prod(), bonds)
    assert_mean(magnetisation, first)
    assert_mean(magnetisation**2, second)


@pytest.mark.slow
@pytest.mark.parametrize(("side", "bonds"), [(8, 1.491589), (16, 1.453065), (32, 1.433658)])
def test_larger_critical_tori_have_the_bonds_of_kaufman(side, bonds):
    shape = (side, side)
    sampler = samplers.swendsen_wang(graphs.torus(shape), lambda params: params)
    starts = spaces.sample(random.key(1), spaces.spins(shape), 1000)
    options = {"num_samples": 1, "num_burn_in": 60, "jit": False}
    run = ebm.sample(random.key(2), sampler, torch.tensor(K_C), starts, **options)
    assert_mean(-run.info.energy[:, 0].double() / K_C / side**2, bonds)


@pytest.mark.parametrize(
    ("temperature", "side", "magnetisation"),
    [
        (2.0, 48, 0.91132),
        pytest.param(1.5, 48, 0.98650, marks=pytest.mark.slow),
        pytest.param(2.2, 96, 0.78476, marks=pytest.mark.slow),
        pytest.param(2.25, 256, 0.67185, marks=pytest.mark.slow),
    ],
)
def test_below_the_critical_temperature_the_magnetisation_is_that_of_yang(temperature, side, magnetisation):
    """Of an infinite lattice; the size shows in the fourth digit."""
    shape, coupling = (side, side), torch.tensor(1 / temperature)
    sampler = samplers.swendsen_wang(graphs.torus(shape), lambda params: params)
    options = {"num_samples": 1, "num_burn_in": 15 if side < 64 else 60, "jit": False}
    run = ebm.sample(random.key(3), sampler, coupling, torch.ones(40, *shape), **options)
    assert_mean(run.draws[:, 0].mean((1, 2)).abs(), magnetisation, bias=5e-4)


def test_runs_do_not_depend_on_chunks_or_on_the_number_of_chains_and_map_over_couplings():
    edges = graphs.torus((4, 4))
    starts = spaces.sample(random.key(1), spaces.spins((4, 4)), 5)
    for make in (samplers.swendsen_wang, samplers.wolff):
        sampler = make(edges, lambda params: params)

        def run(k, starts=starts, s=sampler, **more):
            return ebm.sample(random.key(0), s, k, starts, num_samples=4, jit=False, **more).draws

        whole = run(torch.tensor(0.3))
        assert torch.equal(whole, run(torch.tensor(0.3), chunk_size=1))
        assert torch.equal(whole[:2], run(torch.tensor(0.3), starts[:2]))
        couplings = torch.tensor([0.1, 0.3, 0.6])
        assert torch.equal(vmap(run)(couplings), torch.stack([run(k) for k in couplings]))


def test_parallel_tempering_scales_the_couplings():
    """Local samplers see the params of the path: ``(params, beta)``."""
    lattice = energies.ising_torus((4, 4))
    local = lambda energy, beta: samplers.swendsen_wang(lattice.edges, lambda path: path[1] * path[0]["coupling"])  # noqa: E731
    sampler = samplers.parallel_tempering(lattice, local, [0.5, 1.0])
    starts = spaces.sample(random.key(1), spaces.spins((4, 4)), 2000)
    options = {"num_samples": 1, "num_burn_in": 12, "jit": False}
    run = ebm.sample(random.key(2), sampler, lattice.params(K_C), starts, **options)
    assert_mean(-run.info.energy[:, 0] / K_C / 16, 1.56562379)


# -- the door -----------------------------------------------------------------------------------------------------


def test_couplings_that_repel_are_an_error():
    edges = graphs.torus((4, 4))
    sampler = samplers.swendsen_wang(edges, lambda params: params)
    with pytest.raises(ValueError, match=r"must not be negative\. Got -0\.3.*frustrated"):
        ebm.sample(random.key(0), sampler, torch.tensor(-0.3), torch.ones(2, 4, 4), num_samples=1, jit=False)


@pytest.mark.parametrize("make", [samplers.swendsen_wang, samplers.wolff])
def test_an_energy_with_a_field_is_an_error(make):
    lattice = energies.ising_torus((4, 4))
    sampler = make(lattice.edges, lambda params: params["coupling"], energy=lattice)
    sampler.init(lattice.params(0.3), torch.ones(4, 4))
    with pytest.raises(ValueError, match="an external field"):
        sampler.init(lattice.params(0.3, 0.1), torch.ones(4, 4))
    doubled = make(lattice.edges, lambda params: 2 * params["coupling"], energy=lattice)
    with pytest.raises(ValueError, match=r"must be that of its couplings\. Got another one"):
        doubled.init(lattice.params(0.3), torch.ones(4, 4))
    with pytest.raises(ValueError, match="levels of the space"):
        sampler.init(lattice.params(0.3), torch.zeros(4, 4))


def test_bad_arguments_are_errors_in_words():
    edges = graphs.torus((4, 4))
    with pytest.raises(TypeError, match="coupling must be a function"):
        samplers.swendsen_wang(edges, torch.tensor(0.3))
    with pytest.raises(ValueError, match="each pair of sites must come once"):
        samplers.wolff(torch.tensor([[0, 1], [1, 0]]), lambda params: params)
    with pytest.raises(ValueError, match="needs spins or categories"):
        samplers.wolff(edges, lambda params: params, space=spaces.ordinal(16, 3))
    with pytest.raises(ValueError, match=r"coupling must return \(\) or \(32,\)"):
        samplers.wolff(edges, lambda params: torch.ones(5)).init((), torch.ones(4, 4))
    with pytest.raises(ValueError, match="must have 16 sites"):
        samplers.swendsen_wang(edges, lambda params: params).init(torch.tensor(0.3), torch.ones(3, 4))
    field = lambda params: torch.zeros(4, 4)  # noqa: E731
    with pytest.raises(ValueError, match="Flatten the sites"):
        samplers.swendsen_wang(edges, lambda params: params, field=field).init(torch.tensor(0.3), torch.ones(4, 4))


def test_fields_that_cancel_in_every_second_site_are_found():
    lattice = energies.ising_torus((4, 4))
    field = torch.zeros(4, 4)
    field[0, 0], field[0, 2] = 1.0, -1.0
    sampler = samplers.swendsen_wang(lattice.edges, lambda params: params["coupling"], energy=lattice)
    with pytest.raises(ValueError, match="must be that of its couplings"):
        sampler.init(lattice.params(0.3, field), torch.ones(4, 4))


@pytest.mark.compiled
def test_compiled_states_are_eager_ones_bit_for_bit():
    sampler = samplers.swendsen_wang(graphs.torus((4, 4)), lambda params: params)
    starts = spaces.sample(random.key(1), spaces.spins((4, 4)), 20)
    options = {"num_samples": 8}
    runs = [ebm.sample(random.key(0), sampler, torch.tensor(K_C), starts, jit=jit, **options) for jit in (True, False)]
    assert torch.equal(runs[0].draws, runs[1].draws)
    assert tree.structure(runs[0].info) == tree.structure(runs[1].info)
