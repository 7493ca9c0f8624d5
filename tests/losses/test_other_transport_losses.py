"""Equilibrium, action, energy and bridge matching, and recovery likelihood, against closed forms and quadrature."""

from __future__ import annotations

import math

import pytest
import torch
from tests.distributions import SIGMAS, assert_covariance, assert_mean, repeated, slopes_of
from torch.func import vmap

from funcebm import couplings, fields, losses, paths, random
from funcebm.losses import TransportBatch
from funcebm.paths import exact

NUM = 400


def normal_data(scale, size=1, mean=0.0):
    return lambda key: mean + scale * random.normal(key, (NUM, size), dtype=torch.float64)


def assert_not_zero(draws):
    assert (draws.mean(0).abs() > SIGMAS * draws.std(0) / math.sqrt(len(draws))).all()


# -- equilibrium matching ---------------------------------------------------------------------------------------------

TIMES = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000


def pull(squared, scale, size, weight, times=TIMES):
    """k, of the gradient k(|x|) x that equilibrium matching has on N(0, scale^2) data: a quadrature over t."""
    variance = (1 - times) ** 2 + times**2 * scale**2
    weights = torch.softmax(-size / 2 * torch.log(variance) - squared / (2 * variance), 0)
    return (weights * weight(times) * ((1 - times) - times * scale**2) / variance).sum()


@pytest.mark.parametrize(
    ("scale", "size", "value"), [(0.5, 1, 2.677), (1.0, 1, 0.337), (1.2, 1, -0.269), (0.5, 2, 2.315), (0.5, 10, 0.908)]
)
def test_at_the_mean_of_normal_data_equilibrium_matching_pulls_as_published(scale, size, value):
    found = pull(torch.tensor(0.0).double(), scale, size, losses.truncated_weight())
    torch.testing.assert_close(found, torch.tensor(value).double(), rtol=0, atol=6e-4)


@pytest.mark.parametrize(
    "weight",
    [losses.truncated_weight(), losses.linear_weight(), losses.piecewise_weight(0.6, 2.0), losses.constant_weight()],
    ids=["truncated", "linear", "piecewise", "constant"],
)
def test_its_minimiser_is_that_of_quadrature(weight):
    scale = 0.5

    def gradient(params, x):
        return (pull(x.square().sum(), scale, 1, weight, TIMES[5::10]) + params[0]) * x + params[1]

    loss = losses.equilibrium_matching(gradient, weight, form="gradient")
    assert_mean(slopes_of(loss, torch.zeros(2).double(), normal_data(scale), 30), 0.0)
    assert_not_zero(slopes_of(loss, torch.ones(2).double(), normal_data(scale), 30))


def test_an_energy_and_its_gradient_are_one_loss():
    energy = losses.product_energy(lambda params, x: params * torch.tanh(x))
    data, params = normal_data(0.5, 2)(random.key(0)), torch.tensor(1.3).double()
    loss = losses.equilibrium_matching(energy)
    same = losses.equilibrium_matching(fields.gradient(energy), form="gradient")
    noise = loss.draw(random.key(1), data)
    torch.testing.assert_close(loss.value(params, (), data, noise)[0], same.value(params, (), data, noise)[0])
    squared = losses.negative_norm_energy(lambda params, x: params * x)
    torch.testing.assert_close(fields.gradient(squared)(params, data[0]), -(params**2) * data[0])


def test_with_the_constant_weight_it_is_flow_matching_with_the_sign_turned():
    data = normal_data(0.5, 2)(random.key(0))
    gradient = lambda params, x: params * torch.sin(x)  # noqa: E731
    loss = losses.equilibrium_matching(gradient, losses.constant_weight(), form="gradient")
    flow = losses.flow_matching(paths.static(lambda params, x: -gradient(params, x)))
    noise, params = loss.draw(random.key(1), data), torch.tensor(0.7).double()
    torch.testing.assert_close(loss.value(params, (), data, noise)[0], flow.value(params, (), data, noise)[0])


# -- action matching --------------------------------------------------------------------------------------------------


