"""Boltzmann generators and controlled diffusions: unbiased weights, and the tail index that says when not to trust them."""

from __future__ import annotations

import math

import pytest
import torch

import funcebm as ebm
from funcebm import energies, flows, losses, normalizers, random, samplers, solvers, training, tree

from ..distributions import assert_covariance, assert_mean, assert_uniform

FLOW = flows.flow(lambda params, t, x: params["a"] * torch.sin(x + t) + params["b"], solvers.heun(), 3)
FLOW_PARAMS = {"a": torch.tensor(0.4).double(), "b": torch.tensor(0.3).double()}


def _wells(params, x):
    return (x**4).sum() / 4 - (x**2).sum() + params * x.sum()


def _moments(tilt: float) -> tuple[float, float]:
    """Z and the mean, by quadrature."""
    x = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
    density = torch.exp(-(x**4) / 4 + x**2 - tilt * x)
    z = torch.trapezoid(density, x)
    return float(z), float(torch.trapezoid(x * density, x) / z)


def test_importance_is_unbiased_with_coarse_steps():
    """Three steps: the density of the map, not that of the flow that it approximates."""
    tilt = torch.tensor(0.3).double()
    result = normalizers.importance(
        random.key(0), _wells, tilt, flow=FLOW, flow_params=FLOW_PARAMS, num_particles=4000, event_shape=(1,), jit=False
    )
    z, mean = _moments(0.3)
    assert_mean(result.log_weights.exp()[:, None], z)
    weights = torch.softmax(result.log_weights, 0)
    error = ((weights * (result.positions[:, 0] - mean)) ** 2).sum().sqrt()
    assert abs(float((weights * result.positions[:, 0]).sum()) - mean) < 5 * float(error)
    assert float(result.pareto_khat) < 0.7 and abs(float(result.log_normalizer) - math.log(z)) < 0.2


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9, 1.4])
def test_khat_of_pareto_weights(k):
    """Weights u^-k have the tail index k."""
    found = [
        float(normalizers.pareto_khat(-k * random.uniform(random.key(i), (4000,), dtype=torch.float64).log()))
        for i in range(30)
    ]
    values = torch.tensor(found)
    # 190 exceedances, and a prior at .5 with the weight of ten
    shrunk = (190 * k + 5) / 200
    assert abs(float(values.mean()) - shrunk) < 5 * float(values.std()) / math.sqrt(30) + 0.02
    assert normalizers.pareto_khat(torch.zeros(100)) == -torch.inf


def test_narrow_proposals_are_found_out():
    """Draws of N(0, .3^2) for N(0, 1): the weights have an infinite mean square, k-hat says so, the error bar does not."""
    narrow = flows.flow(lambda params, t, x: params * x, times=8)
    result = normalizers.importance(
        random.key(0),
        lambda params, x: (x**2).sum() / 2,
        (),
        flow=narrow,
        flow_params=torch.tensor(0.3).double().log(),
        event_shape=(2,),
        jit=False,
    )
    assert float(result.pareto_khat) > 0.7


def test_independence_leaves_the_target_invariant():
    """Started in the target by rejection-free weights: many chains, few steps, one distribution; alone and mixed with MALA."""
    tilt = torch.tensor(0.5).double()
    grid = torch.linspace(-6, 6, 24_001, dtype=torch.float64)
    cdf = torch.exp(-(grid**4) / 4 + grid**2 - 0.5 * grid).cumsum(0)
    uniform = random.uniform(random.key(1), (1500,), dtype=torch.float64)
    starts = grid[torch.searchsorted(cdf / cdf[-1], uniform)][:, None]
    alone = samplers.independence(_wells, FLOW, FLOW_PARAMS)
    for sampler in (alone, samplers.mix([alone, samplers.mala(_wells, step_size=0.2)])):
        run = ebm.sample(random.key(2), sampler, tilt, starts, num_samples=1, num_burn_in=2, jit=False)
        moved = run.draws[:, 0]
        assert_mean(moved - starts, 0.0)
        assert_mean(moved**2 - starts**2, 0.0)
        assert_mean(moved**3 - starts**3, 0.0)
        assert 0.2 < float(run.info.acceptance_rate.mean()) < 1


def test_controlled_importance_is_unbiased_for_any_control():
    tilt = torch.tensor(0.3).double()
    result = normalizers.controlled_importance(
        random.key(0),
        _wells,
        tilt,
        control=lambda params, t, x: torch.sin(2 * x) * t + 0.2,
        scale=lambda t: 1.5 - 0.5 * t,
        num_particles=20_000,
        num_steps=5,
        event_shape=(1,),
        jit=False,
    )
    assert_mean(result.log_weights.exp()[:, None], _moments(0.3)[0])


