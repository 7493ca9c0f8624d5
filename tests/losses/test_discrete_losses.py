"""Losses over discrete states: zero gradient at the truth, exactly, by enumeration; larger values elsewhere."""

from __future__ import annotations

import math

import pytest
import torch
from tests.distributions import assert_mean

from funcebm import losses, random, spaces, tree
from funcebm.energies import exact
from funcebm.losses.bit_energy_discrepancy import BitDiscrepancyNoise

BITS = spaces.binary(3)
SPACES = {
    "bits": BITS,
    "spins": spaces.spins(3),
    "unequal": spaces.categorical(2, [2, 3]),
    "ordinal": spaces.ordinal(2, 3),
    "tree": {"b": spaces.spins(2), "c": spaces.categorical(1, 3)},
}
LOSSES = {
    "pseudolikelihood": losses.pseudolikelihood,
    "ratio_matching": losses.ratio_matching,
    "minimum_probability_flow": losses.minimum_probability_flow,
    "score_entropy": losses.score_entropy,
}


def _energy(params, x):
    """Fields, couplings, a cubic and a term that is not linear in any site; no symmetry."""
    vector = tree.ravel(x)[0]
    weights = torch.linspace(-1, 1.3, len(vector), dtype=vector.dtype)
    cubic = (vector[0] + 0.3) * (vector[1] - 0.2) * (vector[-1] + 0.1)
    return (
        params[0] * (weights * vector).sum() + params[1] * cubic + params[2] * torch.sin((weights * vector).sum() ** 2)
    )


TRUTH = torch.tensor([0.7, -0.9, 0.4], dtype=torch.float64)


def _mean_loss(loss, space, params, draw_noise=None):
    """The loss over the distribution of the truth: all states, each with its probability."""
    weights = exact.log_probabilities(_energy, space)(TRUTH).exp()
    states = spaces.states(space, torch.float64)

    def one(x):
        batch = tree.map(lambda leaf: leaf[None], x)
        noise = () if draw_noise is None else draw_noise(batch)
        return loss.value(params, (), batch, noise)[0]

    values = [one(tree.map(lambda leaf: leaf[i], states)) for i in range(len(weights))]  # noqa: B023
    return (weights * torch.stack(values)).sum()


def _assert_least_at_the_truth(mean_loss):
    slope = torch.func.grad(mean_loss)(TRUTH)
    assert slope.abs().max() < 1e-13
    here = mean_loss(TRUTH)
    for i in range(6):
        away = 0.5 * random.normal(random.key(i), 3, dtype=torch.float64)
        assert mean_loss(TRUTH + away) > here + 1e-4
        assert torch.func.grad(mean_loss)(TRUTH + away).abs().max() > 1e-3


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_zero_at_the_truth(name, space):
    loss = LOSSES[name](_energy, space)
    _assert_least_at_the_truth(lambda params: _mean_loss(loss, space, params))


def _all_noise(shifts):
    """Each of these shifts for one negative, all of them equally likely."""
    return lambda away: BitDiscrepancyNoise(away[None], shifts[None])


def test_energy_discrepancy_of_coins_has_zero_gradient_at_the_truth():
    # a change with probability 1/2 makes every mask equally likely: all of them are the mean over the noise
    masks = spaces.states(BITS).long()
    loss = losses.bit_energy_discrepancy(_energy, BITS, probability=0.5, num_negatives=8, stabiliser=0.0)
    noise = _all_noise(masks)
    _assert_least_at_the_truth(lambda params: _mean_loss(loss, BITS, params, lambda batch: noise(masks[3])))


def test_energy_discrepancy_on_the_grid_has_zero_gradient_at_the_truth():
    masks = torch.eye(3, dtype=torch.int64)
    loss = losses.bit_energy_discrepancy(_energy, BITS, kernel="grid", num_negatives=3, stabiliser=0.0)
    noise = _all_noise(masks)

    def mean_loss(params):
        return sum(_mean_loss(loss, BITS, params, lambda batch, away=away: noise(away)) for away in masks) / 3

    _assert_least_at_the_truth(mean_loss)


