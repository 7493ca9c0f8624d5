"""Contrastive divergence over bits: chains start in the space, the gradient of an RBM is that of its likelihood."""

from __future__ import annotations

import pytest
import torch
from tests.distributions import assert_mean, assert_uniform

import funcebm as ebm
from funcebm import energies, losses, optimizers, random, samplers, spaces, training, tree
from funcebm.energies import exact
from funcebm.samplers.rbm_gibbs import RBMGibbsNoise

MACHINE = energies.rbm(4, 3)
PARAMS = MACHINE.params(random.normal(random.key(1), (4, 3), dtype=torch.float64), 0.2, -0.3)
PROBABILITIES = exact.log_probabilities(MACHINE, MACHINE.space)(PARAMS).exp()


def _numbers(positions):
    return torch.func.vmap(lambda x: spaces.index(MACHINE.space, x))(positions)


def _matrix(sampler, params, space):
    """Of a step on bits: from every state, over a fine grid of the hidden units (exact for them) and analytic in the visible."""
    hidden = spaces.states(spaces.binary(3), torch.float64)
    states = spaces.states(space, torch.float64)
    matrix = torch.zeros(len(states), len(states), dtype=torch.float64)
    for i, v in enumerate(states):
        of_hidden = torch.sigmoid(MACHINE.hidden_logits(params, v))
        for h in hidden:
            # a uniform of 0 makes a unit 1, one of 1 makes it 0: so the step is asked for exactly this h and each v
            chance_h = torch.where(h > 0, of_hidden, 1 - of_hidden).prod()
            of_visible = torch.sigmoid(MACHINE.visible_logits(params, h))
            for j, w in enumerate(states):
                noise = RBMGibbsNoise(1 - h, 1 - w)
                after, info = sampler.step(params, (), sampler.init(params, v), noise)
                assert torch.equal(after.position, w)
                torch.testing.assert_close(info.energy, MACHINE.free_energy(params, w))
                matrix[i, j] += chance_h * torch.where(w > 0, of_visible, 1 - of_visible).prod()
    return matrix


def test_block_gibbs_is_reversible_for_the_free_energy():
    matrix = _matrix(samplers.rbm_gibbs(MACHINE), PARAMS, MACHINE.space)
    torch.testing.assert_close(matrix.sum(1), torch.ones(16, dtype=torch.float64))
    flow = PROBABILITIES[:, None] * matrix
    assert (flow - flow.T).abs().max() < 1e-16
    eigenvalues = torch.linalg.eigvals(matrix).abs().sort().values
    assert eigenvalues[-2] < 0.99


def test_block_gibbs_stays_in_the_law():
    sampler = samplers.rbm_gibbs(MACHINE)
    starts = MACHINE.sample(random.key(2), PARAMS, 8000)
    samples = ebm.sample(random.key(3), sampler, PARAMS, starts, num_samples=3, jit=False)
    assert_uniform(torch.bincount(_numbers(samples.draws[:, -1]), minlength=16), PROBABILITIES)


def test_block_gibbs_of_gaussian_units_stays_in_the_law():
    machine = energies.rbm(1, 2, visible="gaussian")
    weight = torch.tensor([[1.1, -0.4]], dtype=torch.float64)
    params = machine.params(weight, 0.3, [0.2, 0.5], scale=0.7)
    starts = machine.sample(random.key(0), params, 20_000)
    samples = ebm.sample(random.key(1), samplers.rbm_gibbs(machine), params, starts, num_samples=2, jit=False)
    nodes = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    weights = torch.softmax(-torch.func.vmap(machine, (None, 0))(params, nodes[:, None]), 0)
    for draws in (starts, samples.draws[:, -1]):
        for power in (1, 2, 3):
            assert_mean(draws**power, (weights * nodes**power).sum())


def test_the_gradient_of_long_contrastive_divergence_is_that_of_the_likelihood():
    sampler = samplers.rbm_gibbs(MACHINE)
    data = MACHINE.sample(random.key(4), MACHINE.params(torch.zeros(4, 3).double(), 0.5), 50)

    def likelihood(params):
        values = torch.func.vmap(MACHINE.free_energy, (None, 0))(params, data)
        return values.mean() + MACHINE.log_normalizer(params)

    expected = torch.func.grad(likelihood)(PARAMS)
    starts = MACHINE.sample(random.key(5), PARAMS, 50 * 60).reshape(60, 50, 4)  # in the distribution from the start

    def slope(key, start):
        loss = losses.contrastive_divergence(MACHINE.free_energy, sampler, 1, start=start)
        return torch.func.grad(lambda params: loss(key, params, data)[0])(PARAMS)

    slopes = [slope(key, start) for key, start in zip(random.split(random.key(6), 60), starts, strict=True)]
    slopes = tree.stack(slopes)
    for name, leaf in slopes.items():
        assert_mean(leaf, expected[name])


