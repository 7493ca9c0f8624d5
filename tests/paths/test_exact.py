"""The oracles: against quadrature, autograd, transport of points, draws, and each other."""

from __future__ import annotations

import math

import pytest
import torch
from tests.distributions import assert_covariance, assert_mean
from tests.paths.paths_table import AFFINE, ALL, EXACT_ENDS
from torch.func import vmap

from funcebm import fields, paths, random
from funcebm.paths import exact

MEANS = torch.tensor([[-1.0, 0.5], [1.5, 0.0]]).double()
COVARIANCES = torch.tensor([[[0.4, 0.1], [0.1, 0.3]], [[0.2, 0.0], [0.0, 0.9]]]).double()
MIXTURE = exact.mixture_params(MEANS, COVARIANCES, torch.tensor([0.3, 0.7]))
GAUSSIAN = exact.gaussian_params(MEANS[1], COVARIANCES[0])
X = torch.tensor([0.4, -0.6]).double()
TIMES = [torch.tensor(t).double() for t in (0.1, 0.5, 0.9)]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("params", [MIXTURE, GAUSSIAN], ids=["mixture", "gaussian"])
def test_score_divergence_and_continuity(name, params):
    """The score is the slope of the log density, the divergence that of the velocity, and the three keep the mass."""
    oracle = exact.marginals(ALL[name])
    for t in TIMES:
        slope = fields.gradient(paths.at_time(oracle.log_density, t))(params, X)
        torch.testing.assert_close(oracle.score(params, t, X), slope)
        spread = fields.divergence(paths.at_time(oracle.velocity, t))(params, X)
        torch.testing.assert_close(oracle.divergence(params, t, X), spread)
        rate = torch.func.grad(lambda t: oracle.log_density(params, t, X))(t)
        expected = -spread - (oracle.velocity(params, t, X) * slope).sum()
        torch.testing.assert_close(rate, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", AFFINE)
def test_data_and_noise_make_up_the_point(name):
    oracle = exact.marginals(AFFINE[name])
    for t in TIMES:
        c = paths.at(AFFINE[name], t)
        data, noise = oracle.data(MIXTURE, t, X), oracle.noise(MIXTURE, t, X)
        torch.testing.assert_close(c.alpha * data + c.sigma * noise, X)
        torch.testing.assert_close(c.d_alpha * data + c.d_sigma * noise, oracle.velocity(MIXTURE, t, X))


def test_the_mean_of_the_data_is_that_of_quadrature():
    path, t, x = paths.linear(), torch.tensor(0.6).double(), torch.tensor([0.5]).double()
    params = exact.mixture_params(torch.tensor([[-1.0], [2.0]]).double(), torch.tensor([0.3, 0.5]).double())
    grid = torch.linspace(-8, 8, 20001, dtype=torch.float64)[:, None]
    density = -vmap(exact.marginals(path).energy, (None, None, 0))(params, torch.tensor(1.0).double(), grid)
    weights = torch.softmax(density - (x - t * grid)[:, 0] ** 2 / (2 * (1 - t) ** 2), 0)
    torch.testing.assert_close(exact.marginals(path).data(params, t, x), weights @ grid, rtol=1e-9, atol=1e-9)


def test_densities_are_normalised():
    grid = torch.linspace(-9, 9, 401, dtype=torch.float64)
    points = torch.cartesian_prod(grid, grid)
    for t in TIMES:
        logs = vmap(exact.marginals(paths.linear()).log_density, (None, None, 0))(MIXTURE, t, points)
        torch.testing.assert_close(logs.exp().sum() * (grid[1] - grid[0]) ** 2, torch.tensor(1.0).double())


@pytest.mark.parametrize("name", ALL)
def test_draws_have_the_score_and_the_moments_of_the_oracle(name):
    """Stein's identity: under p, E[S] = 0 and E[S x'] = -I."""
    t = torch.tensor(0.4).double()
    points = exact.sample_at(random.key(0), ALL[name], MIXTURE, t, 20_000)
    scores = vmap(exact.marginals(ALL[name]).score, (None, None, 0))(MIXTURE, t, points)
    assert_mean(scores, 0.0)
    assert_mean(scores[:, :, None] * points[:, None, :], -torch.eye(2))


def test_draws_of_a_gaussian_have_its_moments():
    points = exact.sample(random.key(1), GAUSSIAN, 20_000)
    assert_mean(points, GAUSSIAN["mean"])
    assert_covariance(points, GAUSSIAN["covariance"])


# -- Gaussians ------------------------------------------------------------------------------------------------------


def _integrate(field, x, start, end, num_steps=105):
    """Runge and Kutta's method of order 4."""
    h = (end - start) / num_steps
    for index in range(num_steps):
        t = start + index * h
        k1 = field(t, x)
        k2 = field(t + h / 2, x + h / 2 * k1)
        k3 = field(t + h / 2, x + h / 2 * k2)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + field(t + h, x + h * k3))
    return x


