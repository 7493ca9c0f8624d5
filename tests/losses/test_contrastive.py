"""Contrastive divergence: the right gradient, and a buffer that forgets and mixes up nothing."""

from __future__ import annotations

import itertools

import pytest
import torch
from tests.distributions import assert_covariance, assert_mean

import funcebm as ebm
from funcebm import losses, metrics, random, samplers, tree
from funcebm.losses._contrast import draw_chain, run_chain
from funcebm.losses.contrastive import PersistentMemory


def energy(params, x):
    return params * (x**2).sum() / 2


LANGEVIN = samplers.langevin(energy, step_size=0.1)


def _ends(sampler, params, positions, chain_noise):
    """The chains by hand, one by one."""
    ends = []
    for index, position in enumerate(positions):
        state = sampler.init(params, position)
        for step in range(tree.batch_size(chain_noise)):
            noise = tree.map(lambda leaf: leaf[step, index], chain_noise)  # noqa: B023
            state, _ = sampler.step(params, sampler.tuning, state, noise)
        ends.append(state.position)
    return torch.stack(ends)


def test_the_gradient_is_that_of_the_log_likelihood():
    # negatives that start in the model's distribution N(0, I) stay in it under MALA, so dL/dk = (E|x+|^2 - E|x-|^2) / 2
    num, scale = 4000, 0.5
    key_data, key = random.split(random.key(0))
    data = scale * random.normal(key_data, (num, 2), dtype=torch.float64)
    loss = losses.contrastive_divergence(energy, samplers.mala(energy, step_size=0.5), 5, start="noise")
    k = torch.tensor(1.0, dtype=torch.float64)
    gradient = torch.func.grad(lambda k: loss(key, k, data)[0])(k)
    standard_error = ((1 + scale**4) / num) ** 0.5  # the variance of |x|^2 is 4 s^4
    assert abs(float(gradient) - (scale**2 - 1)) < 5 * standard_error
    assert gradient < 0  # data narrower than the model: descent makes k larger