@pytest.mark.parametrize("make", ["cd", "pcd", "tempered"])
def test_chains_start_uniformly_in_the_space(make):
    space = spaces.spins(3)
    energy = lambda params, x: -params * x.sum()  # noqa: E731
    stay = samplers.random_walk(energy, step_size=0.1)
    batch = torch.ones(500, 3, dtype=torch.float64)
    if make == "cd":
        loss = losses.contrastive_divergence(energy, stay, 1, start=space)
        starts = loss.draw(random.key(0), batch).start
    elif make == "pcd":
        loss = losses.persistent_contrastive_divergence(energy, stay, 1, buffer_size=500, initial=space)
        starts = loss.init(random.key(0), torch.tensor(0.0), batch).positions
    else:
        loss = losses.parallel_tempering_contrastive_divergence(
            energy, lambda energy, beta: stay, [0.5, 1.0], 1, buffer_size=500, initial=space
        )
        starts = loss.init(random.key(0), torch.tensor(0.0), batch).positions.reshape(-1, 3)
    assert starts.dtype == torch.float64
    spaces.check(space, starts)
    assert_mean(starts, 0.0)


def test_chains_that_go_on_stay_in_the_space():
    sampler = samplers.rbm_gibbs(MACHINE)
    mean = torch.full((4,), 0.9, dtype=torch.float64)
    for initial in (MACHINE.space, spaces.start(MACHINE.space, mean=mean, dtype=torch.float64)):
        loss = losses.persistent_contrastive_divergence(
            MACHINE.free_energy, sampler, 2, buffer_size=20, initial=initial, restart_probability=0.2
        )
        batch = MACHINE.sample(random.key(0), PARAMS, 6)
        memory = loss.init(random.key(1), PARAMS, batch)
        for i in range(3):
            memory = loss(random.key(2 + i), PARAMS, batch, memory)[1].memory
        spaces.check(MACHINE.space, memory.positions)


@pytest.mark.parametrize("energy", [MACHINE, MACHINE.free_energy, energies.tempered(MACHINE, 0.5)])
def test_an_energy_says_where_its_chains_start(energy):
    batch = torch.ones(3, 4, dtype=torch.float64)
    make = lambda energy: samplers.gibbs_with_gradients(energy)  # noqa: E731
    persistent = losses.persistent_contrastive_divergence(energy, make, 1, buffer_size=40)
    improved = losses.improved_contrastive_divergence(energy, make, 1, buffer_size=40, bank_size=4)
    ladder = losses.parallel_tempering_contrastive_divergence(
        energy, lambda energy, beta: make(energy), [0.5, 1.0], 1, buffer_size=40
    )
    for loss in (persistent, improved, ladder):
        positions = loss.init(random.key(0), PARAMS, batch).positions
        spaces.check(MACHINE.space, positions)
        assert positions.unique(dim=0).shape[0] > 1
    noise = losses.contrastive_divergence(energy, make, 1, start="noise").draw(random.key(0), batch)
    spaces.check(MACHINE.space, noise.start)


@pytest.mark.parametrize("make", [samplers.gibbs_with_gradients, samplers.gibbs, samplers.discrete_langevin])
def test_chains_off_the_levels_are_refused_and_do_not_stand_still(make):
    batch = torch.full((2, 4), 0.5, dtype=torch.float64)
    loss = losses.contrastive_divergence(MACHINE, make, 1)
    for call in (lambda: loss(random.key(0), PARAMS, batch), lambda: loss.init(random.key(0), PARAMS, batch)):
        with pytest.raises(ValueError, match="levels of the space"):
            call()
    with pytest.raises(ValueError, match="levels of the space"):
        torch.func.grad(lambda params: loss(random.key(0), params, batch)[0])(PARAMS)
    with pytest.raises(ValueError, match="data_noise is for real data"):
        losses.contrastive_divergence(MACHINE, make, 1, data_noise=0.1)


OFF = {
    "function": {"start": lambda key: random.normal(key, (4,))},
    "tree": {"start": torch.full((3, 4), 0.5)},
    "initial": {"initial": lambda key: random.normal(key, (4,)), "buffer_size": 9},
}


@pytest.mark.parametrize("name", list(OFF))
@pytest.mark.parametrize("make", [samplers.gibbs, samplers.gibbs_with_gradients, samplers.discrete_langevin])
def test_starts_off_the_levels_are_refused_before_a_compiled_training(name, make):
    """Compiled chains say nothing, and stood still."""
    factory = losses.persistent_contrastive_divergence if name == "initial" else losses.contrastive_divergence
    loss = factory(MACHINE, lambda energy: make(energy), 2, **OFF[name])
    data = (random.uniform(random.key(2), (3, 4)) < 0.5).float()
    params = tree.map(torch.Tensor.float, PARAMS)
    options = {"optimizer": optimizers.sgd(0.1), "num_steps": 2, "batch_size": 3}
    for call in (
        lambda: loss.init(random.key(0), params, data),
        lambda: training.fit(random.key(0), loss, params, data, **options, jit=True),
    ):
        with pytest.raises(ValueError, match="must hold only the levels of the space"):
            call()


