"""Samplers whose state ranks share: ladders of temperatures, and particles that see each other."""

from __future__ import annotations

import time

import torch

import funcebm as ebm
from funcebm import distributed, random, samplers
from tests.ranks.work.common import KEY


def two_modes(params, x):
    return (x.abs() - params).square().sum()


def gaussian(params, x):
    return (x**2).sum() / 50


def tempering(mesh, kind="hmc", num_samples=30, has_reference=False, jit=False):
    """The draws of the target, what swapped, and the bytes that a scan sends."""
    ladder = [0.05, 0.1, 0.25, 0.5, 0.7, 1.0]

    def local(energy, beta):
        if kind == "hmc":
            return samplers.hmc(energy, step_size=0.3 / max(beta, 0.05) ** 0.5, num_leapfrog=3)
        return samplers.random_walk(energy, step_size=1 / max(beta, 0.05) ** 0.5)

    reference = gaussian if has_reference else None
    sampler = samplers.parallel_tempering(two_modes, local, ladder, reference=reference, mesh=mesh)
    positions, params = random.normal(random.key(1), (4, 2)), torch.tensor(3.0)
    before = distributed.num_bytes_sent()
    samples = ebm.sample(KEY, sampler, params, positions, num_samples=num_samples, jit=jit)
    sent = (distributed.num_bytes_sent() - before) / num_samples
    info = samples.info
    return samplers.target_draws(samples, mesh), info.replica, info.energy, info.swap_rate, info.num_gradients, sent


def ladder_of_other_keys(mesh):
    """Ranks that were given keys of their own."""
    sampler = samplers.parallel_tempering(two_modes, lambda energy, beta: samplers.mala(energy), [0.1, 1.0], mesh=mesh)
    samples = ebm.sample(random.key(mesh.rank), sampler, torch.tensor(3.0), torch.ones(4, 2), num_samples=3, jit=False)
    return bool(samples.info.is_divergent.all()), bool(samples.info.energy.isnan().all())


def ladder_refused(mesh, what):
    ladder = [0.1, 0.5, 1.0] if what == "rungs" else [0.1, 1.0]
    make = samplers.ghmc if what == "momentum" else samplers.mala
    try:
        sampler = samplers.parallel_tempering(two_modes, lambda energy, beta: make(energy), ladder, mesh=mesh)
        ebm.sample(KEY, sampler, torch.tensor(3.0), torch.ones(4, 2), num_samples=1, jit=False)
    except ValueError as error:
        return str(error)
    return ""


def stein(mesh, num_particles, bandwidth=None):
    sampler = samplers.svgd(two_modes, step_size=0.3, bandwidth=bandwidth, mesh=mesh)
    starts = random.normal(random.key(1), (2, num_particles, 3), dtype=torch.float64)
    params = torch.tensor(1.0, dtype=torch.float64)
    samples = ebm.sample(KEY, sampler, params, starts, num_samples=10, jit=False)
    return samples.draws, samples.info.energy


def normalizer(mesh, which, num_particles=24):
    """The estimate, its error bar, the weights, the rates, and all particles."""
    import funcebm.energies as energies

    params = torch.tensor(4.0, dtype=torch.float64)
    reference_params = energies.gaussian.params(torch.zeros(2, dtype=torch.float64))
    options = {"reference": energies.gaussian, "reference_params": reference_params, "jit": False, "mesh": mesh}
    if which == "forwards":
        options |= {"num_particles": num_particles, "num_temperatures": 12}
        found = ebm.normalizers.annealed_importance_sampling(KEY, wide, params, **options)
    elif which == "reverse":
        starts = random.normal(random.key(2), (num_particles, 2), dtype=torch.float64) / 2
        options |= {"num_temperatures": 12}
        found = ebm.normalizers.reverse_annealed_importance_sampling(KEY, wide, params, starts, **options)
    else:
        options |= {"num_particles": num_particles, "num_groups": 4, "num_moves": 3}
        return ebm.normalizers.sequential_monte_carlo(KEY, wide, params, **options)[:7]
    return (*found[:4], mesh.gather(found.positions), found.acceptance_rate)


def wide(params, x):
    return params * (x**2).sum() / 2 + torch.cos(x).sum() / 10


def others_refused(mesh, what):
    """What ranks that were given other params say, and how long it takes."""
    params, start = torch.tensor(4.0 + mesh.rank), time.monotonic()
    reference = ebm.energies.gaussian
    options = {"reference": reference, "reference_params": reference.params(torch.zeros(2)), "jit": False, "mesh": mesh}
    try:
        if what == "smc":
            ebm.normalizers.sequential_monte_carlo(KEY, wide, params, num_particles=24, num_groups=4, **options)
        elif what == "number":
            num = 24 if mesh.rank else 23
            ebm.normalizers.sequential_monte_carlo(KEY, wide, params, num_particles=num, num_groups=4, **options)
        elif what == "annealing":
            ebm.normalizers.annealed_importance_sampling(
                KEY, wide, params, num_particles=24, num_temperatures=5, **options
            )
        elif what == "rung count":
            local = lambda energy, beta: samplers.mala(energy)  # noqa: E731
            ladder = [0.1, 0.3, 0.6, 1.0] if mesh.rank else [0.3, 0.1, 0.6, 1.0]
            sampler = samplers.parallel_tempering(two_modes, local, ladder, mesh=distributed.mesh())
            ebm.sample(KEY, sampler, torch.tensor(4.0), torch.ones(4, 2), num_samples=3, jit=False)
        elif what.startswith("scalar"):
            given = {"num_particles": 24, "num_temperatures": 5}
            key, wrong = KEY, {}
            if mesh.rank == 1:
                wrong = {"scalar count": {"num_particles": 1}, "scalar steps": {"num_temperatures": 0}}.get(what, {})
            if what == "scalar key":
                key = random.key(mesh.rank)
            args = (key, wide, torch.tensor(4.0))
            ebm.normalizers.annealed_importance_sampling(*args, **{**given, **wrong}, **options)
        else:
            is_compiled = what.startswith("compiled ")
            what = what.removeprefix("compiled ")
            if what.endswith(" positions"):
                params = torch.tensor(4.0)
            local = (lambda energy, beta: samplers.mala(energy), [0.1, 0.3, 0.6, 1.0])
            is_ladder = what.startswith("ladder")
            sampler = (
                samplers.parallel_tempering(two_modes, *local, mesh=mesh)
                if is_ladder
                else samplers.svgd(wide, mesh=mesh)
            )
            starts = torch.ones(4, 2) if is_ladder else torch.ones(1, 4, 2)
            if what.endswith(" positions"):
                starts = starts + mesh.rank
            ebm.sample(KEY, sampler, params, starts, num_samples=3, jit=is_compiled)
    except (ValueError, distributed.RankError) as error:
        return str(error), time.monotonic() - start
    return "", 0.0
