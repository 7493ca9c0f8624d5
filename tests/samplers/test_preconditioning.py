"""A preconditioner (or an inverse mass) is a change of variables, and nothing else, for every sampler that takes one."""

from __future__ import annotations

import pytest
import torch

import funcebm as ebm
from funcebm import metrics, random, samplers, tree

P = torch.tensor([[0.9, 0.4, 0.0], [0.4, 0.5, -0.2], [0.0, -0.2, 0.7]], dtype=torch.float64)
METRICS = {"number": 0.6, "diagonal": torch.tensor([0.4, 1.0, 2.0], dtype=torch.float64), "dense": P}
START = torch.tensor([0.5, -1.0, 0.8], dtype=torch.float64)

FACTORIES = {
    "langevin": lambda energy, p: samplers.langevin(energy, step_size=0.1, preconditioner=p, temperature=0.8),
    "mala": lambda energy, p: samplers.mala(energy, step_size=0.3, preconditioner=p, temperature=0.8),
    "barker": lambda energy, p: samplers.barker(energy, step_size=0.8, preconditioner=p, temperature=1.3),
    "random_walk": lambda energy, p: samplers.random_walk(energy, step_size=0.4, preconditioner=p),
    "baoab": lambda energy, p: samplers.underdamped_langevin(energy, step_size=0.3, inverse_mass=p, temperature=0.8),
    "obabo": lambda energy, p: samplers.underdamped_langevin(
        energy, step_size=0.3, inverse_mass=p, splitting="obabo", friction=0.5
    ),
    "sgld": lambda energy, p: samplers.sgld(energy, step_size=0.1, preconditioner=p, gradient_noise=3.0),
    "sghmc": lambda energy, p: samplers.sghmc(
        energy, step_size=0.2, inverse_mass=p, temperature=0.8, gradient_noise=3.0
    ),
    "sgnht": lambda energy, p: samplers.sgnht(energy, step_size=0.2, inverse_mass=p, temperature=1.3),
}
HAS_MOMENTUM = ("baoab", "obabo", "sghmc", "sgnht")
WORDS = {name: "inverse_mass" if name in HAS_MOMENTUM else "preconditioner" for name in FACTORIES}
sweep = pytest.mark.parametrize("name", list(FACTORIES))


def _energy(params, x):
    return params * (x**2).sum() / 2 + 0.2 * (x**4).sum() + torch.sin(x[0] + 2 * x[1])


def _run(sampler, start, num=12):
    """Positions and acceptance rates of a float64 chain, whose noise depends on the step alone."""
    sampler = sampler._replace(tuning=tree.cast_like(sampler.tuning, start))
    params, positions, rates = torch.tensor(1.3, dtype=torch.float64), [], []
    state = sampler.init(params, start)
    for i in range(num):
        state, info = sampler(random.fold_in(random.key(7), i), params, state)
        positions.append(state.position)
        rates.append(info.acceptance_rate)
    return torch.stack(positions), torch.stack(rates)


@sweep
@pytest.mark.parametrize("metric", list(METRICS))
def test_a_preconditioner_is_a_change_of_variables(name, metric):
    """With ``x = A y`` and ``P = A A^T``: the chain of ``E(x)`` with ``P`` is ``A`` times that of ``E(A y)`` without."""
    found = tree.cast_like(metrics.of(METRICS[metric]), START)
    root = torch.stack([metrics.displacement(found, unit) for unit in torch.eye(3).double()], 1)
    positions, rates = _run(FACTORIES[name](_energy, METRICS[metric]), START)
    white = FACTORIES[name](lambda params, y: _energy(params, root @ y), None)
    white_positions, white_rates = _run(white, torch.linalg.solve(root, START))
    torch.testing.assert_close(positions, white_positions @ root.T, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(rates, white_rates, rtol=1e-9, atol=1e-12)
    assert len(torch.unique(positions[:, 0])) > 3  # it moved


@sweep
def test_one_matrix_in_any_form_is_one_kernel(name):
    """A number, a vector of it, a diagonal matrix."""
    forms = [0.625, torch.full((3,), 0.625, dtype=torch.float64), 0.625 * torch.eye(3, dtype=torch.float64)]
    runs = [_run(FACTORIES[name](_energy, form), START)[0] for form in forms]
    for other in runs[1:]:
        torch.testing.assert_close(other, runs[0], rtol=1e-10, atol=1e-10)


@sweep
def test_a_tuning_may_bring_a_metric_of_another_kind(name):
    """What a warm-up found replaces the identity of the factory."""
    plain, dense = FACTORIES[name](_energy, None), FACTORIES[name](_energy, P)
    tuned = plain._replace(tuning=plain.tuning._replace(metric=metrics.dense(P)))
    torch.testing.assert_close(_run(tuned, START), _run(dense, START), rtol=1e-12, atol=1e-12)
    options = {
        "num_samples": 3,
        "tuning": plain.tuning._replace(metric=metrics.diagonal(torch.tensor([0.5, 1.0, 1.5]))),
    }
    samples = ebm.sample(random.key(0), plain, torch.tensor(1.3), torch.zeros(4, 3), jit=False, **options)
    assert not samples.info.is_divergent.any()


@sweep
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (-1.0, "must be positive"),
        (torch.tensor([1.0, 0.0, 1.0]), "must be positive"),
        (torch.tensor([[1.0, 0.5], [0.0, 1.0]]), "must be symmetric"),
        (torch.tensor([[1.0, 2.0], [2.0, 1.0]]), "must be positive definite"),
        (torch.ones(2, 3), "must have the shape"),
    ],
)
def test_a_matrix_that_is_no_metric_is_an_error(name, wrong, message):
    with pytest.raises(ValueError, match=f"{WORDS[name]} {message}"):
        FACTORIES[name](_energy, wrong)


@sweep
@pytest.mark.parametrize("wrong", [torch.ones(2), torch.eye(4), {"a": torch.ones(3)}], ids=["vector", "matrix", "tree"])
def test_a_metric_that_does_not_fit_the_position_is_an_error(name, wrong):
    sampler, word = FACTORIES[name](_energy, wrong), WORDS[name]
    with pytest.raises(ValueError, match=f"{word} must (be|have)"):
        sampler.init(torch.tensor(1.3), torch.zeros(3))
    with pytest.raises(ValueError, match=r"must (be|have)"):
        ebm.sample(random.key(0), sampler, torch.tensor(1.3), torch.zeros(4, 3), num_samples=2, jit=False)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (metrics.Diagonal(torch.tensor([1.0, -1.0])), "inverse_mass must be positive"),
        (metrics.Dense(*3 * [torch.tensor([[1.0, 2.0], [2.0, 1.0]])]), "inverse_mass must be positive definite"),
    ],
)
def test_a_metric_in_the_tuning_of_a_run_is_looked_at_too(metric, message):
    sampler = samplers.mala(lambda params, x: (x**2).sum() / 2)
    tuning = sampler.tuning._replace(metric=metric)
    with pytest.raises(ValueError, match=message):
        ebm.sample(random.key(0), sampler, (), torch.zeros(3, 2), num_samples=2, tuning=tuning, jit=False)
