"""E-BFMI: its closed forms for series of energies and for Hamiltonian chains."""

import math
from typing import Any, NamedTuple

import pytest
import torch
from tests.diagnostics.series import autoregressive

from funcebm import random
from funcebm.diagnostics import ebfmi


class Samples(NamedTuple):
    draws: Any
    info: Any


class Info(NamedTuple):
    energy: Any
    total_energy: Any


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.95])
def test_an_autoregression_of_energies_has_its_closed_form(rho):
    """E (H_i - H_{i-1})^2 / var H = 2 (1 - rho)."""
    found = ebfmi(autoregressive(random.key(0), (200, 5000), rho))
    error = found.std() / math.sqrt(200)
    assert abs(found.mean() - 2 * (1 - rho)) < 5 * error + 0.005


@pytest.mark.parametrize("spread", [0.5, 1.0, 3.0])
def test_fresh_momenta_over_slow_potentials_have_their_closed_form(spread):
    """H = U + K with K fresh, of variance D / 2, and U an autoregression of ``spread`` times its sd."""
    size, num, rho = 20, 4000, 0.95
    kinetic = 0.5 * random.normal(random.key(1), (50, num, size), dtype=torch.float64).square().sum(2)
    potential = spread * math.sqrt(size / 2) * autoregressive(random.key(4), (50, num), rho)
    expected = 2 * (1 + (1 - rho) * spread**2) / (1 + spread**2)
    assert abs(ebfmi(kinetic + potential).mean() - expected) < 0.05 * expected  # the variance lacks tau / N = 1 %


def test_shift_and_scale_change_nothing_and_chains_stand_alone():
    energies = autoregressive(random.key(5), (3, 100), 0.5)
    torch.testing.assert_close(ebfmi(1e6 + 7 * energies), ebfmi(energies), rtol=1e-6, atol=0)
    torch.testing.assert_close(ebfmi(energies)[1:2], ebfmi(energies[1:2]))
    bad = energies.clone()
    bad[1, 3] = math.nan
    bad[2] = 1.0
    assert ebfmi(bad).isnan().tolist() == [False, True, True]


def test_samples_need_the_total_energy():
    energies = autoregressive(random.key(6), (3, 100), 0.5)
    torch.testing.assert_close(ebfmi(Samples(torch.zeros(3, 100, 2), Info(None, energies))), ebfmi(energies))
    with pytest.raises(ValueError, match=r"must have the field total_energy. Got the info Info. Sample with nuts"):
        ebfmi(Samples(torch.zeros(3, 100, 2), Info(energies, None)))


def test_energies_are_chains_by_draws():
    with pytest.raises(ValueError, match=r"energies must be one tensor of shape \(C, N\). Got the shape \(2, 10, 3\)"):
        ebfmi(torch.zeros(2, 10, 3))
    with pytest.raises(ValueError, match="at least 4 draws"):
        ebfmi(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"draws\[None\]"):
        ebfmi(torch.zeros(10))