def test_adjoint_matching_finds_the_control_of_a_gaussian():
    """For N(m, r^2) and c = 1 the optimal control is linear: k = m + (x - ...) in closed form at every time."""
    mean, r = torch.tensor([1.0, -0.5]).double(), 0.7

    def energy(params, x):
        return ((x - params) ** 2).sum() / (2 * r**2)

    def exact(params, t, x):
        """grad log E[exp(-G(X_1)) | x], with exp(-G) a Gaussian over N(0, 1) and X_1 = x + N(0, 1 - t)."""
        precision = 1 / r**2 - 1  # of exp(-G)
        return (mean / r**2 - precision * x) / (1 + precision * (1 - t))

    loss = losses.adjoint_matching(
        energy, lambda params, t, x: exact(params, t, x) + params["bias"], energy_params=mean, num_steps=400, clip=None
    )
    params, batch = {"bias": torch.zeros(2).double()}, torch.zeros(200, 2).double()
    noise = loss.draw(random.key(0), batch)
    slope = torch.func.grad(lambda params: loss.value(params, (), batch, noise)[0])(params)["bias"]
    # the regression has no gradient at the optimum, within its standard error over particles
    each = torch.func.vmap(
        lambda one: torch.func.grad(lambda p: loss.value(p, (), tree.map(lambda z: z[None], batch[:1])[0], one)[0])(
            params
        )["bias"]
    )(tree.map(lambda z: z[:, None], noise))
    torch.testing.assert_close(each.mean(0), slope)
    assert_mean(each, 0.0, bias=0.02)
    result = normalizers.controlled_importance(
        random.key(1), energy, mean, control=exact, num_particles=3000, num_steps=200, event_shape=(2,), jit=False
    )
    assert_mean(result.positions, mean, bias=0.01)
    assert_covariance(result.positions, r**2 * torch.eye(2).double(), bias=0.01)
    assert abs(float(result.log_normalizer) - math.log(2 * math.pi * r**2)) < 5 * float(result.standard_error) + 1e-6
    assert float(result.effective_sample_size) > 0.98 * 3000


def _replaying(buffer_size, num_replayed=512):
    energy = lambda params, x: ((x - 2) ** 2).sum()  # noqa: E731
    return losses.adjoint_matching(
        energy,
        lambda params, t, x: params * t - x,
        num_steps=4,
        num_bridges=3,
        clip=1.5,
        buffer_size=buffer_size,
        num_replayed=num_replayed,
    )


def test_a_replay_buffer_that_holds_one_batch_changes_nothing():
    batch, params = torch.zeros(5, 2).double(), torch.tensor(0.3).double()
    plain, replayed = _replaying(None), _replaying(5, 5)
    noise = plain.draw(random.key(0), batch)
    for place in (0, 3):
        memory = replayed.init(random.key(1), params, batch)._replace(place=torch.tensor(place))
        slots = (place + torch.arange(5)) % 5
        value, aux = replayed.value(params, memory, batch, noise._replace(slots=slots))
        torch.testing.assert_close(value, plain.value(params, (), batch, noise)[0], rtol=0, atol=0)
        assert int(aux.memory.place) == place


def test_new_ends_go_over_the_oldest_ones():
    batch, params = torch.zeros(3, 2).double(), torch.tensor(0.3).double()
    loss = _replaying(7, 4)
    memory = loss.init(random.key(1), params, batch)
    assert memory.ends.shape == memory.slopes.shape == (7, 2) and int(memory.place) == 0
    slopes = 2 * (memory.ends - 2)
    clipped = slopes * (1.5 / slopes.norm(dim=1, keepdim=True)).clamp(max=1)
    torch.testing.assert_close(memory.slopes, clipped)
    age = torch.full((7,), -1)
    for step in range(4):
        _, aux = loss(random.key(step), params, batch, memory)
        changed = (aux.memory.ends != memory.ends).any(1)
        assert int(changed.sum()) == 3 and bool((age[changed] <= age[~changed].max()).all())
        age[changed], memory = step, aux.memory
    assert int(memory.place) == 12 % 7
    slots = torch.cat([loss.draw(random.key(i), batch).slots for i in range(100)])
    assert_uniform(torch.bincount(slots, minlength=7))


@pytest.mark.slow
def test_training_raises_the_effective_sample_size():
    """Adjoint matching and the log variance of escorted annealing, each from a control that does nothing."""
    energy = lambda params, x: ((x - 2) ** 2).sum() / (2 * 0.25)  # noqa: E731
    control = lambda params, t, x: params["a"] + params["b"] * x + t * (params["c"] + params["d"] * x)  # noqa: E731
    start = {name: torch.zeros(()) for name in "abcd"}
    adjoint = losses.adjoint_matching(energy, control, num_steps=20, scale=1.5)
    batch = torch.zeros(64, 1)
    fitted = training.fit(
        random.key(0),
        adjoint,
        start,
        batch,
        optimizer=ebm.optimizers.adam(0.1),
        num_steps=100,
        batch_size=64,
        jit=False,
    ).params
    sizes = [
        float(
            normalizers.controlled_importance(
                random.key(1),
                energy,
                (),
                control=control,
                control_params=params,
                scale=1.5,
                num_steps=20,
                event_shape=(1,),
                jit=False,
            ).effective_sample_size
        )
        for params in (start, fitted)
    ]
    assert sizes[1] > 3 * sizes[0], sizes

    reference = ebm.energies.gaussian.params(torch.zeros(1))
    loss = losses.annealed_control(
        energy, ebm.energies.gaussian, control, reference_params=reference, num_steps=10, diffusion=0.5
    )
    draws = ebm.energies.gaussian.sample(random.key(2), reference, 512)
    fitted = training.fit(
        random.key(0), loss, start, draws, optimizer=ebm.optimizers.adam(0.1), num_steps=100, batch_size=64, jit=False
    ).params
    sizes = [
        float(
            normalizers.escorted_annealing(
                random.key(1),
                energy,
                (),
                reference=ebm.energies.gaussian,
                reference_params=reference,
                control=control,
                control_params=params,
                num_steps=10,
                diffusion=0.5,
                jit=False,
            ).effective_sample_size
        )
        for params in (start, fitted)
    ]
    assert sizes[1] > 3 * sizes[0], sizes