@pytest.mark.parametrize("sampler", [LANGEVIN, samplers.mala(energy, step_size=0.3)], ids=["langevin", "mala"])
def test_value_by_hand(sampler):
    data, params = random.normal(random.key(1), (5, 3), dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    loss = losses.contrastive_divergence(energy, sampler, 4, regularization=0.2, data_noise=0.3)
    noise = loss.draw(random.key(2), data)
    value, aux = loss.value(params, (), data, noise)
    negative = torch.func.vmap(energy, (None, 0))(params, _ends(sampler, params, data, noise.chain))
    positive = torch.func.vmap(energy, (None, 0))(params, data + 0.3 * noise.data)
    expected = positive.mean() - negative.mean() + 0.2 * ((positive**2).mean() + (negative**2).mean())
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(aux.metrics["positive_energy"], positive.mean())
    torch.testing.assert_close(aux.metrics["negative_energy"], negative.mean())
    torch.testing.assert_close(aux.metrics["energy_gap"], negative.mean() - positive.mean())


def test_no_gradient_flows_through_the_sampler():
    data, params = random.normal(random.key(1), (5, 3)), torch.tensor(0.7)
    loss = losses.contrastive_divergence(energy, LANGEVIN, 4)
    noise = loss.draw(random.key(2), data)
    gradient = torch.func.grad(lambda k: loss.value(k, (), data, noise)[0])(params)
    ends = _ends(LANGEVIN, params, data, noise.chain)
    torch.testing.assert_close(gradient, (data**2).sum(1).mean() / 2 - (ends**2).sum(1).mean() / 2)


def test_starts():
    data, params = random.normal(random.key(1), (5, 3)), torch.tensor(0.7)
    given = torch.arange(6.0).reshape(2, 3)
    starts = {
        "data": ("data", lambda noise: data),
        "noise": ("noise", lambda noise: noise.start),
        "function": (lambda key: 10 + random.uniform(key, (3,)), lambda noise: noise.start),
        "tree": (given, lambda noise: given),
    }
    for start, expected in starts.values():
        loss = losses.contrastive_divergence(energy, LANGEVIN, 2, start=start)
        noise = loss.draw(random.key(2), data)
        negative = torch.func.vmap(energy, (None, 0))(params, _ends(LANGEVIN, params, expected(noise), noise.chain))
        torch.testing.assert_close(loss.value(params, (), data, noise)[1].metrics["negative_energy"], negative.mean())
        if callable(start):
            assert bool((noise.start >= 10).all()) and len(noise.start.unique()) == 15


def test_chains_of_one_example_do_not_depend_on_the_batch():
    data = random.normal(random.key(1), (5, 3))
    loss = losses.contrastive_divergence(energy, LANGEVIN, 4)
    assert torch.equal(loss.draw(random.key(2), data).chain[:, :2], loss.draw(random.key(2), data[:2]).chain)


def test_tuning_of_its_own():
    data, params = random.normal(random.key(1), (5, 3)), torch.tensor(0.7)
    tuning = LANGEVIN.tuning._replace(step_size=torch.tensor(0.3))
    ours = losses.contrastive_divergence(energy, LANGEVIN, 3, tuning=tuning)
    other = losses.contrastive_divergence(energy, samplers.langevin(energy, step_size=0.3), 3)
    assert torch.equal(ours(random.key(0), params, data)[0], other(random.key(0), params, data)[0])


def test_the_chains_are_those_of_sample():
    starts, params, mala = random.normal(random.key(1), (5, 3)), torch.tensor(0.7), samplers.mala(energy, step_size=0.5)
    noise = draw_chain(mala, random.key(2), starts, 4)
    state, rates = run_chain(mala, mala.tuning, 4, params, starts, noise)
    samples = ebm.sample(random.key(2), mala, params, starts, num_samples=4, jit=False)
    torch.testing.assert_close(state.position, samples.draws[:, -1])
    torch.testing.assert_close(rates["acceptance_rate"], samples.info.acceptance_rate.mean())


def test_a_tuning_in_float32_moves_positions_in_float64():
    data, params = random.normal(random.key(1), (5, 2), dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    mass = metrics.dense(torch.tensor([[1.5, 0.5], [0.5, 1.0]]))  # numbers that both have
    hmc = samplers.hmc(energy, step_size=0.25, num_leapfrog=3, inverse_mass=mass)
    double = tree.cast_like(hmc.tuning, params)
    loss, other = (losses.contrastive_divergence(energy, hmc, 2, tuning=tuning) for tuning in (None, double))
    noise = loss.draw(random.key(2), data)
    value = loss.value(params, (), data, noise)[0]
    assert value.dtype == torch.float64 and torch.equal(value, other.value(params, (), data, noise)[0])


# -- persistent ---------------------------------------------------------------------------------------------------


def _pcd(num_steps=2, **options):
    return losses.persistent_contrastive_divergence(energy, LANGEVIN, num_steps, **{"buffer_size": 7, **options})


def test_all_choices_of_slots_are_equally_likely():
    num, size, batch = 20000, 7, torch.zeros(3, 2)
    slots = torch.func.vmap(lambda key: _pcd(1).draw(key, batch).buffer.slots)(random.split(random.key(0), num))
    assert bool((slots.sort(-1).values.diff(dim=-1) > 0).all())  # none twice
    counts = torch.bincount(slots.flatten(), minlength=size)
    p = 3 / size
    assert bool(((counts - num * p).abs() < 5 * (num * p * (1 - p)) ** 0.5).all())
    subsets = {subset: 0 for subset in itertools.combinations(range(size), 3)}
    for row in slots.sort(-1).values.tolist():
        subsets[tuple(row)] += 1
    expected = num / len(subsets)
    chi_squared = sum((count - expected) ** 2 / expected for count in subsets.values())
    degrees = len(subsets) - 1
    assert abs(chi_squared - degrees) < 5 * (2 * degrees) ** 0.5
    for place in range(3):  # and each place in the batch holds each slot as often
        counts = torch.bincount(slots[:, place], minlength=size)
        assert bool(((counts - num / size).abs() < 5 * (num / size * (1 - 1 / size)) ** 0.5).all())


def test_chains_go_on_in_their_slots_and_the_others_stay_bit_for_bit():
    batch, params, loss = torch.zeros(3, 2), torch.tensor(0.7), _pcd(4, restart_probability=0.0)
    memory = loss.init(random.key(1), params, batch)
    assert memory.positions.shape == (7, 2) and memory.ages.tolist() == [0] * 7
    noise = loss.draw(random.key(2), batch)
    _, aux = loss.value(params, memory, batch, noise)
    slots, before, after = noise.buffer.slots, memory.positions, aux.memory.positions
    others = [slot for slot in range(7) if slot not in slots.tolist()]
    assert torch.equal(after[others], before[others])
    torch.testing.assert_close(after[slots], _ends(LANGEVIN, params, before[slots], noise.chain))
    negative = torch.func.vmap(energy, (None, 0))(params, after[slots])
    torch.testing.assert_close(aux.metrics["negative_energy"], negative.mean())


def test_chains_start_and_restart_standard_normal_whatever_the_data_are():
    loss, batch = _pcd(buffer_size=4000), torch.full((2000, 2), 100.0)
    memory, noise = loss.init(random.key(1), torch.tensor(0.7), batch), loss.draw(random.key(2), batch)
    for positions in (memory.positions, noise.buffer.restart):
        assert_mean(positions, 0.0)
        assert_covariance(positions, torch.eye(2))


def test_restarts():
    batch, params = torch.zeros(5, 2), torch.tensor(0.7)
    loss = _pcd(3, restart_probability=0.5, initial=lambda key: 100 + random.normal(key, (2,)))
    memory = PersistentMemory(torch.zeros(7, 2), torch.full((7,), 10))
    noise = loss.draw(random.key(3), batch)
    slots, is_restarted, restart = noise.buffer
    assert 0 < int(is_restarted.sum()) < 5
    _, aux = loss.value(params, memory, batch, noise)
    start = torch.where(is_restarted[:, None], restart, memory.positions[slots])
    torch.testing.assert_close(aux.memory.positions[slots], _ends(LANGEVIN, params, start, noise.chain))
    assert torch.equal(aux.memory.ages[slots], torch.where(is_restarted, 1, 11))
    assert bool((loss.init(random.key(0), params, batch).positions > 50).all())


@pytest.mark.parametrize("probability", [0.0, 0.05, 0.5, 1.0])
def test_the_restart_probability(probability):
    loss, batch, num = _pcd(1, restart_probability=probability), torch.zeros(5, 2), 4000
    flags = torch.func.vmap(lambda key: loss.draw(key, batch).buffer.is_restarted)(random.split(random.key(4), num))
    standard_error = (probability * (1 - probability) / (5 * num)) ** 0.5
    assert abs(float(flags.double().mean()) - probability) <= 5 * standard_error


def test_a_buffer_of_one_batch_uses_every_slot():
    loss, batch = _pcd(1, buffer_size=4), torch.zeros(4, 2)
    assert sorted(loss.draw(random.key(0), batch).buffer.slots.tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("probability", [0.0, 0.25])
def test_the_age_of_the_buffer(probability):
    # without restarts B / size more in each update; with them an age at a drawing is geometric, of mean 1 / probability
    batch, params, num = torch.zeros(20, 1), torch.tensor(0.7), 40
    loss = _pcd(1, buffer_size=40, restart_probability=probability)
    memory, ages = loss.init(random.key(1), params, batch), []
    for key in random.split(random.key(2), num):
        _, aux = loss(key, params, batch, memory)
        memory = aux.memory
        ages.append(float(aux.metrics["buffer_age"]))
    if probability == 0:
        torch.testing.assert_close(torch.tensor(ages), torch.arange(1, num + 1) / 2)
        return
    late = memory.ages.double()  # forty chains, of variance (1 - p) / p^2 each
    assert abs(float(late.mean()) - 1 / probability) < 5 * ((1 - probability) / probability**2 / 40) ** 0.5
    torch.testing.assert_close(aux.metrics["buffer_age"].double(), late.mean(), rtol=1e-6, atol=0)


# -- options ------------------------------------------------------------------------------------------------------


def _value(start, k=0.7, **options):
    start, batch = torch.tensor(start, dtype=torch.float64)[:, None], torch.tensor([[2.0], [1.0]], dtype=torch.float64)
    loss = losses.contrastive_divergence(energy, LANGEVIN, 1, start=start, **options)
    noise = loss.draw(random.key(0), batch)._replace(chain=torch.zeros(1, len(start), 1, dtype=torch.float64))
    k = torch.tensor(k, dtype=torch.float64)
    ends = start * (1 - 0.1 * k)  # a step without noise
    gradient, (value, aux) = torch.func.grad_and_value(loss.value, has_aux=True)(k, (), batch, noise)
    return k, batch, ends, gradient, value, aux


@pytest.mark.parametrize(("trim", "num_kept"), [(0.0, 5), (0.19, 5), (0.2, 4), (0.5, 3), (0.9, 1)])
def test_trim_leaves_out_the_highest_negatives(trim, num_kept):
    k, batch, ends, gradient, value, aux = _value([3.0, -1.0, 0.5, -7.0, 2.0], trim=trim)
    squares = (ends[:, 0] ** 2).sort().values[:num_kept]
    expected = (batch**2).mean() / 2 - squares.mean() / 2
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(value, k * expected)
    torch.testing.assert_close(aux.metrics["negative_energy"], k * squares.mean() / 2)


def test_clamp_stops_a_gap_that_runs_away_and_only_that():
    for start, clamp in (([3.0], 0.02), ([3.0], 100.0), ([0.1], 0.02)):
        k, batch, ends, gradient, value, aux = _value(start, clamp=clamp)
        slope = (batch**2).mean() / 2 - (ends**2).mean() / 2
        is_floored = k * slope < -clamp
        assert bool(is_floored) == (start == [3.0] and clamp == 0.02)
        torch.testing.assert_close(value, torch.tensor(-clamp).to(k) if is_floored else k * slope)
        torch.testing.assert_close(gradient, torch.zeros_like(k) if is_floored else slope)
        torch.testing.assert_close(aux.metrics["energy_gap"], -k * slope)


def test_the_gradient_penalty():
    k, batch, ends, gradient, value, _ = _value([1.0, 3.0], gradient_penalty=0.3)
    slope = (batch**2).mean() / 2 - (ends**2).mean() / 2
    torch.testing.assert_close(value, k * slope + 0.3 * k**2 * (batch**2).mean())
    torch.testing.assert_close(gradient, slope + 0.6 * k * (batch**2).mean())


def test_together_the_clamp_is_on_the_gap_alone_and_the_regularization_takes_all_negatives():
    options = {"trim": 0.4, "clamp": 0.02, "regularization": 0.5, "gradient_penalty": 0.3}
    k, batch, ends, gradient, value, _ = _value([3.0, -3.5, 0.5, -7.0, 4.0], **options)
    positive, negative = k * batch**2 / 2, k * ends**2 / 2
    assert positive.mean() - negative.sort(0).values[:3].mean() < -0.02
    extra = 0.5 * ((positive**2).mean() + (negative**2).mean()) + 0.3 * k**2 * (batch**2).mean()
    torch.testing.assert_close(value, extra - 0.02)
    torch.testing.assert_close(gradient, 2 * extra / k)  # homogeneous of degree two in k


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: losses.contrastive_divergence(energy, LANGEVIN, 0), "num_steps must be an integer of at least 1"),
        (lambda: losses.contrastive_divergence(energy, LANGEVIN, 1, start="date"), "start must be"),
        (lambda: losses.contrastive_divergence(energy, LANGEVIN, 1, regularization=-1.0), "regularization must not be"),
        (lambda: losses.contrastive_divergence(energy, LANGEVIN, 1, data_noise=-1.0), "data_noise must not be"),
        (
            lambda: losses.contrastive_divergence(energy, LANGEVIN, 1, gradient_penalty=-1.0),
            "gradient_penalty must not",
        ),
        (lambda: losses.contrastive_divergence(energy, LANGEVIN, 1, clamp=-0.1), "clamp must not be negative"),
        (lambda: losses.contrastive_divergence(energy, LANGEVIN, 1, trim=1.0), "trim must be a fraction"),
        (lambda: _pcd(buffer_size=0), "buffer_size must be an integer of at least 1"),
        (lambda: _pcd(restart_probability=1.5), "restart_probability must be in"),
        (lambda: _pcd().init(random.key(0), (), torch.zeros(8, 2)), "buffer_size must be at least the batch size"),
        (lambda: _pcd().draw(random.key(0), torch.zeros(8, 2)), "buffer_size must be at least the batch size"),
    ],
)
def test_bad_arguments_are_refused_at_the_door(make, words):
    with pytest.raises(ValueError, match=words):
        make()


