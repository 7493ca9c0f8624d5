"""Stein variational gradient descent: a transcription, its symmetries, its fixed points, and the contract of samplers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from tests.cases import quartic, quartic_params
from torch import Tensor
from torch.func import vmap

import funcebm as ebm
from funcebm import random, tree
from funcebm.samplers import gradient_descent, svgd
from funcebm.types import Sampler

PARAMS = quartic_params(torch.float64)
X = random.normal(random.key(0), (7, 3), dtype=torch.float64)


def _double(sampler: Sampler) -> Sampler:
    return sampler._replace(tuning=tree.map(torch.Tensor.double, sampler.tuning))


def _step(sampler: Sampler, position: Any, params: Any = PARAMS) -> Any:
    return sampler.step(params, sampler.tuning, sampler.init(params, position), ())


def _reference(x: np.ndarray, gradient: np.ndarray, step_size: float, bandwidth: float | None) -> np.ndarray:
    """The sum of the paper, particle by particle; the slope of the kernel by a central difference in complex step."""
    n = len(x)
    pairs = sorted(((x[i] - x[j]) ** 2).sum() for i in range(n) for j in range(i))
    h = bandwidth or math.sqrt(pairs[(len(pairs) - 1) // 2] / (2 * math.log(n + 1)))
    moved = x.copy()
    for i in range(n):
        for j in range(n):
            kernel = np.exp(-((x[j] - x[i]) ** 2).sum() / (2 * h**2))
            slope = np.zeros_like(x[j])
            for d in range(x.shape[1]):
                shifted = x[j].astype(complex)
                shifted[d] += 1e-30j
                slope[d] = np.exp(-((shifted - x[i]) ** 2).sum() / (2 * h**2)).imag / 1e-30
            moved[i] += step_size / n * (-kernel * gradient[j] + slope)
    return moved


@pytest.mark.parametrize("num", [2, 3, 7])
@pytest.mark.parametrize("bandwidth", [None, 0.9])
def test_a_step_is_the_sum_of_the_paper(num, bandwidth):
    exact = lambda number: None if number is None else torch.tensor(number, dtype=torch.float64)  # noqa: E731
    sampler = svgd(quartic, step_size=exact(0.3), bandwidth=exact(bandwidth))
    state = sampler.init(PARAMS, X[:num])
    for _ in range(3):
        gradient = vmap(torch.func.grad(quartic, argnums=1), (None, 0))(PARAMS, state.position)
        expected = _reference(state.position.numpy(), gradient.numpy(), 0.3, bandwidth)
        state, info = sampler.step(PARAMS, sampler.tuning, state, ())
        np.testing.assert_allclose(state.position.numpy(), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(info.energy, vmap(quartic, (None, 0))(PARAMS, state.position).mean())
    torch.testing.assert_close(state.gradient, sampler.init(PARAMS, state.position).gradient)
    assert int(info.num_gradients) == num


@pytest.mark.parametrize("bandwidth", [None, 0.9])
def test_one_particle_descends_the_gradient(bandwidth):
    alone, _ = _step(_double(svgd(quartic, step_size=0.1, bandwidth=bandwidth)), X[:1])
    descent, _ = _step(_double(gradient_descent(quartic, step_size=0.1)), X[0])
    torch.testing.assert_close(alone.position[0], descent.position, rtol=1e-14, atol=1e-14)


def test_particles_at_one_place_descend_together():
    together, info = _step(_double(svgd(quartic, step_size=0.1)), X[:1].expand(5, 3).clone())
    alone, _ = _step(_double(gradient_descent(quartic, step_size=0.1)), X[0])
    torch.testing.assert_close(together.position, alone.position.expand(5, 3))
    assert not bool(info.is_divergent)


def test_the_order_of_the_particles_does_not_matter():
    order = random.permutation(random.key(1), len(X))
    sampler = _double(svgd(quartic, step_size=0.3))
    torch.testing.assert_close(_step(sampler, X[order])[0].position, _step(sampler, X)[0].position[order])


def test_rotated_particles_of_a_rotated_energy_move_as_before():
    rotation = torch.linalg.qr(random.normal(random.key(2), (3, 3), dtype=torch.float64)).Q
    offset = torch.tensor([3.0, -1.0, 0.5]).double()
    turned = svgd(lambda params, x: quartic(params, rotation.T @ (x - offset)), step_size=0.3)
    found, _ = _step(_double(turned), X @ rotation.T + offset)
    expected, _ = _step(_double(svgd(quartic, step_size=0.3)), X)
    torch.testing.assert_close(found.position, expected.position @ rotation.T + offset)


def test_a_tree_is_its_ravelled_positions():
    split = lambda x: {"b": x[..., 0], "a": x[..., 1:]}  # noqa: E731
    sampler = _double(svgd(quartic, step_size=0.3))
    state, _ = _step(sampler, split(X))
    expected, _ = _step(sampler, X)
    torch.testing.assert_close(state.position, split(expected.position))


def _ends(energy: Any, start: Tensor, num_steps: int, **options: Any) -> Tensor:
    sampler = _double(svgd(energy, **options))
    state = sampler.init((), start)
    for _ in range(num_steps):
        state, _ = sampler.step((), sampler.tuning, state, ())
    return state.position


@pytest.mark.parametrize("bandwidth", [None, 0.5, 1.0, 2.0])
def test_two_particles_stop_where_repulsion_is_the_pull(bandwidth):
    """On ``x^2 / 2`` at ``+-a`` with ``a^2 = log(1 + 2 / h^2) h^2 / 2``; the median, ``4 a^2 = 2 log(3) h^2``, makes h 1."""
    start = torch.tensor([[0.5], [2.0]]).double()
    ends = _ends(lambda params, x: (x**2).sum() / 2, start, 300, step_size=0.5, bandwidth=bandwidth)
    h = bandwidth or 1.0
    expected = math.sqrt(math.log(1 + 2 / h**2) * h**2 / 2)
    torch.testing.assert_close(ends, torch.tensor([[-expected], [expected]]).double(), atol=1e-6, rtol=0)


def test_on_the_line_the_particles_become_quantiles_of_a_gaussian():
    start = torch.linspace(-1, 1, 40)[:, None].double()
    x = _ends(lambda params, x: ((x - 3) ** 2).sum() / 8, start, 600, step_size=1.0)
    assert float(x.mean()) == pytest.approx(3.0, abs=0.01)
    assert 0.9 < float(x.var(unbiased=False)) / 4 < 1  # 0.92 at the fixed point: too small, as of every finite ensemble
    levels = (torch.arange(40).double() + 0.5) / 40
    quantiles = 3 + 2 * math.sqrt(2) * torch.erfinv(2 * levels - 1)
    assert (x[:, 0].sort().values - quantiles).abs().max() < 0.3


def test_in_the_plane_the_covariance_is_nearly_that_of_the_target():
    """From a start of the wrong scale and place; 60 particles give nine tenths of the covariance."""
    covariance = torch.tensor([[2.0, 0.8], [0.8, 1.0]]).double()
    precision = torch.linalg.inv(covariance)
    start = random.normal(random.key(3), (60, 2), dtype=torch.float64) + 2
    x = _ends(lambda params, x: (x - 1) @ precision @ (x - 1) / 2, start, 400, step_size=1.0)
    torch.testing.assert_close(x.mean(0), torch.ones(2).double(), atol=0.02, rtol=0)
    torch.testing.assert_close(x.T.cov(correction=0) / covariance, torch.full((2, 2), 0.9).double(), atol=0.03, rtol=0)


# -- the contract ---------------------------------------------------------------------------------------------------


def _positions(dtype: torch.dtype) -> dict[str, Tensor]:
    key_a, key_b = random.split(random.key(4))
    return {"b": random.normal(key_a, (3, 5, 2), dtype=dtype), "a": random.normal(key_b, (3, 5), dtype=dtype)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("bandwidth", [None, 0.8])
def test_many_ensembles_are_each_by_itself(dtype, bandwidth):
    sampler, params, positions = svgd(quartic, bandwidth=bandwidth), quartic_params(dtype), _positions(dtype)
    copies = tree.map(torch.clone, positions)
    run = ebm.sample(random.key(5), sampler, params, positions, num_samples=4, num_burn_in=1, jit=False)
    tuning = tree.cast_like(sampler.tuning, positions["a"])
    for c in range(3):
        state = sampler.init(params, tree.map(lambda leaf: leaf[c], positions))  # noqa: B023
        for n in range(5):
            state, info = sampler(random.key(0), params, state, tuning)
            assert all(not leaf.is_floating_point() or leaf.dtype == dtype for leaf in tree.leaves((state, info)))
            if n > 0:
                for name in "ab":
                    torch.testing.assert_close(run.draws[name][c, n - 1], state.position[name])
                torch.testing.assert_close(run.info.energy[c, n - 1], info.energy)
    assert info.num_gradients.dtype == torch.int32 and info.is_accepted.dtype == info.is_divergent.dtype == torch.bool
    assert all(torch.equal(positions[name], copies[name]) for name in "ab")
    first = ebm.sample(random.key(5), sampler, params, positions, num_samples=2, num_burn_in=1, jit=False)
    second = ebm.resume(first, num_samples=2)
    assert torch.equal(torch.cat([first.draws["b"], second.draws["b"]], 1), run.draws["b"])


def test_it_maps_over_parameters_and_differentiates():
    sampler, positions = _double(svgd(quartic)), _positions(torch.float64)

    def last(k):
        params = {**PARAMS, "k": k}
        return ebm.sample(random.key(5), sampler, params, positions, num_samples=3, jit=False).draws["b"][:, -1]

    ks = torch.tensor([0.5, 1.0, 2.0]).double()
    torch.testing.assert_close(vmap(last)(ks), torch.stack([last(k) for k in ks]))
    spread = lambda k: (last(k) ** 2).mean()  # noqa: E731
    k, h = torch.tensor(1.2).double(), 1e-6
    slope = torch.func.grad(spread)(k)
    torch.testing.assert_close(slope, (spread(k + h) - spread(k - h)) / (2 * h), rtol=1e-5, atol=1e-8)


def test_an_ensemble_that_leaves_the_finite_numbers_is_flagged():
    _, info = _step(_double(svgd(quartic, step_size=1e200)), X)
    assert bool(info.is_divergent)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"step_size": 0.0}, "step_size must be positive"),
        ({"bandwidth": -1.0}, "bandwidth must be positive"),
        ({"bandwidth": 0.0}, "bandwidth must be positive"),
    ],
)
def test_numbers_that_make_no_sense_are_errors(options, words):
    with pytest.raises(ValueError, match=words):
        svgd(quartic, **options)


@pytest.mark.parametrize(
    "position",
    [torch.tensor(1.0), {"a": torch.ones(4), "b": torch.ones(5, 2)}, {"a": torch.ones(4), "b": torch.ones(())}],
)
def test_a_position_without_a_particle_axis_is_an_error(position):
    with pytest.raises(ValueError, match="must lead with one particle axis"):
        svgd(quartic).init(quartic_params(), position)


def test_particles_in_the_place_of_ensembles_are_an_error():
    with pytest.raises(ValueError, match=r"\(num_chains, n, \*event\)"):
        ebm.sample(random.key(0), svgd(quartic), quartic_params(), torch.ones(4), num_samples=1, jit=False)