def test_bits_and_normal_starts_are_a_warning():
    energy = lambda params, x: MACHINE(params, x)  # noqa: E731
    loss = losses.persistent_contrastive_divergence(
        energy, lambda energy: samplers.random_walk(energy, step_size=0.1), 1, buffer_size=10
    )
    with pytest.warns(UserWarning, match="initial=funcebm.spaces.binary"):
        loss.init(random.key(0), PARAMS, torch.tensor([[0.0, 1.0, 1.0, 0.0]]))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda energy, s: losses.contrastive_divergence(energy, s, 1, start=MACHINE.space, data_noise=0.1), "levels"),
        (
            lambda energy, s: losses.persistent_contrastive_divergence(
                energy, s, 1, buffer_size=9, initial=MACHINE.space
            ).init(random.key(0), PARAMS, torch.full((2, 4), 0.5)),
            "the batch must hold only the levels",
        ),
        (lambda energy, s: s.init(PARAMS, torch.full((4,), 0.5)), "levels of the space"),
    ],
)
def test_bad_calls_are_refused_in_words(call, words):
    with pytest.raises(ValueError, match=words):
        call(MACHINE.free_energy, samplers.rbm_gibbs(MACHINE))


def _step(data, params, optimizer):
    """One step of exact maximum likelihood."""

    def likelihood(params):
        return torch.func.vmap(MACHINE.free_energy, (None, 0))(params, data).mean() + MACHINE.log_normalizer(params)

    updates, _ = optimizer.update(torch.func.grad(likelihood)(params), optimizer.init(params), params)
    return tree.add(params, updates)


def _flipped(params):
    """The params of the machine that gives ``1 - v`` the probability of ``v``."""
    weight, b, c = params["weight"], params["visible_bias"], params["hidden_bias"]
    return {"weight": -weight, "visible_bias": -b, "hidden_bias": c + weight.sum(0)}


def test_centred_training_does_not_know_which_level_is_called_one():
    data = MACHINE.sample(random.key(7), PARAMS, 40)
    start = MACHINE.init(random.key(8), data.mean(0), weight_scale=0.5)
    for is_centred in (True, False):

        def optimizer(data, is_centred=is_centred):
            plain = ebm.optimizers.sgd(0.3)
            centring = ebm.optimizers.centring(data.mean(0))
            return ebm.optimizers.chain(centring, plain) if is_centred else plain

        there = _flipped(_step(data, start, optimizer(data)))
        here = _step(1 - data, _flipped(start), optimizer(1 - data))
        same = all(torch.allclose(a, b, atol=1e-12) for a, b in zip(tree.leaves(here), tree.leaves(there), strict=True))
        assert same == is_centred


def test_centring_keeps_what_is_independent_of_offsets():
    gradients = tree.map(lambda leaf: torch.ones_like(leaf), PARAMS)
    none = ebm.optimizers.centring(torch.zeros(4), torch.zeros(3)).update(gradients, (), PARAMS)[0]
    assert all(torch.equal(none[name], gradients[name]) for name in none)
    with pytest.raises(ValueError, match=r"energies\.rbm"):
        ebm.optimizers.centring(torch.zeros(4)).update({"weight": torch.zeros(2)}, (), {})


def test_diagnostics_take_draws_that_are_stored_as_integers():
    sampler, keep = samplers.rbm_gibbs(MACHINE), spaces.collect(MACHINE.space)
    starts = MACHINE.sample(random.key(0), PARAMS, 4)
    options = {"num_samples": 60, "jit": False}
    small = ebm.sample(random.key(1), sampler, PARAMS, starts, collect=keep, **options)
    plain = ebm.sample(random.key(1), sampler, PARAMS, starts, **options)
    assert small.draws.dtype == torch.int8
    assert torch.equal(small.draws.double(), plain.draws)
    for name in ("rhat", "ess_bulk", "ess_tail", "mcse_mean"):
        diagnostic = getattr(ebm.diagnostics, name)
        torch.testing.assert_close(diagnostic(small.draws).double(), diagnostic(plain.draws))
    assert "rhat" in str(ebm.diagnostics.summary(small))


def test_the_centred_gradient_is_that_of_the_machine_with_offsets():
    mu, offset = torch.linspace(0.1, 0.7, 4, dtype=torch.float64), torch.linspace(0.3, 0.9, 3, dtype=torch.float64)

    def plain(centred):
        """``(v - mu)' W (h - lambda)`` and its biases, written as those of the plain machine."""
        weight = centred["weight"]
        b, c = centred["visible_bias"] - weight @ offset, centred["hidden_bias"] - mu @ weight
        return {"weight": weight, "visible_bias": b, "hidden_bias": c}

    gradients = tree.map(lambda leaf: torch.sin(3 * leaf + 1), PARAMS)
    along = torch.func.vjp(plain, PARAMS)[1](gradients)[0]
    expected = torch.func.jvp(plain, (PARAMS,), (along,))[1]
    found = ebm.optimizers.centring(mu, offset).update(gradients, (), PARAMS)[0]
    for name, leaf in found.items():
        torch.testing.assert_close(leaf, expected[name])
