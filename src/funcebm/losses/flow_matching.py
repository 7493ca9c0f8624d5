r"""Flow matching: the regression of a field on how points move from noise to data; and denoising, its other forms."""

from __future__ import annotations

from typing import Callable, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, couplings, paths, random, tree
from ..couplings import Coupling
from ..paths import Field, Path
from ..paths.path import has_latent
from ..solvers.ddim import check_affine
from ..types import Batch, Key, Loss, LossAux, Params, Position, Tree
from ._staged import staged, without_memory
from ._transport import (
    Source,
    TransportNoise,
    as_transport,
    check_parts,
    draw_ends,
    halves,
    like_x,
    map_field,
    no_time,
    pair_ends,
    paired,
    per_row,
    scaled_norms,
)
from .times import Times, uniform_times

__all__ = ["conditional_dropout", "edm_preconditioned", "edm_weight", "flow_matching"]

_PREDICTIONS = ("velocity", "data", "noise", "score")


class _Prepared(NamedTuple):
    """Where, when, and on what ``factor * field`` is regressed, each over the leading axis B."""

    time: Tensor
    position: Position
    target: Position
    factor: Tensor
    weight: Tensor
    label: Tree


def flow_matching(
    field: Field,
    path: Path | None = None,
    *,
    prediction: str = "velocity",
    coupling: Coupling | None = None,
    source: Source | None = None,
    time: Times | None = None,
    weight: Callable[[Tensor], Tensor] | None = None,
) -> Loss[tuple[()]]:
    r"""Flow matching: regresses a field on the velocity of conditional paths, whose mean is that of the marginal one.

    With a pair :math:`(x_0, x_1)`, a time and :math:`x_t = \alpha_t x_1 + \sigma_t x_0` (:math:`+ \gamma_t z`),

    .. math:: L = \overline{w(t)\,|u_\theta(t, x_t) - (\dot\alpha_t x_1 + \dot\sigma_t x_0 + \dot\gamma_t z)|^2}.

    The other predictions regress on :math:`x_1`, on :math:`x_0`, and, for the score, :math:`|\sigma_t S_\theta + x_0|^2` (on
    paths with further noise z and :math:`\gamma_t` are in the places of :math:`x_0` and :math:`\sigma_t`). The least loss is
    not zero: for N(m, s^2 I) data in D dimensions, the linear path, independent pairs and uniform times it is
    :math:`\pi s D/2`.

    An energy at every time, ``(params, t, x) -> ()``, is trained as a score: ``flow_matching(paths.negative_gradient(energy),
    path, prediction="score")``; a potential likewise as a velocity, and :func:`funcebm.paths.energy_of` makes an energy of it.

    Args:
        field: ``(params, t, x) -> like x``, or ``(params, t, x, label)`` where the batch has labels.
        path: by default :func:`funcebm.paths.linear`.
        prediction: what the field is: ``"velocity"``, ``"data"``, ``"noise"`` or ``"score"``.
        coupling: of noise and data in a batch, by default :func:`funcebm.couplings.independent`. Score, noise and energy of
            the data follow from others only in the mean over the plan: see there.
        source: ``key -> x0``; by default standard normal, or what the batch brings.
        time: by default :func:`~funcebm.losses.uniform_times` on [0, 1]; on a path with further noise, on [0.001, 0.999].
        weight: :math:`w`, a function of times; by default 1.

    Returns:
        A :class:`~funcebm.types.Loss` over batches of data ``(B, *event)``, or
        :class:`~funcebm.losses.TransportBatch` with labels or with ``x0`` of its own. Metrics ``early`` and ``late``: the loss
        at times before and after 1/2.

    Raises:
        ValueError: an unknown prediction; when called, ends or labels that do not fit, times outside of [0, 1], a field that is
            not like ``x``.
        TypeError: a field, a coupling, times, a weight or a source that is none.

    Reference: Lipman et al. (2023), ICLR, arXiv:2210.02747; Liu, Gong and Liu (2023), ICLR, arXiv:2209.03003; Albergo and
    Vanden-Eijnden (2023), ICLR, arXiv:2209.15571.

    >>> loss = flow_matching(lambda params, t, x: params - x)
    >>> value, aux = loss(random.key(0), torch.zeros(2), torch.ones(8, 2))
    >>> value.shape, sorted(aux.metrics)
    (torch.Size([]), ['early', 'late'])
    """
    check_parts(field, coupling, source, time, weight)
    path = paths.linear() if path is None else path
    coupling = couplings.independent() if coupling is None else coupling
    fix = "paths.negative_gradient makes a score of an energy."
    checks.require(prediction in _PREDICTIONS, f"prediction must be one of {', '.join(_PREDICTIONS)}", prediction, fix)
    is_latent = has_latent(path)
    if time is None:
        time = uniform_times(0.001, 0.999) if is_latent else uniform_times()
    route, times, pairs = path, time, coupling

    def draw(key: Key, batch: Batch) -> TransportNoise:
        return draw_ends(key, batch, times, pairs, source, is_latent)

    def prepare(params: Params, memory: Tree, batch: Batch, noise: TransportNoise) -> _Prepared:
        ends = pair_ends(pairs, batch, noise)
        z = noise.latent
        make = lambda t, x0, x1, z: paths.sample_path(route, t, x0, x1, z)  # noqa: E731
        point = vmap(make)(noise.time, ends.source, ends.data, z)
        factor = torch.ones_like(noise.time)
        target = point.velocity
        if prediction == "data":
            target = ends.data
        elif prediction == "noise":
            target = z if is_latent else ends.source
        elif prediction == "score":
            c = paths.at(route, noise.time)
            factor = c.gamma if is_latent else c.sigma
            target = tree.map(torch.neg, z if is_latent else ends.source)
        weights = ends.weight * no_time(weight, noise.time)
        return _Prepared(noise.time, point.position, target, factor, weights, ends.label)

    def objective(params: Params, prepared: _Prepared) -> tuple[Tensor, LossAux]:
        predicted = map_field(like_x(field), params, prepared.time, prepared.position, label=prepared.label)
        residual = tree.sub(per_row(prepared.factor, predicted), prepared.target)
        error = scaled_norms(prepared.weight, residual)
        return error.mean(), LossAux((), halves(error, prepared.time))

    return staged(without_memory, draw, prepare, objective, paired(pairs))