def _gaussian_potential(params, t, x, mean=2.0, variance=0.25):
    """phi of the linear path from N(0, 1) to N(2, 1/4), and a perturbation."""
    spread = (1 - t) ** 2 + t**2 * variance
    slope = (t * variance - (1 - t)) / spread
    exact_one = mean * x + slope * (x - t * mean) ** 2 / 2
    return (exact_one + params[0] * torch.sin(x) + params[1] * t * x**2).sum()


def test_action_matching_has_the_velocity_of_the_path_and_minus_half_its_energy():
    """The path energy of N(0, 1) to N(2, 1/4) is 4.464602."""
    loss = losses.action_matching(_gaussian_potential)
    zero = torch.zeros(2).double()
    assert_mean(slopes_of(loss, zero, normal_data(0.5, 1, 2.0), 100), 0.0)
    assert_not_zero(slopes_of(loss, zero + 0.5, normal_data(0.5, 1, 2.0), 100))
    values = repeated(loss, zero, normal_data(0.5, 1, 2.0), 100)
    assert_mean(values, -4.464602 / 2)
    metric = repeated(
        loss, zero, normal_data(0.5, 1, 2.0), 50, lambda k, b: loss(k, zero, b)[1].metrics["kinetic_energy"]
    )
    assert_mean(metric, 4.464602)


# -- energy matching --------------------------------------------------------------------------------------------------


def quadratic(params, x):
    return params * (x**2).sum() / 2


def test_the_first_phase_is_flow_matching_of_the_force():
    data, params = normal_data(0.5, 2)(random.key(0))[:32], torch.tensor(0.7).double()
    loss = losses.energy_matching(quadratic, noise_scale=0.0)
    flow = losses.flow_matching(paths.static(fields.force(quadratic)), coupling=couplings.optimal_transport())
    noise = loss.draw(random.key(1), data)
    torch.testing.assert_close(
        loss.value(params, (), data, noise)[0], flow.value(params, (), data, noise.flow._replace(latent=()))[0]
    )


def test_in_the_second_phase_a_potential_that_is_temperature_times_energy_is_fixed():
    """Data N(0, s^2), V = eps x^2 / (2 s^2), negatives from data: but for the step the gap is zero, and else is not."""
    scale, temperature, h, num_steps = 0.5, 0.15, 0.02, 50
    loss = losses.energy_matching(
        quadratic,
        contrastive_weight=1.0,
        temperature=temperature,
        step_size=h,
        num_steps=num_steps,
        noise_fraction=0.0,
        coupling=couplings.independent(),
    )
    stiffness = temperature / scale**2
    decay = (1 - h * stiffness) ** (2 * num_steps)
    for factor in (1.0, 2.0):
        k = factor * stiffness
        decay = (1 - h * k) ** (2 * num_steps)
        limit = 2 * temperature * h / (1 - (1 - h * k) ** 2)  # the variance of the chain in the long run
        expected = k / 2 * (decay * scale**2 + (1 - decay) * limit - scale**2)
        params = torch.tensor(k).double()
        gaps = repeated(
            loss,
            params,
            normal_data(scale),
            30,
            lambda key, batch: loss(key, params, batch)[1].metrics["energy_gap"],  # noqa: B023
        )
        assert_mean(gaps, expected)
        assert (abs(expected) < 1e-3) == (factor == 1.0)


def test_negatives_from_noise_descend_without_noise_until_the_threshold():
    data, params = normal_data(0.5, 2)(random.key(0))[:10], torch.tensor(1.5).double()
    loss = losses.energy_matching(
        quadratic, contrastive_weight=1.0, num_steps=8, step_size=0.1, threshold=0.8, noise_fraction=0.5
    )
    noise = loss.draw(random.key(1), data)
    prepared = loss.prepare(params, (), data, noise)
    torch.testing.assert_close(prepared.negatives[:5], noise.start * (1 - 0.15) ** 8)
    assert (prepared.negatives[5:] - data[5:] * (1 - 0.15) ** 8).abs().min() > 1e-4
    longer = losses.energy_matching(quadratic, contrastive_weight=1.0, num_steps=12, step_size=0.1)
    noise = longer.draw(random.key(1), data)
    x = noise.start
    for index in range(12):
        heat = 0.15 * min(max((index * 0.1 - 0.8) / 0.2, 0.0), 1.0)
        x = x - 0.1 * 1.5 * x + math.sqrt(2 * heat * 0.1) * noise.chain[index, :5]
    torch.testing.assert_close(longer.prepare(params, (), data, noise).negatives[:5], x)


