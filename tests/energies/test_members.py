"""Energies of stacked members equal those of the same members one by one."""

from __future__ import annotations

import pytest
import torch

from funcebm import energies, fields, tree

NUMBERS = [{"k": torch.tensor(k), "m": torch.tensor(m)} for k, m in ((0.5, -1.0), (2.0, 0.3), (1.0, 1.5))]
STACKED = tree.stack(NUMBERS)
X = torch.tensor([0.4, -0.9])
LOGITS = torch.tensor([0.1, -0.7, 0.4])


def energy(params, x):
    return params["k"] * ((x - params["m"]) ** 2).sum() / 2


def _same(one, other, *params):
    torch.testing.assert_close(one(params[0], X), other(params[1], X))
    torch.testing.assert_close(fields.gradient(one)(params[0], X), fields.gradient(other)(params[1], X))


def test_product_is_the_product():
    _same(
        energies.product_of_members(energy, beta=1.0), energies.product(energy, energy, energy), STACKED, tuple(NUMBERS)
    )
    mean = energies.tempered(energies.product(energy, energy, energy), 1 / 3)
    _same(energies.product_of_members(energy), mean, STACKED, tuple(NUMBERS))


def test_mixture_is_the_mixture():
    other = energies.mixture(energy, energy, energy)
    params = {"logits": LOGITS, "components": tuple(NUMBERS)}
    _same(energies.mixture_of_members(energy, logits=LOGITS), other, STACKED, params)
    params["logits"] = torch.log(torch.ones(3) / 3)
    _same(energies.mixture_of_members(energy), other, STACKED, params)


def test_the_number_of_logits_is_checked():
    with pytest.raises(ValueError, match=r"one number for each member\. Got \(2,\) for 3 members"):
        energies.mixture_of_members(energy, logits=LOGITS[:2])(STACKED, X)
    with pytest.raises(ValueError, match="beta must be positive"):
        energies.product_of_members(energy, beta=0.0)
