"""Riemannian HMC is its definition, leaves its target invariant, and rejects what its implicit equations do not solve."""

from __future__ import annotations

import math

import pytest
import torch
from tests.distributions import assert_mean, assert_same_distribution
from tests.targets import draw_skewed, skewed
from torch.func import vmap

import funcebm as ebm
from funcebm import metrics, random, samplers, tree
from funcebm.integrators import PhasePoint
from funcebm.integrators.riemannian import generalised_leapfrog

DTYPE = torch.float64
MATRIX = torch.tensor([[1.2, 0.3, 0.0], [0.3, 0.8, -0.2], [0.0, -0.2, 1.5]], dtype=DTYPE)


def curved(params, x):
    """Near the expected Hessian of the skewed density: its determinant varies a lot."""
    one = torch.ones_like(x[0])
    return torch.stack([0.3 * one + torch.exp(x[0]) + x[0] ** 2, -x[0], -x[0], 1.3 * one]).reshape(2, 2)


def _energy(params, x):
    return params * (x**2).sum() / 2 + 0.2 * (x**4).sum() + torch.sin(x[0] + 2 * x[1])


def _double(sampler):
    return sampler._replace(tuning=tree.map(torch.Tensor.double, sampler.tuning))


def test_with_a_constant_metric_it_is_hmc_with_that_mass_noise_for_noise():
    params = torch.tensor(1.3, dtype=DTYPE)
    riemannian = samplers.riemannian_hmc(_energy, lambda params, x: MATRIX, step_size=0.5, num_leapfrog=4)
    dense = metrics.dense(torch.linalg.inv(MATRIX))
    hmc = samplers.hmc(_energy, step_size=0.5, num_leapfrog=4, inverse_mass=dense)
    start = random.normal(random.key(0), (300, 3), dtype=DTYPE)
    noise = vmap(riemannian.draw)(random.split(random.key(1), 300), start)
    momentum = noise.momentum @ torch.linalg.cholesky(MATRIX).mT
    hmc_noise = hmc.draw(random.key(0), start[0])._replace(
        momentum=vmap(lambda p: metrics.whiten(dense, p))(momentum), uniform=noise.uniform
    )
    results = []
    for sampler, given in ((riemannian, noise), (hmc, hmc_noise)):
        sampler = _double(sampler)
        state = vmap(sampler.init, (None, 0))(params, start)
        results.append(vmap(sampler.step, (None, None, 0, 0))(params, sampler.tuning, state, given))
    torch.testing.assert_close(results[0][0].position, results[1][0].position, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(results[0][1].acceptance_rate, results[1][1].acceptance_rate, rtol=1e-8, atol=1e-11)
    assert torch.equal(results[0][1].num_gradients, results[1][1].num_gradients)
    assert results[0][1].is_converged.all()
    assert 0 < float(results[0][1].is_accepted.double().mean()) < 1


INVARIANT = {
    "curved": (curved, {"step_size": 0.7, "num_leapfrog": 3}),
    "curved_checked": (curved, {"step_size": 1.2, "num_leapfrog": 1, "check_reversibility": True}),
    "softabs": (samplers.softabs(skewed, alpha=1.0), {"step_size": 0.9, "num_leapfrog": 1, "num_fixed_point": 15}),
}


@pytest.mark.parametrize("name", list(INVARIANT))
def test_the_target_is_invariant_at_large_steps(name):
    metric, options = INVARIANT[name]
    start, other = (draw_skewed(random.key(seed), num) for seed, num in ((11, 4000), (12, 40000)))
    sampler = samplers.riemannian_hmc(skewed, metric, **options)
    samples = ebm.sample(random.key(13), sampler, torch.tensor(1.0), start, num_samples=1, thin=3, jit=False)
    assert 0.3 < float(samples.info.acceptance_rate.mean()) < 0.95
    assert_same_distribution(samples.draws[:, 0], other)


def test_one_step_is_in_detailed_balance():
    start = draw_skewed(random.key(21), 8000)
    sampler = samplers.riemannian_hmc(skewed, curved, step_size=0.8, num_leapfrog=2)
    samples = ebm.sample(random.key(22), sampler, torch.tensor(1.0), start, num_samples=1, jit=False)
    x, y = start.double(), samples.draws[:, 0].double()
    assert_mean(torch.tanh(x) * y**2 - torch.tanh(y) * x**2, 0.0)
    assert_mean(torch.sigmoid(x[:, 0]) * y[:, 1] - torch.sigmoid(y[:, 0]) * x[:, 1], 0.0)


def test_it_is_its_definition():
    """Against autograd of the Hamiltonian as it is written, and 60 iterations of each equation."""
    params, h, num_leapfrog = torch.tensor(1.0, dtype=DTYPE), 0.75, 2

    def hamiltonian(x, p):
        matrix = curved(params, x)
        return skewed(params, x) + torch.logdet(matrix) / 2 + p @ torch.linalg.inv(matrix) @ p / 2

    by_position, by_momentum = torch.func.grad(hamiltonian, 0), torch.func.grad(hamiltonian, 1)
    sampler = _double(samplers.riemannian_hmc(skewed, curved, step_size=h, num_leapfrog=num_leapfrog))
    state, accepted = sampler.init(params, torch.tensor([0.3, -0.5], dtype=DTYPE)), []
    for i in range(6):
        noise = sampler.draw(random.fold_in(random.key(7), i), state.position)
        noise = noise._replace(uniform=0.8 + 0.2 * noise.uniform)
        x = state.position
        p = torch.linalg.cholesky(curved(params, x)) @ noise.momentum
        before = hamiltonian(x, p)
        for _ in range(num_leapfrog):
            p_half, y = p, x
            for _ in range(60):
                p_half = p - h / 2 * by_position(x, p_half)
            for _ in range(60):
                y = x + h / 2 * (by_momentum(x, p_half) + by_momentum(y, p_half))
            x, p = y, p_half - h / 2 * by_position(y, p_half)
        rate = torch.exp(before - hamiltonian(x, p)).clamp(max=1)
        is_accepted = bool(noise.uniform < rate)
        expected = x if is_accepted else state.position
        state, info = sampler.step(params, sampler.tuning, state, noise)
        torch.testing.assert_close(info.acceptance_rate, rate, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(state.position, expected, rtol=1e-8, atol=1e-9)
        accepted.append(is_accepted)
        assert bool(info.is_converged)
        assert int(info.num_gradients) == num_leapfrog
        assert 4 * num_leapfrog < int(info.num_iterations) <= 2 * 30 * num_leapfrog
    assert 0 < sum(accepted) < 6


def test_where_fixed_points_do_not_converge_the_proposal_is_rejected_and_flagged():
    sampler = samplers.riemannian_hmc(skewed, curved, step_size=0.9, num_leapfrog=2, num_fixed_point=7)
    start = draw_skewed(random.key(11), 2000)
    samples = ebm.sample(random.key(13), sampler, torch.tensor(1.0), start, num_samples=1, jit=False)
    info = tree.map(lambda leaf: leaf[:, 0], samples.info)
    assert 0.05 < float(info.is_converged.float().mean()) < 0.95
    lost = ~info.is_converged
    assert info.is_divergent[lost].all()
    assert not info.is_accepted[lost].any()
    assert float(info.acceptance_rate[lost].max()) == 0
    assert torch.equal(samples.draws[lost, 0], start[lost])
    assert torch.isfinite(samples.draws).all()
    assert float(info.acceptance_rate[info.is_converged].min()) > 0


def test_one_step_that_is_not_solved_loses_the_trajectory():
    params, start = torch.tensor(1.0), draw_skewed(random.key(11), 500)
    infos = []
    for num_leapfrog in (1, 2):
        options = {"step_size": 0.9, "num_leapfrog": num_leapfrog, "num_fixed_point": 9}
        sampler = samplers.riemannian_hmc(skewed, curved, **options)
        noise = vmap(sampler.draw)(random.split(random.key(1), 500), start)
        state = vmap(sampler.init, (None, 0))(params, start)
        infos.append(sampler.batched_step(params, sampler.tuning, state, noise)[1])
    one, two = infos
    assert not (two.is_converged & ~one.is_converged).any()
    assert 20 < int(two.is_converged.sum()) < int(one.is_converged.sum()) < 480


@pytest.mark.parametrize("is_checked", [False, True])
def test_the_iterations_are_all_evaluations_of_the_metric_and_a_tolerance_saves_some(is_checked):
    params, start, num_leapfrog = torch.tensor(1.0, dtype=DTYPE), torch.tensor([0.3, -0.5], dtype=DTYPE), 3
    options = {"step_size": 0.5, "num_leapfrog": num_leapfrog, "check_reversibility": is_checked}
    iterations = []
    for tolerance in (None, 1e-10, 1e-5, 1e-2):
        calls = []

        def counted(params, x):
            calls.append(x)  # noqa: B023
            return curved(params, x)

        sampler = samplers.riemannian_hmc(skewed, counted, tolerance=tolerance, **options)
        state, noise = sampler.init(params, start), sampler.draw(random.key(4), start)
        calls.clear()
        _, info = sampler.step(params, sampler.tuning, state, noise)
        # in each step one at its start and one at its end; for the momentum at first; for both energies at last
        num_legs = num_leapfrog * (1 + is_checked)
        assert int(info.num_iterations) == len(calls) - 2 * num_legs - 3
        assert bool(info.is_converged)
        iterations.append(int(info.num_iterations))
    assert iterations[0] >= iterations[1] > iterations[2] > iterations[3]


def test_steps_that_cannot_be_taken_back_are_rejected_where_that_is_checked():
    """Some ways back do not converge, others end elsewhere; the check finds just these, and changes nothing else."""
    params, start, num, step_size = torch.tensor(1.0), draw_skewed(random.key(11), 4000), 4000, 1.4
    noise = vmap(samplers.riemannian_hmc(skewed, curved).draw)(random.split(random.key(1), num), start)
    results = []
    for is_checked in (False, True):
        options = {"step_size": step_size, "num_leapfrog": 1, "check_reversibility": is_checked}
        sampler = samplers.riemannian_hmc(skewed, curved, **options)
        state = vmap(sampler.init, (None, 0))(params, start)
        results.append(sampler.batched_step(params, sampler.tuning, state, noise))
    (after, info), (checked_after, checked) = results

    def there_and_back(x, z):
        field = lambda x: (skewed(params, x), torch.func.grad(lambda x: skewed(params, x))(x))  # noqa: E731
        options = {"tolerance": torch.finfo(x.dtype).eps ** (2 / 3), "max_iterations": 30}
        leapfrog = lambda point: generalised_leapfrog(  # noqa: E731
            field, lambda x: curved(params, x), torch.tensor(step_size), point, **options
        )
        end, _, _, _ = leapfrog(PhasePoint(x, torch.linalg.cholesky(curved(params, x)) @ z, field(x)[1]))
        back, _, is_converged, _ = leapfrog(end._replace(momentum=-end.momentum))
        return is_converged, (back.position - x).abs().amax()

    can_return, distance = vmap(there_and_back)(start, noise.momentum)
    returns = can_return & (distance < 1e-2)
    assert (info.is_converged & ~can_return).any()
    assert (info.is_converged & can_return & ~returns).any()
    assert float((info.is_converged & ~returns).float().mean()) < 0.05
    assert torch.equal(checked.is_converged, info.is_converged & returns)
    assert torch.equal(checked_after.position[checked.is_converged], after.position[checked.is_converged])
    assert torch.equal(checked_after.position[~checked.is_converged], start[~checked.is_converged])
    assert checked.is_divergent[~checked.is_converged].all()
    assert int(checked.num_gradients[0]) == 2 * int(info.num_gradients[0]) == 2


def test_a_metric_that_breaks_down_inside_is_a_rejection_with_a_flag():
    """It is positive definite below one only; so the target is cut off there."""
    metric = lambda params, x: torch.diag(torch.where(x < 1, 1.0, -1.0))  # noqa: E731
    sampler = samplers.riemannian_hmc(lambda params, x: (x**2).sum() / 2, metric, step_size=0.6, num_leapfrog=2)
    samples = ebm.sample(random.key(0), sampler, (), torch.zeros(1500, 1), num_samples=1, thin=10, jit=False)
    assert float(samples.draws.max()) < 1
    assert 0.02 < float(samples.info.is_divergent.float().mean()) < 0.6
    below = (
        math.exp(-0.5) / math.sqrt(2 * math.pi) / 0.8413447
    )  # minus the mean of a normal distribution cut off above one
    assert_mean(samples.draws[:, 0], -below)


def test_many_chains_in_lock_step_are_the_step_of_each():
    for is_checked in (False, True):
        sampler = _double(samplers.riemannian_hmc(skewed, curved, num_leapfrog=2, check_reversibility=is_checked))
        sampler = sampler._replace(tuning=sampler.tuning._replace(step_size=torch.tensor(0.8, dtype=DTYPE)))
        params, start = torch.tensor(1.0, dtype=DTYPE), draw_skewed(random.key(0), 7).double()
        states = vmap(sampler.init, (None, 0))(params, start)
        noise = vmap(sampler.draw)(random.split(random.key(1), 7), start)
        each = [
            sampler.step(params, sampler.tuning, *tree.map(lambda leaf: leaf[c], (states, noise)))  # noqa: B023
            for c in range(7)
        ]
        expected = tree.stack(each)
        assert len(set(expected[1].num_iterations.tolist())) > 2
        for got in (
            sampler.batched_step(params, sampler.tuning, states, noise),
            vmap(sampler.step, (None, None, 0, 0))(params, sampler.tuning, states, noise),
        ):
            assert tree.structure(got) == tree.structure(expected)
            for a, b in zip(tree.leaves(got), tree.leaves(expected), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda params, x: torch.ones(2), r"metric must return a \(2, 2\) tensor. Got shape \(2,\)"),
        (lambda params, x: torch.eye(3), r"metric must return a \(2, 2\) tensor. Got shape \(3, 3\)"),
        (lambda params, x: 1.0, r"metric must return a \(2, 2\) tensor. Got 1.0"),
        (lambda params, x: torch.tensor([[1.0, 0.5], [0.0, 1.0]]), "metric must be symmetric"),
        (lambda params, x: torch.tensor([[1.0, 2.0], [2.0, 1.0]]), "metric must be positive definite"),
        (lambda params, x: torch.eye(2) * torch.nan, "metric must be finite"),
    ],
)
def test_a_metric_that_is_none_is_an_error_at_the_door(metric, message):
    sampler = samplers.riemannian_hmc(_energy, metric)
    with pytest.raises(ValueError, match=message):
        sampler.init(torch.tensor(1.0), torch.zeros(2))
    with pytest.raises(ValueError, match=message):
        ebm.sample(random.key(0), sampler, torch.tensor(1.0), torch.zeros(3, 2), num_samples=2, jit=False)


def test_chains_that_start_where_the_metric_is_none_are_named():
    metric = lambda params, x: torch.diag(torch.where(x < 1, 1.0, -1.0))  # noqa: E731
    sampler = samplers.riemannian_hmc(lambda params, x: (x**2).sum(), metric)
    starts = torch.tensor([[0.0], [2.0], [0.5], [3.0]])
    with pytest.raises(ValueError, match="chains 1, 3"):
        ebm.sample(random.key(0), sampler, (), starts, num_samples=2, jit=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_size": -1.0}, "step_size must be positive"),
        ({"num_leapfrog": 0}, "num_leapfrog must be an integer of at least 1"),
        ({"num_fixed_point": 0}, "num_fixed_point must be an integer of at least 1"),
        ({"tolerance": 0.0}, "tolerance must be positive"),
    ],
)
def test_numbers_that_make_no_sense_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        samplers.riemannian_hmc(_energy, curved, **options)