# -- bridge matching --------------------------------------------------------------------------------------------------

ENDS = {
    "start": exact.gaussian_params(torch.tensor([-0.5]).double(), 1.0),
    "end": exact.gaussian_params(torch.tensor([0.8]).double(), 0.4),
}
SCALE = 0.8
BRIDGE = exact.schrodinger_bridge(SCALE)


def pairs_of_the_bridge(key, num=NUM):
    cross = BRIDGE.cross_covariance(ENDS)[0, 0]
    joint = torch.stack([torch.stack([torch.tensor(1.0).double(), cross]), torch.stack([cross, torch.tensor(0.4)])])
    mean = torch.cat([ENDS["start"]["mean"], ENDS["end"]["mean"]])
    rows = exact.sample(key, exact.gaussian_params(mean, joint), num)
    return TransportBatch(rows[:, 1:], source=rows[:, :1])


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_on_pairs_of_the_schroedinger_bridge_its_drift_is_the_minimiser(direction):
    drift = BRIDGE.drift if direction == "forward" else BRIDGE.backward_drift

    def field(params, t, x):
        return drift(ENDS, t, x) + params[0] + params[1] * x

    loss = losses.bridge_matching(field, SCALE, direction, time=losses.uniform_times(0.05, 0.95))
    assert_mean(slopes_of(loss, torch.zeros(2).double(), pairs_of_the_bridge), 0.0)
    assert_not_zero(slopes_of(loss, torch.ones(2).double(), pairs_of_the_bridge))


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_simulated_ends_have_the_coupling_of_the_bridge(direction):
    key_start, key_noise = random.split(random.key(3))
    is_forward = direction == "forward"
    drift = BRIDGE.drift if is_forward else BRIDGE.backward_drift
    start = exact.sample(key_start, ENDS["start" if is_forward else "end"], 20_000)
    ends = losses.simulate_bridge(
        key_noise, lambda params, t, x: drift(ENDS, t, x), (), start, SCALE, direction, num_steps=60
    )
    x0, x1 = (start, ends) if is_forward else (ends, start)
    cross = BRIDGE.cross_covariance(ENDS)[0, 0]
    expected = torch.stack([torch.stack([torch.tensor(1.0).double(), cross]), torch.stack([cross, torch.tensor(0.4)])])
    assert_covariance(torch.cat([x0, x1], 1), expected, bias=0.01)
    assert_mean(ends, ENDS["end" if is_forward else "start"]["mean"], bias=0.01)


def _linear_drift(batch_of, direction, num_times=40):
    """The minimiser of bridge matching among fields that are linear in x, from the moments of Gaussian pairs: exact."""
    mean0, mean1, var0, var1, cross = batch_of

    def field(params, t, x):
        left = 1 - t if direction == "forward" else t
        spread = (1 - t) ** 2 * var0 + t**2 * var1 + 2 * t * (1 - t) * cross + SCALE**2 * t * (1 - t)
        end = mean1 if direction == "forward" else mean0
        with_end = (1 - t) * cross + t * var1 if direction == "forward" else (1 - t) * var0 + t * cross
        return (end + with_end / spread * (x - (1 - t) * mean0 - t * mean1) - x) / left.clamp(min=1e-3)

    return field


def _moments(x0, x1):
    rows = torch.cat([x0, x1], 1)
    covariance = torch.cov(rows.T)
    return x0.mean(), x1.mean(), covariance[0, 0], covariance[1, 1], covariance[0, 1]


