"""Annealing of discrete states, in both directions, with discrete samplers as they are: against known normalizers."""

from __future__ import annotations

import math

import pytest
import torch
from torch.func import vmap

from funcebm import energies, graphs, normalizers, random, samplers

from ..distributions import assert_mean

F64 = torch.float64
ROWS, COLUMNS = torch.arange(1, 7, dtype=F64)[:, None], torch.arange(1, 5, dtype=F64)
MACHINE = energies.rbm(6, 4)
WEIGHT = torch.sin(ROWS + 2 * COLUMNS)
MACHINE_PARAMS = MACHINE.params(WEIGHT, 0.1 * (ROWS[:, 0] - 3), 0.2 * (COLUMNS - 2))
LOG_Z = 7.794823383489

KERNELS = {
    "colours": lambda energy: samplers.gibbs(energy, MACHINE.blocks),
    "single sites": samplers.gibbs,
    "gibbs with gradients": lambda energy: samplers.gibbs_with_gradients(energy, MACHINE.joint_space),
    "discrete Langevin": lambda energy: samplers.discrete_langevin(energy, MACHINE.joint_space),
    "paths": lambda energy: samplers.path_auxiliary(energy, MACHINE.joint_space),
    "locally balanced": lambda energy: samplers.locally_balanced(energy, MACHINE.joint_space),
}


def _settings(energy, space, num_temperatures, sampler=None, **more):
    reference = energies.independent_sites(space)
    return {
        "reference": reference,
        "reference_params": reference.params(torch.full(space.shape, 0.5, dtype=F64)),
        "num_temperatures": num_temperatures,
        "sampler": sampler,
        **more,
    }


@pytest.mark.parametrize("kernel", KERNELS)
def test_weights_are_unbiased_both_ways(kernel):
    settings = _settings(MACHINE, MACHINE.joint_space, 5, KERNELS[kernel], jit=False)
    forwards = normalizers.annealed_importance_sampling(
        random.key(1), MACHINE.joint, MACHINE_PARAMS, num_particles=1500, **settings
    )
    key_visible, key_hidden = random.split(random.key(2))
    visible = MACHINE.sample(key_visible, MACHINE_PARAMS, 1500)
    chances = torch.sigmoid(vmap(MACHINE.hidden_logits, (None, 0))(MACHINE_PARAMS, visible))
    units = torch.cat([visible, random.bernoulli(key_hidden, chances).to(F64)], 1)
    backwards = normalizers.reverse_annealed_importance_sampling(
        random.key(3), MACHINE.joint, MACHINE_PARAMS, units, **settings
    )
    known = LOG_Z - 10 * math.log(2)  # the log weights leave out the normalizer of the reference
    assert_mean(torch.exp(forwards.log_weights - known), 1.0)
    assert_mean(torch.exp(backwards.log_weights + known), 1.0)
    for result in (forwards, backwards):
        assert abs(float(result.log_normalizer) - LOG_Z) < 5 * float(result.standard_error)


TORI = {  # of section 7: sides, coupling, log Z
    "3x3, hot": ((3, 3), 0.2, 6.6697446043),
    "3x3, critical": ((3, 3), 0.4406868, 9.0202134009),
    "3x4, cold": ((3, 4), 0.6, 15.2202504828),
    "4x4, hot": ((4, 4), 0.2, 11.7714703585),
    "4x4, critical": ((4, 4), 0.4406868, 15.5219154588),
    "4x4, cold": ((4, 4), 0.6, 20.0565328843),
    "8x8, critical": ((8, 8), math.log1p(math.sqrt(2)) / 2, 60.141781),
    "16x16, hot": ((16, 16), 0.2, 188.039888),
}
IN_SUITE = {"3x3, critical"}
rare = lambda name: pytest.param(name, marks=[] if name in IN_SUITE else [pytest.mark.slow])  # noqa: E731


@pytest.mark.parametrize("name", [rare(name) for name in TORI])
def test_normalizers_of_tori_by_annealing(name):
    shape, coupling, known = TORI[name]
    lattice = energies.ising_torus(shape)
    params = lattice.params(coupling=torch.tensor(coupling, dtype=F64))
    result = normalizers.annealed_importance_sampling(
        random.key(4),
        lattice,
        params,
        num_particles=400,
        **_settings(lattice, lattice.space, 40 if name in IN_SUITE else 1000, _by_blocks(lattice), jit=False),
    )
    assert float(result.standard_error) < 0.3
    assert abs(float(result.log_normalizer) - known) < 4 * float(result.standard_error)


def _by_blocks(model):
    return lambda energy: samplers.gibbs(energy, model.blocks, space=model.space)


@pytest.mark.slow
@pytest.mark.parametrize(("coupling", "known"), [(0.5, 13.5171439425), (math.log1p(math.sqrt(3)), 19.6889397318)])
def test_normalizers_of_potts_by_annealing(coupling, known):
    potts = energies.potts(graphs.torus((3, 3)), 3)
    params = potts.params(coupling=torch.tensor(coupling, dtype=F64))
    settings = _settings(potts, potts.space, 500, _by_blocks(potts), jit=False)
    reference = settings["reference"]
    settings["reference_params"] = reference.params(torch.full((9, 3), 1 / 3, dtype=F64))
    result = normalizers.annealed_importance_sampling(random.key(5), potts, params, num_particles=400, **settings)
    assert abs(float(result.log_normalizer) - known) < 4 * float(result.standard_error)


@pytest.mark.slow
@pytest.mark.compiled
def test_the_error_bar_of_a_machine_of_digits_size_is_calibrated_over_forty_runs():
    """A machine of 64 and 16 units: deviations from the exact log Z, in the standard errors that the runs give themselves."""
    machine = energies.rbm(64, 16)
    weight = 0.45 * random.normal(random.key(1), (64, 16), dtype=F64)
    params = machine.params(weight, -0.5, random.normal(random.key(2), 16, dtype=F64))
    exact = float(machine.log_normalizer(params))
    sampler = lambda energy: samplers.gibbs(energy, machine.blocks)  # noqa: E731
    settings = _settings(machine, machine.joint_space, 300, sampler, jit=True)
    deviations, errors = [], []
    for key in random.split(random.key(3), 40):
        result = normalizers.annealed_importance_sampling(key, machine.joint, params, num_particles=100, **settings)
        errors.append(float(result.standard_error))
        deviations.append((float(result.log_normalizer) - exact) / errors[-1])
    z = torch.tensor(deviations, dtype=F64)
    print(f"log Z {exact:.3f}, standard errors {min(errors):.3f} to {max(errors):.3f}")
    print(
        f"mean {float(z.mean()):.2f}, root mean square {float((z**2).mean().sqrt()):.2f}, largest {float(z.abs().max()):.2f}"
    )
    assert float(z.abs().max()) < 5
    assert abs(float(z.mean())) < 5 / math.sqrt(40)
    assert abs(float((z**2).mean()) - 1) < 5 * math.sqrt(2 / 40)
