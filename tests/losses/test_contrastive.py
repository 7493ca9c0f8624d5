"""Contrastive divergence: the right gradient, and a buffer that forgets and mixes up nothing."""

from __future__ import annotations

import itertools

import pytest
import torch

from funcebm import losses, random, samplers, tree


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
    # negatives that start in the model's law N(0, I) stay in it under MALA, so dL/dk = (E|x+|^2 - E|x-|^2) / 2
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


# -- persistent ---------------------------------------------------------------------------------------------------


def _pcd(num_steps=2, **options):
    return losses.persistent_contrastive_divergence(energy, LANGEVIN, num_steps, **{"buffer_size": 7, **options})


def test_all_choices_of_slots_are_equally_likely():
    num, size, batch = 20000, 7, torch.zeros(3, 2)
    slots = torch.func.vmap(lambda key: _pcd(1).draw(key, batch).slots)(random.split(random.key(0), num))
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
    assert memory.shape == (7, 2)
    noise = loss.draw(random.key(2), batch)
    _, aux = loss.value(params, memory, batch, noise)
    others = [slot for slot in range(7) if slot not in noise.slots.tolist()]
    assert torch.equal(aux.memory[others], memory[others])
    torch.testing.assert_close(aux.memory[noise.slots], _ends(LANGEVIN, params, memory[noise.slots], noise.chain))
    negative = torch.func.vmap(energy, (None, 0))(params, aux.memory[noise.slots])
    torch.testing.assert_close(aux.metrics["negative_energy"], negative.mean())


def test_restarts():
    batch, params = torch.zeros(5, 2), torch.tensor(0.7)
    loss = _pcd(3, restart_probability=0.5, initial=lambda key: 100 + random.normal(key, (2,)))
    memory = torch.zeros(7, 2)
    noise = loss.draw(random.key(3), batch)
    assert 0 < int(noise.is_restarted.sum()) < 5
    _, aux = loss.value(params, memory, batch, noise)
    start = torch.where(noise.is_restarted[:, None], noise.restart, memory[noise.slots])
    torch.testing.assert_close(aux.memory[noise.slots], _ends(LANGEVIN, params, start, noise.chain))
    assert bool((loss.init(random.key(0), params, batch) > 50).all())


@pytest.mark.parametrize("probability", [0.0, 0.05, 0.5, 1.0])
def test_the_restart_probability(probability):
    loss, batch, num = _pcd(1, restart_probability=probability), torch.zeros(5, 2), 4000
    flags = torch.func.vmap(lambda key: loss.draw(key, batch).is_restarted)(random.split(random.key(4), num))
    standard_error = (probability * (1 - probability) / (5 * num)) ** 0.5
    assert abs(float(flags.double().mean()) - probability) <= 5 * standard_error


def test_a_buffer_of_one_batch_uses_every_slot():
    loss, batch = _pcd(1, buffer_size=4), torch.zeros(4, 2)
    assert sorted(loss.draw(random.key(0), batch).slots.tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: losses.contrastive_divergence(energy, LANGEVIN, 0), "num_steps must be an integer of at least 1"),
        (lambda: losses.contrastive_divergence(energy, LANGEVIN, 1, start="date"), "start must be"),
        (lambda: losses.contrastive_divergence(energy, LANGEVIN, 1, regularization=-1.0), "regularization must not be"),
        (lambda: losses.contrastive_divergence(energy, LANGEVIN, 1, data_noise=-1.0), "data_noise must not be"),
        (lambda: _pcd(buffer_size=0), "buffer_size must be an integer of at least 1"),
        (lambda: _pcd(restart_probability=1.5), "restart_probability must be in"),
        (lambda: _pcd().init(random.key(0), (), torch.zeros(8, 2)), "buffer_size must be at least the batch size"),
        (lambda: _pcd().draw(random.key(0), torch.zeros(8, 2)), "buffer_size must be at least the batch size"),
    ],
)
def test_bad_arguments_are_refused_at_the_door(make, words):
    with pytest.raises(ValueError, match=words):
        make()
