"""The hybrid loss of JEM: a classifier that is an energy too."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, random, tree
from ..energies.classifier import Classifier, require_logits
from ..types import Batch, Key, Loss, LossAux, Params, Position, Tree
from ._contrast import draw_data_noise, number_or_zero, perturbed
from ._staged import objective, prepare

__all__ = ["JointNoise", "joint_energy"]


class JointNoise(NamedTuple):
    """The noise on the data (or ``()``), and that of the loss of the data alone."""

    data: Tree
    loss: Tree


def joint_energy(
    classifier: Classifier,
    loss: Loss,
    *,
    weight: float | Tensor = 1.0,
    label_smoothing: float = 0.0,
    data_noise: float | Tensor = 0.0,
) -> Loss:
    r"""The joint energy loss, JEM: a cross-entropy for the labels and any loss of an energy for the data.

    .. math:: L = \overline{-\log p_\theta(y \mid x)} + w\,L_E(x), \qquad
        p_\theta(y \mid x) = \mathrm{softmax}_y f_\theta(x), \quad E_\theta(x) = -\log \sum_k e^{f_\theta(x)_k}

    With a contrastive loss of ``energies.energy_of_logits(classifier)`` this is the likelihood of the pairs,
    :math:`-\log p(x, y) = -\log p(y \mid x) - \log p(x)`; JEM's is :func:`persistent_contrastive_divergence` with short
    Langevin chains, a large buffer, restarts of 0.05. What keeps it stable beside the options of that loss
    (``regularization``, ``clamp``, more steps): noise on the inputs, of 0.03 in JEM, and smoother labels.

    Args:
        classifier: ``(params, x) -> (K,)``, the logits of one particle.
        loss: any loss of the data alone, for ``energies.energy_of_logits(classifier)``.
        weight: :math:`w`. ``()``.
        label_smoothing: :math:`a` in [0, 1): the target is :math:`1 - a` on the label and :math:`a / K` on every class.
        data_noise: the standard deviation of normal noise added to the data, for both parts. ``()``.

    Returns:
        A :class:`~funcebm.types.Loss` over batches ``(x, labels)``, ``(B, *event)`` and ``(B,)`` integers in 0 .. K - 1, with
        the memory of ``loss``, and its metrics with ``cross_entropy`` (smoothed, if labels are) and ``accuracy``.

    Raises:
        ValueError: a bad number; a batch that is not a pair with one integer label for each row, or labels out of range; when
            called, a classifier that does not return a vector.

    Reference: Grathwohl et al. (2020), arXiv:1912.03263, the section "Optimization".

    >>> from funcebm import energies, losses, samplers
    >>> classifier = lambda params, x: params["weight"] @ x
    >>> energy = energies.energy_of_logits(classifier)
    >>> data = losses.persistent_contrastive_divergence(energy, samplers.langevin(energy), 5, buffer_size=20)
    >>> loss = joint_energy(classifier, data)
    >>> params, batch = {"weight": torch.zeros(3, 2)}, (torch.ones(4, 2), torch.tensor([0, 1, 2, 0]))
    >>> value, aux = loss(random.key(0), params, batch, loss.init(random.key(1), params, batch))
    >>> aux.metrics["cross_entropy"]
    tensor(1.0986)
    """
    right = not isinstance(label_smoothing, Tensor) and 0 <= label_smoothing < 1
    checks.require(right, "label_smoothing must be in [0, 1)", label_smoothing, "Try 0.1, or 0 for none.")
    if not isinstance(data_noise, Tensor):
        checks.require(
            0 <= data_noise < float("inf"), "data_noise must not be negative", data_noise, "Give 0 for none."
        )

    factor, smoothing = tree.number(weight), tree.number(label_smoothing)
    data_noise = number_or_zero(data_noise)

    def one(params: Params, position: Position, label: Tensor) -> tuple[Tensor, Tensor]:
        logits = require_logits(classifier(params, position))
        log_probabilities = torch.log_softmax(logits, -1)
        at_label = log_probabilities.gather(-1, label[None])[0]
        hard, soft = tree.cast_like((1 - smoothing, smoothing), at_label)
        value = -hard * at_label - soft * log_probabilities.mean()
        return value, (logits.argmax(-1) == label).to(logits.dtype)

    def init(key: Key, params: Params, batch: Batch) -> Tree:
        data, labels = _pair(batch)
        _check_range(labels, vmap(classifier, (None, 0))(params, data).shape[-1])
        return loss.init(key, params, data)

    def draw(key: Key, batch: Batch) -> JointNoise:
        data, _ = _pair(batch)
        key_data, key_loss = random.split(key)
        return JointNoise(draw_data_noise(key_data, data, data_noise), loss.draw(key_loss, data))

    def prepare_both(params: Params, memory: Tree, batch: Batch, noise: JointNoise) -> tuple[Any, Batch]:
        data, labels = _pair(batch)
        data = perturbed(data, noise.data, data_noise)
        return prepare(loss, params, memory, data, noise.loss), (data, labels)

    def objective_both(params: Params, prepared: tuple[Any, Batch]) -> tuple[Tensor, LossAux]:
        value, aux = objective(loss, params, prepared[0])
        entropies, is_right = vmap(one, (None, 0, 0))(params, *prepared[1])
        entropy = entropies.mean()
        metrics = {**aux.metrics, "cross_entropy": entropy.detach(), "accuracy": is_right.mean().detach()}
        return entropy + factor.to(value) * value, LossAux(aux.memory, metrics)

    def value(params: Params, memory: Tree, batch: Batch, noise: JointNoise) -> tuple[Tensor, LossAux]:
        return objective_both(params, prepare_both(params, memory, batch, noise))

    return Loss(init, draw, value, prepare_both, objective_both)


def _pair(batch: Batch) -> tuple[Tree, Tensor]:
    """The data and the labels of a batch."""
    fix = "Train on the pair (x, labels), with labels of type torch.int64."
    is_pair = isinstance(batch, tuple) and len(batch) == 2
    checks.require(is_pair, "a batch must be a pair (x, labels)", type(batch).__name__, fix)
    labels = batch[1]
    right = isinstance(labels, Tensor) and labels.ndim == 1 and labels.dtype == torch.int64
    got = f"{labels.dtype} of shape {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
    checks.require(right, "labels must be a vector of integers", got, fix)
    num = tree.batch_size(batch[0])
    checks.require(len(labels) == num, "there must be one label for each row", f"{len(labels)} for {num} rows", fix)
    return batch[0], labels


def _check_range(labels: Tensor, num_classes: int) -> None:
    if checks.is_concrete(labels) and labels.numel():
        low, high = int(labels.min()), int(labels.max())
        must = f"labels must be in 0 .. {num_classes - 1}, the classes that the classifier knows"
        checks.require(low >= 0 and high < num_classes, must, f"{low} .. {high}", "Number the classes from 0.")