@pytest.mark.slow
def test_iterated_markovian_fitting_tends_to_the_bridge():
    """DSBM on Gaussians, each fit in closed form, each coupling by simulation: from independence to the bridge."""
    keys = iter(random.split(random.key(9), 12))
    num, cross = 20_000, BRIDGE.cross_covariance(ENDS)[0, 0]
    x0, x1 = exact.sample(next(keys), ENDS["start"], num), exact.sample(next(keys), ENDS["end"], num)
    errors = []
    for index in range(4):
        direction = "forward" if index % 2 == 0 else "backward"
        field = _linear_drift(_moments(x0, x1), direction)
        batch = TransportBatch(x1[:2000], source=x0[:2000])
        loss = losses.bridge_matching(
            lambda params, t, x: field(params, t, x) + params,  # noqa: B023
            SCALE,
            direction,
            time=losses.uniform_times(0.05, 0.95),
        )
        check = slopes_of(loss, torch.zeros(1).double(), lambda key: batch, 20)  # noqa: B023
        assert_mean(check, 0.0, bias=0.1)  # it is the minimiser, but for the draw of the batch
        fresh = exact.sample(next(keys), ENDS["start" if index % 2 == 0 else "end"], num)
        other = losses.simulate_bridge(next(keys), field, (), fresh, SCALE, direction, num_steps=60)
        x0, x1 = (fresh, other) if index % 2 == 0 else (other, fresh)
        errors.append(abs(float(_moments(x0, x1)[4] - cross)))
    assert errors[0] > 0.01 and errors[-1] < 0.02 and errors[-1] < errors[0]


# -- recovery likelihood ----------------------------------------------------------------------------------------------


def test_recovery_likelihood_is_least_at_the_energy_of_each_level():
    """On N(0, s^2) data, energies |x|^2 / (2 v_t); the bias of the Langevin steps is of second order."""
    path, scale = paths.trigonometric(), 0.7
    times = torch.tensor([0.5, 0.65, 0.8, 1.0]).double()

    c = paths.at(path, times[1:])
    stiffness = 1 / (c.alpha**2 * scale**2 + c.sigma**2)

    def energy(params, t, x):
        of_level = torch.where((t - times[1:]).abs() < 0.01, (1 + params) * stiffness, 0.0).sum()
        return of_level * (x**2).sum() / 2

    loss = losses.diffusion_recovery_likelihood(energy, path, times, num_steps=40, step_size=0.1)
    zero = torch.zeros(3).double()
    draws = slopes_of(loss, zero, normal_data(scale), 60)
    assert_mean(draws, 0.0, bias=0.008)  # of the steps at the first level: 3.7 % of the variance
    for wrong in (-0.5, 1.0):
        away = slopes_of(loss, zero + wrong, normal_data(scale), 60)
        assert_not_zero(away)
        assert (torch.sign(away.mean(0)) == math.copysign(1, wrong)).all()  # downhill to the true energies


def test_bad_arguments_are_refused_at_the_door():
    energy = lambda params, t, x: (x**2).sum()  # noqa: E731
    with pytest.raises(ValueError, match="times must increase"):
        losses.diffusion_recovery_likelihood(energy, paths.linear(), torch.tensor([0.5, 0.2]))
    with pytest.raises(ValueError, match="the path must have no further noise"):
        losses.diffusion_recovery_likelihood(energy, paths.brownian_bridge(), torch.tensor([0.2, 0.5]))
    with pytest.raises(ValueError, match='direction must be "forward"'):
        losses.bridge_matching(energy, 1.0, "sideways")
    with pytest.raises(ValueError, match="scale must be positive"):
        losses.simulate_bridge(random.key(0), energy, (), torch.zeros(3, 1), -1.0)
    with pytest.raises(ValueError, match='form must be "energy"'):
        losses.equilibrium_matching(energy, form="field")
    with pytest.raises(ValueError, match=r"threshold must be in \[0, 1\)"):
        losses.truncated_weight(1.0)
    with pytest.raises(ValueError, match="temperature must be positive"):
        losses.energy_matching(energy, temperature=0.0)


def test_the_potential_of_action_matching_is_told_the_time_of_each_end():
    seen = vmap(lambda t: _gaussian_potential(torch.zeros(2).double(), t, torch.ones(1).double()))(TIMES[:2])
    assert seen[0] != seen[1]
