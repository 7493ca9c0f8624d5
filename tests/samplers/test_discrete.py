"""Samplers of discrete positions as users meet them: bad input in words, chains that do not depend on how they are run."""

from __future__ import annotations

import pytest
import torch

import funcebm as ebm
from funcebm import energies, graphs, random, samplers, spaces, tree

from ..distributions import assert_mean

SHAPE = (4, 4)
EDGES = graphs.torus(SHAPE)
BLOCKS = graphs.colouring(EDGES, shape=SHAPE)
SPINS = spaces.spins(SHAPE)
SITES = spaces.categorical(3, [2, 3, 3])
LEVELS = spaces.ordinal(4, 5)


def ising(params, x):
    s = x.reshape(-1)
    return -params * (s[EDGES[:, 0]] * s[EDGES[:, 1]]).sum()


def potts(params, x):
    return -params * ((x[0] * x[1]).sum() + 0.5 * (x[1] * x[2]).sum() + (x * torch.arange(3.0).to(x)).sum())


def ordered(params, x):
    return params * ((x - 1.5) ** 2).sum() / 2 - params * 0.3 * (x[1:] * x[:-1]).sum()


# name: (energy, space, make)
CASES = {
    "gibbs": (ising, SPINS, lambda e, s: samplers.gibbs(e, BLOCKS, space=s)),
    "gibbs_palindromic": (ising, SPINS, lambda e, s: samplers.gibbs(e, BLOCKS, space=s, scan="palindromic")),
    "gibbs_random": (ising, SPINS, lambda e, s: samplers.gibbs(e, BLOCKS, space=s, scan="random")),
    "gibbs_many_blocks": (
        ising,
        SPINS,
        lambda e, s: samplers.gibbs(e, torch.eye(16).bool().reshape(16, 4, 4), space=s),
    ),
    "gibbs_sites": (potts, SITES, lambda e, s: samplers.gibbs(e, space=s)),
    "gibbs_potts": (potts, SITES, lambda e, s: samplers.gibbs(e, torch.tensor([[1, 0, 1], [0, 1, 0]]).bool(), space=s)),
    "metropolis": (ising, SPINS, lambda e, s: samplers.single_site_metropolis(e, s)),
    "metropolised_gibbs": (ordered, LEVELS, lambda e, s: samplers.metropolised_gibbs(e, s, scan="palindromic")),
    "gwg": (ising, SPINS, samplers.gibbs_with_gradients),
    "gwg_potts": (potts, SITES, lambda e, s: samplers.gibbs_with_gradients(e, s, num_draws=2)),
    "langevin": (ising, SPINS, lambda e, s: samplers.discrete_langevin(e, s, step_size=2.0)),
    "langevin_potts": (potts, SITES, lambda e, s: samplers.discrete_langevin(e, s, preconditioner=torch.ones(3))),
    "langevin_ordered": (ordered, LEVELS, lambda e, s: samplers.discrete_langevin(e, s, step_size=1.0)),
    "dlmc": (ising, SPINS, samplers.dlmc),
    "dlmc_potts": (potts, SITES, lambda e, s: samplers.dlmc(e, s, balance="barker")),
    "balanced": (ising, SPINS, lambda e, s: samplers.locally_balanced(e, s, balance="barker")),
    "balanced_ordered": (ordered, LEVELS, samplers.locally_balanced),
    "path": (ising, SPINS, lambda e, s: samplers.path_auxiliary(e, s, num_flips=2.5, max_flips=5)),
    "path_potts": (potts, SITES, samplers.path_auxiliary),
    "gwg_ordered": (ordered, LEVELS, samplers.gibbs_with_gradients),
}
sweep = pytest.mark.parametrize("name", list(CASES))
params = torch.tensor(0.3)


def _case(name, num_chains=5, dtype=torch.float32):
    energy, space, make = CASES[name]
    return make(energy, space), params.to(dtype), spaces.sample(random.key(1), space, num_chains, dtype=dtype)


