"""Parallel tempering: the distribution of every rung, swaps and restarts in closed form, ladders, modes that are far apart."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.cases import quartic, quartic_params
from tests.distributions import assert_mean, assert_same_distribution
from torch import Tensor
from torch.func import grad_and_value, vmap

import funcebm as ebm
from funcebm import random, samplers, schedules, tree
from funcebm.samplers import parallel_tempering as make_parallel_tempering
from funcebm.samplers.combinators import cycle
from funcebm.samplers.parallel_tempering import communication_barrier, num_restarts, tune_ladder
from funcebm.types import Info, Sampler

NUM_CHAINS = 16000


def _mala(energy: Any, beta: float) -> Sampler:
    return samplers.mala(energy, step_size=0.3 / max(beta, 0.1))


def _ghmc(energy: Any, beta: float) -> Sampler:
    return samplers.ghmc(energy, step_size=0.6 / max(beta, 0.1) ** 0.5, alpha=0.3)


# -- every rung keeps its distribution -----------------------------------------------------------------------------------------


def two_modes(params: Any, x: Tensor, centre: float = 2.0) -> Tensor:
    """Minus the log of 0.3 N(-c, 0.5^2) + 0.7 N(c, 1), but for a constant."""
    left = math.log(0.3 / 0.5) - (x + centre) ** 2 / (2 * 0.25)
    right = math.log(0.7) - (x - centre) ** 2 / 2
    return -torch.logaddexp(left, right).sum()


def wide(params: Any, x: Tensor) -> Tensor:
    """The reference N(0.5, 3^2)."""
    return ((x - 0.5) ** 2).sum() / 18


def _draw(key: Tensor, energy: Any, num: int) -> Tensor:
    """Exact draws in one dimension, by the inverse of a distribution function on a fine grid."""
    grid = torch.linspace(-40, 40, 160001).double()
    density = torch.exp(-vmap(energy)(grid[:, None]))
    below = torch.cumsum(density, 0) / density.sum()
    index = torch.searchsorted(below, random.uniform(key, (num,), dtype=torch.float64)).clamp(1, len(grid) - 1)
    return (grid[index] + (grid[1] - grid[0]) * (random.uniform(random.split(key)[0], (num,)) - 0.5)).float()[:, None]


@pytest.mark.parametrize("local", [_mala, _ghmc], ids=["mala", "ghmc"])
@pytest.mark.parametrize("reference", [None, wide], ids=["powers", "reference"])
def test_the_product_of_all_laws_is_invariant(local, reference):
    betas = [0.05 if reference is None else 0.0, 0.3, 1.0]
    sampler = make_parallel_tempering(two_modes, local, betas, reference=reference)

    def path(beta):
        if reference is None:
            return lambda x: beta * two_modes((), x)
        return lambda x: beta * two_modes((), x) + (1 - beta) * wide((), x)

    start, other = (
        torch.stack(
            [_draw(key, path(beta), NUM_CHAINS) for key, beta in zip(random.split(k, 3), betas, strict=True)], 1
        )
        for k in (random.key(1), random.key(2))
    )
    state = vmap(sampler.init, (None, 0))((), start[:, -1])
    rungs = [vmap(grad_and_value(path(beta)))(start[:, k]) for k, beta in enumerate(betas)]
    gradient, energy = (torch.stack([rung[i] for rung in rungs], 1) for i in (0, 1))
    state = state._replace(rungs=state.rungs._replace(position=start, energy=energy, gradient=gradient))
    swaps = 0
    for i in range(4):
        keys = vmap(random.fold_in, (0, None))(random.split(random.key(3), NUM_CHAINS), i)
        noise = vmap(sampler.draw, (0, None))(keys, start[0, -1])
        state, info = vmap(sampler.step, (None, None, 0, 0))((), sampler.tuning, state, noise)
        swaps = swaps + info.is_swapped.double().mean(0)
    assert (swaps > 0.2).all()
    assert 0.1 < float(info.rung_acceptance_rate.mean()) < 0.98
    assert_same_distribution(state.rungs.position[..., 0], other[..., 0])
    torch.testing.assert_close(state.position, state.rungs.position[:, -1])


def test_modes_that_one_chain_never_leaves_get_their_weights():
    far = lambda params, x: two_modes(params, x, 5.0)  # noqa: E731  the density between them is 1e-10 of its maximum
    local = lambda energy, beta: samplers.mala(energy, step_size=0.2 / beta)  # noqa: E731
    betas = schedules.geometric(0.02, 1.0, 6)(torch.arange(7))
    start = torch.full((600, 1), -5.0)
    options = {"num_samples": 1, "num_burn_in": 250, "jit": False}
    alone = ebm.sample(random.key(4), local(far, 1.0), (), start, **options).draws[:, 0]
    assert (alone < 0).all()
    ladder = make_parallel_tempering(far, local, betas)
    draws = ebm.sample(random.key(4), ladder, (), start, **options).draws[:, 0]
    assert_mean((draws > 0).double(), 0.7)
    assert_same_distribution(draws, _draw(random.key(5), lambda x: far((), x), 20000))


# -- swaps in closed form ---------------------------------------------------------------------------------------------


def square(params: Any, x: Tensor) -> Tensor:
    return (x**2).sum() / 2


def _independent(energy: Any, beta: float) -> Sampler:
    """Draws of ``N(0, 1 / beta)``, independent of where the chain is."""

    def state_of(params: Any, position: Any) -> Any:
        return samplers.mala(energy).init(params, position)

    def step(params: Any, tuning: Any, state: Any, noise: Any) -> Any:
        state = state_of(params, noise / torch.sqrt(params[1]))
        one = torch.ones_like(state.energy)
        info = Info(one, one.bool(), ~one.bool(), torch.zeros_like(one, dtype=torch.int32), state.energy)
        return state, info

    draw = lambda key, position: tree.normal_like(key, position)  # noqa: E731
    return Sampler(state_of, draw, step, samplers.gradient_descent(energy, step_size=0.1).tuning)


def _run(betas: Any, num_chains: int, num_samples: int, dim: int = 2, seed: int = 6) -> Any:
    sampler = make_parallel_tempering(square, _independent, betas)
    start = torch.zeros(num_chains, dim)
    return ebm.sample(random.key(seed), sampler, (), start, num_samples=num_samples, jit=False)


def test_swap_rates_of_gaussians_are_the_closed_form():
    """In the plane ``V`` is exponential with rate beta, so ``r = (b' - b) / (b' + b)``; every pair, its turn or not."""
    betas = torch.tensor([0.1, 0.15, 0.5, 1.0])
    run = _run(betas, 4000, 4)
    expected = 1 - (betas[1:] - betas[:-1]) / (betas[1:] + betas[:-1])
    for n in range(1, 4):
        assert_mean(run.info.swap_rate[:, n], expected)
    barrier = communication_barrier(run.info)
    torch.testing.assert_close(barrier.rejections, 1 - expected, atol=0.02, rtol=0)
    torch.testing.assert_close(barrier.total, barrier.rejections.sum())


def test_pairs_take_turns_and_swap_as_often_as_they_should():
    betas = torch.tensor([0.1, 0.15, 0.5, 1.0])
    run = _run(betas, 4000, 4)
    expected = 1 - (betas[1:] - betas[:-1]) / (betas[1:] + betas[:-1])
    swapped = run.info.is_swapped.double()
    for n in range(4):
        turn = torch.tensor([(i + n) % 2 == 0 for i in range(3)])
        assert (swapped[:, n, ~turn] == 0).all()
        assert_mean(swapped[:, n, turn], expected[turn])
    # replicas are a record of the swaps
    replica = torch.arange(4).expand(4000, 4).clone()
    for n in range(4):
        for i in range(3):
            flag = run.info.is_swapped[:, n, i]
            pair = replica[flag, i].clone()
            replica[flag, i], replica[flag, i + 1] = replica[flag, i + 1], pair
        assert torch.equal(run.info.replica[:, n], replica)


@pytest.mark.parametrize(("dim", "slope"), [(1, 1 / math.pi), (2, 1 / 2)])
def test_the_barrier_is_the_integral_of_its_density(dim, slope):
    """``E|V - V'| / 2`` is ``1 / (pi beta)`` on the line and ``1 / (2 beta)`` in the plane: the barrier is a logarithm."""
    run = _run(schedules.geometric(0.05, 1.0, 16)(torch.arange(17)), 2000, 4, dim)
    total = (1 - run.info.swap_rate).sum(-1)[:, 1:].mean(1)
    assert_mean(total, slope * math.log(20), bias=0.004)  # of the finite gaps: 0.0022 in the plane
    assert float(communication_barrier(run.info).total) == pytest.approx(slope * math.log(20), abs=0.05)


