"""Window adaptation: Stan's schedule, and the scales and the step size that it finds."""

from __future__ import annotations

import pytest
import torch
from tests.adaptation.driver import run
from tests.distributions import assert_rate, log_variance_deviation
from torch.func import vmap

from funcebm import metrics, random, samplers, tree
from funcebm.adaptation import stan_windows, window_adaptation
from funcebm.adaptation.window import start_metric


def _stan_ends(num_steps, initial=75, base=25, final=50):
    """Where windows end, transcribed from the loop over transitions; inclusive, without the last."""
    if num_steps < 20:
        return []
    if initial + base + final > num_steps:
        initial, final = int(0.15 * num_steps), int(0.1 * num_steps)
        base = num_steps - initial - final
    last = num_steps - final - 1
    ends, width, end = [], base, initial + base - 1
    for i in range(num_steps):
        if i == end:
            ends.append(i)
            if end != last:
                width *= 2
                end = i + width
                if end != last and end + 2 * width >= num_steps - final:
                    end = last
    return ends


def _ends(windows):
    return [sum(windows[: i + 1]) - 1 for i in range(1, len(windows) - 1)]


def test_a_thousand_steps_end_where_stan_says():
    assert _ends(stan_windows(1000)) == [99, 149, 249, 449, 949]


def test_every_length_of_a_warm_up_has_the_windows_of_stan():
    for num_steps in range(1, 2001):
        windows = stan_windows(num_steps)
        assert sum(windows) == num_steps
        assert min(windows) > 0
        assert _ends(windows) == _stan_ends(num_steps), num_steps


@pytest.mark.parametrize("buffers", [(10, 5, 20), (1, 1, 1), (100, 200, 50)])
def test_other_buffers_too(buffers):
    names = dict(zip(("initial_buffer", "base_window", "final_buffer"), buffers, strict=True))
    for num_steps in (20, 37, 100, 351, 352, 1000):
        windows = stan_windows(num_steps, **names)
        assert sum(windows) == num_steps
        assert _ends(windows) == _stan_ends(num_steps, *buffers)


SCALES = torch.tensor([0.01, 1.0, 30.0])
MATRIX = torch.linalg.inv(torch.tensor([[1.0, 0.9, 0.0], [0.9, 1.0, 0.3], [0.0, 0.3, 2.0]]))
CHAINS = 64


def _ill_conditioned(params, x):
    return params * ((x["a"] / SCALES[:2]) ** 2).sum() / 2 + params * ((x["b"] / SCALES[2:]) ** 2).sum() / 2


def _starts(num=CHAINS):
    key_a, key_b = random.split(random.key(1))
    return {"a": random.normal(key_a, (num, 2)) * SCALES[:2], "b": random.normal(key_b, (num, 1)) * SCALES[2:]}


def _hmc(energy=_ill_conditioned, **options):
    return samplers.hmc(energy, step_size=0.1, num_leapfrog=3, jitter=0.5, **options)


@pytest.mark.parametrize("metric", ["diagonal", "dense"])
def test_it_finds_the_scales_of_an_ill_conditioned_gaussian(metric):
    """Scales from 0.01 to 30; the last window has 64 chains, of which each step is at least a tenth of a new draw."""
    adaptation = window_adaptation(metric=metric)
    _, _, tuning, _ = run(random.key(0), _hmc(), torch.tensor(1.0), _starts(), adaptation, 200)
    found = tuning.metric.inverse_mass
    found = found.diagonal() if metric == "dense" else tree.ravel(found)[0]
    last = stan_windows(200)[-2]
    assert (torch.log(found / SCALES**2).abs() < log_variance_deviation(CHAINS * last / 10)).all()