def _run(name, num_chains=5, num_samples=6, **options):
    sampler, params, positions = _case(name, num_chains)
    options = {"jit": False, **options}
    return ebm.sample(random.key(3), sampler, params, positions, num_samples=num_samples, **options)


@sweep
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_step_keeps_shapes_and_dtypes_and_stays_in_the_space(name, dtype):
    energy, space, _ = CASES[name]
    sampler, params, positions = _case(name, dtype=dtype)
    state = sampler.init(params, positions[0])
    for i in range(4):
        noise = sampler.draw(random.key(i), state.position)
        after, info = sampler.step(params, tree.cast_like(sampler.tuning, positions), state, noise)
        shapes = lambda value: [(leaf.shape, leaf.dtype) for leaf in tree.leaves(value)]  # noqa: E731
        assert tree.structure(after) == tree.structure(state) and shapes(after) == shapes(state)
        spaces.check(space, after.position)
        torch.testing.assert_close(info.energy, energy(params, after.position))
        assert info.num_gradients.dtype == torch.int32 and info.num_changed.dtype == dtype
        assert 0 <= float(info.acceptance_rate) <= 1 and not bool(info.is_divergent)
        assert 0 <= float(info.num_changed) <= 2 * positions[0].numel()
        fresh = sampler.init(params, after.position)
        for field in set(state._fields) - {"position"}:
            torch.testing.assert_close(getattr(after, field), getattr(fresh, field))
        state = after


@sweep
def test_chains_do_not_depend_on_chunks_cuts_or_their_number(name):
    whole = _run(name)
    for chunk_size in (1, 4):
        assert torch.equal(whole.draws, _run(name, chunk_size=chunk_size).draws)
    cut = _run(name, num_samples=2)
    assert torch.equal(whole.draws, torch.cat([cut.draws, ebm.resume(cut, num_samples=4).draws], 1))
    assert torch.equal(whole.draws[:2], _run(name, num_chains=2).draws)
    sampler, params, positions = _case(name)
    chain_key, state = random.split(random.key(3), 5)[4], sampler.init(params, positions[4])
    for i in range(6):
        state, _ = sampler(random.fold_in(chain_key, i), params, state)
        assert torch.equal(state.position, whole.draws[4, i])


@sweep
def test_vmap_over_couplings_and_temperatures(name):
    sampler, _, positions = _case(name)

    def draws(coupling, temperature):
        tuning = samplers.tempered(sampler, temperature).tuning
        options = {"num_samples": 3, "tuning": tuning, "jit": False}
        return ebm.sample(random.key(3), sampler, coupling, positions, **options).draws

    couplings, temperatures = torch.tensor([0.1, 0.3, 0.6]), torch.tensor([1.0, 2.0, 0.5])
    mapped = torch.func.vmap(draws)(couplings, temperatures)
    assert torch.equal(mapped, torch.stack([draws(*pair) for pair in zip(couplings, temperatures, strict=True)]))


@sweep
def test_the_mean_energy_is_that_of_the_distribution_at_another_temperature(name):
    """All states of the smaller spaces by enumeration; the lattice has 65,536."""
    energy, space, _ = CASES[name]
    every = spaces.states(space, dtype=torch.float64)
    values = torch.func.vmap(energy, (None, 0))(params.double(), every)
    expected = (torch.softmax(-values / 1.5, 0) * values).sum()
    sampler, coupling, positions = _case(name, 300)
    run = ebm.sample(
        random.key(5),
        sampler,
        coupling,
        positions,
        num_samples=1,
        num_burn_in=120,
        tuning=samplers.tempered(sampler, 1.5).tuning,
        jit=False,
    )
    assert_mean(run.info.energy[:, -1], expected, bias=1e-3)


# -- the door -----------------------------------------------------------------------------------------------------


@sweep
def test_a_position_off_the_levels_is_an_error(name):
    sampler, params, positions = _case(name)
    positions[3] = 0.25
    with pytest.raises(ValueError, match=r"levels of the space.*Got 0.25.*chains 3"):
        ebm.sample(random.key(0), sampler, params, positions, num_samples=1, jit=False)
    with pytest.raises(ValueError, match="levels of the space"):
        sampler.init(params, positions[3])