@pytest.mark.parametrize("name", ALL)
def test_the_flow_follows_the_velocity_and_back(name):
    path, oracle = ALL[name], exact.marginals(ALL[name])
    start, end = torch.tensor(0.2).double(), torch.tensor(0.9).double()
    moved = _integrate(lambda t, x: oracle.velocity(GAUSSIAN, t, x), X, start, end)
    expected = exact.flow(path, GAUSSIAN, start, end, X)  # 1/2, where the encoder meets the decoder, is a node
    torch.testing.assert_close(moved, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(exact.flow(path, GAUSSIAN, end, start, expected), X)


@pytest.mark.parametrize("name", EXACT_ENDS)
def test_the_flow_carries_noise_to_the_data(name):
    """The matrix of the map from 0 to 1 is a root of the covariance."""
    ends = torch.tensor(0.0).double(), torch.tensor(1.0).double()
    origin = exact.flow(ALL[name], GAUSSIAN, *ends, torch.zeros(2).double())
    columns = vmap(lambda x: exact.flow(ALL[name], GAUSSIAN, *ends, x))(torch.eye(2).double()) - origin
    torch.testing.assert_close(origin, GAUSSIAN["mean"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(columns.T @ columns, GAUSSIAN["covariance"], rtol=1e-9, atol=1e-9)


def test_what_no_velocity_can_predict():
    """The least flow-matching loss of the linear path is pi/2 times the sum of the standard deviations."""
    times = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    least = vmap(lambda t: exact.velocity_variance(paths.linear(), GAUSSIAN, t))(times).mean()
    expected = math.pi / 2 * torch.linalg.eigvalsh(GAUSSIAN["covariance"]).sqrt().sum()
    torch.testing.assert_close(least, expected, rtol=1e-7, atol=0)
    one = exact.gaussian_params(torch.tensor([2.0]).double(), 0.25)
    least = vmap(lambda t: exact.velocity_variance(paths.linear(), one, t))(times).mean()
    torch.testing.assert_close(least, torch.tensor(0.785398).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", AFFINE)
def test_at_each_time_it_is_the_spread_of_the_conditional_velocities(name):
    path, t = AFFINE[name], torch.tensor(0.4).double()
    key_data, key_noise = random.split(random.key(3))
    x1 = exact.sample(key_data, GAUSSIAN, 20_000)
    x0 = random.normal(key_noise, (20_000, 2), dtype=torch.float64)
    point = paths.sample_path(path, t, x0, x1)
    error = point.velocity - vmap(exact.marginals(path).velocity, (None, None, 0))(GAUSSIAN, t, point.position)
    assert_mean(error.square().sum(1), exact.velocity_variance(path, GAUSSIAN, t))


def test_optimal_transport_of_gaussians():
    other = exact.gaussian_params(MEANS[0], COVARIANCES[1])
    move = exact.optimal_transport_map(GAUSSIAN, other)
    matrix = torch.func.jacrev(move)(X)
    torch.testing.assert_close(matrix, matrix.T)  # the slope of a convex function
    assert (torch.linalg.eigvalsh(matrix) > 0).all()
    torch.testing.assert_close(matrix @ GAUSSIAN["covariance"] @ matrix.T, other["covariance"])
    torch.testing.assert_close(move(GAUSSIAN["mean"]), other["mean"])
    pull = matrix - torch.eye(2).double()  # the cost of the map is the squared distance
    cost = (MEANS[0] - MEANS[1]).square().sum() + (pull @ GAUSSIAN["covariance"] @ pull.T).trace()
    torch.testing.assert_close(exact.wasserstein_distance(GAUSSIAN, other) ** 2, cost)
    assert exact.wasserstein_distance(GAUSSIAN, GAUSSIAN) < 1e-6


def test_the_path_energy_of_the_linear_path():
    """|m|^2 + D (1 + s^2 - s pi/2) against the W2^2 of |m|^2 + D (1 - s)^2; m = 2, s = 1/2: 4.464602 and 4.25."""
    params = exact.gaussian_params(torch.tensor([2.0]).double(), 0.25)
    times = (torch.arange(2_000, dtype=torch.float64) + 0.5) / 2_000

    def energy(t):  # E |u_t|^2 by the second moment of a linear function
        c = paths.at(paths.linear(), t)
        slope = (c.alpha * c.d_alpha * 0.25 + c.sigma_d_sigma) ** 2 / (c.alpha**2 * 0.25 + c.sigma**2)
        return 4.0 + slope

    torch.testing.assert_close(vmap(energy)(times).mean(), torch.tensor(4.464602).double(), rtol=1e-6, atol=0)
    normal = exact.gaussian_params(torch.zeros(1).double())
    torch.testing.assert_close(exact.wasserstein_distance(normal, params) ** 2, torch.tensor(4.25).double())


def test_the_divergence_of_gaussians_is_that_of_draws():
    other = exact.gaussian_params(MEANS[0], COVARIANCES[1])
    points = exact.sample(random.key(2), GAUSSIAN, 20_000)
    one = torch.tensor(1.0).double()
    logs = [
        vmap(exact.marginals(paths.linear()).log_density, (None, None, 0))(p, one, points) for p in (GAUSSIAN, other)
    ]
    assert_mean(logs[0] - logs[1], exact.kullback_leibler(GAUSSIAN, other))
    assert exact.kullback_leibler(GAUSSIAN, GAUSSIAN).abs() < 1e-12


# -- the Schroedinger bridge ----------------------------------------------------------------------------------------

ENDS = {
    "start": exact.gaussian_params(torch.tensor([-0.5, 0.3]).double(), torch.tensor([[1.0, 0.4], [0.4, 0.7]]).double()),
    "end": exact.gaussian_params(torch.tensor([0.8, 0.1]).double(), torch.tensor([[0.3, -0.2], [-0.2, 1.5]]).double()),
}
SCALES = (0.3, 1.0, 2.0)


@pytest.mark.parametrize("scale", SCALES)
def test_the_coupling_of_a_bridge_is_one_of_the_reference(scale):
    """Ends are met, and the off-diagonal block of the joint precision is -I / c^2, though covariances do not commute."""
    bridge = exact.schrodinger_bridge(scale)
    cross = bridge.cross_covariance(ENDS)
    first, second = ENDS["start"]["covariance"], ENDS["end"]["covariance"]
    assert (first @ second - second @ first).abs().max() > 0.1
    joint = torch.cat([torch.cat([first, cross], 1), torch.cat([cross.T, second], 1)])
    assert (torch.linalg.eigvalsh(joint) > 0).all()
    block = torch.linalg.inv(joint)[:2, 2:]
    torch.testing.assert_close(block, -torch.eye(2).double() / scale**2, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", SCALES)
def test_the_moments_of_a_bridge_follow_its_drift(scale):
    """Of dx = b dt + c dW: m' = b(m), S' = A S + S A' + c^2 I; from the start to the end."""
    bridge = exact.schrodinger_bridge(scale)

    def rates(t, moments):
        mean, covariance = moments[:, 0], moments[:, 1:]
        slope = torch.func.jacrev(lambda x: bridge.drift(ENDS, t, x))(mean)
        spread = slope @ covariance + covariance @ slope.T + scale**2 * torch.eye(2).double()
        return torch.cat([bridge.drift(ENDS, t, mean)[:, None], spread], 1)

    start = torch.cat([ENDS["start"]["mean"][:, None], ENDS["start"]["covariance"]], 1)
    zero, half, one = (torch.tensor(t).double() for t in (0.0, 0.5, 1.0))
    middle = _integrate(rates, start, zero, half, 50)
    there = bridge.marginal(ENDS, half)
    torch.testing.assert_close(
        middle, torch.cat([there["mean"][:, None], there["covariance"]], 1), rtol=1e-6, atol=1e-6
    )
    end = _integrate(rates, middle, half, one, 50)
    expected = torch.cat([ENDS["end"]["mean"][:, None], ENDS["end"]["covariance"]], 1)
    torch.testing.assert_close(end, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", SCALES)
def test_the_drifts_of_a_bridge_are_means_over_its_ends(scale):
    """b = E[(x1 - x) / (1 - t) | x_t = x], backwards E[(x0 - x) / t | x_t = x], from the joint Gaussian."""
    bridge, cross = exact.schrodinger_bridge(scale), None
    cross = bridge.cross_covariance(ENDS)
    for t in TIMES:
        now = bridge.marginal(ENDS, t)
        pull = torch.linalg.solve(now["covariance"], X - now["mean"])
        with_end = (1 - t) * cross.T + t * ENDS["end"]["covariance"]
        with_start = (1 - t) * ENDS["start"]["covariance"] + t * cross
        ahead = (ENDS["end"]["mean"] + with_end @ pull - X) / (1 - t)
        behind = (ENDS["start"]["mean"] + with_start @ pull - X) / t
        torch.testing.assert_close(bridge.drift(ENDS, t, X), ahead)
        torch.testing.assert_close(bridge.backward_drift(ENDS, t, X), behind)
        score = bridge.score(ENDS, t, X)
        torch.testing.assert_close(score, -pull)
        torch.testing.assert_close(ahead + behind, scale**2 * score)
        torch.testing.assert_close(bridge.velocity(ENDS, t, X), ahead - scale**2 / 2 * score)


def test_a_bridge_without_noise_is_optimal_transport():
    move = exact.optimal_transport_map(ENDS["start"], ENDS["end"])
    matrix = torch.func.jacrev(move)(X)
    cross = exact.schrodinger_bridge(1e-3).cross_covariance(ENDS)
    torch.testing.assert_close(cross, ENDS["start"]["covariance"] @ matrix.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("scale", "values"),
    [(1.0, (0.546293, 0.611143, 0.617385, 0.617973)), (0.5, (0.833508, 0.880947, 0.882715))],
)
def test_the_markovian_fitting_of_unit_variances_ends_in_the_closed_form(scale, values):
    """C <- exp(-(c^2/2) int dt / S_t(C)): published iterates, and the limit."""
    times = (torch.arange(4_000, dtype=torch.float64) + 0.5) / 4_000
    cross = torch.tensor(0.0).double()
    for value in values:
        spread = (1 - times) ** 2 + times**2 + times * (1 - times) * (2 * cross + scale**2)
        cross = torch.exp(-(scale**2) / 2 * (1 / spread).mean())
        assert abs(float(cross) - value) < 1e-6
    for _ in range(30):
        spread = (1 - times) ** 2 + times**2 + times * (1 - times) * (2 * cross + scale**2)
        cross = torch.exp(-(scale**2) / 2 * (1 / spread).mean())
    unit = exact.gaussian_params(torch.zeros(1).double())
    expected = exact.schrodinger_bridge(scale).cross_covariance({"start": unit, "end": unit})[0, 0]
    torch.testing.assert_close(cross, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(expected, torch.tensor((math.sqrt(4 + scale**4) - scale**2) / 2).double())


def test_bad_arguments_are_refused_at_the_door():
    with pytest.raises(ValueError, match="mean must be a vector"):
        exact.gaussian_params(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="a covariance must be symmetric"):
        exact.gaussian_params(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="no negative eigenvalue"):
        exact.gaussian_params(torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(ValueError, match="a covariance must be a variance, or a matrix"):
        exact.mixture_params(torch.zeros(3, 2), torch.eye(3))
    with pytest.raises(ValueError, match="weights must be positive"):
        exact.mixture_params(torch.zeros(2, 2), 1.0, torch.tensor([1.0, 0.0]))