def test_a_dense_metric_has_the_correlations_too():
    energy = lambda params, x: x @ MATRIX @ x / 2  # noqa: E731
    starts = random.normal(random.key(1), (CHAINS, 3))
    _, _, tuning, _ = run(random.key(0), _hmc(energy), (), starts, window_adaptation(metric="dense"), 200)
    assert isinstance(tuning.metric, metrics.Dense)
    expected = torch.linalg.inv(MATRIX)
    scale = expected.diagonal().sqrt()
    errors = (tuning.metric.inverse_mass - expected) / torch.outer(scale, scale)
    assert (errors.abs() < log_variance_deviation(CHAINS * stan_windows(200)[-2] / 10)).all()
    torch.testing.assert_close(tuning.metric.inverse_root @ tuning.metric.mass_root.mT, torch.eye(3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("target", [None, 0.6])
def test_the_step_size_gives_the_target(target):
    """In 50 dimensions, where the rate falls smoothly with the step size."""
    scales = torch.logspace(-1, 1, 50)
    sampler = samplers.hmc(lambda params, x: ((x / scales) ** 2).sum() / 2, num_leapfrog=2)
    starts = random.normal(random.key(1), (CHAINS, 50)) * scales
    state, _, tuning, _ = run(random.key(0), sampler, (), starts, window_adaptation(target=target), 200)
    rates = []
    for i in range(60):
        noise = vmap(sampler.draw)(random.split(random.key(100 + i), CHAINS), state.position)
        state, info = vmap(sampler.step, (None, None, 0, 0))((), tuning, state, noise)
        rates.append(info.acceptance_rate.mean())
    assert_rate(torch.stack(rates), target or sampler.target_acceptance, stan_windows(200)[-1])


@pytest.mark.parametrize("name", ["mala", "langevin"])
def test_langevin_types_are_adapted_too(name):
    energy = lambda params, x: ((x / SCALES) ** 2).sum() / 2  # noqa: E731
    starts = random.normal(random.key(1), (CHAINS, 3)) * SCALES
    sampler = getattr(samplers, name)(energy)
    _, memory, tuning, _ = run(random.key(0), sampler, (), starts, window_adaptation(), 300)
    errors = torch.log(tuning.metric.inverse_mass / SCALES**2).abs()
    assert (errors < log_variance_deviation(CHAINS * stan_windows(300)[-2] / 10)).all()
    if name == "langevin":  # a tenth of the inverse curvature, which the metric has made 1
        assert memory.dual_averaging == () == memory.target
        assert 0.06 < float(tuning.step_size) < 0.12
    else:
        assert float(tuning.step_size) > 0.3


def test_what_is_off_stays_as_it_was():
    sampler = _hmc(inverse_mass=tree.map(lambda leaf: 2 * leaf[0] ** 2, _starts()))
    params = torch.tensor(1.0)
    for adaptation, num_steps in ((window_adaptation(metric=None), 60), (window_adaptation(), 19)):
        _, _, tuning, used = run(random.key(0), sampler, params, _starts(), adaptation, num_steps)
        before, after = (tree.leaves(t.metric) for t in (sampler.tuning, tuning))
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert len({float(t.step_size) for t in used}) > 10
    others = lambda tuning: tuning._replace(step_size=(), metric=())  # noqa: E731
    assert tree.leaves(others(tuning)) == tree.leaves(others(sampler.tuning))


def test_the_metric_changes_at_the_ends_of_slow_windows_only():
    _, _, _, used = run(random.key(0), _hmc(), torch.tensor(1.0), _starts(), window_adaptation(), 200)
    seen = [float(t.metric.inverse_mass["b"]) for t in used]
    changes = [i for i in range(1, 200) if seen[i] != seen[i - 1]]
    assert changes == [end + 1 for end in _stan_ends(200)]


def test_the_metric_of_a_window_comes_from_its_draws_alone():
    """The draws are fed by hand; those of the first and of an earlier window leave no trace."""
    adaptation = window_adaptation()
    sampler, params = _hmc(), torch.tensor(1.0)
    state = vmap(sampler.init, (None, 0))(params, _starts(8))
    memory = adaptation.init(random.key(0), sampler, params, state)
    info = sampler(random.key(0), params, sampler.init(params, tree.map(lambda leaf: leaf[0], _starts())))[1]
    info = tree.map(lambda leaf: leaf.expand(8), info)
    for window in range(3):
        draws = random.normal(random.key(10 + window), (5, 8, 1)) * 10**window
        for draw in draws:
            memory = adaptation.update(memory, state._replace(position={**state.position, "b": draw}), info)
        memory = adaptation.refresh(random.key(window), sampler, params, memory, state)
        expected = 40 / 45 * draws.reshape(40).var() + 1e-3 * 5 / 45 if window > 0 else torch.tensor(1.0)
        torch.testing.assert_close(memory.tuning.metric.inverse_mass["b"][0], expected)


def test_start_metrics_keep_what_the_user_gave():
    position = {"a": torch.zeros(2), "b": torch.zeros(1, 1)}
    matrix = torch.diag(torch.tensor([1.0, 2.0, 3.0])) + 0.1
    leaves = {"a": torch.tensor([1.1, 2.1]), "b": torch.tensor([[3.1]])}
    for given, expected in ((4.0, torch.full((3,), 4.0)), (leaves, matrix.diagonal()), (matrix, matrix.diagonal())):
        tuning = samplers.hmc(_ill_conditioned, inverse_mass=given).tuning
        diagonal = start_metric(tuning, position, "diagonal")
        torch.testing.assert_close(tree.ravel(diagonal.inverse_mass)[0], expected)
        assert tree.structure(diagonal.inverse_mass) == tree.structure(position)
        dense = start_metric(tuning, position, "dense").inverse_mass
        torch.testing.assert_close(dense, matrix if given is matrix else torch.diag(expected))


@pytest.mark.parametrize("metric", ["diagonal", "dense"])
def test_every_part_goes_through_vmap_over_parameters(metric):
    adaptation, sampler = window_adaptation(metric=metric), _hmc()
    keys = random.split(random.key(3), 3)

    def whole(params):
        state = vmap(sampler.init, (None, 0))(params, _starts(4))
        memory = adaptation.init(keys[0], sampler, params, state)
        for i in range(6):
            if i in (2, 4):
                memory = adaptation.refresh(random.fold_in(keys[1], i), sampler, params, memory, state)
            noise = vmap(sampler.draw)(random.split(random.fold_in(keys[2], i), 4), state.position)
            state, info = vmap(sampler.step, (None, None, 0, 0))(params, memory.tuning, state, noise)
            memory = adaptation.update(memory, state, info)
        return adaptation.final(memory)

    params = torch.tensor([0.5, 2.0])
    mapped = vmap(whole)(params)
    for i in range(2):
        for a, b in zip(tree.leaves(mapped), tree.leaves(whole(params[i])), strict=True):
            torch.testing.assert_close(a[i], b, rtol=1e-3, atol=1e-6)


def test_bad_input_is_refused_with_a_fix():
    with pytest.raises(ValueError, match=r"target must be between 0 and 1. Got 1.2"):
        window_adaptation(target=1.2)
    with pytest.raises(ValueError, match=r'metric must be one of three. Got full. Write "diagonal"'):
        window_adaptation(metric="full")
    with pytest.raises(ValueError, match=r'average must be one of two. Got median. Write "mean" or "harmonic"'):
        window_adaptation(average="median")
    with pytest.raises(ValueError, match=r"initial_buffer must be an integer of at least 1. Got 0"):
        window_adaptation(initial_buffer=0)
    with pytest.raises(ValueError, match=r"num_steps must be an integer of at least 1. Got 0"):
        window_adaptation().windows(0)
    nothing = samplers.mala(_ill_conditioned)._replace(tuning=())
    with pytest.raises(
        ValueError, match=r"window_adaptation is for samplers with a step_size in their tuning. Got tuple"
    ):
        run(random.key(0), nothing, torch.tensor(1.0), _starts(2), window_adaptation(), 5)