@pytest.mark.parametrize(
    "name", ["hmc", "nuts", "mala", "langevin", "underdamped_langevin", "mclmc", "random_walk", "sgld"]
)
def test_a_sampler_of_real_numbers_on_discrete_states_is_a_warning(name):
    for energy in (energies.ising_torus((4, 4)), energies.rbm(4, 3), energies.potts(graphs.grid(3), 3)):
        with pytest.warns(UserWarning, match=rf"{name} moves real numbers.*gibbs"):
            getattr(samplers, name)(energy)
    getattr(samplers, name)(energies.rbm(4, 3, visible="gaussian"))  # real visible units, the hidden ones summed out


def test_bits_where_spins_are_meant_are_an_error():
    sampler = samplers.gibbs(ising, BLOCKS)
    with pytest.raises(ValueError, match=r"Got -1.0.*spaces.spins"):
        sampler.init(params, -torch.ones(4, 4))


def test_an_edge_inside_a_colour_is_an_error():
    rows = torch.zeros(2, 4, 4).bool()
    rows[0, :2], rows[1, 2:] = True, True
    sampler = samplers.gibbs(ising, rows, space=SPINS)
    with pytest.raises(ValueError, match=r"one block must not interact.*graphs.colouring.*chains 0, 1"):
        ebm.sample(random.key(0), sampler, params, torch.ones(2, 4, 4), num_samples=1, jit=False)


