"""Stochastic-gradient Langevin dynamics, and the minibatches of all samplers with noisy gradients."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor

from .. import checks, fields, metrics, random, tree
from ..types import Energy, Info, Key, MetricLike, Number, Params, Position, Sampler, Tree
from .constraints import takes_energy
from .langevin import LangevinTuning, langevin_proposal, langevin_tuning
from .metropolis import nan_outside, unadjusted_info

__all__ = ["Minibatches", "MinibatchNoise", "SGLDState", "SGLDTuning", "minibatches", "sgld"]


class MinibatchNoise(NamedTuple):
    """Standard normals like the position, and the ``indices`` of a minibatch, ``(batch_size,)`` int64, or ``()``."""

    normal: Tree
    indices: Any


class Minibatches(NamedTuple):
    """An energy of a minibatch, as functions.

    Attributes:
        on: ``indices -> energy``, the energy on a batch as one of ``(params, x)``.
        draw: ``(key, position) -> MinibatchNoise``.
        at_start: ``(params, position) -> ()``, on a batch that needs no key, evenly spaced; it raises unless the metric fits.
    """

    on: Callable[[Any], Energy]
    draw: Callable[[Key, Position], MinibatchNoise]
    at_start: Callable[[Params, Position], Tensor]


def minibatches(
    energy: Callable[..., Tensor], num_data: int | None, batch_size: int | None, metric: Any, name: str = "inverse_mass"
) -> Minibatches:
    """An energy ``(params, x, indices) -> ()`` with batches of indices, or ``(params, x) -> ()`` without (both None).

    ``name`` is what messages call the metric.
    """
    both = (num_data is None) == (batch_size is None)
    fix = "Give both for an energy (params, x, indices), none for an energy (params, x)."
    checks.require(both, "num_data and batch_size go together", f"{num_data} and {batch_size}", fix)
    if num_data is not None and batch_size is not None:
        checks.positive_int("num_data", num_data)
        checks.positive_int("batch_size", batch_size)
    check_shape = metrics.shape_check(metric, name=name)

    def on(indices: Any) -> Energy:
        return energy if num_data is None else lambda params, position: energy(params, position, indices)

    def draw(key: Key, position: Position) -> MinibatchNoise:
        key_normal, key_batch = random.split(key)
        normal = tree.normal_like(key_normal, position)
        if num_data is None or batch_size is None:
            return MinibatchNoise(normal, ())
        return MinibatchNoise(normal, random.randint(key_batch, (batch_size,), 0, num_data))

    def at_start(params: Params, position: Position) -> Tensor:
        check_shape(position)
        indices: Any = ()
        if num_data is not None and batch_size is not None:
            indices = torch.arange(batch_size, device=tree.first(position).device) * num_data // batch_size
        return fields.value(on(indices))(params, position)

    return Minibatches(on, draw, at_start)


class SGLDState(NamedTuple):
    """A position; gradients are those of one minibatch, and none is kept."""

    position: Position


class SGLDTuning(NamedTuple):
    """As :class:`~funcebm.samplers.langevin.LangevinTuning`, and ``gradient_noise`` ``()``, the variance of a gradient."""

    step_size: Tensor
    metric: Any
    temperature: Tensor
    gradient_noise: Tensor


@takes_energy
def sgld(
    energy: Energy | Callable[..., Tensor],
    *,
    step_size: Number = 0.001,
    preconditioner: MetricLike = None,
    temperature: Number = 1.0,
    gradient_noise: Number = 0.0,
    num_data: int | None = None,
    batch_size: int | None = None,
) -> Sampler[SGLDState, Info, SGLDTuning]:
    r"""Stochastic-gradient Langevin dynamics.

    .. math:: x' = x - h P \hat g + \sqrt{h (2 T - h V)}\, A \xi, \qquad P = A A^\top, \quad
              \mathrm E \hat g = \nabla E(x), \quad V = \mathrm{Var}(A^\top \hat g)_i

    :func:`~funcebm.samplers.langevin` with a noisy gradient. What the noise of the gradient adds to the chain is taken from
    the noise that is injected, where its variance :math:`V` is known. With :math:`V = 0` in its place, as in the paper, the
    chain is too warm: at the temperature :math:`T + h V / 2`. Either way the bias is of order :math:`h`.

    With ``num_data`` and ``batch_size`` each step draws ``batch_size`` indices, uniform and with replacement, and the
    energy is ``(params, x, indices) -> ()``, which you scale so that its mean over batches is the energy of all data:

    .. math:: \hat E(x) = E_0(x) + \frac{\mathrm{num\_data}}{\mathrm{batch\_size}} \sum_{i \in \mathrm{indices}} E_i(x)

    Without them it is ``(params, x) -> ()``; it may be noisy through ``params``. One gradient a step, and one value for the
    info: the energy of the new position on the step's minibatch. A compiled run that keeps no info does not compute it.

    Args:
        energy: ``(params, x, indices) -> ()``, or ``(params, x) -> ()``.
        step_size: :math:`h > 0`, in squared units of ``x`` over those of :math:`P`, as that of
            :func:`~funcebm.samplers.langevin`; the paper's :math:`\epsilon` is :math:`2 h`. ``()``.
        preconditioner: :math:`P`, as in :func:`~funcebm.samplers.langevin`.
        temperature: :math:`T > 0`, in units of energy. ``()``.
        gradient_noise: :math:`V \ge 0`, the variance of one coordinate of :math:`\hat g` (of :math:`A^\top \hat g` with a
            preconditioner), with :math:`h V < 2 T`. ``()``.
        num_data: how many data there are; static.
        batch_size: how many of them make a minibatch; static.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``SGLDState``, ``Info`` and ``SGLDTuning``.

    Raises:
        ValueError: a number out of its range, a preconditioner that is not symmetric and positive definite, or one of
            ``num_data`` and ``batch_size`` without the other.

    Reference: Welling and Teh (2011), ICML, eq. 4; the noise of the gradient as Ahn, Korattikara and Welling (2012), ICML.

    >>> data = torch.tensor([1.0, 2.0, 4.0, 5.0])
    >>> energy = lambda data, x, indices: len(data) / len(indices) * ((x - data[indices]) ** 2).sum() / 2
    >>> sampler = sgld(energy, step_size=0.01, num_data=4, batch_size=2)
    >>> state, info = sampler(random.key(0), data, sampler.init(data, torch.tensor(3.0)))
    >>> state.position.shape
    torch.Size([])
    """
    tuning = SGLDTuning(*langevin_tuning(step_size, preconditioner, temperature), torch.as_tensor(gradient_noise))
    check_gradient_noise(tuning.gradient_noise, 2 * tuning.temperature / tuning.step_size, "2 temperature / step_size")
    batches = minibatches(energy, num_data, batch_size, tuning.metric, "preconditioner")

    def init(params: Params, position: Position) -> SGLDState:
        return SGLDState(nan_outside(batches.at_start(params, position), position))

    def step(params: Params, tuning: SGLDTuning, state: SGLDState, noise: MinibatchNoise) -> tuple[SGLDState, Info]:
        of_batch = batches.on(noise.indices)
        _, gradient = fields.value_and_gradient(of_batch)(params, state.position)
        injected = tuning.temperature - 0.5 * tuning.step_size * tuning.gradient_noise
        langevin = LangevinTuning(tuning.step_size, tuning.metric, injected)
        position = langevin_proposal(langevin, state.position, gradient, noise.normal)
        value = fields.value(of_batch)(params, position)
        return SGLDState(position), unadjusted_info(position, value, num_gradients=1)

    return Sampler(init, batches.draw, step, tuning)


def check_gradient_noise(gradient_noise: Tensor, most: Tensor, name: str) -> None:
    """``gradient_noise`` must be in ``[0, most)``: the chain has no room for more."""
    if checks.is_concrete(gradient_noise) and checks.is_concrete(most):
        right = bool(((gradient_noise >= 0) & (gradient_noise < most)).all())
        must = f"gradient_noise must be at least 0 and below {name} = {most.tolist():.3g}"
        checks.require(right, must, str(gradient_noise.tolist()), "Take a smaller step_size, or larger minibatches.")
