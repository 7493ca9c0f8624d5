r"""Equilibrium matching: one energy, without a time, that is steep around the data and flat on them."""

from __future__ import annotations

from typing import Callable, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, couplings, fields, paths, tree
from ..couplings import Coupling
from ..types import Batch, Energy, Key, Loss, LossAux, Params, Position, Tree
from ._staged import staged, without_memory
from ._transport import (
    Source,
    TransportNoise,
    check_parts,
    draw_ends,
    halves,
    map_field,
    no_time,
    pair_ends,
    paired,
    per_row,
    scaled_norms,
)
from .times import Times, uniform_times

__all__ = [
    "constant_weight",
    "equilibrium_matching",
    "linear_weight",
    "negative_norm_energy",
    "piecewise_weight",
    "product_energy",
    "truncated_weight",
]

Weight = Callable[[Tensor], Tensor]


class _Prepared(NamedTuple):
    time: Tensor
    position: Position
    target: Position
    weight: Tensor
    label: Tree


def linear_weight(scale: float | Tensor = 4.0) -> Weight:
    r""":math:`c(t) = \lambda (1 - t)`.

    Args:
        scale: :math:`\lambda`. ``()``.

    Returns:
        A function of times.

    >>> linear_weight()(torch.tensor(0.5))
    tensor(2.)
    """
    return lambda t: scale * (1 - t)


def truncated_weight(threshold: float = 0.8, scale: float | Tensor = 4.0) -> Weight:
    r""":math:`c(t) = \lambda \min(1, (1 - t)/(1 - a))`: constant, then down to zero at the data.

    Args:
        threshold: :math:`a \in [0, 1)`, where it begins to fall.
        scale: :math:`\lambda`. ``()``.

    Returns:
        A function of times.

    Raises:
        ValueError: a threshold outside of [0, 1).

    >>> truncated_weight()(torch.tensor([0.5, 0.9, 1.0]))
    tensor([4.0000, 2.0000, 0.0000])
    """
    return piecewise_weight(threshold, 1.0, scale)


def piecewise_weight(threshold: float = 0.8, start: float | Tensor = 1.0, scale: float | Tensor = 4.0) -> Weight:
    r""":math:`c(t)/\lambda` from b at 0 to 1 at a, then to 0 at 1, in straight lines.

    Args:
        threshold: :math:`a \in [0, 1)`.
        start: :math:`b`. ``()``.
        scale: :math:`\lambda`. ``()``.

    Returns:
        A function of times.

    Raises:
        ValueError: a threshold outside of [0, 1).

    >>> piecewise_weight(0.5, 2.0, 1.0)(torch.tensor([0.0, 0.25, 0.5, 0.75]))
    tensor([2.0000, 1.5000, 1.0000, 0.5000])
    """
    checks.require(0 <= threshold < 1, "threshold must be in [0, 1)", threshold, "Try 0.8, or constant_weight().")

    def weight(t: Tensor) -> Tensor:
        before = start - (start - 1) * t / threshold if threshold > 0 else torch.ones_like(t)
        return scale * torch.where(t <= threshold, before, (1 - t) / (1 - threshold))

    return weight


def constant_weight(scale: float | Tensor = 1.0) -> Weight:
    r""":math:`c(t) = \lambda`: with it equilibrium matching is flow matching without a time, with the sign turned.

    Args:
        scale: :math:`\lambda`. ``()``.

    Returns:
        A function of times.

    >>> constant_weight(2.0)(torch.tensor(0.5))
    tensor(2.)
    """
    return lambda t: torch.zeros_like(t) + scale


def product_energy(network: Callable[[Params, Position], Position]) -> Energy:
    r"""The energy :math:`g(x) = x \cdot f(x)` of a network with outputs like its inputs.

    Args:
        network: ``(params, x) -> like x``.

    Returns:
        ``(params, x) -> ()``.

    >>> product_energy(lambda params, x: 3 * x)((), torch.tensor([1.0, 2.0]))
    tensor(15.)
    """
    return lambda params, x: tree.dot(x, network(params, x))


def negative_norm_energy(network: Callable[[Params, Position], Position]) -> Energy:
    r"""The energy :math:`g(x) = -|f(x)|^2/2` of a network.

    Args:
        network: ``(params, x) -> outputs``.

    Returns:
        ``(params, x) -> ()``.

    >>> negative_norm_energy(lambda params, x: 2 * x)((), torch.tensor([1.0]))
    tensor(-2.)
    """
    return lambda params, x: -tree.squared_norm(network(params, x)) / 2