def test_an_energy_that_is_not_linear_in_a_site_needs_single_sites():
    curved = lambda params, x: ising(params, x) + torch.sin(x).sum()  # noqa: E731
    with pytest.raises(ValueError, match="linear in each"):
        samplers.gibbs(curved, BLOCKS, space=SPINS).init(params, torch.ones(4, 4))
    samplers.gibbs(curved, space=SPINS).init(params, torch.ones(4, 4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: samplers.gibbs(), "an energy or a conditional"),
        (lambda: samplers.gibbs(ising, BLOCKS[:1]), "every site must be in one block"),
        (lambda: samplers.gibbs(ising, BLOCKS.float()), "blocks must be bool"),
        (lambda: samplers.gibbs(ising, BLOCKS, scan="any"), "scan must be one of"),
        (lambda: samplers.gibbs(ordered, torch.eye(4).bool(), space=LEVELS), "conditionals of ordinal"),
        (lambda: samplers.gibbs(ising, BLOCKS, temperature=0.0), "temperature must be positive"),
        (lambda: samplers.gibbs_with_gradients(ising, SPINS, temperature=-1.0), "temperature must be positive"),
        (lambda: samplers.gibbs_with_gradients(ising, SPINS, num_draws=0), "num_draws must be"),
        (lambda: samplers.gibbs_with_gradients(ising, spaces.real(3)), "discrete leaves only.*samplers.on"),
        (lambda: samplers.gibbs_with_gradients(ising, "spins"), "a tree of spaces"),
        (lambda: samplers.on("x", 3), "on takes a sampler"),
        (lambda: samplers.on(("x", 2), samplers.gibbs), "names"),
    ],
)
def test_bad_arguments_are_errors_in_words(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_clamped_sites_stay():
    blocks = BLOCKS.clone()
    blocks[:, 0] = False
    sampler = samplers.gibbs(ising, blocks, space=SPINS, is_partial=True)
    run = ebm.sample(random.key(0), sampler, params, torch.ones(3, 4, 4), num_samples=20, jit=False)
    assert (run.draws[:, :, 0] == 1).all() and (run.draws[:, :, 1:] == -1).any()


# -- layers, parts ------------------------------------------------------------------------------------------------


def _machine(params, x):
    return -x["v"] @ params["W"] @ x["h"] - params["b"] @ x["v"] - params["c"] @ x["h"]


_machine_params = {
    "W": torch.tensor([[0.5, -1.0], [1.5, 0.3], [-0.7, 0.9]]),
    "b": torch.tensor([0.2, -0.4, 0.1]),
    "c": torch.tensor([-0.3, 0.5]),
}


def _conditional(params, x, block):
    return params["c"] + x["v"] @ params["W"] if block == "h" else params["b"] + params["W"] @ x["h"]


def _layers():
    masks = {"v": torch.tensor([[True] * 3, [False] * 3]), "h": torch.tensor([[False] * 2, [True] * 2])}
    return {
        "names": samplers.gibbs(_machine, ("v", "h")),
        "conditional": samplers.gibbs(blocks=("v", "h"), conditional=_conditional),
        "masks": samplers.gibbs(_machine, masks),
        "parts": samplers.cycle(
            *(samplers.on(name, lambda e, size=size: samplers.gibbs(e, torch.ones(1, size).bool()), _machine)
              for name, size in (("v", 3), ("h", 2)))
        ),
    }  # fmt: skip


def test_layers_by_name_by_mask_and_by_conditionals_are_one_kernel():
    start = {"v": torch.zeros(40, 3), "h": torch.zeros(40, 2)}
    runs = {
        name: ebm.sample(random.key(2), sampler, _machine_params, start, num_samples=5, jit=False)
        for name, sampler in _layers().items()
    }
    for name in ("conditional", "masks"):
        assert tree.structure(runs[name].draws) == tree.structure(runs["names"].draws)
        assert all(
            torch.equal(a, b) for a, b in zip(*(tree.leaves(runs[n].draws) for n in (name, "names")), strict=True)
        )
    assert (runs["conditional"].info.energy == 0).all()


@pytest.mark.parametrize("name", ["names", "masks", "parts"])
def test_layers_have_the_mean_energy_of_all_states(name):
    space = {"v": spaces.binary(3), "h": spaces.binary(2)}
    every = spaces.states(space)
    values = torch.func.vmap(_machine, (None, 0))(_machine_params, every)
    expected = (torch.softmax(-values, 0) * values).sum()
    start = {"v": torch.zeros(2000, 3), "h": torch.zeros(2000, 2)}
    run = ebm.sample(random.key(4), _layers()[name], _machine_params, start, num_samples=1, num_burn_in=15, jit=False)
    assert_mean(run.info.energy[:, -1], expected, bias=1e-4)


def test_a_mixed_position_is_sampled_by_parts():
    """A mixture of two normals with its label: HMC given the label, Gibbs given the place."""

    def energy(params, x):
        return ((x["x"] - params * x["z"]) ** 2).sum() / 2 + 0.4 * x["z"].sum()

    sampler = samplers.cycle(
        samplers.on("x", lambda e: samplers.hmc(e, step_size=0.7, num_leapfrog=3), energy),
        samplers.on("z", samplers.gibbs, energy),
    )
    start = {"x": torch.zeros(1500, 1), "z": torch.zeros(1500, 1)}
    run = ebm.sample(random.key(6), sampler, torch.tensor(1.5), start, num_samples=1, num_burn_in=25, jit=False)
    chance = torch.sigmoid(torch.tensor(-0.4))
    assert_mean(run.draws["z"][:, 0], chance, bias=1e-3)
    assert_mean(run.draws["x"][:, 0], 1.5 * chance, bias=1e-3)
    assert_mean(run.draws["x"][:, 0] ** 2, 1 + 1.5**2 * chance, bias=1e-3)


def test_a_part_is_frozen_params_for_a_sampler_of_ones_own():
    def energy_of_part(frozen, x):
        return ((x - frozen.params - frozen.position["y"]) ** 2).sum() / 2

    by_hand = samplers.on("x", samplers.mala(energy_of_part, step_size=0.4))
    energy = lambda params, x: ((x["x"] - params - x["y"]) ** 2).sum() / 2  # noqa: E731
    made = samplers.on("x", lambda e: samplers.mala(e, step_size=0.4))(energy)
    start = {"x": torch.zeros(3, 2), "y": torch.ones(3, 2)}
    runs = [ebm.sample(random.key(1), s, torch.tensor(2.0), start, num_samples=4, jit=False) for s in (by_hand, made)]
    assert torch.equal(runs[0].draws["x"], runs[1].draws["x"])
    assert torch.equal(runs[0].draws["y"], torch.ones(3, 4, 2))
    with pytest.raises(ValueError, match="must have a leaf 'w'"):
        samplers.on("w", samplers.gibbs, energy).init((), start)


def test_what_a_cycle_of_parts_costs_is_counted_by_parts():
    energy = lambda params, x: ((x["x"] - x["z"]) ** 2).sum()  # noqa: E731
    both = [samplers.on(name, lambda e: samplers.mala(e, step_size=0.1), energy) for name in ("x", "z")]
    sampler = samplers.cycle(*both)
    state = sampler.init((), {"x": torch.zeros(2), "z": torch.zeros(30)[:2]})
    _, info = sampler(random.key(0), (), state)
    assert int(info.num_gradients) == 4  # a step of each, and each anew where the other moved


def test_parallel_tempering_annealing_and_thinning_take_discrete_samplers_as_they_are():
    local = {
        "gibbs": lambda energy, beta: samplers.gibbs(energy, BLOCKS, space=SPINS),
        "gwg": lambda energy, beta: samplers.gibbs_with_gradients(energy, SPINS),
    }
    every = spaces.states(SPINS)
    values = torch.func.vmap(ising, (None, 0))(torch.tensor(0.4), every)
    expected = (torch.softmax(-values, 0) * values).sum()
    for name, make in local.items():
        sampler = samplers.parallel_tempering(ising, make, [0.4, 0.7, 1.0])
        sampler = samplers.thin(sampler, 2 if name == "gibbs" else 20)
        positions = spaces.sample(random.key(1), SPINS, 200)
        options = {"num_samples": 1, "num_burn_in": 8, "jit": False}
        run = ebm.sample(random.key(2), sampler, torch.tensor(0.4), positions, **options)
        spaces.check(SPINS, run.draws)
        assert_mean(run.info.energy[:, -1], expected, bias=1e-3)


# -- compiled -----------------------------------------------------------------------------------------------------


@pytest.mark.compiled
@pytest.mark.parametrize(
    "name",
    ["gwg_potts", *(pytest.param(n, marks=pytest.mark.slow) for n in ("metropolised_gibbs", "langevin_potts", "path"))],
)
def test_compiled_states_are_eager_ones_bit_for_bit(name):
    assert torch.equal(_run(name, jit=True).draws, _run(name).draws)


@pytest.mark.compiled
def test_a_compiled_cycle_of_parts_is_the_eager_one():
    start = {"v": torch.zeros(5, 3), "h": torch.zeros(5, 2)}
    sampler = _layers()["parts"]
    runs = [ebm.sample(random.key(2), sampler, _machine_params, start, num_samples=6, jit=jit) for jit in (True, False)]
    assert all(torch.equal(a, b) for a, b in zip(*(tree.leaves(run.draws) for run in runs), strict=True))


def test_the_space_that_an_energy_carries_is_the_default():
    lattice = energies.ising_torus((4, 4))
    coupling = lattice.params(0.3)
    for sampler in (samplers.gibbs(lattice, lattice.blocks), samplers.gibbs_with_gradients(lattice)):
        state = sampler.init(coupling, torch.ones(4, 4))
        for i in range(5):
            state, _ = sampler(random.key(i), coupling, state)
        spaces.check(SPINS, state.position)
    machine = energies.rbm(4, 2)
    weights = machine.params(torch.ones(4, 2))
    by_mask = samplers.gibbs(machine, machine.blocks)  # of both layers
    given = samplers.gibbs(blocks=machine.blocks, conditional=machine.conditional)
    runs = [
        ebm.sample(random.key(0), s, weights, torch.zeros(9, 6), num_samples=4, jit=False) for s in (by_mask, given)
    ]
    assert torch.equal(runs[0].draws, runs[1].draws)