@pytest.mark.parametrize("kernel", ["bernoulli", "grid"])
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_the_kernels_of_energy_discrepancy_have_their_law(kernel, space):
    loss = losses.bit_energy_discrepancy(_energy, space, kernel=kernel, probability=0.3, num_negatives=2)
    states = spaces.sample(random.key(0), space, 4000, dtype=torch.float64)
    away = loss.draw(random.key(1), states).away
    is_changed = torch.cat([leaf.reshape(4000, -1) != 0 for leaf in tree.leaves(away)], 1).double()
    if kernel == "grid":
        assert (is_changed.sum(1) == 1).all()
    assert_mean(is_changed, 0.3 if kernel == "bernoulli" else 1 / is_changed.shape[1])
    shifts = torch.cat([leaf.reshape(4000, -1) for leaf in tree.leaves(away)], 1)
    for site, size in enumerate(spaces.site_sizes(space).tolist()):
        moved = shifts[:, site][shifts[:, site] != 0]
        assert moved.max() < size
        for value in range(1, size):
            assert_mean((moved == value).double(), 1 / (size - 1) if size > 2 else 1.0)


def test_conditional_nce_by_flips_has_zero_gradient_at_the_truth():
    loss = losses.conditional_noise_contrastive_estimation(_energy, losses.flip_noise(BITS, 0.3))
    states = spaces.states(BITS, torch.float64)
    weights = exact.log_probabilities(_energy, BITS)(TRUTH).exp()

    def mean_loss(params):
        total = 0.0
        for x, weight in zip(states, weights, strict=True):
            for y in states:
                chance = 0.3 ** (x != y).sum() * 0.7 ** (x == y).sum()
                total = total + weight * chance * loss.value(params, (), x[None], y[None, None])[0]
        return total

    _assert_least_at_the_truth(mean_loss)


def test_nce_on_bits_has_zero_gradient_at_the_truth():
    noise = losses.independent_noise(BITS, torch.tensor([0.3, 0.6, 0.5], dtype=torch.float64))
    loss = losses.noise_contrastive_estimation(_energy, noise)
    states = spaces.states(BITS, torch.float64)
    distribution = exact.log_probabilities(_energy, BITS)(TRUTH).exp()
    of_noise = torch.func.vmap(noise.log_density)(states).exp()
    torch.testing.assert_close(of_noise.sum(), torch.tensor(1.0, dtype=torch.float64))

    def mean_loss(params, log_normalizer):
        total = 0.0
        for i in range(8):
            for j in range(8):
                value = loss.value(
                    losses.NormalizedParams(params, log_normalizer), (), states[i : i + 1], states[j][None, None]
                )[0]
                total = total + distribution[i] * of_noise[j] * value
        return total

    log_normalizer = exact.log_normalizer(_energy, BITS)(TRUTH)
    slopes = torch.func.grad(mean_loss, (0, 1))(TRUTH, log_normalizer)
    assert max(slope.abs().max() for slope in slopes) < 1e-14
    assert torch.func.grad(mean_loss, 1)(TRUTH, log_normalizer + 0.5).abs() > 1e-2


def test_independent_noise_has_its_density_and_its_draws():
    space = {"b": spaces.spins(2), "c": spaces.categorical(2, [2, 3])}
    data = spaces.sample(random.key(5), space, 40, dtype=torch.float64)
    noise = losses.fitted_independent_noise(space, data, smoothing=0.5)
    states = spaces.states(space, torch.float64)
    distribution = torch.func.vmap(noise.log_density)(states).exp()
    torch.testing.assert_close(distribution.sum(), torch.tensor(1.0, dtype=torch.float64))
    draws = noise.sample(random.key(0), 20_000)
    spaces.check(space, draws)
    for name in space:
        assert draws[name].dtype == torch.float64
        assert_mean(draws[name], torch.tensordot(distribution, states[name], 1))


# -- values, against formulas written for bits ---------------------------------------------------------------------


def _differences(params, x):
    """``E(flip_i x) - E(x)``."""
    flips = torch.where(torch.eye(3, dtype=torch.bool), 1 - x, x)
    return torch.stack([_energy(params, flip) for flip in flips]) - _energy(params, x)


FORMULAS = {
    "pseudolikelihood": lambda d: torch.nn.functional.softplus(-d).sum(),
    "ratio_matching": lambda d: (torch.sigmoid(-d) ** 2).sum(),
    "minimum_probability_flow": lambda d: torch.exp(-d / 2).sum(),
    "score_entropy": lambda d: (torch.exp(-d) - d).sum(),
}


