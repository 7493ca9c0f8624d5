"""The likelihood of a flow as a loss: closed form of a stretch, unbiased probes, gradients, and what it learns."""

from __future__ import annotations

import math

import pytest
import torch
from tests.distributions import assert_mean
from torch.func import grad, vmap

import funcebm as ebm
from funcebm import flows, losses, random

DATA = 1.5 * random.normal(random.key(0), (200, 3), dtype=torch.float64) + 0.5
POINT = {"rate": torch.tensor(0.3).double(), "shift": torch.tensor([0.2, 0.0, -0.1]).double()}


def stretch(params, t, x):
    """From N(0, I) to N(shift (e^rate - 1) / rate, e^(2 rate) I)."""
    return params["rate"] * x + params["shift"]


def by_hand(params):
    scale = params["rate"].exp()
    mean = params["shift"] * (scale - 1) / params["rate"]
    return (((DATA - mean) / scale) ** 2).sum(1).mean() / 2 + 3 * (params["rate"] + math.log(2 * math.pi) / 2)


@pytest.mark.parametrize("divergence", ["exact", "discrete", "hutchinson"])
def test_value_and_gradient_are_those_of_the_closed_form(divergence):
    """The divergence of this field is the same along every probe of signs."""
    loss = losses.flow_likelihood(
        flows.flow(stretch, times=6, divergence=divergence), num_probes=2 * (divergence == "hutchinson")
    )
    noise = loss.draw(random.key(1), DATA)
    value = lambda params: loss.value(params, (), DATA, noise)[0]  # noqa: E731
    torch.testing.assert_close(value(POINT), by_hand(POINT), rtol=0, atol=1e-6)
    for name, slope in grad(by_hand)(POINT).items():
        torch.testing.assert_close(grad(value)(POINT)[name], slope, rtol=0, atol=1e-5)
    bits = loss.value(POINT, (), DATA, noise)[1].metrics["bits_per_number"]
    torch.testing.assert_close(bits, value(POINT) / (3 * math.log(2)), rtol=1e-12, atol=0)


def test_probes_estimate_the_exact_value_without_bias():
    field = lambda params, t, x: torch.tanh(params @ x)  # noqa: E731
    params = random.normal(random.key(2), (3, 3), dtype=torch.float64)
    exact = losses.flow_likelihood(flows.flow(field, times=4, divergence="exact"))
    probed = losses.flow_likelihood(flows.flow(field, times=4, divergence="hutchinson"), num_probes=1)
    run = lambda key: probed.value(params, (), DATA[:5], probed.draw(key, DATA[:5]))[0]  # noqa: E731
    assert_mean(vmap(run)(random.split(random.key(3), 1000)), exact.value(params, (), DATA[:5], ())[0])


def test_another_base_counts():
    """Draws of N(0, 4) under a flow that stands still."""
    still = flows.flow(lambda params, t, x: 0 * x, times=2)
    base = lambda x: -(x**2).sum() / 8 - 3 * (math.log(2) + math.log(2 * math.pi) / 2)  # noqa: E731
    value = losses.flow_likelihood(still, base).value((), (), DATA, ())[0]
    torch.testing.assert_close(value, -vmap(base)(DATA).mean(), rtol=1e-12, atol=0)


def test_learns_mean_and_spread():
    loss = losses.flow_likelihood(flows.flow(stretch, times=3, divergence="exact"))
    start = {"rate": torch.tensor(0.1).double(), "shift": torch.zeros(3).double()}
    options = {"optimizer": ebm.optimizers.adam(0.08), "num_steps": 70, "batch_size": 200, "jit": False}
    rate, shift = ebm.fit(random.key(4), loss, start, DATA, **options).params.values()
    spread = DATA.std(0, correction=0).square().mean().sqrt()
    torch.testing.assert_close(rate, spread.log(), rtol=0, atol=0.01)
    torch.testing.assert_close(shift * (rate.exp() - 1) / rate, DATA.mean(0), rtol=0, atol=0.02)


def test_probes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="num_probes must be"):
        losses.flow_likelihood(flows.flow(stretch), num_probes=-1)
    for divergence, num_probes in (("exact", 1), ("hutchinson", 0)):
        loss = losses.flow_likelihood(flows.flow(stretch, times=2, divergence=divergence), num_probes=num_probes)
        with pytest.raises(ValueError, match="hutchinson takes a probe"):
            loss(random.key(0), POINT, DATA)
