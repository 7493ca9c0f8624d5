"""Score matching by finite differences: the order at which it tends to the sliced loss, and its rounding."""

from __future__ import annotations

import math

import pytest
import torch
from tests import cases_losses as cases

from funcebm import losses, random


def smooth(params, x):
    return params * (torch.cos(x.sum()) + (x**4).sum() / 4) + x.square().sum() / 2


def _sides(dtype, step_size, seed=0):
    """Values and gradients of the finite-difference loss and of the sliced one, with the same directions."""
    data = random.normal(random.key(seed), (64, 3), dtype=torch.float64).to(dtype)
    k = torch.tensor(0.8, dtype=dtype)
    approximate = losses.finite_difference_score_matching(smooth, step_size=step_size)
    exact = losses.sliced_score_matching(smooth, variance_reduction=False)
    noise = approximate.draw(random.key(1), data)
    pairs = []
    for loss in (approximate, exact):
        slope, value = torch.func.grad_and_value(lambda k: loss.value(k, (), data, noise)[0])(k)  # noqa: B023
        pairs.append(torch.stack([value, slope]))
    return pairs


def test_the_error_is_of_second_order():
    steps = [0.2, 0.1, 0.05, 0.025]
    errors = torch.stack([(a - b).abs() for a, b in (_sides(torch.float64, step) for step in steps)])
    orders = (errors[:-1] / errors[1:]).log2()
    assert (orders[-1] - 2).abs().max() < 0.05, orders


def test_it_is_exact_on_a_quadratic_of_any_step():
    batch, params = cases.batch_of_dicts(torch.float64), torch.tensor(1.3, dtype=torch.float64)

    def quadratic(params, x):
        return params * (x["a"].sum() ** 2 + (x["b"] ** 2).sum() + x["a"][0] * x["b"][0, 1]) + x["a"][1]

    for step_size in (0.01, 3.0):
        loss = losses.finite_difference_score_matching(quadratic, step_size=step_size, num_probes=2, probe="normal")
        sliced = losses.sliced_score_matching(quadratic, variance_reduction=False, num_probes=2, probe="normal")
        noise = loss.draw(random.key(2), batch)
        torch.testing.assert_close(loss.value(params, (), batch, noise), sliced.value(params, (), batch, noise))


@pytest.mark.parametrize(("dtype", "unit"), [(torch.float32, 2**-24), (torch.float64, 2**-53)])
def test_rounding_is_what_the_docstring_says(dtype, unit):
    # steps so small that truncation does not matter; 4 u |E| / step^2 is for one example, and signs vary over 64 of them
    step = 0.01 if dtype == torch.float32 else 1e-4
    value = _sides(dtype, step)[0][0].double()
    exact = _sides(torch.float64, step)[1][0]
    data = random.normal(random.key(0), (64, 3), dtype=torch.float64)
    size = torch.func.vmap(smooth, (None, 0))(torch.tensor(0.8).double(), data).abs().mean()
    assert abs(value - exact) < 4 * unit * size / step**2 + 10 * step**2
    assert abs(value - exact) > 4 * unit * size / step**2 / math.sqrt(64) / 100  # and there is such a floor


def test_no_derivative_in_x_is_taken():
    """A function that forbids derivatives in x (a step of zero slope) still gives the curvature that values show."""

    def tabulated(params, x):
        return params * (x.detach() ** 2).sum() / 2

    loss = losses.finite_difference_score_matching(tabulated)
    value, _ = loss(random.key(0), torch.tensor(1.0).double(), torch.zeros(4, 2).double())
    torch.testing.assert_close(value, torch.tensor(-2.0).double())


def test_bad_arguments_are_refused_at_the_door():
    with pytest.raises(ValueError, match="step_size must be positive"):
        losses.finite_difference_score_matching(smooth, step_size=0.0)
    with pytest.raises(ValueError, match="probe must be one of"):
        losses.finite_difference_score_matching(smooth, probe="signs")