@pytest.mark.parametrize("name", LOSSES)
def test_values_on_bits_are_the_formulas(name):
    batch = spaces.states(BITS, torch.float64)
    value = LOSSES[name](_energy, BITS)(random.key(0), TRUTH, batch)[0]
    expected = torch.stack([FORMULAS[name](_differences(TRUTH, x)) for x in batch]).mean()
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("name", LOSSES)
def test_some_sites_are_all_of_them_on_the_mean(name):
    batch = spaces.states(BITS, torch.float64)
    whole = LOSSES[name](_energy, BITS)(random.key(0), TRUTH, batch)[0]
    part = LOSSES[name](_energy, BITS, num_sites=1)
    values = torch.stack([part.value(TRUTH, (), batch, torch.full((8, 1), site))[0] for site in range(3)])
    torch.testing.assert_close(values.mean(), whole)
    sites = part.draw(random.key(0), batch)
    assert sites.shape == (8, 1)
    assert set(torch.func.vmap(lambda k: part.draw(k, batch))(random.split(random.key(1), 20)).flatten().tolist()) == {
        0,
        1,
        2,
    }


def test_the_accuracy_of_pseudolikelihood_counts_sites():
    energy = lambda params, x: -params * x.sum()  # noqa: E731
    batch = torch.tensor([[1.0, 1.0, 0.0, 1.0]])
    aux = losses.pseudolikelihood(energy, spaces.binary(4))(random.key(0), torch.tensor(1.0), batch)[1]
    assert aux.metrics["accuracy"] == 0.75


def test_beyond_its_ceiling_the_flow_goes_on_by_its_tangent():
    energy = lambda params, x: params * x.sum()  # noqa: E731
    loss = losses.minimum_probability_flow(energy, spaces.binary(1), ceiling=3.0)
    value = lambda k: loss.value(k, (), torch.ones(1, 1, dtype=torch.float64), ())  # noqa: E731
    below, beyond = torch.tensor([5.0, 1e6], dtype=torch.float64)
    torch.testing.assert_close(value(below)[0], torch.exp(below / 2))
    torch.testing.assert_close(value(beyond)[0], math.exp(3) * (1 + beyond / 2 - 3))
    assert value(below)[1].metrics["ceiling_rate"] == 0
    assert value(beyond)[1].metrics["ceiling_rate"] == 1
    slope = torch.func.grad(lambda k: value(k)[0])(beyond)
    torch.testing.assert_close(slope, torch.tensor(math.exp(3) / 2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: losses.pseudolikelihood(_energy, BITS, num_sites=4), "at most 3"),
        (lambda: losses.pseudolikelihood(_energy, spaces.real(3)), "only discrete spaces"),
        (lambda: losses.ratio_matching(_energy, BITS)(random.key(0), TRUTH, -torch.ones(2, 3)), "levels of the space"),
        (lambda: losses.bit_energy_discrepancy(_energy, BITS, kernel="heat"), "bernoulli"),
        (lambda: losses.bit_energy_discrepancy(_energy, BITS, probability=0.0), r"\(0, 1\]"),
        (lambda: losses.bit_energy_discrepancy(_energy, BITS)(random.key(0), TRUTH, torch.full((2, 3), 0.5)), "levels"),
        (lambda: losses.minimum_probability_flow(_energy, BITS, ceiling=0.0), "ceiling"),
        (lambda: losses.flip_noise(BITS, 2.0), r"\(0, 1\]"),
        (lambda: losses.independent_noise(BITS, torch.tensor([0.0, 0.5, 0.5])), "fitted_independent_noise"),
        (lambda: losses.independent_noise(spaces.ordinal(1, 3), torch.ones(1)), "ordinal"),
    ],
)
def test_bad_calls_are_refused_in_words(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.compiled
def test_losses_train_compiled_as_eager():
    import funcebm as ebm

    energy = lambda params, x: -(params["b"] * x).sum() - (x[:-1] * x[1:] * params["w"]).sum()  # noqa: E731
    params = {"b": torch.zeros(3), "w": torch.zeros(2)}
    data = spaces.states(BITS)[torch.tensor([7, 7, 3, 0, 6, 7])]
    loss = losses.weighted_sum(
        {
            "pseudolikelihood": losses.pseudolikelihood(energy, BITS, num_sites=2),
            "discrepancy": losses.bit_energy_discrepancy(energy, BITS, num_negatives=4),
        },
        {"pseudolikelihood": 1.0, "discrepancy": 0.5},
    )
    options = {"optimizer": ebm.optimizers.adam(0.05), "num_steps": 10, "batch_size": 4}
    eager, compiled = (ebm.fit(random.key(0), loss, params, data, jit=jit, **options) for jit in (False, True))
    for a, b in zip(tree.leaves(eager.params), tree.leaves(compiled.params), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        assert a.abs().max() > 0.1