def test_restarts_are_as_frequent_as_theory_says():
    """``1 / (2 + 2 sum r / (1 - r))`` where the local sampler is perfect."""
    betas = torch.tensor([0.1, 0.3, 0.5, 1.0])
    r = (betas[1:] - betas[:-1]) / (betas[1:] + betas[:-1])
    rate = 1 / float(2 + 2 * (r / (1 - r)).sum())
    run = _run(betas, 400, 120)
    late = run.info._replace(replica=run.info.replica[:, 20:])
    counted = num_restarts(run.info) - num_restarts(run.info._replace(replica=run.info.replica[:, :20]))
    assert_mean(counted.double() / 100, rate)
    assert (num_restarts(late) <= counted).all()


def test_restarts_of_a_known_history():
    history = torch.tensor([[0, 1, 2], [1, 0, 2], [1, 2, 0], [2, 1, 0], [2, 0, 1], [0, 2, 1], [0, 1, 2]])
    info = _run([0.5, 0.7, 1.0], 1, 1).info._replace(replica=history[None])
    # 0 is hot in the first and cold in the third row; 1 hot in 2, 3 and cold in 5; 2 cold at first, hot in 4, 5, cold at last
    assert num_restarts(info).tolist() == [3]


def test_a_tuned_ladder_has_equal_rejections():
    """In the plane the best ladder is geometric."""
    betas = torch.tensor([0.02, 0.03, 0.04, 0.5, 1.0])
    for round_ in range(4):
        rejections = communication_barrier(_run(betas, 1000, 4 + round_, seed=round_).info).rejections
        betas = tune_ladder(betas, rejections)
    final = communication_barrier(_run(betas, 3000, 4, seed=9).info).rejections
    assert float(final.max() - final.min()) < 0.06
    torch.testing.assert_close(betas.log(), torch.linspace(math.log(0.02), 0, 5), atol=0.12, rtol=0)


