"""Contrastive divergence: data down, samples up."""

from __future__ import annotations

from typing import Callable, NamedTuple

from torch import Tensor

from .. import checks, tree
from ..types import Batch, Energy, Key, Loss, Position, Sampler, Tree
from . import _buffer
from ._buffer import PersistentMemory, Starts
from ._constrained import of_densities
from ._contrast import MakeSampler, PersistentNoise, compared, options_of, sampler_of

__all__ = [
    "ContrastiveNoise",
    "PersistentMemory",
    "PersistentNoise",
    "contrastive_divergence",
    "persistent_contrastive_divergence",
]

Start = str | Callable[[Key], Position] | Tree


class ContrastiveNoise(NamedTuple):
    """Where chains start (``()`` where the data say it), the noise of their steps, and that on the data (or ``()``)."""

    start: Tree
    chain: Tree
    data: Tree


# -- contrastive divergence ---------------------------------------------------------------------------------------


@of_densities
def contrastive_divergence(
    energy: Energy,
    sampler: Sampler | MakeSampler,
    num_steps: int,
    *,
    start: Start = "data",
    regularization: float | Tensor = 0.0,
    gradient_penalty: float | Tensor = 0.0,
    trim: float = 0.0,
    clamp: float | Tensor | None = None,
    data_noise: float | Tensor = 0.0,
    tuning: Tree | None = None,
) -> Loss[tuple[()]]:
    r"""Contrastive divergence, CD-k: the data against where short chains end.

    .. math:: L = \max\bigl(-c,\; \overline{E_\theta(x^+)} - \overline{E_\theta(x^-)}^{\,f}\bigr)
        + w\,\bigl(\overline{E_\theta(x^+)^2} + \overline{E_\theta(x^-)^2}\bigr) + v\,\overline{|\nabla_x E_\theta(x^+)|^2}

    The negatives :math:`x^-` are the ends of ``num_steps`` steps of the sampler, and constants to the gradient: with long
    chains and none of the options :math:`\nabla_\theta L` is that of the negative log likelihood. The value itself is no
    measure of fit. The options keep training stable, each at the price of a bias.

    Args:
        energy: ``(params, x) -> ()``.
        sampler: ``energy -> Sampler``, such as ``lambda energy: langevin(energy, step_size=0.1)``, or a sampler of this energy.
        num_steps: k, static.
        start: where chains start: ``"data"`` (the batch), ``"noise"`` (standard normal numbers like the batch; uniform in
            the space of an energy that has a discrete one), a space of discrete states (:mod:`funcebm.spaces`, uniform in it),
            a function ``key -> position`` of one chain, or a tree of positions ``(B, *event)``.
        regularization: :math:`w \ge 0`, in units of one over energy; keeps energies near zero. ``()``.
        gradient_penalty: :math:`v \ge 0`, keeps the energy flat at the data; costs a second derivative. ``()``.
        trim: :math:`f` in [0, 1): the mean over the B negatives leaves out the ``int(f * B)`` of the highest energies, which
            are chains that have not arrived. The others count in full. Static.
        clamp: :math:`c \ge 0`, in units of energy: where the negatives lie more than c above the data, the difference is
            :math:`-c` and has no gradient, so that it cannot run away; None is infinity. ``()``.
        data_noise: the standard deviation of normal noise added to the positives. ``()``.
        tuning: the tuning of the sampler; by default its own.

    Returns:
        A :class:`~funcebm.types.Loss` over batches ``(B, *event)``, with the metrics ``positive_energy``,
        ``negative_energy`` (the trimmed mean), ``energy_gap`` (negative minus positive, before ``clamp``),
        ``acceptance_rate``, ``divergence_rate``.

    Raises:
        ValueError: a bad count, number or start, or the sampler of another energy; when called, an energy that is not a scalar.

    Reference: Hinton (2002), Neural Computation 14(8):1771-1800; Du and Mordatch (2019), arXiv:1903.08689, for :math:`w`;
    Grathwohl et al. (2021), arXiv:2010.04230, for :math:`v`; Balcerak et al. (2025), arXiv:2504.10612, for :math:`f` and
    :math:`c`. There the clamp acts after the weight of the loss, here before.

    >>> import torch
    >>> from funcebm import random, samplers
    >>> energy = lambda params, x: params * (x**2).sum() / 2
    >>> loss = contrastive_divergence(energy, lambda energy: samplers.langevin(energy, step_size=0.1), 5)
    >>> value, aux = loss(random.key(0), torch.tensor(1.0), torch.zeros(4, 2))
    >>> sorted(aux.metrics)
    ['acceptance_rate', 'divergence_rate', 'energy_gap', 'negative_energy', 'positive_energy']
    """
    options = options_of(regularization, gradient_penalty, trim, clamp, data_noise)
    kernel = sampler_of(energy, sampler, num_steps)
    if isinstance(start, str):
        must = 'start must be "data", "noise", a space, a function of a key, or a tree of positions'
        checks.require(start in ("data", "noise"), must, start, 'Write start="data" for plain CD.')
    is_drawn = callable(start) or _buffer.is_space(start)
    _check_bits(start, data_noise, energy)

    def draw_starts(keys: list[Key], batch: Batch) -> tuple[tuple[Tree, ...], Position]:
        if is_drawn:
            first = _buffer.draw_initial(keys[0], batch, tree.batch_size(batch), start)
            return (first,), first
        if not isinstance(start, str):
            return ((),), start
        if start == "data":
            return ((),), batch
        return (_buffer.draw_initial(keys[0], batch, tree.batch_size(batch), None, energy),), batch

    def positions_of(memory: Tree, batch: Batch, noise: ContrastiveNoise) -> Position:
        if is_drawn or isinstance(start, str):
            return batch if isinstance(start, str) and start == "data" else noise.start
        return start

    starts = Starts(
        num_keys=1,
        init=lambda key, batch: (),
        draw=draw_starts,
        read=positions_of,
        begin=lambda positions: positions,
        write=lambda memory, noise, positions, state: ((), {}),
        are_data=isinstance(start, str) and start == "data",
        are_given=_buffer.is_given(start),
    )
    is_checked = isinstance(sampler, Sampler)
    return compared(energy, kernel, num_steps, options, tuning, starts, ContrastiveNoise, is_checked=is_checked)


