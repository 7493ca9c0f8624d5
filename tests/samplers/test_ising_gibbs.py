"""The checkerboard sweep of Ising tori: word by word, in distribution, mapped, cut, compiled, and its door."""

from __future__ import annotations

import pytest
import torch
from torch.func import vmap

import funcebm as ebm
from funcebm import energies, graphs, random, samplers, spaces
from funcebm._torch import checkerboard_kernels
from funcebm.samplers.ising_gibbs import IsingGibbsNoise

from ..distributions import assert_mean

SHAPE = (4, 6)
LATTICE = energies.ising_torus(SHAPE)
SAMPLER = samplers.ising_gibbs(LATTICE)
FIELD = random.normal(random.key(9), SHAPE, dtype=torch.float64)


def _step(params, position, words, sampler=SAMPLER):
    state = sampler.init(params, position)
    return sampler.step(params, sampler.tuning, state, IsingGibbsNoise(words))


@pytest.mark.parametrize("coupling", [0.3, -0.5, 2.0])
@pytest.mark.parametrize("field", [0.0, 0.4, FIELD], ids=["none", "one", "each"])
@pytest.mark.parametrize("is_compiled", [True, False], ids=["in C", "by operations"])
def test_a_site_is_up_where_its_word_is_below_its_conditional(coupling, field, is_compiled, monkeypatch):
    """Site after site: a word without its sign, over 2^31, is the uniform number that the exact conditional is compared with."""
    if not is_compiled:
        monkeypatch.setattr(checkerboard_kernels, "_function", lambda: None)
    params = LATTICE.params(coupling=coupling, field=field if isinstance(field, float) else FIELD)
    temperature = 1.3
    sampler = samplers.ising_gibbs(LATTICE, temperature=temperature)
    position = spaces.sample(random.key(1), LATTICE.space, 1, dtype=torch.float64)[0]
    words = sampler.draw(random.key(2), position).words
    after, info = _step(params, position, words, sampler)
    expected, blocks = position.clone(), graphs.checkerboard(SHAPE)
    for colour, block in enumerate(blocks):
        for row, column in block.nonzero().tolist():
            up, down = expected.clone(), expected.clone()
            up[row, column], down[row, column] = 1.0, -1.0
            chance = torch.sigmoid((LATTICE(params, down) - LATTICE(params, up)).double() / temperature)
            uniform = (int(words[colour, row, column // 2]) & (2**31 - 1)) / 2**31
            expected = up if uniform < chance else down
    assert torch.equal(after.position, expected)
    torch.testing.assert_close(after.energy, LATTICE(params, expected))
    assert int(info.num_changed) == int((expected != position).sum())


def test_probabilities_are_exact_to_one_word():
    """The smallest word that leaves a site down is its conditional, to 2^-31; found by bisection."""
    params = LATTICE.params(coupling=torch.tensor(0.35, dtype=torch.float64), field=0.1)
    position = torch.ones(SHAPE, dtype=torch.float64)
    low, high = 0, 2**31 - 1
    while high - low > 1:
        middle = (low + high) // 2
        words = torch.full((2, 4, 3), middle, dtype=torch.int32)
        is_up = bool(_step(params, position, words)[0].position[0, 0] == 1)
        low, high = (middle, high) if is_up else (low, middle)
    exact = float(torch.sigmoid(torch.tensor(2 * (4 * 0.35 + 0.1), dtype=torch.float64)))
    assert abs(high / 2**31 - exact) <= 2.0**-30
    for words, spin in ((0, 1.0), (-(2**31), 1.0), (2**31 - 1, -1.0), (-1, -1.0)):  # the sign bit says nothing
        after, _ = _step(params, position, torch.full((2, 4, 3), words, dtype=torch.int32))
        assert float(after.position[0, 0]) == spin


def test_bonds_and_magnetisation_of_the_table():
    """Of the exact 4 x 4 torus, at K = 0.2 and, from a third of it up, at K = 0.6."""
    lattice = energies.ising_torus((4, 4))
    sampler = samplers.ising_gibbs(lattice)
    start = spaces.sample(random.key(1), lattice.space, 3000)
    for coupling, bonds, magnetisation in ((0.2, 0.45613537, 0.34276563), (0.4406868, 1.56562379, 0.84386044)):
        options = {"num_samples": 1, "num_burn_in": 60 if coupling < 0.3 else 400, "jit": False}
        run = ebm.sample(random.key(2), sampler, lattice.params(coupling=coupling), start, **options)
        spins = run.draws[:, 0].double()
        pairs = (spins * (spins.roll(1, 1) + spins.roll(1, 2))).mean((1, 2))
        assert_mean(pairs, torch.tensor(bonds).double(), bias=1e-4)
        assert_mean(spins.mean((1, 2)).abs(), torch.tensor(magnetisation).double(), bias=1e-4)


def _run(num_chains=5, num_samples=6, params=None, **options):
    params = LATTICE.params(coupling=0.3) if params is None else params
    positions = spaces.sample(random.key(1), LATTICE.space, num_chains)
    options = {"jit": False, **options}
    return ebm.sample(random.key(3), SAMPLER, params, positions, num_samples=num_samples, **options)


def test_chains_do_not_depend_on_chunks_cuts_or_their_number():
    whole = _run()
    assert torch.equal(whole.draws, _run(chunk_size=1).draws)
    assert torch.equal(whole.draws[:2], _run(num_chains=2).draws)
    cut = _run(num_samples=2)
    assert torch.equal(whole.draws, torch.cat([cut.draws, ebm.resume(cut, num_samples=4).draws], 1))


def test_couplings_fields_and_temperatures_map():
    def draws(coupling, field, temperature):
        tuning = SAMPLER.tuning._replace(temperature=temperature)
        return _run(params=LATTICE.params(coupling=coupling, field=field), tuning=tuning).draws

    numbers = (torch.tensor([0.1, -0.3]), torch.stack([FIELD, -FIELD]).float(), torch.tensor([1.0, 2.0]))
    mapped = vmap(draws)(*numbers)
    assert torch.equal(mapped, torch.stack([draws(*each) for each in zip(*numbers, strict=True)]))


@pytest.mark.compiled
def test_compiled_states_are_eager_ones_bit_for_bit():
    assert torch.equal(_run(jit=True).draws, _run().draws)


def test_another_energy_an_odd_side_and_bits_are_errors_in_words():
    for energy in (energies.ising_torus((4, 5)), energies.ising_torus((4, 4, 4)), energies.ising(graphs.torus((4, 4)))):
        with pytest.raises(ValueError, match="two even sides"):
            samplers.ising_gibbs(energy)
    with pytest.raises(ValueError, match="temperature"):
        samplers.ising_gibbs(LATTICE, temperature=0.0)
    with pytest.raises(ValueError, match="must"):
        SAMPLER.init(LATTICE.params(), torch.zeros(SHAPE))
