"""One process may compile runs of any number of chains and of any number of energies, and lengths do not compile anew."""

from __future__ import annotations

import pytest
import torch

import funcebm as ebm
from funcebm import transforms

from .helpers import compiles_nothing, counted

pytestmark = pytest.mark.compiled


def _run(num_chains, num_samples=5, step_size=0.01, **options):
    sampler = ebm.samplers.langevin(ebm.energies.double_well, step_size=step_size)
    params, positions = ebm.energies.double_well.params(), torch.zeros(num_chains, 2)
    options = {"num_samples": num_samples, "jit": True, **options}
    return ebm.sample(ebm.random.key(0), sampler, params, positions, **options)


def test_numbers_of_chains_one_after_the_other():
    runs = [_run(num) for num in (24, 7, 16, 1)]
    for samples in runs[1:]:
        num = samples.draws.shape[0]
        torch.testing.assert_close(samples.draws, runs[0].draws[:num])


@pytest.mark.usefixtures("op_by_op")
def test_many_numbers_of_chains_share_few_programs():
    """Chains run in blocks of few sizes, powers of two; the ninth number of chains was an error once."""
    whole = _run(600, 2, jit=False)
    with counted() as counts:
        for num in range(1, 25):
            torch.testing.assert_close(_run(num, 2).draws, whole.draws[:num])
    assert counts.traces == 2 * len((1, 2, 4, 8, 16, 32))  # how it starts, and the loop
    for num in (64, 256):
        _run(num, 2)
    with compiles_nothing():
        for num in (*range(1, 25), 33, 65, 100, 257, 300, 577):
            torch.testing.assert_close(_run(num, 2).draws, whole.draws[:num])


@pytest.mark.usefixtures("op_by_op")
def test_twelve_energies_in_a_row_are_all_traced():
    def energy_of(power):
        return lambda params, x: params * (x.abs() ** power).sum()

    def run(power, **options):
        sampler = ebm.samplers.langevin(energy_of(power), step_size=0.01)
        options = {"num_samples": 2, "jit": True, **options}
        return ebm.sample(ebm.random.key(0), sampler, torch.tensor(0.1), torch.ones(3, 2), **options)

    with counted() as counts:
        runs = [run(power) for power in range(2, 14)]
    assert counts.traces == 2 * 12  # how it starts, and the loop
    with compiles_nothing():
        for power, samples in zip(range(2, 14), runs, strict=True):
            assert torch.equal(run(power).draws, samples.draws)
            torch.testing.assert_close(samples.draws, run(power, jit=False).draws)


def test_lengths_do_not_compile_anew():
    _run(5, 8, 0.02)
    with compiles_nothing():
        for num_samples in (5, 9, 13, 1):
            _run(5, num_samples, 0.02)
            _run(5, num_samples, 0.02, num_burn_in=3, thin=2)
            _run(5, num_samples, 0.02, chunk_size=2)


@pytest.mark.usefixtures("op_by_op")
def test_by_default_a_run_is_compiled_where_that_pays(monkeypatch):
    """By what is asked for: steps, of which one of HMC counts as four, one of NUTS as ten, one of training as three."""
    well, params = ebm.energies.double_well, ebm.energies.double_well.params()
    langevin, nuts = ebm.samplers.langevin(well, step_size=0.01), ebm.samplers.nuts(well, max_depth=1)
    hmc = ebm.samplers.hmc(well, step_size=0.1, num_leapfrog=10)
    key, starts, data = ebm.random.key(0), torch.zeros(2, 2), torch.ones(4, 2)
    monkeypatch.setattr(transforms, "_COMPILE_FROM", 60)
    loss, sgd = ebm.losses.denoising_score_matching(well, 0.1), ebm.optimizers.sgd(0.01)
    runs = {
        "langevin": (
            lambda n: ebm.sample(key, langevin, params, starts, num_samples=n // 3, thin=2, num_burn_in=n // 3),
            60,
        ),
        "nuts": (lambda n: ebm.sample(key, nuts, params, starts, num_samples=n), 6),
        "hmc": (lambda n: ebm.sample(key, hmc, params, starts, num_samples=n), 15),
        "warm-up": (lambda n: ebm.warm_up(key, langevin, params, starts, num_steps=n), 60),
        "training": (lambda n: ebm.fit(key, loss, params, data, optimizer=sgd, num_steps=n, batch_size=2), 20),
    }
    for name, (run, enough) in runs.items():
        with compiles_nothing():
            run(enough - 3)
        with counted() as counts:
            run(enough)
        assert counts.traces > 0, name
