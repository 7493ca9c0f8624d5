"""Energies with a normalizer and exact draws: quadrature, distributions, closed forms, and errors at the door."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import integrate
from tests.cases_energies import ENERGIES, EXACT
from torch.func import vmap

from funcebm import energies, fields, random, tree

DOUBLE = torch.float64
# half-widths of boxes, in the plane, outside of which less than 1e-9 of the mass lies
BOX = {"funnel": (9.0, 400.0), "banana": (12.0, 80.0), "rosenbrock": (6.0, 40.0)}


def _double(params):
    return tree.map(lambda leaf: leaf.to(DOUBLE), params)


def _grid(name, num=1601):
    wide, high = BOX.get(name, (9.0, 9.0))
    # the funnel and the banana are narrow in the middle and wide at the edge: nodes are even in asinh
    across = torch.linspace(-wide, wide, num, dtype=DOUBLE)
    stretched = torch.linspace(-math.asinh(high), math.asinh(high), num, dtype=DOUBLE)
    up, slope = torch.sinh(stretched), torch.cosh(stretched)
    points = torch.cartesian_prod(across, up)
    log_weights = torch.log(slope).repeat(num) + math.log(2 * wide / (num - 1) * 2 * math.asinh(high) / (num - 1))
    return points, log_weights


@pytest.mark.parametrize("name", EXACT)
def test_normalizer_and_draws_agree_with_quadrature_in_the_plane(name):
    energy, params, _ = ENERGIES[name]
    params = _double(params)
    points, log_weights = _grid(name)
    log_mass = log_weights - vmap(energy, (None, 0))(params, points)
    log_z = energy.log_normalizer(params)
    assert log_z.shape == ()
    assert log_z.dtype == DOUBLE
    torch.testing.assert_close(torch.logsumexp(log_mass, 0), log_z, atol=1e-6, rtol=0)

    num = 8_000
    draws = energy.sample(random.key(11), params, num)
    assert draws.shape == (num, 2)
    assert draws.dtype == DOUBLE
    mass = torch.exp(log_mass - log_z)
    tests = {
        "tanh x": lambda x: torch.tanh(x[:, 0]),
        "tanh y": lambda x: torch.tanh(x[:, 1]),
        "cos x": lambda x: torch.cos(3 * x[:, 0]),
        "gauss": lambda x: torch.exp(-((x - 0.7) ** 2).sum(1)),
        "right and up": lambda x: torch.sigmoid(3 * x[:, 0]) * torch.sigmoid(3 * x[:, 1]),
        "energy": lambda x: vmap(energy, (None, 0))(params, x),
    }
    for label, function in tests.items():
        values, expected = function(draws), (mass * function(points)).sum()
        error = values.std() / math.sqrt(num)
        assert abs(values.mean() - expected) < 5 * error, (label, float(values.mean()), float(expected))


@pytest.mark.parametrize("name", EXACT)
def test_draws_obey_steins_identity(name):
    # E[x . grad E] = D, and E[grad E] = 0, for every density that vanishes at infinity
    energy, params, _ = ENERGIES[name]
    num = 8_000
    draws = energy.sample(random.key(12), _double(params), num)
    slopes = vmap(fields.gradient(energy), (None, 0))(_double(params), draws)
    for values, expected in ((slopes[:, 0], 0), (slopes[:, 1], 0), ((draws * slopes).sum(1), 2)):
        assert abs(values.mean() - expected) < 5 * values.std() / math.sqrt(num)


@pytest.mark.parametrize("name", EXACT)
def test_draws_are_a_function_of_the_key_and_keep_the_dtype(name):
    energy, params, _ = ENERGIES[name]
    first, again = (energy.sample(random.key(5), params, 4) for _ in range(2))
    assert torch.equal(first, again)
    assert first.dtype == torch.float32
    assert not torch.equal(first, energy.sample(random.key(6), params, 4))
    torch.testing.assert_close(first.double(), energy.sample(random.key(5), params, 4).double())
    assert energy.log_normalizer(params).dtype == torch.float32


@pytest.mark.parametrize("name", ["double_well", "harmonic", "rastrigin"])
def test_separable_energies_take_any_shape(name):
    energy, params, _ = ENERGIES[name]
    draws = energy.sample(random.key(7), params, 3, (2, 4, 4))
    assert draws.shape == (3, 2, 4, 4)
    torch.testing.assert_close(energy(params, draws[0]), sum(energy(params, number) for number in draws[0].reshape(-1)))
    one = energy.log_normalizer(params, ())
    torch.testing.assert_close(energy.log_normalizer(params, (2, 4, 4)), 32 * one)


@pytest.mark.parametrize("name", ["funnel", "banana"])
def test_long_vectors_have_closed_forms(name):
    energy, params, _ = ENERGIES[name]
    params, num, size = _double(params), 4_000, 5
    draws = energy.sample(random.key(8), params, num, (size,))
    slopes = vmap(fields.gradient(energy), (None, 0))(params, draws)
    values = (draws * slopes).sum(1)
    assert abs(values.mean() - size) < 5 * values.std() / math.sqrt(num)
    expected = size / 2 * math.log(2 * math.pi) + torch.log(params["scale"])
    torch.testing.assert_close(energy.log_normalizer(params, (size,)), expected)


def test_double_well_normalizer_over_a_range_of_barriers():
    # Z_1 = (pi b / 2) e^{-z} (I_{-1/4}(z) + I_{1/4}(z)), z = h b^4 / 2
    from scipy.special import ive

    for height, separation in ((0.01, 0.5), (2.0, 1.0), (0.5, 3.0), (400.0, 2.0)):
        z = height * separation**4 / 2
        # Gradshteyn and Ryzhik 3.323.3 in other words; ive carries the factor exp(-z)
        expected = math.log(math.pi * separation / 2 * (ive(-0.25, z) + ive(0.25, z)))
        params = energies.double_well.params(*torch.tensor([height, separation], dtype=DOUBLE))
        assert energies.double_well.log_normalizer(params, ()).item() == pytest.approx(expected, abs=1e-10)


def test_rastrigin_normalizer_over_a_range_of_ripples():
    for a in (0.0, 0.3, 10.0, 100.0):
        params = _double(energies.rastrigin.params(a))

        def density(x, params=params):
            return math.exp(-float(energies.rastrigin(params, torch.tensor(x, dtype=DOUBLE))))

        expected = integrate.quad(density, -4, 4, limit=500, points=range(-3, 4))[0]
        assert energies.rastrigin.log_normalizer(params, ()).item() == pytest.approx(math.log(expected), abs=1e-6)


def test_normalizers_are_smooth_in_the_params():
    # d log Z / d theta = -E[dE / d theta]
    params = _double(energies.double_well.params())
    slope = torch.func.grad(energies.double_well.log_normalizer)(params)
    draws = energies.double_well.sample(random.key(9), params, 8_000)
    each = fields.per_example_gradients(energies.double_well)(params, draws)
    for name, value in slope.items():
        error = each[name].std() / math.sqrt(8_000)
        assert abs(value + each[name].mean()) < 5 * error


def test_gaussian_has_its_closed_form():
    mean = torch.tensor([1.0, -2.0, 0.5], dtype=DOUBLE)
    factor = random.normal(random.key(1), (3, 3), dtype=DOUBLE)
    covariance = factor @ factor.T + torch.eye(3, dtype=DOUBLE)
    params = energies.gaussian.params(mean, covariance)
    distribution = torch.distributions.MultivariateNormal(mean, covariance)
    for point in random.normal(random.key(2), (5, 3), dtype=DOUBLE):
        log_density = -energies.gaussian(params, point) - energies.gaussian.log_normalizer(params)
        torch.testing.assert_close(log_density, distribution.log_prob(point))
    torch.testing.assert_close(fields.hessian(energies.gaussian)(params, mean), torch.linalg.inv(covariance))
    torch.testing.assert_close(
        energies.gaussian.params(mean, precision=params["precision"])["precision"], covariance.inverse()
    )

    num = 5_000
    draws = energies.gaussian.sample(random.key(3), params, num)
    offset = draws - mean
    for products, expected in ((offset, torch.zeros(3)), (offset[:, :, None] * offset[:, None, :], covariance)):
        error = products.std(0) / math.sqrt(num)
        assert bool(((products.mean(0) - expected).abs() < 5 * error).all())


def test_gaussian_of_an_image_is_that_of_its_numbers():
    mean = torch.arange(6.0).reshape(2, 3)
    covariance = torch.eye(6) + 0.3
    image, flat = energies.gaussian.params(mean, covariance), energies.gaussian.params(mean.reshape(-1), covariance)
    draws = energies.gaussian.sample(random.key(4), image, 3)
    torch.testing.assert_close(draws.reshape(3, 6), energies.gaussian.sample(random.key(4), flat, 3))
    torch.testing.assert_close(energies.gaussian(image, draws[0]), energies.gaussian(flat, draws[0].reshape(-1)))


def test_harmonic_is_the_gaussian_of_a_diagonal_precision():
    stiffness = torch.tensor([1.0, 4.0, 9.0])
    springs = energies.harmonic.params(stiffness)
    dense = energies.gaussian.params(torch.zeros(3), precision=torch.diag(stiffness))
    position = torch.tensor([0.3, -0.2, 1.0])
    torch.testing.assert_close(energies.harmonic(springs, position), energies.gaussian(dense, position))
    torch.testing.assert_close(energies.harmonic.log_normalizer(springs), energies.gaussian.log_normalizer(dense))
    torch.testing.assert_close(
        energies.harmonic.sample(random.key(0), springs, 5), energies.gaussian.sample(random.key(0), dense, 5)
    )


def test_mixture_has_its_closed_form():
    means = torch.tensor([[0.0, 1.0], [-3.0, 2.0], [1.0, 1.0]], dtype=DOUBLE)
    factor = random.normal(random.key(1), (3, 2, 2), dtype=DOUBLE)
    covariances = factor @ factor.mT + 0.5 * torch.eye(2, dtype=DOUBLE)
    weights = torch.tensor([1.0, 2.0, 5.0], dtype=DOUBLE)
    params = energies.gaussian_mixture.params(means, covariances=covariances, weights=weights)
    distribution = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(weights), torch.distributions.MultivariateNormal(means, covariances)
    )
    points = random.normal(random.key(2), (7, 2), dtype=DOUBLE)
    torch.testing.assert_close(
        -vmap(energies.gaussian_mixture, (None, 0))(params, points), distribution.log_prob(points)
    )

    num = 5_000
    draws = energies.gaussian_mixture.sample(random.key(3), params, num)
    second = (weights / 8)[:, None, None] * (covariances + means[:, :, None] * means[:, None, :])
    for values, expected in ((draws, distribution.mean), (draws[:, :, None] * draws[:, None, :], second.sum(0))):
        assert bool(((values.mean(0) - expected).abs() < 5 * values.std(0) / math.sqrt(num)).all())


def test_ring_has_a_finite_gradient_at_its_centre_and_wide_rings_are_right():
    params = _double(energies.ring.params(0.5, 1.0))
    slope = fields.gradient(energies.ring)(params, torch.zeros(2, dtype=DOUBLE))
    assert torch.equal(slope, torch.zeros(2, dtype=DOUBLE))

    def density(r):
        return 2 * math.pi * r * math.exp(-((r - 0.5) ** 2) / 2)

    expected = math.log(integrate.quad(density, 0, 15)[0])
    assert energies.ring.log_normalizer(params).item() == pytest.approx(expected, abs=1e-9)
    radius = energies.ring.sample(random.key(1), params, 10_000).norm(dim=1)
    mean = integrate.quad(lambda r: r * density(r), 0, 15)[0] / math.exp(expected)
    assert abs(radius.mean() - mean) < 5 * radius.std() / math.sqrt(10_000)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: energies.gaussian.params([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]]),
            "covariance must be positive definite",
        ),
        (lambda: energies.gaussian.params([0.0, 0.0], [[1.0, 2.0], [0.0, 1.0]]), "covariance must be symmetric"),
        (lambda: energies.gaussian.params([0.0, 0.0], torch.eye(3)), r"covariance must be \(2, 2\)"),
        (lambda: energies.gaussian.params([0.0], [[1.0]], precision=[[1.0]]), "exclude each other"),
        (lambda: energies.gaussian.params([0.0], precision=[[-1.0]]), "precision must be positive definite"),
        (lambda: energies.gaussian.params([0.0], [[float("nan")]]), "covariance must be finite"),
        (lambda: energies.harmonic.params(0.0), "stiffness must be positive"),
        (lambda: energies.double_well.params(-1.0), "barrier_height must be positive"),
        (lambda: energies.double_well.params(torch.ones(2)), "barrier_height must be a number"),
        (lambda: energies.rastrigin.params(-1.0), "a must not be negative"),
        (lambda: energies.gaussian_mixture.params([0.0, 1.0]), r"means must be \(K, \*event\)"),
        (lambda: energies.gaussian_mixture.params([[0.0], [1.0]], weights=[1.0]), r"weights must be \(2,\)"),
        (lambda: energies.gaussian_mixture.params([[0.0], [1.0]], weights=[1.0, -1.0]), "weights must be positive"),
        (lambda: energies.gaussian_mixture.params([[0.0], [1.0]], scale=[1.0] * 3), "scale must be"),
        (lambda: energies.gaussian.sample(random.key(0), energies.gaussian.params(), 0), "num must be an integer"),
        (lambda: energies.gaussian.sample(random.key(0), energies.gaussian.params(), 2, (3,)), "shape must be"),
        (lambda: energies.funnel.sample(random.key(0), energies.funnel.params(), 2, (1,)), "shape of a funnel"),
        (lambda: energies.rosenbrock.sample(random.key(0), energies.rosenbrock.params(), 2, (3,)), "shape must be"),
        (lambda: energies.harmonic.log_normalizer(energies.harmonic.params(torch.ones(3)), (2,)), "must extend"),
    ],
)
def test_bad_arguments_say_what_must_hold(make, words):
    with pytest.raises(ValueError, match=words):
        make()
