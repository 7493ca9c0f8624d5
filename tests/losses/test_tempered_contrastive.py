"""Contrastive divergence from ladders: the cold rung is the negative, every rung goes on, swaps keep their turns."""

from __future__ import annotations

import pytest
import torch

from funcebm import losses, random, samplers, tree
from funcebm.losses.contrastive import PersistentMemory

LADDER = [0.3, 0.6, 1.0]


def energy(params, x):
    return params * (x**2).sum() / 2


def _rung(energy, beta):
    return samplers.mala(energy, step_size=0.1 / beta)


def _loss(num_steps=2, **options):
    options = {"buffer_size": 7, **options}
    return losses.parallel_tempering_contrastive_divergence(energy, _rung, LADDER, num_steps, **options)


@pytest.mark.parametrize(("num_steps", "age"), [(1, 0), (1, 3), (3, 2), (4, 1)])
def test_ladders_by_hand(num_steps, age):
    sampler = samplers.parallel_tempering(energy, _rung, LADDER)
    batch, params = torch.ones(3, 2), torch.tensor(0.7)
    loss = _loss(num_steps)
    memory = loss.init(random.key(1), params, batch)._replace(ages=torch.full((7,), age))
    assert memory.positions.shape == (7, 3, 2)
    noise = loss.draw(random.key(2), batch)
    _, aux = loss.value(params, memory, batch, noise)
    slots, cold, swaps = noise.buffer.slots, [], []
    for place, slot in enumerate(slots.tolist()):
        state = sampler.init(params, memory.positions[slot, -1])
        rungs = [samplers.mala(lambda p, x, beta=beta: beta * energy(p, x)).init(params, x)
                 for beta, x in zip(LADDER, memory.positions[slot], strict=True)]  # fmt: skip
        state = state._replace(rungs=tree.stack(rungs), num_scans=torch.tensor(age * num_steps))
        for step in range(num_steps):
            own = tree.map(lambda leaf: leaf[step, place], noise.chain)  # noqa: B023
            state, info = sampler.step(params, sampler.tuning, state, own)
            swaps.append(info.swap_rate)
        torch.testing.assert_close(aux.memory.positions[slot], state.rungs.position)
        cold.append(state.position)
    others = [slot for slot in range(7) if slot not in slots.tolist()]
    assert torch.equal(aux.memory.positions[others], memory.positions[others])
    assert aux.memory.ages[slots].tolist() == [age + 1] * 3
    negative = torch.stack([energy(params, x) for x in cold]).mean()
    torch.testing.assert_close(aux.metrics["negative_energy"], negative)
    rates = torch.stack(swaps).mean(0)
    torch.testing.assert_close(torch.stack([aux.metrics["swap_rate/0"], aux.metrics["swap_rate/1"]]), rates)
    torch.testing.assert_close(aux.metrics["swap_rate"], rates.mean())


def test_ladders_reach_the_mode_that_one_chain_does_not():
    def two_wells(params, x):
        return params * (x**2 - 9).square().sum() / 20

    def initial(key):
        return 3 + 0.1 * random.normal(key, (1,))

    batch, params = torch.zeros(200, 1), torch.tensor(1.0)
    local = lambda energy, beta: samplers.mala(energy, step_size=0.1 / beta)  # noqa: E731
    alone = losses.persistent_contrastive_divergence(
        two_wells,
        samplers.mala(two_wells, step_size=0.1),
        40,
        buffer_size=200,
        restart_probability=0.0,
        initial=initial,
    )
    ladder = losses.parallel_tempering_contrastive_divergence(
        two_wells, local, [0.05, 0.3, 1.0], 40, buffer_size=200, initial=initial
    )
    shares = []
    for loss in (alone, ladder):
        memory = loss.init(random.key(0), params, batch)
        for key in random.split(random.key(1), 3):
            memory = loss(key, params, batch, memory)[1].memory
        shares.append(float((memory.positions.reshape(200, -1)[:, -1] < 0).double().mean()))
    assert shares[0] < 0.1
    assert abs(shares[1] - 0.5) < 5 * (0.25 / 200) ** 0.5