def equilibrium_matching(
    energy: Energy | Callable[[Params, Position], Position],
    weight: Weight | None = None,
    *,
    form: str = "energy",
    coupling: Coupling | None = None,
    source: Source | None = None,
    time: Times | None = None,
) -> Loss:
    r"""Equilibrium matching: a gradient without a time, regressed on the way from the data to the noise.

    With :math:`x_t = t x_1 + (1 - t) x_0` and the weight c, which falls to zero at the data,

    .. math:: L = \overline{|\nabla E_\theta(x_t) - c(t)(x_0 - x_1)|^2}, \qquad
        \nabla E^*(x) = \mathrm{E}[c(t)(x_0 - x_1) \mid x_t = x].

    Descent from noise (:func:`funcebm.samplers.gradient_descent`, :func:`funcebm.samplers.nesterov`) makes data.

    What it learns is *not* minus the log density of the data, at any temperature, and Langevin dynamics on it does not sample
    them. On N(0, d^2 I) data the gradient is :math:`k(|x|)\,x`: for d at most 1 every run that is carried to its end stops at
    the mean, and for d of 1.2 and more descent goes off. So scale data below unit variance, stop after a fixed number of steps,
    and take another loss where a density is wanted.

    Args:
        energy: ``(params, x) -> ()``, or with ``form="gradient"`` the gradient itself, ``(params, x) -> like x``; with labels
            ``(params, x, label)``. :func:`product_energy` and :func:`negative_norm_energy` make energies of networks.
        weight: c, a function of times; by default :func:`truncated_weight`.
        form: ``"energy"`` or ``"gradient"``.
        coupling: by default :func:`funcebm.couplings.independent`.
        source: ``key -> x0``; by default standard normal, or what the batch brings.
        time: by default :func:`~funcebm.losses.uniform_times`.

    Returns:
        A :class:`~funcebm.types.Loss` over batches of data, or :class:`~funcebm.losses.TransportBatch`; metrics as for
        :func:`~funcebm.losses.flow_matching`.

    Raises:
        ValueError: an unknown form; when called, an energy that is not a scalar, a gradient that is not like ``x``, ends or
            labels that do not fit.
        TypeError: an energy, a coupling, times, a weight or a source that is none.

    Reference: Wang and Du (2025), "Equilibrium matching", arXiv:2510.02300; their field is minus this gradient.

    >>> from funcebm import random
    >>> loss = equilibrium_matching(lambda params, x: params * (x**2).sum() / 2)
    >>> loss(random.key(0), torch.tensor(1.0), torch.zeros(4, 2))[0].shape
    torch.Size([])
    """
    check_parts(energy, coupling, source, time, weight, name="energy")
    factor = truncated_weight() if weight is None else weight
    pairs = couplings.independent() if coupling is None else coupling
    times = uniform_times() if time is None else time
    fix = 'Write form="gradient" for a field like x.'
    checks.require(form in ("energy", "gradient"), 'form must be "energy" or "gradient"', form, fix)
    path = paths.linear()

    def slope(params: Params, x: Position, *condition: Tree) -> Position:
        if form == "gradient":
            value = energy(params, x, *condition)
            checks.like_position("a gradient", value, x)
            return value
        return fields.gradient(lambda params, x: energy(params, x, *condition))(params, x)

    def draw(key: Key, batch: Batch) -> TransportNoise:
        return draw_ends(key, batch, times, pairs, source)

    def prepare(params: Params, memory: Tree, batch: Batch, noise: TransportNoise) -> _Prepared:
        ends = pair_ends(pairs, batch, noise)
        point = vmap(lambda t, x0, x1: paths.sample_path(path, t, x0, x1))(noise.time, ends.source, ends.data)
        target = per_row(-no_time(factor, noise.time), point.velocity)
        return _Prepared(noise.time, point.position, target, ends.weight, ends.label)

    def objective(params: Params, prepared: _Prepared) -> tuple[Tensor, LossAux]:
        predicted = map_field(slope, params, prepared.position, label=prepared.label)
        error = scaled_norms(prepared.weight, tree.sub(predicted, prepared.target))
        return error.mean(), LossAux((), halves(error, prepared.time))

    return staged(without_memory, draw, prepare, objective, paired(pairs))
