"""JEM: its gradient is that of its two parts, on the same data."""

from __future__ import annotations

import pytest
import torch

from funcebm import energies, losses, random, samplers


def classifier(params, x):
    return params["weight"] @ torch.tanh(x) + params["bias"]


ENERGY = energies.energy_of_logits(classifier)
PARAMS = {
    "weight": random.normal(random.key(0), (3, 2), dtype=torch.float64),
    "bias": torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64),
}
BATCH = (random.normal(random.key(1), (6, 2), dtype=torch.float64), torch.tensor([0, 2, 1, 1, 0, 2]))


def _of_data():
    return losses.persistent_contrastive_divergence(ENERGY, samplers.langevin(ENERGY, step_size=0.1), 3, buffer_size=12)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
@pytest.mark.parametrize("data_noise", [0.0, 0.3])
def test_the_gradient_is_the_sum_of_its_parts(label_smoothing, data_noise):
    of_data = _of_data()
    loss = losses.joint_energy(classifier, of_data, weight=0.6, label_smoothing=label_smoothing, data_noise=data_noise)
    memory, noise = loss.init(random.key(2), PARAMS, BATCH), loss.draw(random.key(3), BATCH)
    x = BATCH[0] + (data_noise * noise.data if data_noise else 0.0)

    def cross_entropy(params):
        logits = torch.func.vmap(classifier, (None, 0))(params, x)
        return torch.nn.functional.cross_entropy(logits, BATCH[1], label_smoothing=label_smoothing)

    def alone(params):
        return of_data.value(params, memory, x, noise.loss)

    differentiate = torch.func.grad_and_value
    gradient, (value, aux) = differentiate(loss.value, has_aux=True)(PARAMS, memory, BATCH, noise)
    labels, (entropy) = differentiate(cross_entropy)(PARAMS)
    data, (contrast, aux_of_data) = differentiate(alone, has_aux=True)(PARAMS)
    torch.testing.assert_close(value, entropy + 0.6 * contrast)
    for name in PARAMS:
        torch.testing.assert_close(gradient[name], labels[name] + 0.6 * data[name])
    assert torch.equal(aux.memory.positions, aux_of_data.memory.positions)
    torch.testing.assert_close(aux.metrics["cross_entropy"], entropy)
    guesses = torch.func.vmap(classifier, (None, 0))(PARAMS, x).argmax(1)
    torch.testing.assert_close(aux.metrics["accuracy"], (guesses == BATCH[1]).double().mean())
    assert aux.metrics["energy_gap"] == aux_of_data.metrics["energy_gap"]


def test_an_energy_that_is_the_marginal_of_the_logits():
    x = BATCH[0][0]
    logits = classifier(PARAMS, x)
    joint = torch.exp(logits)
    torch.testing.assert_close(torch.exp(-ENERGY(PARAMS, x)), joint.sum())
    torch.testing.assert_close(joint / torch.exp(-ENERGY(PARAMS, x)), torch.softmax(logits, 0))


def test_any_loss_of_the_data_will_do():
    loss = losses.joint_energy(classifier, losses.score_matching(ENERGY), weight=2.0)
    value, aux = loss(random.key(0), PARAMS, BATCH)
    parts = losses.score_matching(ENERGY)(random.key(0), PARAMS, BATCH[0])[0]
    torch.testing.assert_close(value, aux.metrics["cross_entropy"] + 2 * parts)


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (BATCH[0], "a batch must be a pair"),
        ((BATCH[0], BATCH[1].double()), "labels must be a vector of integers"),
        ((BATCH[0], BATCH[1][:, None]), "labels must be a vector of integers"),
        ((BATCH[0], BATCH[1][:4]), "one label for each row"),
        ((BATCH[0], BATCH[1] + 1), r"labels must be in 0 \.\. 2"),
        ((BATCH[0], BATCH[1] - 1), r"labels must be in 0 \.\. 2"),
    ],
)
def test_bad_batches_are_refused(batch, words):
    with pytest.raises(ValueError, match=words):
        losses.joint_energy(classifier, _of_data()).init(random.key(0), PARAMS, batch)


def test_bad_arguments_are_refused_at_the_door():
    with pytest.raises(ValueError, match="label_smoothing must be in"):
        losses.joint_energy(classifier, _of_data(), label_smoothing=1.0)
    with pytest.raises(ValueError, match="data_noise must not be negative"):
        losses.joint_energy(classifier, _of_data(), data_noise=-0.1)
    with pytest.raises(ValueError, match="must return a vector of logits"):
        energies.energy_of_logits(lambda params, x: x.sum())((), torch.zeros(2))
