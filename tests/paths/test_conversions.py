"""Every prediction from every other, against the exact fields of a mixture; energies as flows and back."""

from __future__ import annotations

import itertools

import pytest
import torch
from tests.paths.paths_table import AFFINE, ALL, REGULAR

from funcebm import fields, paths
from funcebm.paths import exact

FORMS = ("velocity", "data", "noise", "score")
MIXTURE = exact.mixture_params(
    torch.tensor([[-1.0, 0.5], [1.5, 0.0], [0.0, -2.0]]).double(),
    torch.tensor([[[0.4, 0.1], [0.1, 0.3]], [[0.2, 0.0], [0.0, 0.9]], [[0.5, -0.2], [-0.2, 0.4]]]).double(),
    torch.tensor([0.2, 0.5, 0.3]),
)
X = torch.tensor([0.4, -0.6]).double()


@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(FORMS, 2)))
@pytest.mark.parametrize("name", AFFINE)
def test_inside_every_form_follows_from_every_other(name, source, target):
    oracle = exact.marginals(AFFINE[name])
    convert = paths.convert(AFFINE[name], getattr(oracle, source), source, target)
    for t in (0.1, 0.5, 0.9):
        t = torch.tensor(t).double()
        expected = getattr(oracle, target)(MIXTURE, t, X)
        torch.testing.assert_close(convert(MIXTURE, t, X), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("target", ["data", "noise"])
@pytest.mark.parametrize("name", REGULAR)
def test_from_the_velocity_data_and_noise_are_regular_at_both_ends(name, target):
    oracle = exact.marginals(AFFINE[name])
    convert = paths.convert(AFFINE[name], oracle.velocity, "velocity", target)
    for t in (0.0, 1e-3, 0.5, 1 - 1e-3, 1.0):
        t = torch.tensor(t).double()
        expected = getattr(oracle, target)(MIXTURE, t, X)
        torch.testing.assert_close(convert(MIXTURE, t, X), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["variance_preserving", "linear_variance_preserving", "lipman", "variance_exploding"])
def test_where_the_slope_of_sigma_is_infinite_velocity_and_score_still_follow_from_each_other(name):
    oracle, t = exact.marginals(AFFINE[name]), torch.tensor(1.0).double()
    for source, target in (("velocity", "score"), ("score", "velocity")):
        convert = paths.convert(AFFINE[name], getattr(oracle, source), source, target)
        torch.testing.assert_close(convert(MIXTURE, t, X), getattr(oracle, target)(MIXTURE, t, X))


@pytest.mark.parametrize(
    ("name", "source", "target", "t"),
    [
        ("linear", "noise", "velocity", 0.0),
        ("linear", "score", "velocity", 0.0),
        ("linear", "noise", "data", 0.0),
        ("linear", "data", "velocity", 1.0),
        ("linear", "velocity", "score", 1.0),
        ("trigonometric", "noise", "score", 1.0),
        ("variance_preserving", "data", "velocity", 1.0),
    ],
)
def test_a_division_by_zero_is_an_error_that_says_where(name, source, target, t):
    convert = paths.convert(AFFINE[name], exact.marginals(AFFINE[name]).velocity, source, target)
    with pytest.raises(ValueError, match=f"{target} must follow from {source} at the time t. Got t = {t}"):
        convert(MIXTURE, torch.tensor(t).double(), X)


def test_forms_and_paths_that_do_not_fit_are_refused():
    field = exact.marginals(paths.linear()).velocity
    with pytest.raises(ValueError, match="source must name a prediction"):
        paths.convert(paths.linear(), field, "flow", "score")
    with pytest.raises(ValueError, match="energy_of"):
        paths.convert(paths.linear(), field, "velocity", "energy")
    with pytest.raises(ValueError, match="on a path with further noise"):
        paths.convert(paths.brownian_bridge(), field, "velocity", "score")
    with pytest.raises(ValueError, match="on paths without further noise"):
        paths.energy_of(lambda params, t, x: x.sum(), paths.brownian_bridge())


def test_of_a_bridge_noise_and_score_follow_from_each_other():
    path, t = paths.brownian_bridge(0.6), torch.tensor(0.3).double()
    score = exact.marginals(path).score
    noise = paths.convert(path, score, "score", "noise")
    gamma = paths.at(path, t).gamma
    torch.testing.assert_close(noise(MIXTURE, t, X), -gamma * score(MIXTURE, t, X))
    torch.testing.assert_close(paths.convert(path, noise, "noise", "score")(MIXTURE, t, X), score(MIXTURE, t, X))


@pytest.mark.parametrize("name", AFFINE)
def test_an_energy_is_a_flow(name):
    oracle = exact.marginals(AFFINE[name])
    flow = paths.velocity_of_energy(oracle.energy, AFFINE[name])
    for t in (0.1, 0.5, 0.97):
        t = torch.tensor(t).double()
        torch.testing.assert_close(flow(MIXTURE, t, X), oracle.velocity(MIXTURE, t, X), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", AFFINE)
def test_a_potential_is_an_energy_and_back(name):
    """For Gaussian data N(m, S) the potential is known, and the energy must have the gradient V^-1 (x - alpha m)."""
    path = AFFINE[name]
    mean, covariance = torch.tensor([0.5, -1.0]).double(), torch.tensor([[0.5, 0.2], [0.2, 0.8]]).double()

    def potential(params, t, x):
        c = paths.at(path, t)
        identity = torch.eye(2).double()
        of_noise = c.alpha**2 * covariance + c.sigma**2 * identity
        slope = (c.alpha * c.d_alpha * covariance + c.sigma_d_sigma * identity) @ torch.linalg.inv(of_noise)
        away = x - c.alpha * mean
        return -c.d_alpha * mean @ x - away @ slope @ away / 2

    energy = paths.energy_of(potential, path)
    oracle = exact.marginals(path)
    params = exact.gaussian_params(mean, covariance)
    back = paths.potential_of(energy, path)
    for t in (0.05, 0.5, 0.95):
        t = torch.tensor(t).double()
        torch.testing.assert_close(paths.negative_gradient(potential)((), t, X), oracle.velocity(params, t, X))
        slope = fields.gradient(paths.at_time(energy, t))((), X)
        torch.testing.assert_close(slope, -oracle.score(params, t, X), rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(back((), t, X), potential((), t, X), rtol=1e-9, atol=1e-9)
        same = paths.velocity_of_energy(energy, path)
        torch.testing.assert_close(same((), t, X), oracle.velocity(params, t, X), rtol=1e-8, atol=1e-8)


def test_conditions_trees_and_mapped_times_go_through():
    path = paths.linear()
    times = torch.tensor([0.2, 0.6]).double()

    def velocity(params, t, x, label):
        return {"a": params * t * x["a"] + label, "b": x["b"]}

    x = {"a": torch.ones(3).double(), "b": torch.tensor(2.0).double()}
    noise = paths.convert(path, velocity, "velocity", "noise")
    mapped = torch.func.vmap(noise, (None, 0, None, None))(torch.tensor(2.0), times, x, torch.tensor(1.0))
    torch.testing.assert_close(mapped["a"][0], torch.full((3,), 1 - 0.2 * (2 * 0.2 + 1)).double())
    torch.testing.assert_close(mapped["b"], 2 - times * 2)


def test_a_static_function_takes_any_time():
    field = paths.static(lambda params, x: params * x)
    assert field(2.0, torch.tensor(0.3), torch.tensor(3.0)) == 6
    assert paths.at_time(lambda params, t, x: t * x, 0.5)((), torch.tensor(3.0)) == 1.5


def test_all_paths_are_swept():
    assert {*AFFINE, "brownian_bridge", "encoder_decoder"} == set(ALL)