def test_tuning_a_ladder_inverts_the_barrier():
    ladder = tune_ladder([0.0, 0.2, 0.6, 1.0], torch.tensor([0.3, 0.0, 0.3]), num_rungs=5)
    torch.testing.assert_close(ladder, torch.tensor([0.0, 0.1, 0.4, 0.8, 1.0]), atol=1e-5, rtol=0)
    equal = torch.tensor([0.1, 0.3, 0.5, 1.0])
    torch.testing.assert_close(tune_ladder(equal, torch.full((3,), 0.4)), equal)


# -- states -----------------------------------------------------------------------------------------------------------


def _position() -> dict[str, Tensor]:
    return {"a": torch.tensor([0.3, -1.0]).double(), "b": torch.tensor(0.7).double()}


def _steps(sampler: Sampler, num: int = 6, tuning: Any = None, state: Any = None) -> tuple[Any, Any]:
    params = quartic_params(torch.float64)
    tuning = tree.map(torch.Tensor.double, sampler.tuning if tuning is None else tuning)
    state = sampler.init(params, _position()) if state is None else state
    for i in range(num):
        state, info = sampler(random.key(i), params, state, tuning)
    return state, info


def _close(a: Any, b: Any) -> None:
    for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)  # the ladder is made of float32 numbers


@pytest.mark.parametrize("local", [_mala, _ghmc], ids=["mala", "ghmc"])
def test_powers_are_the_path_from_zero_with_fewer_gradients(local):
    betas = [0.2, 0.5, 1.0]
    (powers, info), (path, path_info) = (
        _steps(make_parallel_tempering(quartic, local, betas, reference=reference))
        for reference in (None, lambda params, x: 0 * quartic(params, x))
    )
    _close(powers.position, path.position)
    _close(powers.rungs.position, path.rungs.position)
    _close((info.swap_rate, info.energy), (path_info.swap_rate, path_info.energy))
    assert (int(info.num_gradients), int(path_info.num_gradients)) == (3, 6)
    _close(info.energy, quartic(quartic_params(torch.float64), powers.position))


