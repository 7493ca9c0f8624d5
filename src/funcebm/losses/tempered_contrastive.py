"""Contrastive divergence with negatives from parallel tempering."""

from __future__ import annotations

from typing import Callable, Sequence

from torch import Tensor

from .. import random, samplers, tree
from ..samplers.parallel_tempering import Ladder
from ..types import Batch, Energy, Key, Loss, Params, Sampler, Tree
from . import _buffer
from ._buffer import PersistentMemory
from ._contrast import (
    Contrast,
    Options,
    check,
    draw_chain,
    draw_data_noise,
    make_objective,
    numbers,
    perturbed,
    run_chain,
)
from ._staged import staged
from .contrastive import PersistentNoise

__all__ = ["parallel_tempering_contrastive_divergence"]


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
) -> Loss:
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
        tuning: the numbers of the parallel tempering; by default its own.

    Returns:
        A :class:`~funcebm.types.Loss` with a memory of positions ``(buffer_size, K, *event)``; metrics as in
        :func:`persistent_contrastive_divergence`, with ``swap_rate``, the mean over the pairs of neighbours, and
        ``swap_rate/0`` ... ``swap_rate/K-2`` of each pair, the hottest first. A rate near 0 cuts the ladder: add a rung there
        (:func:`funcebm.samplers.tune_ladder`).

    Raises:
        ValueError: a bad count, number or ladder, or a batch larger than the buffer.

    Reference: Desjardins, Courville, Bengio, Vincent and Delalleau (2010), AISTATS, PMLR 9:145-152.

    >>> import torch
    >>> energy = lambda params, x: params * (x**2).sum() / 2
    >>> local = lambda energy, beta: samplers.mala(energy, step_size=0.1 / beta)
    >>> loss = parallel_tempering_contrastive_divergence(energy, local, [0.2, 0.5, 1.0], 3, buffer_size=8)
    >>> params, batch = torch.tensor(1.0), torch.zeros(4, 2)
    >>> memory = loss.init(random.key(0), params, batch)
    >>> value, aux = loss(random.key(1), params, batch, memory)
    >>> memory.positions.shape, bool(aux.metrics["swap_rate"] > 0.3)
    (torch.Size([8, 3, 2]), True)
    """
    options = Options(regularization, gradient_penalty, trim, clamp, data_noise)
    check(num_steps, options)
    _buffer.check_buffer(buffer_size, restart_probability)
    sampler = samplers.parallel_tempering(energy, make_sampler, inverse_temperatures, reference=reference)
    num_rungs = len(sampler.tuning.inverse_temperatures)

    def draw_ladders(key: Key, batch: Batch, num: int) -> Tree:
        positions = _buffer.draw_initial(key, batch, num * num_rungs, initial)
        return tree.map(lambda leaf: leaf.unflatten(0, (num, num_rungs)), positions)

    def init(key: Key, params: Params, batch: Batch) -> PersistentMemory:
        _buffer.num_drawn(batch, buffer_size)
        return _buffer.begin(draw_ladders(key, batch, buffer_size))

    def draw(key: Key, batch: Batch) -> PersistentNoise:
        num = _buffer.num_drawn(batch, buffer_size)
        key_slots, key_is_restarted, key_restart, key_chain, key_data = random.split(key, 5)
        restart = draw_ladders(key_restart, batch, num)
        return PersistentNoise(
            _buffer.draw_buffer(key_slots, key_is_restarted, restart, buffer_size, restart_probability),
            draw_chain(sampler, key_chain, tree.map(lambda leaf: leaf[:, -1], restart), num_steps),
            draw_data_noise(key_data, batch, data_noise),
        )

    def prepare(params: Params, memory: PersistentMemory, batch: Batch, noise: PersistentNoise) -> Contrast:
        chains = _buffer.take(memory, noise.buffer)
        tuned = numbers(sampler, tuning, chains.positions)
        # the parity of the scans so far says which pairs swap next
        ladders = Ladder(chains.positions, chains.ages * num_steps)
        state, metrics = run_chain(sampler, tuned, num_steps, params, ladders, noise.chain)
        memory = _buffer.put(memory, noise.buffer, chains._replace(positions=state.rungs.position))
        metrics["buffer_age"] = _buffer.age(memory)
        return Contrast(perturbed(batch, noise.data, data_noise), state.position, memory, metrics)

    return staged(init, draw, prepare, make_objective(energy, options))
