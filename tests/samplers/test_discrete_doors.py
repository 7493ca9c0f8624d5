"""What discrete samplers refuse at the door, since it would be wrong in silence."""

from __future__ import annotations

import pytest
import torch

import funcebm as ebm
from funcebm import energies, graphs, losses, random, samplers


def test_blocks_of_another_shape_are_refused_in_words():
    lattice = energies.ising_torus((4, 4))
    sampler = samplers.gibbs(lattice, graphs.colouring(lattice.edges))
    with pytest.raises(ValueError, match=r"the shape of the sites, \(4, 4\)"):
        sampler.init(lattice.params(0.3), torch.ones(4, 4))


def test_a_jump_process_is_no_part_of_other_samplers():
    energy = energies.ising(graphs.grid(3))
    jumps = lambda energy, *beta: samplers.locally_balanced(energy, rejection_free=True)  # noqa: E731
    whole = jumps(energy)
    made = [
        lambda: samplers.cycle(whole, samplers.gibbs(energy)),
        lambda: samplers.mix(samplers.thin(whole, 2), samplers.gibbs(energy)),
        lambda: samplers.parallel_tempering(energy, jumps, [0.5, 1.0]),
        lambda: losses.contrastive_divergence(energy, jumps, 1),
        lambda: ebm.normalizers.annealed_importance_sampling(
            random.key(0),
            energy,
            energy.params(0.3),
            reference=energies.independent_sites(energy.space),
            reference_params=energies.independent_sites(energy.space).params(),
            num_particles=4,
            num_temperatures=2,
            sampler=jumps,
        ),
    ]
    for make in made:
        with pytest.raises(ValueError, match="rejection_free"):
            make()
