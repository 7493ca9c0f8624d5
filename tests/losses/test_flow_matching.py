"""Flow matching in all its forms: exact minimisers and least values, times, weights, labels; and EDM's preconditioning."""

from __future__ import annotations

import math

import pytest
import torch
from tests.distributions import SIGMAS, assert_mean, assert_uniform, repeated, slopes_of
from torch.func import vmap

import funcebm as ebm
from funcebm import couplings, losses, paths, random
from funcebm.losses import TransportBatch
from funcebm.paths import exact

MIXTURE = exact.mixture_params(
    torch.tensor([[-1.0, 0.5], [1.5, 0.0]]).double(), torch.tensor([0.3, 0.5]), torch.tensor([0.3, 0.7])
)
NUM = 400
ZERO = torch.zeros(2).double()


def data_of_mixture(key):
    return exact.sample(key, MIXTURE, NUM)


INSIDE = losses.uniform_times(0.02, 0.98)
ROUTES = {
    "linear": paths.linear(),
    "trigonometric": paths.trigonometric(),
    "variance_preserving": paths.variance_preserving(),
    "brownian_bridge": paths.brownian_bridge(0.8),
}


@pytest.mark.parametrize("prediction", ["velocity", "data", "noise", "score"])
@pytest.mark.parametrize("name", ROUTES)
def test_the_exact_field_is_the_minimiser(name, prediction):
    """Where the field is off by a constant, the gradient is not zero; at the oracle it is. Any weight does."""
    path = ROUTES[name]
    oracle = getattr(exact.marginals(path), prediction)
    if name == "brownian_bridge" and prediction == "noise":  # that of the bridge, E[z | x_t] = -gamma S
        oracle = paths.convert(path, exact.marginals(path).score, "score", "noise")

    def field(params, t, x):
        return oracle(MIXTURE, t, x) + params

    loss = losses.flow_matching(field, path, prediction=prediction, time=INSIDE, weight=lambda t: 1 + t)
    assert_mean(slopes_of(loss, ZERO, data_of_mixture), 0.0)
    away = slopes_of(loss, ZERO + 0.5, data_of_mixture)
    assert (away.mean(0).abs() > SIGMAS * away.std(0) / math.sqrt(len(away))).all()


def test_the_least_loss_is_half_pi_times_the_scale():
    params = exact.gaussian_params(torch.tensor([2.0]).double(), 0.25)
    velocity = exact.marginals(paths.linear()).velocity
    loss = losses.flow_matching(lambda theta, t, x: velocity(params, t, x))
    values = repeated(loss, (), lambda key: exact.sample(key, params, NUM))
    assert_mean(values, 0.785398)


def test_pairs_of_optimal_transport_leave_nothing_to_regress():
    """N(0, 1) and N(m, s^2): x_t = (1 - t) x0 + t (m + s x0), so u is a function of x_t."""
    mean, scale = 2.0, 0.5

    def field(params, t, x):
        return mean + (scale - 1) * (x - t * mean) / (1 - t + t * scale)

    x0 = random.normal(random.key(0), (50, 1), dtype=torch.float64)
    batch = TransportBatch(mean + scale * x0, source=x0)
    assert losses.flow_matching(field)(random.key(1), (), batch)[0] < 1e-20
    shuffled = TransportBatch(batch.data.flip(0), source=x0)
    assert losses.flow_matching(field, coupling=couplings.optimal_transport())(random.key(1), (), shuffled)[0] < 1e-20
    assert losses.flow_matching(field)(random.key(1), (), shuffled)[0] > 0.1


def test_an_energy_at_every_time_is_trained_as_a_score():
    path = paths.trigonometric()

    def energy(params, t, x):
        return exact.marginals(path).energy(MIXTURE, t, x) + params @ x

    loss = losses.flow_matching(paths.negative_gradient(energy), path, prediction="score", time=INSIDE)
    assert_mean(slopes_of(loss, ZERO, data_of_mixture), 0.0)