def test_another_ladder_may_come_with_the_tuning():
    """Energies and gradients that the state keeps do not belong to the ladder of the sampler."""
    made = make_parallel_tempering(quartic, _mala, [0.1, 0.4, 1.0])
    other = make_parallel_tempering(quartic, _mala, [0.3, 0.6, 1.0])
    _close(_steps(other, tuning=made.tuning)[0].rungs.position, _steps(made)[0].rungs.position)
    halfway = _steps(other, 3)[0]
    fresh = other.init(quartic_params(torch.float64), _position())
    path = lambda beta, x: beta * quartic(quartic_params(torch.float64), x)  # noqa: E731
    betas = other.tuning.inverse_temperatures.double()
    gradient, energy = vmap(grad_and_value(path, argnums=1))(betas, halfway.rungs.position)
    remade = halfway._replace(
        rungs=halfway.rungs._replace(energy=energy, gradient=gradient), computed_at=fresh.computed_at
    )
    _close(*(_steps(made, 3, state=state)[0].rungs.position for state in (halfway, remade)))


def test_in_a_cycle_the_rung_of_the_target_follows_and_the_others_stay():
    ladder = make_parallel_tempering(quartic, _ghmc, [0.2, 0.5, 1.0])
    walk = samplers.random_walk(quartic, step_size=0.5)
    state, _ = _steps(cycle(ladder, walk), 3)
    params, before = quartic_params(torch.float64), state.states[0]
    moved = before.carry_over(ladder.init(params, state.position))
    _close(moved.position, state.position)
    _close(tree.map(lambda leaf: leaf[-1], moved.rungs.position), state.position)
    _close(moved.rungs.momentum, before.rungs.momentum)
    hot = lambda value: tree.map(lambda leaf: leaf[:-1], value)  # noqa: E731
    _close(hot(moved.rungs), hot(before.rungs))
    _close(moved.rungs.energy[-1] / moved.computed_at[-1], quartic(params, state.position))


def test_local_samplers_may_be_cycles_and_have_no_gradient():
    local = lambda energy, beta: cycle(_mala(energy, beta), samplers.random_walk(energy, step_size=0.5))  # noqa: E731
    state, info = _steps(make_parallel_tempering(quartic, local, [0.2, 0.5, 1.0]))
    _close(info.energy, quartic(quartic_params(torch.float64), state.position))
    walk = lambda energy, beta: samplers.random_walk(energy, step_size=0.5)  # noqa: E731
    _, info = _steps(
        make_parallel_tempering(quartic, walk, [0.0, 0.5, 1.0], reference=lambda params, x: square((), x["a"]))
    )
    assert int(info.num_gradients) == 0


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((_mala, [1.0]), {}, ValueError, "two numbers or more"),
        ((_mala, [[0.5, 1.0]]), {}, ValueError, "two numbers or more"),
        ((_mala, [1.0, 0.5]), {}, ValueError, "must increase strictly, and end with 1"),
        ((_mala, [0.5, 0.5, 1.0]), {}, ValueError, "must increase strictly"),
        ((_mala, [0.5, 0.9]), {}, ValueError, "end with 1"),
        ((_mala, [0.0, 1.0]), {}, ValueError, "above 0 where there is no reference"),
        ((_mala, [-0.5, 1.0]), {"reference": square}, ValueError, "must not be negative"),
        ((lambda energy, beta: energy, [0.5, 1.0]), {}, TypeError, "make_sampler must return a sampler"),
        (
            (lambda energy, beta: samplers.mala(energy, temperature=1 / beta), [0.5, 1.0]),
            {},
            ValueError,
            "must have the temperature 1",
        ),
        (
            (lambda energy, beta: (samplers.mala if beta < 1 else samplers.hmc)(energy), [0.5, 1.0]),
            {},
            ValueError,
            "the tuning of each rung",
        ),
    ],
)
def test_bad_arguments_say_what_must_hold(arguments, options, error, words):
    with pytest.raises(error, match=words):
        make_parallel_tempering(quartic, *arguments, **options)


def test_rejections_of_another_ladder_are_an_error():
    with pytest.raises(ValueError, match=r"rejections must have the shape \(2,\)"):
        tune_ladder([0.1, 0.5, 1.0], torch.tensor([0.1]))