# -- EDM ------------------------------------------------------------------------------------------------------------


def edm_preconditioned(network: Field, path: Path, *, data_scale: float | Tensor = 0.5) -> Field:
    r"""A network as a prediction of the data, with inputs and outputs of unit scale at every noise level, as in EDM.

    With :math:`v^2 = \sigma_t^2 + d^2 \alpha_t^2`,

    .. math:: \hat x^1 = \frac{d^2 \alpha_t}{v^2} x + \frac{d\,\sigma_t}{v}\,
        F_\theta\big(\tfrac14 \log \tfrac{\sigma_t}{\alpha_t}, \tfrac{x}{v}\big),

    which is EDM's :math:`c_{skip}, c_{out}, c_{in}, c_{noise}` at the noise level :math:`\sigma_t/\alpha_t`, on any path. A
    network that gives zero is exact for N(0, d^2 I) data.

    Args:
        network: ``(params, t, x, ...) -> like x``; its ``t`` is :math:`c_{noise}`, kept within [-5, 5].
        path: without further noise.
        data_scale: :math:`d`, the standard deviation of the data. ``()``.

    Returns:
        ``(params, t, x, ...) -> like x``, for ``flow_matching(..., prediction="data", weight=edm_weight(path))``;
        :func:`funcebm.paths.convert` makes a velocity of it.

    Raises:
        ValueError: a scale that is not positive, a path with further noise.

    Reference: Karras, Aittala, Aila and Laine (2022), NeurIPS, arXiv:2206.00364, table 1.

    >>> predict = edm_preconditioned(lambda params, t, x: 0 * x, paths.linear(), data_scale=1.0)
    >>> predict((), torch.tensor(0.5), torch.tensor([3.0]))
    tensor([3.0000])
    """
    checks.positive("data_scale", data_scale, "Give the standard deviation of the data.")
    checks.function("network", network, "Write lambda params, t, x: ...")
    check_affine(path, "data")

    def field(params: Params, t: Tensor, x: Position, *condition: Tree) -> Position:
        like = tree.first(x)
        c = paths.at(path, torch.as_tensor(t, dtype=like.dtype, device=like.device))
        spread = torch.sqrt(c.sigma**2 + data_scale**2 * c.alpha**2)
        level = (-c.log_snr / 4).clamp(-5, 5)
        output = network(params, level, tree.scale(1 / spread, x), *condition)
        skip, out = data_scale**2 * c.alpha / spread**2, data_scale * c.sigma / spread
        return tree.map(lambda at, value: skip * at + out * value, x, output)

    return field