OTHER = {
    "langevin": lambda of: samplers.langevin(of, step_size=0.1),
    "hmc": lambda of: samplers.hmc(of, step_size=0.1, num_leapfrog=2),
    "random_walk": lambda of: samplers.random_walk(of, step_size=0.1),
    "thin": lambda of: samplers.thin(samplers.mala(of, step_size=0.1), 2),
}


@pytest.mark.parametrize("name", OTHER)
@pytest.mark.parametrize("is_persistent", [False, True])
def test_the_sampler_of_another_energy_is_refused(name, is_persistent):
    def make(sampler):
        if is_persistent:
            return losses.persistent_contrastive_divergence(energy, sampler, 2, buffer_size=8)
        return losses.contrastive_divergence(energy, sampler, 2)

    params, batch = torch.tensor(1.0), torch.ones(4, 2)
    for other in (lambda params, x: 2 * energy(params, x), lambda params, x: energy(params, x - 1)):
        with pytest.raises(ValueError, match="the sampler must be one of the energy that is trained"):
            make(OTHER[name](other)).init(random.key(0), params, batch)
        arguments = {"optimizer": ebm.optimizers.sgd(0.1), "num_steps": 1, "batch_size": 4, "jit": False}
        with pytest.raises(ValueError, match="lambda energy"):
            ebm.fit(random.key(0), make(OTHER[name](other)), params, batch, **arguments)
    make(OTHER[name](lambda params, x: energy(params, x))).init(random.key(0), params, batch)  # equal, not identical
    make(OTHER[name]).init(random.key(0), params, batch)


def test_a_sampler_made_of_the_energy_is_the_one_that_is_passed():
    params, batch = torch.tensor(1.3), random.normal(random.key(5), (4, 2))
    passed = losses.contrastive_divergence(energy, LANGEVIN, 3)
    made = losses.contrastive_divergence(energy, lambda energy: samplers.langevin(energy, step_size=0.1), 3)
    assert torch.equal(passed(random.key(1), params, batch)[0], made(random.key(1), params, batch)[0])
    for wrong in (3, lambda energy: 3):
        with pytest.raises(TypeError, match="must be"):
            losses.contrastive_divergence(energy, wrong, 3)