def _check_bits(start: Start | None, data_noise: float | Tensor, energy: Energy) -> None:
    own = getattr(energy, "space", None)
    is_discrete = own is not None and any(part.kind != "real" for part in tree.leaves(own))
    if is_discrete or _buffer.is_space(start):
        none = not isinstance(data_noise, Tensor) and data_noise == 0
        checks.require(none, "data_noise is for real data", data_noise, "Leave it out: normal noise leaves the levels.")


# -- persistent contrastive divergence ----------------------------------------------------------------------------


@of_densities
def persistent_contrastive_divergence(
    energy: Energy,
    sampler: Sampler | MakeSampler,
    num_steps: int,
    *,
    buffer_size: int,
    restart_probability: float | Tensor = 0.05,
    initial: _buffer.Initial = None,
    regularization: float | Tensor = 0.0,
    gradient_penalty: float | Tensor = 0.0,
    trim: float = 0.0,
    clamp: float | Tensor | None = None,
    data_noise: float | Tensor = 0.0,
    tuning: Tree | None = None,
) -> Loss[PersistentMemory]:
    r"""Persistent contrastive divergence: chains continue where they ended, in a buffer of many more than one batch.

    Each evaluation draws B of the ``buffer_size`` slots, every one with probability B / ``buffer_size`` and none twice;
    restarts each of them with a small probability; runs ``num_steps`` steps; and writes the ends back to the same slots.
    The others stay as they are, bit for bit. The value is that of :func:`contrastive_divergence`.

    Args:
        energy: ``(params, x) -> ()``.
        sampler: ``energy -> Sampler``, or a sampler of this energy; it is initialised at each evaluation, since the params have
            changed.
        num_steps: k, static.
        buffer_size: how many chains are kept; at least the batch size.
        restart_probability: of each chain drawn, in [0, 1]. ``()``.
        initial: where chains start and restart: a space of discrete states (:mod:`funcebm.spaces`, uniform in it), or a function
            ``key -> position`` of one chain (``spaces.start(space, mean=data.mean(0))``, for example); by default uniform in the
            space of the energy, if it has a discrete one (:mod:`funcebm.energies`), else standard normal, like the data.
        regularization, gradient_penalty, trim, clamp, data_noise: as in :func:`contrastive_divergence`.
        tuning: the tuning of the sampler; by default its own.

    Returns:
        A :class:`~funcebm.types.Loss` with :class:`PersistentMemory`; metrics as in :func:`contrastive_divergence`, and
        ``buffer_age``, the mean age of all chains of the buffer in updates: with time it tends to one over
        ``restart_probability``.

    Raises:
        ValueError: a bad count or number, the sampler of another energy, or a batch larger than the buffer.

    Reference: Tieleman (2008), ICML; Du and Mordatch (2019), arXiv:1903.08689, for the buffer and the restarts.

    >>> import torch
    >>> from funcebm import random, samplers
    >>> energy = lambda params, x: params * (x**2).sum() / 2
    >>> make_sampler = lambda energy: samplers.langevin(energy, step_size=0.1)
    >>> loss = persistent_contrastive_divergence(energy, make_sampler, 5, buffer_size=10)
    >>> params, batch = torch.tensor(1.0), torch.zeros(4, 2)
    >>> memory = loss.init(random.key(0), params, batch)
    >>> value, aux = loss(random.key(1), params, batch, memory)
    >>> aux.memory.ages.sum(), aux.metrics["buffer_age"]
    (tensor(4), tensor(0.4000))
    """
    _check_bits(initial, data_noise, energy)

    def starts(key: Key, batch: Batch, num: int) -> Position:
        return _buffer.draw_initial(key, batch, num, initial, energy)

    options = options_of(regularization, gradient_penalty, trim, clamp, data_noise)
    kernel = sampler_of(energy, sampler, num_steps)
    buffer = _buffer.buffered(buffer_size, restart_probability, starts, is_from_normal=initial is None, energy=energy)
    buffer = buffer._replace(are_given=_buffer.is_given(initial))
    is_checked = isinstance(sampler, Sampler)
    return compared(energy, kernel, num_steps, options, tuning, buffer, PersistentNoise, is_checked=is_checked)