def test_restarts_are_whole_ladders():
    batch, params = torch.zeros(5, 2), torch.tensor(0.7)
    loss = _loss(restart_probability=0.5, initial=lambda key: 100 + random.normal(key, (2,)))
    noise = loss.draw(random.key(3), batch)
    slots, is_restarted, restart = noise.buffer
    assert restart.shape == (5, 3, 2) and len(restart.unique()) == 30 and 0 < int(is_restarted.sum()) < 5
    memory = PersistentMemory(torch.zeros(7, 3, 2), torch.full((7,), 10))
    after = loss.value(params, memory, batch, noise)[1].memory
    assert torch.equal(after.ages[slots], torch.where(is_restarted, 1, 11))
    assert torch.equal((after.positions[slots] > 50).all(-1).all(-1), is_restarted)


def test_the_options_are_those_of_persistent_contrastive_divergence():
    batch, params = 2 * torch.ones(3, 2), torch.tensor(0.7)
    loss = _loss(regularization=0.1, gradient_penalty=0.2, trim=0.4, clamp=50.0, data_noise=0.3)
    memory, noise = loss.init(random.key(1), params, batch), loss.draw(random.key(2), batch)
    value, aux = loss.value(params, memory, batch, noise)
    positives = batch + 0.3 * noise.data
    cold = aux.memory.positions[noise.buffer.slots, -1]
    positive, negative = (params * (x**2).sum(1) / 2 for x in (positives, cold))
    kept = negative.sort().values[:2]
    expected = positive.mean() - kept.mean() + 0.1 * ((positive**2).mean() + (negative**2).mean())
    expected = expected + 0.2 * params**2 * (positives**2).sum(1).mean()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(aux.metrics["positive_energy"], positive.mean())
    torch.testing.assert_close(aux.metrics["buffer_age"], torch.tensor(3 / 7))
    tight = _loss(clamp=0.0).value(params, memory, torch.zeros(3, 2), noise)[0]
    assert float(tight) == 0 and float(aux.metrics["negative_energy"]) > 0


def test_a_tuning_of_its_own_is_that_of_the_sampler():
    batch, params = torch.ones(3, 2), torch.tensor(0.7)

    def wide(energy, beta):
        return samplers.mala(energy, step_size=0.3 / beta)

    tuning = samplers.parallel_tempering(energy, wide, LADDER).tuning
    other = losses.parallel_tempering_contrastive_divergence(energy, wide, LADDER, 2, buffer_size=7)
    results = [loss(random.key(3), params, batch, loss.init(random.key(1), params, batch))
               for loss in (_loss(tuning=tuning), other)]  # fmt: skip
    assert torch.equal(results[0][1].memory.positions, results[1][1].memory.positions)
    plain = _loss()
    assert not torch.equal(
        plain(random.key(3), params, batch, plain.init(random.key(1), params, batch))[0], results[0][0]
    )


def test_on_a_path_from_the_energy_to_itself_all_swaps_are_accepted():
    batch, params = torch.ones(3, 2), torch.tensor(0.7)
    rates = {}
    for reference in (energy, lambda params, x: 30 * (x**2).sum()):
        loss = losses.parallel_tempering_contrastive_divergence(
            energy, _rung, [0.1, 0.5, 1.0], 2, buffer_size=7, reference=reference
        )
        _, aux = loss(random.key(3), params, batch, loss.init(random.key(1), params, batch))
        rates[reference is energy] = float(aux.metrics["swap_rate"])
    assert rates[False] < 0.99 < 1 - 1e-5 < rates[True] <= 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: _loss(0), "num_steps must be an integer of at least 1"),
        (
            lambda: _loss(buffer_size=2).init(random.key(0), torch.tensor(1.0), torch.zeros(3, 2)),
            "buffer_size must be at least the batch",
        ),
        (lambda: _loss(buffer_size=2).draw(random.key(0), torch.zeros(3, 2)), "buffer_size must be at least the batch"),
        (
            lambda: losses.parallel_tempering_contrastive_divergence(energy, _rung, [0.5, 0.9], 1, buffer_size=5),
            "must increase strictly, and end with 1",
        ),
    ],
)
def test_bad_arguments_are_refused_at_the_door(make, words):
    with pytest.raises(ValueError, match=words):
        make()
