"""``jit(vmap(...))`` over compiled loops: many models in one call."""

import pytest
import torch
from torch.func import vmap

import funcebm as ebm
from funcebm import energies, loops, random, samplers, tree

pytestmark = pytest.mark.compiled


def test_scan_maps_a_carry_that_starts_unmapped():
    xs = random.normal(random.key(0), (20, 1, 3))

    def run(slope):
        def body(carry, x):
            position, velocity = carry  # the velocity is mapped after one step, the position after two
            new = (position + velocity, velocity - slope * position + x)
            return new, new[0].sum()

        return loops.scan(body, (torch.ones(1, 3), torch.zeros(1, 3)), xs)

    slopes = torch.linspace(0.1, 0.5, 5)
    (position, velocity), sums = ebm.jit(vmap(run))(slopes)
    for i, slope in enumerate(slopes):
        (own_position, own_velocity), own_sums = run(slope)
        torch.testing.assert_close(position[i], own_position)
        torch.testing.assert_close(velocity[i], own_velocity)
        torch.testing.assert_close(sums[i], own_sums)


@pytest.mark.parametrize("dim", [1, 2])
def test_chains_of_many_models_are_those_of_each(dim):
    sampler = samplers.mala(energies.double_well, step_size=0.05)
    stacked = vmap(energies.double_well.params)(torch.linspace(0.5, 3.0, 4))
    key, start = random.key(1), torch.full((3, dim), -1.0)

    def draws(params):
        return ebm.sample(key, sampler, params, start, num_samples=12, jit=False).draws

    together = ebm.jit(vmap(draws))(stacked)
    assert together.shape == (4, 3, 12, dim)
    for i in range(4):
        one = draws({name: leaf[i] for name, leaf in stacked.items()})
        torch.testing.assert_close(together[i], one, rtol=1e-4, atol=1e-4)


def test_what_a_loop_in_a_mapped_loop_closes_over_stays_as_it_is():
    network, params = energies.mlp(random.key(3), 8, (32, 32))

    def draws(centre, key):
        def energy(params, x):
            return ((x - centre) ** 2).sum() + (x**2).sum() / 2 - network(params, x)

        sampler = samplers.hmc(energy, step_size=0.3, num_leapfrog=3)
        return ebm.sample(key, sampler, params, torch.zeros(4, 8), num_samples=3, jit=False).draws

    arguments = random.normal(random.key(0), (3, 8)), random.split(random.key(1), 3)
    torch.testing.assert_close(ebm.jit(vmap(draws))(*arguments), vmap(draws)(*arguments), rtol=1e-4, atol=1e-4)


def test_scans_in_scans_with_products_and_sums_are_those_of_python():
    def function(matrix, x):
        def inner(x, _):
            y = torch.tanh(x @ matrix)
            return x + torch.softmax(y, -1) * y.sum(-1, keepdim=True), y.sum()

        def outer(x, _):
            x, sums = loops.scan(inner, x, torch.zeros(3))
            return torch.cos(x @ matrix) / (1 + x.square().sum(-1, keepdim=True)), (sums, x)

        return loops.scan(outer, x, torch.zeros(4))

    matrix, x = random.normal(random.key(0), (8, 8)), random.normal(random.key(1), (3, 5, 8))
    got, expected = ebm.jit(vmap(function, (None, 0)))(matrix, x), vmap(function, (None, 0))(matrix, x)
    for a, b in zip(tree.leaves(got), tree.leaves(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