def edm_weight(path: Path, *, data_scale: float | Tensor = 0.5) -> Callable[[Tensor], Tensor]:
    r"""The weight :math:`(\sigma_t^2 + d^2 \alpha_t^2)/(\sigma_t d)^2` of errors of the data, under which the network of
    :func:`edm_preconditioned` is regressed with weight one.

    Args:
        path: without further noise; the weight is infinite where its :math:`\sigma_t` is 0.
        data_scale: :math:`d`, the standard deviation of the data. ``()``.

    Returns:
        A function of times of any shape.

    Raises:
        ValueError: a scale that is not positive, a path with further noise.

    >>> edm_weight(paths.linear(), data_scale=1.0)(torch.tensor(0.5))
    tensor(2.)
    """
    checks.positive("data_scale", data_scale, "Give the standard deviation of the data.")
    check_affine(path, "data")

    def weight(t: Tensor) -> Tensor:
        c = paths.at(path, t)
        return (c.sigma**2 + data_scale**2 * c.alpha**2) / (c.sigma * data_scale) ** 2

    return weight


# -- conditions -----------------------------------------------------------------------------------------------------


def conditional_dropout(loss: Loss, null: Tree, probability: float | Tensor = 0.1) -> Loss:
    """A loss that now and then hides the label, so that one field learns both with and without: for guidance.

    Args:
        loss: over batches :class:`~funcebm.losses.TransportBatch` with labels.
        null: what a hidden label is, like one label: ``torch.tensor(10)`` after ten classes, or zeros of a one-hot vector.
        probability: of hiding each label, in [0, 1]. ``()``.

    Returns:
        A :class:`~funcebm.types.Loss` with the memory and metrics of ``loss``.

    Raises:
        ValueError: no null label, a probability outside of [0, 1]; when called, a batch without labels, or with others than the
            null.
        TypeError: something that is not a loss.

    Reference: Ho and Salimans (2022), "Classifier-free diffusion guidance", arXiv:2207.12598.

    >>> from funcebm.losses import TransportBatch
    >>> loss = conditional_dropout(flow_matching(lambda params, t, x, label: params[label] - x), torch.tensor(2), 0.5)
    >>> batch = TransportBatch(torch.ones(8, 1), label=torch.arange(8) % 2)
    >>> loss(random.key(0), torch.zeros(3, 1), batch)[0].shape
    torch.Size([])
    """
    checks.instance("loss", loss, Loss, "Write losses.flow_matching(field), say.")
    fix = "Give it like one label: torch.tensor(10) after ten classes, or zeros of a one-hot vector."
    checks.require(bool(tree.leaves(null)), "there must be a null label", repr(null), fix)
    if not isinstance(probability, Tensor):
        checks.require(0 <= probability <= 1, "probability must be in [0, 1]", probability, "Try 0.1.")

    def hidden(batch: Batch, is_hidden: Tensor) -> Batch:
        data, source, label = as_transport(batch)
        fix = "Give TransportBatch(data, label=labels)."
        checks.require(bool(tree.leaves(label)), "a batch must have labels to hide", "none", fix)
        fix = "Give null like one label."
        checks.one_structure("null", null, "the labels", label)
        checks.same_shapes("null", tree.map(torch.as_tensor, null), tree.map(lambda leaf: leaf[0], label), fix)
        mask = lambda leaf, none: torch.where(  # noqa: E731
            is_hidden.reshape(-1, *[1] * (leaf.ndim - 1)), torch.as_tensor(none).to(leaf), leaf
        )
        return type(as_transport(batch))(data, source, tree.map(mask, label, null))

    def draw(key: Key, batch: Batch) -> tuple[Tree, Tensor]:
        key_loss, key_hide = random.split(key)
        num = tree.batch_size(as_transport(batch).data)
        return loss.draw(key_loss, batch), random.bernoulli(key_hide, probability, (num,))

    def value(params: Params, memory: Tree, batch: Batch, noise: tuple[Tree, Tensor]) -> tuple[Tensor, LossAux]:
        return loss.value(params, memory, hidden(batch, noise[1]), noise[0])

    def prepare(params: Params, memory: Tree, batch: Batch, noise: tuple[Tree, Tensor]) -> Tree:
        assert loss.prepare is not None
        return loss.prepare(params, memory, hidden(batch, noise[1]), noise[0])

    def couple(batch: Batch, noise: Tree) -> Tree:
        assert loss.couple is not None
        return loss.couple(hidden(batch, noise[1]), noise[0]), noise[1]

    staging = (None if loss.prepare is None else prepare, loss.objective, None if loss.couple is None else couple)
    return Loss(loss.init, draw, value, *staging)