# -- batches, labels, times ---------------------------------------------------------------------------------------------


def test_a_source_of_ones_own():
    """From N(3, 1) to N(0, 1): the mean velocity is -3."""
    loss = losses.flow_matching(
        lambda params, t, x: 0 * x + params, source=lambda key: 3 + random.normal(key, (1,), dtype=torch.float64)
    )
    draws = slopes_of(loss, torch.tensor(-3.0).double(), lambda key: random.normal(key, (NUM, 1), dtype=torch.float64))
    assert_mean(draws, 0.0)


def test_labels_reach_the_field_with_their_points():
    """Data that are their label: whatever the coupling, the mean of label + noise is in the right place."""
    num = 64
    label = torch.arange(num) % 4
    batch = TransportBatch(label[:, None].double(), label=label)

    def field(params, t, x, label):
        return label.double() * torch.ones_like(x) + 0 * params  # the data

    for coupling in (couplings.independent(), couplings.optimal_transport(), couplings.sinkhorn(0.5)):
        loss = losses.flow_matching(field, prediction="data", coupling=coupling)
        assert loss(random.key(0), torch.tensor(0.0), batch)[0] == 0


def test_hidden_labels_are_as_many_as_asked_and_of_the_given_kind():
    num = 4000
    batch = TransportBatch(torch.zeros(num, 1), label=torch.arange(num) % 3)

    def field(params, t, x, label):
        return params[label] * torch.ones_like(x)

    loss = losses.conditional_dropout(losses.flow_matching(field, prediction="data"), torch.tensor(3), 0.25)
    counts = torch.func.grad(lambda p: loss(random.key(0), p, batch)[0])(torch.full((4,), 0.5).double()) * num
    assert_uniform(counts, torch.tensor([0.25, 0.25, 0.25, 0.25]))
    value = loss(random.key(0), torch.full((4,), 0.5), batch)[0]
    torch.testing.assert_close(value, torch.tensor(0.25))
    prepared = loss.prepare(torch.ones(4), (), batch, loss.draw(random.key(0), batch))
    assert torch.equal(torch.unique(prepared.label), torch.arange(4))
    with pytest.raises(ValueError, match="a batch must have labels to hide"):
        loss(random.key(0), torch.ones(4), torch.zeros(5, 1))


def test_times_have_their_distributions():
    key, num = random.key(3), 8000
    bins = lambda t: torch.bincount((10 * t).long().clamp(max=9), minlength=10)  # noqa: E731
    assert_uniform(bins(losses.uniform_times()(key, num, torch.float64)))
    stratified = losses.stratified_times()(key, num, torch.float64)
    assert torch.equal((num * stratified.sort().values).floor(), torch.arange(num).double())
    assert_mean(torch.logit(losses.logit_normal_times(0.5, 2.0)(key, num, torch.float64)), 0.5)
    t = losses.log_snr_times(paths.variance_preserving(), 1.2, 1.2)(key, num, torch.float64)
    assert_mean(paths.at(paths.variance_preserving(), t).log_snr, 1.2)
    inner = losses.uniform_times(0.25, 0.5)(key, num, torch.float64)
    assert inner.min() >= 0.25 and inner.max() < 0.5


def test_stratified_times_have_less_variance():
    params = exact.gaussian_params(torch.tensor([2.0]).double(), 0.25)
    velocity = exact.marginals(paths.linear()).velocity
    data = exact.sample(random.key(0), params, 64)
    spread = []
    for times in (losses.uniform_times(), losses.stratified_times()):
        loss = losses.flow_matching(lambda theta, t, x: velocity(params, t, x) + 10 * t, time=times)
        keys = random.split(random.key(1), 200)
        spread.append(vmap(lambda key: loss(key, (), data)[0])(keys).var())  # noqa: B023
    assert spread[1] < 0.5 * spread[0]


