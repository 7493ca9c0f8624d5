"""Guidance: identities, the closed form on Gaussians, one batched call."""

from __future__ import annotations

import pytest
import torch
from torch.func import vmap

import funcebm as ebm
from funcebm import flows, paths, random

from .gaussians import linear_velocity

TRUE, FALSE = torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
STARTS = torch.tensor([[-1.0], [0.5], [2.0]], dtype=torch.float64)


def _conditional(params, t, x, label):
    """N(1, .3^2) given the condition 1, N(0, 1) given the condition 0."""
    return linear_velocity((label, 1 - 0.7 * label), t, x)


def _ends(field, scale_labels=TRUE):
    labels = scale_labels.expand(len(STARTS))
    return flows.integrate(field, (), STARTS, conditions=labels, rtol=1e-9, atol=1e-9, jit=False).value


@pytest.mark.parametrize(("scale", "mean"), [(2.0, 1.17679), (3.0, 1.18000)])
def test_closed_form_on_gaussians(scale, mean):
    """The guided flow ends with the standard deviation .3^g, and not with that of the tilted product."""
    ends = _ends(flows.guided(_conditional, FALSE, scale))
    slope, middle = (ends[2] - ends[0]) / 3, ends[1] - (ends[2] - ends[0]) / 6
    assert abs(float(slope) - 0.3**scale) < 1e-6
    assert abs(float(middle) - mean) < 1e-4


def test_identities():
    torch.testing.assert_close(_ends(flows.guided(_conditional, FALSE, 1.0)), 1 + 0.3 * STARTS, rtol=0, atol=1e-6)
    torch.testing.assert_close(_ends(flows.guided(_conditional, FALSE, 0.0)), STARTS, rtol=0, atol=1e-6)
    # a null condition and a null field are the same thing
    null = lambda params, t, x: _conditional(params, t, x, FALSE)  # noqa: E731
    t, x = torch.tensor(0.4, dtype=torch.float64), STARTS[2]
    for options in ({}, {"interval": (0.2, 0.6)}, {"rescale": 0.7}, {"interval": (0.5, 0.6), "rescale": 0.7}):
        one, two = (flows.guided(_conditional, kind, 3.0, **options)((), t, x, TRUE) for kind in (FALSE, null))
        assert torch.equal(one, two)
    outside = flows.guided(_conditional, FALSE, 3.0, interval=(0.5, 0.6))((), t, x, TRUE)
    assert torch.equal(outside, _conditional((), t, x, TRUE))


def test_rescale_gives_the_deviation_of_the_conditional_field():
    t, x = torch.tensor(0.3, dtype=torch.float64), torch.linspace(-1, 2, 5, dtype=torch.float64)
    plain = flows.guided(_conditional, FALSE, 4.0)((), t, x, TRUE)
    full = flows.guided(_conditional, FALSE, 4.0, rescale=1.0)((), t, x, TRUE)
    half = flows.guided(_conditional, FALSE, 4.0, rescale=0.5)((), t, x, TRUE)
    torch.testing.assert_close(full.std(), _conditional((), t, x, TRUE).std())
    torch.testing.assert_close(half, (plain + full) / 2)


def test_both_parts_are_one_call():
    calls = []

    def counted(params, t, x, label):
        calls.append(1)
        return _conditional(params, t, x, label)

    flows.guided(counted, FALSE, 2.0)((), FALSE, STARTS[0], TRUE)
    assert len(calls) == 1


def test_vmap_over_scales():
    scales = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)

    def end(scale):
        field = flows.guided(_conditional, FALSE, scale)
        along = lambda params, t, x: field(params, t, x, TRUE)  # noqa: E731
        return ebm.solvers.solve(
            ebm.solvers.rk4(), along, (), STARTS[0], torch.linspace(0, 1, 65, dtype=torch.float64)
        ).value

    ends = vmap(end)(scales)
    torch.testing.assert_close(ends[:2, 0], torch.stack([STARTS[0, 0], 1 + 0.3 * STARTS[0, 0]]), rtol=0, atol=1e-5)


def test_energy_guidance_is_conditioning():
    """With the exact energy of y given a noisy position, guidance at scale 1 carries to the posterior."""
    path, noise, y = paths.linear(), 0.5, 1.5
    prior = (torch.zeros(1, dtype=torch.float64), torch.ones((), dtype=torch.float64))

    def energy(params, t, x):
        """x_1 given x_t is N(t x / v, (1 - t)^2 / v) with v = t^2 + (1 - t)^2; y = x_1 + noise."""
        variance = t**2 + (1 - t) ** 2
        mean, spread = t * x / variance, (1 - t) ** 2 / variance + noise**2
        return ((y - mean) ** 2).sum() / (2 * spread)

    field = flows.energy_guided(linear_velocity, energy, path)
    ends = flows.integrate(field, prior, STARTS, rtol=1e-8, atol=1e-8, jit=False).value
    posterior = 1 / (1 + 1 / noise**2)
    torch.testing.assert_close(ends, posterior * y / noise**2 + posterior**0.5 * STARTS, rtol=0, atol=1e-4)


def test_energy_of_predicted_data():
    """By hand: the gradient goes through the prediction of the data."""
    path, t, x = paths.linear(), torch.tensor(0.4, dtype=torch.float64), STARTS[2]
    prior = (torch.zeros(1, dtype=torch.float64), torch.ones((), dtype=torch.float64))
    field = flows.energy_guided(linear_velocity, lambda params, t, x: (x**2).sum() / 2, path, 2.0, of="data")
    share = t / (t**2 + (1 - t) ** 2)  # of x in the data
    expected = linear_velocity(prior, t, x) - 2.0 * (1 - t) / t * share**2 * x
    torch.testing.assert_close(field(prior, t, x), expected)
    start = field(prior, FALSE, x)
    torch.testing.assert_close(start, linear_velocity(prior, FALSE, x))


def test_bad_input():
    with pytest.raises(ValueError, match="needs a null condition"):
        flows.guided(_conditional, (), 2.0)
    with pytest.raises(ValueError, match="takes one condition"):
        flows.guided(_conditional, FALSE, 2.0)((), FALSE, STARTS[0])
    with pytest.raises(TypeError, match="field must be"):
        flows.guided(1.0, FALSE, 2.0)
    with pytest.raises(ValueError, match="of must be"):
        flows.energy_guided(linear_velocity, lambda params, t, x: 0.0, paths.linear(), of="noise")


@pytest.mark.compiled
def test_compiled_is_eager():
    field = flows.guided(_conditional, FALSE, torch.tensor(2.0, dtype=torch.float64), interval=(0.1, 0.9), rescale=0.3)
    labels = TRUE.expand(3)
    starts = random.normal(random.key(0), (3, 4), dtype=torch.float64)
    runs = [
        flows.integrate(field, (), starts, conditions=labels, solver=ebm.solvers.heun(), num_steps=6, jit=jit).value
        for jit in (False, True)
    ]
    torch.testing.assert_close(runs[0], runs[1], rtol=0, atol=1e-12)
