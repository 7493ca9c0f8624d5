"""Sliced score matching: the exact loss in expectation, on positions of any form, and the kinds of direction."""

from __future__ import annotations

import pytest
import torch
from tests import cases_losses as cases
from tests.distributions import assert_covariance, assert_mean

from funcebm import losses, random, tree
from funcebm.losses._probes import PROBES

EVENTS = {
    "vector": lambda: torch.tensor([0.3, -1.0, 0.8], dtype=torch.float64),
    "image": lambda: torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(2, 3, 2),
    "dict": lambda: {"a": torch.tensor([0.3, -1.0]).double(), "b": torch.tensor([[0.5], [1.0]]).double()},
}


def coupled(params, x):
    """A Hessian that is neither diagonal nor constant, and couples all numbers of all leaves."""
    total = sum((torch.arange(1, leaf.numel() + 1).to(leaf) * leaf.reshape(-1)).sum() for leaf in tree.leaves(x))
    return params * (torch.cos(total / 3) + tree.squared_norm(x) ** 2 / 20)


@pytest.mark.parametrize("kind", EVENTS)
@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("variance_reduction", [False, True])
def test_its_expectation_is_the_exact_loss(variance_reduction, probe, kind):
    x, k = tree.map(lambda leaf: leaf[None], EVENTS[kind]()), torch.tensor(0.8, dtype=torch.float64)
    exact, _ = losses.score_matching(coupled)(random.key(0), k, x)
    loss = losses.sliced_score_matching(coupled, variance_reduction=variance_reduction, probe=probe)
    many = tree.map(lambda leaf: leaf.expand(5000, *leaf.shape[1:]), x)
    noise = loss.draw(random.key(3), many)
    values = torch.func.vmap(lambda x, v: loss.value(k, (), x, v)[0])(
        tree.map(lambda leaf: leaf[:, None], many), tree.map(lambda leaf: leaf[:, None], noise)
    )
    assert values.std() > 0.05  # the estimate does vary: the test means something
    assert_mean(values, exact)


def test_with_variance_reduction_and_signs_it_is_hutchinsons():
    batch, k = cases.batch_of_dicts(torch.float64), torch.tensor(0.8, dtype=torch.float64)
    sliced = losses.sliced_score_matching(coupled, num_probes=3)
    hutchinson = losses.score_matching(coupled, "hutchinson", num_probes=3)
    torch.testing.assert_close(sliced(random.key(1), k, batch), hutchinson(random.key(1), k, batch))


@pytest.mark.parametrize("probe", ["rademacher", "sphere"])
def test_with_variance_reduction_an_isotropic_energy_leaves_no_variance(probe):
    x, k = random.normal(random.key(0), (1, 3), dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64)
    spread = []
    for reduced in (False, True):
        loss = losses.sliced_score_matching(lambda k, x: k * (x**2).sum() / 2, variance_reduction=reduced, probe=probe)
        values = torch.func.vmap(lambda key: loss(key, k, x)[0])(random.split(random.key(1), 500))  # noqa: B023
        spread.append(float(values.std()))
    assert spread[1] < 1e-12 and spread[0] > 0.1


@pytest.mark.parametrize("probe", PROBES)
def test_directions_have_the_identity_as_second_moment_over_all_leaves(probe):
    like = {"a": torch.zeros(4000, 2).double(), "b": torch.zeros(4000, 1, 2).double()}
    noise = losses.sliced_score_matching(coupled, probe=probe, num_probes=3).draw(random.key(2), like)
    assert noise["a"].shape == (4000, 3, 2) and noise["b"].shape == (4000, 3, 1, 2)
    rows = torch.cat([leaf[:, 1].reshape(4000, -1) for leaf in tree.leaves(noise)], 1)
    assert_covariance(rows, torch.eye(4))
    lengths = rows.square().sum(1)
    if probe == "normal":
        assert_mean(lengths**2, 4 * 4 + 2 * 4)
    else:
        torch.testing.assert_close(lengths, torch.full_like(lengths, 4.0))
    if probe == "rademacher":
        assert bool((rows.abs() == 1).all())


def test_bad_arguments_are_refused_at_the_door():
    with pytest.raises(ValueError, match=r"probe must be one of normal, rademacher, sphere\. Got gaussian"):
        losses.sliced_score_matching(coupled, probe="gaussian")
    with pytest.raises(ValueError, match="num_probes must be an integer of at least 1"):
        losses.sliced_score_matching(coupled, num_probes=0)