# -- EDM --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["linear", "trigonometric", "variance_preserving"])
def test_preconditioned_nothing_is_exact_for_normal_data_and_the_weighted_loss_is_one_a_number(name):
    path, scale = ROUTES[name], 0.5
    params = exact.gaussian_params(torch.zeros(3).double(), scale**2)
    field = losses.edm_preconditioned(lambda theta, t, x: torch.zeros_like(x), path, data_scale=scale)
    for t in (0.0, 0.3, 1.0):
        t, x = torch.tensor(t).double(), torch.tensor([0.3, -1.0, 2.0]).double()
        torch.testing.assert_close(field((), t, x), exact.marginals(path).data(params, t, x), rtol=1e-9, atol=1e-9)
    weight, times = losses.edm_weight(path, data_scale=scale), losses.log_snr_times(path)
    loss = losses.flow_matching(field, path, prediction="data", weight=weight, time=times)
    assert_mean(repeated(loss, (), lambda key: exact.sample(key, params, NUM)), 3.0)


def test_the_network_sees_unit_scale_at_every_level():
    path, scale = paths.linear(), 0.5
    params = exact.gaussian_params(torch.zeros(1).double(), scale**2)
    seen = losses.edm_preconditioned(lambda theta, t, x: x, path, data_scale=scale)
    for t in (0.01, 0.5, 0.99):
        t = torch.tensor(t).double()
        x = exact.sample_at(random.key(0), path, params, t, 5000)
        c = paths.at(path, t)
        level = (c.sigma**2 + scale**2 * c.alpha**2).sqrt()
        network_input = (vmap(lambda x: seen((), t, x))(x) - scale**2 * c.alpha / level**2 * x) / (  # noqa: B023
            scale * c.sigma / level
        )
        assert_mean(network_input.square(), 1.0)


# -- training -----------------------------------------------------------------------------------------------------------


def _fit(jit):
    def field(params, t, x):
        return params["a"] + params["b"] * t - params["c"] * x

    params = {name: torch.zeros(1).double() for name in ("a", "b", "c")}
    loss = losses.flow_matching(field, coupling=couplings.optimal_transport())
    data = 2 + 0.5 * random.normal(random.key(0), (512, 1), dtype=torch.float64)
    return ebm.fit(
        random.key(1), loss, params, data, optimizer=ebm.optimizers.adam(0.05), num_steps=20, batch_size=32, jit=jit
    )


@pytest.mark.compiled
def test_training_with_transport_in_the_loop_is_the_same_compiled():
    eager, compiled = _fit(False), _fit(True)
    for name in eager.params:
        torch.testing.assert_close(compiled.params[name], eager.params[name], rtol=1e-9, atol=1e-9)
    assert eager.metrics["loss"][-5:].mean() < eager.metrics["loss"][:5].mean()


def test_bad_arguments_are_refused_at_the_door():
    field = lambda params, t, x: x  # noqa: E731
    with pytest.raises(TypeError, match="path must be a path"):
        losses.flow_matching(lambda params, t, x: x, "linear")
    with pytest.raises(ValueError, match="prediction must be one of"):
        losses.flow_matching(field, prediction="flow")
    with pytest.raises(ValueError, match=r"times must be in \[0, 1\]"):
        losses.uniform_times(0.5, 1.5)
    with pytest.raises(ValueError, match="a field must return the shapes of the position"):
        losses.flow_matching(lambda params, t, x: x[:1])(random.key(0), (), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="batches of one size"):
        losses.flow_matching(field)(random.key(0), (), TransportBatch(torch.zeros(4, 2), source=torch.zeros(3, 2)))
    with pytest.raises(ValueError, match="a label for each row"):
        losses.flow_matching(field)(random.key(0), (), TransportBatch(torch.zeros(4, 2), label=torch.zeros(3)))
    with pytest.raises(ValueError, match="data_scale must be positive"):
        losses.edm_weight(paths.linear(), data_scale=0.0)
