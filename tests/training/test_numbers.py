"""The numbers of losses and optimizers are arguments of what is compiled: other numbers compile nothing."""

import pytest
import torch
from tests import cases_losses
from tests.helpers import compiles_nothing, counted

from funcebm import energies, losses, optimizers, random, samplers, schedules
from funcebm.training import fit

PARAMS = {name: torch.tensor(value) for name, value in (("k", 1.5), ("slope", 0.3), ("bump", 0.7))}


def _chain(scale):
    rates = {"momentum": 0.5 + 0.1 * scale, "weight_decay": 0.01 * scale}
    return optimizers.chain(optimizers.clip_by_global_norm(3.0 * scale), optimizers.sgd(0.01 * scale, **rates))


def _adamw(scale):
    numbers = {"beta1": 0.8 + 0.05 * scale, "beta2": 0.99 + 0.001 * scale, "epsilon": 1e-6 * scale}
    return optimizers.adamw(0.01 * scale, weight_decay=0.1 * scale, **numbers)


def _scheduled(scale):
    rate = schedules.warm_up(schedules.cosine(0.02 * scale, 0.001 * scale, 8), 2, initial_factor=0.1 * scale)
    return optimizers.sgd(rate)


def _langevin(energy):
    return samplers.langevin(energy, step_size=0.05)


def _joint(energy, scale):
    numbers = {"weight": 0.5 * scale, "label_smoothing": 0.05 * scale, "data_noise": 0.05 * scale}
    of_data = losses.contrastive_divergence(energies.energy_of_logits(cases_losses.classifier), _langevin, 2)
    return losses.joint_energy(cases_losses.classifier, of_data, **numbers)


def _options(scale):
    weights = {"regularization": 0.1 * scale, "gradient_penalty": 0.2 * scale}
    return {**weights, "clamp": 20.0 * scale, "data_noise": 0.1 * scale}


LOSSES = {
    "denoising": lambda energy, s: losses.denoising_score_matching(energy, 0.3 * s),
    "energy_discrepancy": lambda energy, s: losses.energy_discrepancy(energy, 0.3 * s, stabiliser=1.0 * s),
    "finite_difference": lambda energy, s: losses.finite_difference_score_matching(energy, step_size=0.1 * s),
    "conditional_nce": lambda energy, s: losses.conditional_noise_contrastive_estimation(energy, 0.4 * s),
    "kernel_stein": lambda energy, s: losses.kernel_stein_discrepancy(energy, length_scale=1.0 * s),
    "cd": lambda energy, s: losses.contrastive_divergence(energy, _langevin, 2, **_options(s)),
    "pcd": lambda energy, s: losses.persistent_contrastive_divergence(
        energy, _langevin, 2, buffer_size=20, restart_probability=0.1 * s, **_options(s)
    ),
    "improved_cd": lambda energy, s: losses.improved_contrastive_divergence(
        energy, _langevin, 2, buffer_size=20, bank_size=5, entropy_weight=0.2 * s, divergence_weight=0.5 * s
    ),
    "joint_energy": _joint,
    "sum": lambda energy, s: losses.weighted_sum(
        [losses.denoising_score_matching(energy, 0.3), losses.score_matching(energy)], [0.5 * s, 2.0 * s]
    ),
    "penalised": lambda energy, s: losses.penalised(
        losses.score_matching(energy), lambda params, batch: params["k"] ** 2, 0.1 * s
    ),
}


def _run(loss, optimizer, data, **more):
    arguments = {"optimizer": optimizer, "num_steps": 4, "batch_size": 6, "jit": True}
    return fit(random.key(1), loss, PARAMS, data, **arguments, **more).params["k"]


@pytest.mark.usefixtures("op_by_op")
@pytest.mark.compiled
@pytest.mark.parametrize("name", LOSSES)
def test_another_number_of_a_loss_compiles_nothing_and_counts(name):
    data = cases_losses.with_labels(name, cases_losses.batch(num=12))
    first = _run(LOSSES[name](cases_losses.energy, 1.0), optimizers.sgd(0.01), data)
    with compiles_nothing():
        second = _run(LOSSES[name](cases_losses.energy, 1.5), optimizers.sgd(0.01), data)
    assert not torch.equal(first, second)


@pytest.mark.usefixtures("op_by_op")
@pytest.mark.compiled
@pytest.mark.parametrize("make", [_chain, _adamw, _scheduled])
def test_another_number_of_an_optimizer_compiles_nothing_and_counts(make):
    loss, data = losses.score_matching(cases_losses.energy), cases_losses.batch(num=12)
    first = _run(loss, make(1.0), data, ema_decay=0.9)
    with compiles_nothing():
        second = _run(loss, make(1.5), data, ema_decay=0.5)
    assert not torch.equal(first, second)


@pytest.mark.usefixtures("op_by_op")
@pytest.mark.compiled
def test_hyper_is_an_argument_of_the_loop():
    data = cases_losses.batch(num=12)
    loss = lambda h: losses.denoising_score_matching(cases_losses.energy, 0.2 + h["scale"] ** 2)  # noqa: E731
    adam = lambda h: optimizers.adam(h["rate"])  # noqa: E731
    with counted() as counts:
        first = _run(loss, adam, data, hyper={"scale": torch.tensor(0.5), "rate": torch.tensor(0.01)})
    assert counts.traces > 0
    with compiles_nothing():
        second = _run(loss, adam, data, hyper={"scale": torch.tensor(0.7), "rate": torch.tensor(0.02)})
    assert not torch.equal(first, second)


def test_hyper_gives_what_the_numbers_give():
    data, arguments = cases_losses.batch(num=12), {"num_steps": 4, "batch_size": 6, "jit": False}
    scale, rate = torch.tensor(0.5), torch.tensor(0.01)
    of_hyper = fit(
        random.key(1),
        lambda h: losses.denoising_score_matching(cases_losses.energy, h[0]),
        PARAMS,
        data,
        optimizer=lambda h: optimizers.adam(h[1]),
        hyper=(scale, rate),
        **arguments,
    )
    loss = losses.denoising_score_matching(cases_losses.energy, 0.5)
    plain = fit(random.key(1), loss, PARAMS, data, optimizer=optimizers.adam(0.01), **arguments)
    assert torch.equal(of_hyper.metrics["loss"], plain.metrics["loss"])