@pytest.mark.parametrize("objective", ["log_variance", "reverse_kl"])
def test_log_weights_of_the_loss_are_those_of_escorted_annealing(objective):
    """The value recomputed by hand from the same noise; the gradient by finite differences at fixed paths."""
    energy = lambda params, x: _wells(torch.tensor(0.3, dtype=torch.float64), x)  # noqa: E731
    reference = lambda params, x: (x**2).sum() / 2  # noqa: E731
    control = lambda params, t, x: params * torch.cos(x) + t  # noqa: E731
    loss = losses.annealed_control(energy, reference, control, objective, num_steps=6, diffusion=0.7)
    batch, rate = random.normal(random.key(0), (40, 1), dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    noise = loss.draw(random.key(1), batch)
    value, aux = loss.value(rate, (), batch, noise)
    x, h, w = batch, 1 / 6, 0.7
    log_weight = (x**2).sum(1) / 2
    slope = lambda x, beta: beta * (x**3 - 2 * x + 0.3) + (1 - beta) * x  # noqa: E731
    for k in range(6):
        beta = (k + 1) / 6
        mean = x + h * (control(rate, k / 6, x) - w * slope(x, beta))
        y = mean + (2 * w * h) ** 0.5 * noise[k]
        back = y - h * (control(rate, beta, y) + w * slope(y, beta))
        log_weight = log_weight + (((y - mean) ** 2 - (x - back) ** 2) / (4 * w * h)).sum(1)
        x = y
    log_weight = log_weight - torch.func.vmap(lambda x: energy((), x))(x)
    expected = log_weight.var() if objective == "log_variance" else -log_weight.mean()
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(aux.metrics["log_normalizer_ratio"], torch.logsumexp(log_weight, 0) - math.log(40))
    if objective == "log_variance":
        prepared = loss.prepare(rate, (), batch, noise)
        at = lambda rate: loss.objective(rate, prepared)[0]  # noqa: E731
    else:
        at = lambda rate: loss.value(rate, (), batch, noise)[0]  # noqa: E731
    slope = torch.func.grad(at)(rate)
    torch.testing.assert_close(slope, (at(rate + 1e-5) - at(rate - 1e-5)) / 2e-5, rtol=1e-6, atol=1e-8)


def test_bad_input():
    energy = lambda params, x: (x**2).sum()  # noqa: E731
    with pytest.raises(TypeError, match="must be a flow"):
        normalizers.importance(random.key(0), energy, (), flow=energy, event_shape=(1,))
    with pytest.raises(TypeError, match="must be a flow"):
        samplers.independence(energy, energy)
    with pytest.raises(ValueError, match="25 or more"):
        normalizers.pareto_khat(torch.zeros(5))
    with pytest.raises(ValueError, match="objective must be"):
        losses.annealed_control(energy, energy, lambda p, t, x: x, "kl")
    with pytest.raises(ValueError, match="buffer_size must be at least the batch size"):
        _replaying(2).init(random.key(0), torch.tensor(0.0), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="clip must be positive"):
        losses.adjoint_matching(energy, lambda p, t, x: x, clip=-1.0)


def test_khat_tells_where_annealing_misses_a_tail():
    """Neal's funnel from a standard normal: too low by many of its error bars, and said to be."""
    funnel, normal = energies.funnel, energies.gaussian
    params, start = funnel.params(3.0), normal.params(torch.zeros(10))
    options = {"reference": normal, "reference_params": start, "num_particles": 1000, "jit": False}
    lost = normalizers.escorted_annealing(random.key(0), funnel, params, **options, num_steps=20)
    z = (lost.log_normalizer - funnel.log_normalizer(params, (10,))) / lost.standard_error
    assert z < -4 and lost.pareto_khat > 0.7
    target = normal.params(torch.full((10,), 0.3))
    found = normalizers.escorted_annealing(random.key(0), normal, target, **options, num_steps=20)
    assert found.pareto_khat < 0.5
    few = normalizers.escorted_annealing(random.key(0), normal, target, **{**options, "num_particles": 5}, num_steps=4)
    assert few.pareto_khat.isnan()
