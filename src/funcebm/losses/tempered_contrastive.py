"""Contrastive divergence with negatives from parallel tempering."""

from __future__ import annotations

from typing import Callable, Sequence

from torch import Tensor

from .. import checks, samplers, tree
from ..samplers.parallel_tempering import Ladder
from ..types import Batch, Energy, Key, Loss, Sampler, Tree
from . import _buffer
from ._constrained import of_densities
from ._contrast import PersistentNoise, compared, options_of

__all__ = ["parallel_tempering_contrastive_divergence"]


@of_densities
def parallel_tempering_contrastive_divergence(
    energy: Energy,
    make_sampler: Callable[[Energy, float], Sampler],
    inverse_temperatures: Sequence[float] | Tensor,
    num_steps: int,
    *,
    buffer_size: int,
    reference: Energy | None = None,
    restart_probability: float | Tensor = 0.0,
    initial: _buffer.Initial = None,
    regularization: float | Tensor = 0.0,
    gradient_penalty: float | Tensor = 0.0,
    trim: float = 0.0,
    clamp: float | Tensor | None = None,
    data_noise: float | Tensor = 0.0,
    tuning: Tree | None = None,
) -> Loss[_buffer.PersistentMemory]:
    r"""Persistent contrastive divergence whose chains are ladders of temperatures: they cross from mode to mode.

    The buffer holds ladders of K rungs with the densities :math:`e^{-\beta_k E}` (or a path from a reference). Each
    evaluation draws B of them, makes ``num_steps`` scans of :func:`funcebm.samplers.parallel_tempering`, and writes all rungs
    back; the last rung, at :math:`\beta = 1`, is the negative. Otherwise it is
    :func:`persistent_contrastive_divergence`, at K times its cost.

    Args:
        energy: ``(params, x) -> ()``.
        make_sampler: ``(energy, beta) -> sampler``, as in :func:`funcebm.samplers.parallel_tempering`.
        inverse_temperatures: :math:`\beta_1 < \dots < \beta_K = 1`. ``(K,)``.
        num_steps: scans in each evaluation, static.
        buffer_size: how many ladders are kept; at least the batch size.
        reference: the energy at :math:`\beta = 0`, ``(params, x) -> ()``; None is 0.
        restart_probability: of each ladder drawn, in [0, 1]; hot rungs restart chains by themselves. ``()``.
        initial: ``key -> position``, where one rung starts and restarts, or a space of discrete states; by default standard
            normal, like the data.
        regularization, gradient_penalty, trim, clamp, data_noise: as in :func:`contrastive_divergence`.
        tuning: the parameters of the parallel tempering; by default its own.

    Returns:
        A :class:`~funcebm.types.Loss` with a memory of positions ``(buffer_size, K, *event)``; metrics as in
        :func:`persistent_contrastive_divergence`, with ``swap_rate``, the mean over the pairs of neighbours, and
        ``swap_rate/0`` ... ``swap_rate/K-2`` of each pair, the hottest first. A rate near 0 cuts the ladder: add a rung there
        (:func:`funcebm.samplers.tune_ladder`).

    Raises:
        ValueError: a bad count, number or ladder, or a batch larger than the buffer.

    Reference: Desjardins, Courville, Bengio, Vincent and Delalleau (2010), AISTATS, PMLR 9:145-152.

    >>> import torch
    >>> from funcebm import random
    >>> energy = lambda params, x: params * (x**2).sum() / 2
    >>> local = lambda energy, beta: samplers.mala(energy, step_size=0.1 / beta)
    >>> loss = parallel_tempering_contrastive_divergence(energy, local, [0.2, 0.5, 1.0], 3, buffer_size=8)
    >>> params, batch = torch.tensor(1.0), torch.zeros(4, 2)
    >>> memory = loss.init(random.key(0), params, batch)
    >>> value, aux = loss(random.key(1), params, batch, memory)
    >>> memory.positions.shape, bool(aux.metrics["swap_rate"] > 0.3)
    (torch.Size([8, 3, 2]), True)
    """
    sampler = samplers.parallel_tempering(energy, make_sampler, inverse_temperatures, reference=reference)
    num_rungs = len(sampler.tuning.inverse_temperatures)

    def draw_ladders(key: Key, batch: Batch, num: int) -> Tree:
        positions = _buffer.draw_initial(key, batch, num * num_rungs, initial, energy)
        return tree.map(lambda leaf: leaf.unflatten(0, (num, num_rungs)), positions)

    checks.positive_int("num_steps", num_steps)
    buffer = _buffer.buffered(
        buffer_size,
        restart_probability,
        draw_ladders,
        example=lambda ladders: tree.map(lambda leaf: leaf[:, -1], ladders),
        # the parity of the scans so far says which pairs swap next
        begin=lambda chains: Ladder(chains.positions, chains.ages * num_steps),
        end=lambda state: state.rungs.position,
    )
    options = options_of(regularization, gradient_penalty, trim, clamp, data_noise)
    return compared(energy, sampler, num_steps, options, tuning, buffer, PersistentNoise, is_checked=False)
