"""Contrastive divergence: data down, samples up."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, loops, random, tree
from ..fields import require_scalar
from ..types import Batch, Energy, Key, Loss, LossAux, Params, Position, Sampler, Tree
from ._staged import staged, without_memory

__all__ = ["ContrastiveNoise", "PersistentNoise", "contrastive_divergence", "persistent_contrastive_divergence"]

Start = str | Callable[[Key], Position] | Tree


class ContrastiveNoise(NamedTuple):
    """Where chains start (``()`` where the data say it), the noise of their steps, and that on the data (or ``()``)."""

    start: Tree
    chain: Tree
    data: Tree


class PersistentNoise(NamedTuple):
    """The slots drawn ``(B,)``, which of them restart ``(B,)``, and where, beside what CD needs."""

    slots: Tensor
    is_restarted: Tensor
    restart: Tree
    chain: Tree
    data: Tree


class _Contrast(NamedTuple):
    """What the objective compares."""

    positives: Tree
    negatives: Tree
    memory: Tree
    acceptance_rate: Tensor
    divergence_rate: Tensor


# -- the chain ----------------------------------------------------------------------------------------------------


def _draw_chain(sampler: Sampler, key: Key, positions: Position, num_steps: int) -> Tree:
    """The noise of a chain for each position, leaves ``(num_steps, B, ...)``; keys as in :func:`funcebm.chains.sample`."""
    keys = random.split(key, tree.batch_size(positions))
    steps = torch.arange(num_steps, device=key.device)
    keys = vmap(vmap(random.fold_in, (0, None)), (None, 0))(keys, steps)
    return vmap(vmap(sampler.draw), (0, None))(keys, positions)


def _run_chain(
    sampler: Sampler, tuning: Tree, num_steps: int, params: Params, positions: Position, noise: Tree
) -> tuple[Position, Tensor, Tensor]:
    """Where the chains end, and their mean rates of acceptance and divergence."""
    step = sampler.batched_step or vmap(sampler.step, (None, None, 0, 0))
    steps = torch.arange(num_steps, device=tree.first(positions).device)

    def body(state: Any, x: Tree) -> tuple[Any, tuple[Tensor, Tensor]]:
        state, info = step(params, tuning, state, x[1])
        return state, (info.acceptance_rate.mean(), info.is_divergent.to(info.acceptance_rate.dtype).mean())

    state, (accepted, divergent) = loops.scan(body, vmap(sampler.init, (None, 0))(params, positions), (steps, noise))
    return state.position, accepted.mean(), divergent.mean()


# -- what both losses share ---------------------------------------------------------------------------------------


def _draw_data_noise(key: Key, batch: Batch, data_noise: float | Tensor) -> Tree:
    return () if _is_zero(data_noise) else tree.normal_like(key, batch)


def _is_zero(value: float | Tensor) -> bool:
    return not isinstance(value, Tensor) and value == 0


def _positives(batch: Batch, noise: Tree, data_noise: float | Tensor) -> Batch:
    return batch if _is_zero(data_noise) else tree.add_scaled(batch, data_noise, noise)


def _objective(energy: Energy, regularization: float | Tensor) -> Callable[[Params, Tree], tuple[Tensor, LossAux]]:
    def one(params: Params, position: Position) -> Tensor:
        return require_scalar(energy(params, position), position)

    energies = vmap(one, (None, 0))

    def objective(params: Params, contrast: _Contrast) -> tuple[Tensor, LossAux]:
        positive, negative = energies(params, contrast.positives), energies(params, contrast.negatives)
        value = positive.mean() - negative.mean()
        if not _is_zero(regularization):
            value = value + regularization * (positive.square().mean() + negative.square().mean())
        metrics = {
            "positive_energy": positive.mean().detach(),
            "negative_energy": negative.mean().detach(),
            "energy_gap": (negative.mean() - positive.mean()).detach(),
            "acceptance_rate": contrast.acceptance_rate,
            "divergence_rate": contrast.divergence_rate,
        }
        return value, LossAux(contrast.memory, metrics)

    return objective


def _check(num_steps: int, regularization: float | Tensor, data_noise: float | Tensor) -> None:
    checks.positive_int("num_steps", num_steps)
    for name, number in (("regularization", regularization), ("data_noise", data_noise)):
        if not isinstance(number, Tensor):
            checks.require(0 <= number < float("inf"), f"{name} must not be negative", number, "Give 0 for none.")


def _tuning(sampler: Sampler, tuning: Tree | None, like: Position) -> Tree:
    return tree.cast_like(sampler.tuning if tuning is None else tuning, tree.first(like))


# -- contrastive divergence ---------------------------------------------------------------------------------------


def contrastive_divergence(
    energy: Energy,
    sampler: Sampler,
    num_steps: int,
    *,
    start: Start = "data",
    regularization: float | Tensor = 0.0,
    data_noise: float | Tensor = 0.0,
    tuning: Tree | None = None,
) -> Loss:
    r"""Contrastive divergence, CD-k: the data against where short chains end.

    .. math:: L = \overline{E_\theta(x^+)} - \overline{E_\theta(x^-)}
        + w\,\bigl(\overline{E_\theta(x^+)^2} + \overline{E_\theta(x^-)^2}\bigr)

    The negatives :math:`x^-` are the ends of ``num_steps`` steps of the sampler, and constants to the gradient: with long
    chains :math:`\nabla_\theta L` is that of the negative log likelihood (for :math:`w = 0`). The value itself is no
    measure of fit.

    Args:
        energy: ``(params, x) -> ()``.
        sampler: a kernel for the same energy.
        num_steps: k, static.
        start: where chains start: ``"data"`` (the batch), ``"noise"`` (standard normal numbers like the batch), a function
            ``key -> position`` of one chain, or a tree of positions ``(B, *event)``.
        regularization: :math:`w \ge 0`, in units of one over energy. ``()``.
        data_noise: the standard deviation of normal noise added to the positives. ``()``.
        tuning: the numbers of the sampler; by default its own.

    Returns:
        A :class:`~funcebm.types.Loss` over batches ``(B, *event)``, with the metrics ``positive_energy``,
        ``negative_energy``, ``energy_gap`` (negative minus positive), ``acceptance_rate``, ``divergence_rate``.

    Raises:
        ValueError: a bad count, number or start; when called, an energy that is not a scalar.

    Reference: Hinton (2002), Neural Computation 14(8):1771-1800; Du and Mordatch (2019), arXiv:1903.08689, for :math:`w`.

    >>> from funcebm import random, samplers
    >>> energy = lambda params, x: params * (x**2).sum() / 2
    >>> loss = contrastive_divergence(energy, samplers.langevin(energy, step_size=0.1), 5)
    >>> value, aux = loss(random.key(0), torch.tensor(1.0), torch.zeros(4, 2))
    >>> sorted(aux.metrics)
    ['acceptance_rate', 'divergence_rate', 'energy_gap', 'negative_energy', 'positive_energy']
    """
    _check(num_steps, regularization, data_noise)
    if isinstance(start, str):
        must = 'start must be "data", "noise", a function of a key, or a tree of positions'
        checks.require(start in ("data", "noise"), must, start, 'Write start="data" for plain CD.')

    def draw(key: Key, batch: Batch) -> ContrastiveNoise:
        key_start, key_chain, key_data = random.split(key, 3)
        first: Tree = ()
        if callable(start):
            first = vmap(start)(random.split(key_start, tree.batch_size(batch)))
        elif isinstance(start, str) and start == "noise":
            first = tree.normal_like(key_start, batch)
        positions = first if callable(start) else batch if isinstance(start, str) else start
        noise = _draw_chain(sampler, key_chain, positions, num_steps)
        return ContrastiveNoise(first, noise, _draw_data_noise(key_data, batch, data_noise))

    def prepare(params: Params, memory: Tree, batch: Batch, noise: ContrastiveNoise) -> _Contrast:
        if isinstance(start, str):
            positions = batch if start == "data" else noise.start
        else:
            positions = noise.start if callable(start) else start
        numbers = _tuning(sampler, tuning, positions)
        ends = _run_chain(sampler, numbers, num_steps, params, positions, noise.chain)
        return _Contrast(_positives(batch, noise.data, data_noise), ends[0], (), *ends[1:])

    return staged(without_memory, draw, prepare, _objective(energy, regularization))


# -- persistent contrastive divergence ----------------------------------------------------------------------------


def _choose(key: Key, num_slots: int, num: int) -> Tensor:
    """``num`` of the slots ``0 .. num_slots - 1``, none twice, all choices equally likely: the start of a permutation.

    The places of the ``num`` smallest of 64-bit random numbers; sorting all of them would take most of a training step.
    """
    words = random.bits(key, (2, num_slots)).long()
    return torch.topk((words[0] << 32) | (words[1] & 0xFFFFFFFF), num, largest=False).indices


def persistent_contrastive_divergence(
    energy: Energy,
    sampler: Sampler,
    num_steps: int,
    *,
    buffer_size: int,
    restart_probability: float | Tensor = 0.05,
    initial: Callable[[Key], Position] | None = None,
    regularization: float | Tensor = 0.0,
    data_noise: float | Tensor = 0.0,
    tuning: Tree | None = None,
) -> Loss:
    r"""Persistent contrastive divergence: chains go on where they ended, in a buffer of many more than one batch.

    Each evaluation draws B of the ``buffer_size`` slots, every one with probability B / ``buffer_size`` and none twice;
    restarts each of them with a small probability; runs ``num_steps`` steps; and writes the ends back to the same slots.
    The others stay as they are, bit for bit. The value is that of :func:`contrastive_divergence`.

    Args:
        energy: ``(params, x) -> ()``.
        sampler: a kernel for the same energy; it is initialised anew at each evaluation, since the params have changed.
        num_steps: k, static.
        buffer_size: how many chains are kept; at least the batch size.
        restart_probability: of each chain drawn, in [0, 1]. ``()``.
        initial: ``key -> position``, where one chain starts and restarts; by default standard normal, like the data.
        regularization: as in :func:`contrastive_divergence`. ``()``.
        data_noise: as in :func:`contrastive_divergence`. ``()``.
        tuning: the numbers of the sampler; by default its own.

    Returns:
        A :class:`~funcebm.types.Loss` whose memory is the buffer, positions ``(buffer_size, *event)``; metrics as in
        :func:`contrastive_divergence`.

    Raises:
        ValueError: a bad count or number, or a batch larger than the buffer.

    Reference: Tieleman (2008), ICML; Du and Mordatch (2019), arXiv:1903.08689, for the buffer and the restarts.

    >>> from funcebm import random, samplers
    >>> energy = lambda params, x: params * (x**2).sum() / 2
    >>> sampler = samplers.langevin(energy, step_size=0.1)
    >>> loss = persistent_contrastive_divergence(energy, sampler, 5, buffer_size=10)
    >>> params, batch = torch.tensor(1.0), torch.zeros(4, 2)
    >>> memory = loss.init(random.key(0), params, batch)
    >>> value, aux = loss(random.key(1), params, batch, memory)
    >>> int((aux.memory != memory).any(1).sum())
    4
    """
    _check(num_steps, regularization, data_noise)
    checks.positive_int("buffer_size", buffer_size)
    if not isinstance(restart_probability, Tensor):
        must = "restart_probability must be in [0, 1]"
        checks.require(0 <= restart_probability <= 1, must, restart_probability, "Try 0.05.")

    def draw_initial(key: Key, batch: Batch, num: int) -> Position:
        if initial is not None:
            return vmap(initial)(random.split(key, num))
        return tree.normal_like(key, tree.map(lambda leaf: leaf[:1].expand(num, *leaf.shape[1:]), batch))

    def num_drawn(batch: Batch) -> int:
        num = tree.batch_size(batch)
        fix = "Make buffer_size larger (10,000 is usual) or the batch smaller."
        checks.require(
            num <= buffer_size, "buffer_size must be at least the batch size", f"{buffer_size} and {num}", fix
        )
        return num

    def init(key: Key, params: Params, batch: Batch) -> Position:
        num_drawn(batch)
        return draw_initial(key, batch, buffer_size)

    def draw(key: Key, batch: Batch) -> PersistentNoise:
        num = num_drawn(batch)
        key_slots, key_is_restarted, key_restart, key_chain, key_data = random.split(key, 5)
        restart = draw_initial(key_restart, batch, num)
        return PersistentNoise(
            _choose(key_slots, buffer_size, num),
            random.uniform(key_is_restarted, num) < restart_probability,
            restart,
            _draw_chain(sampler, key_chain, restart, num_steps),
            _draw_data_noise(key_data, batch, data_noise),
        )

    def prepare(params: Params, memory: Position, batch: Batch, noise: PersistentNoise) -> _Contrast:
        def begin(kept: Tensor, fresh: Tensor) -> Tensor:
            chosen = noise.is_restarted.reshape(-1, *[1] * (fresh.ndim - 1))
            return torch.where(chosen, fresh, kept[noise.slots])

        positions = tree.map(begin, memory, noise.restart)
        numbers = _tuning(sampler, tuning, positions)
        ends = _run_chain(sampler, numbers, num_steps, params, positions, noise.chain)
        memory = tree.map(lambda kept, new: kept.index_copy(0, noise.slots, new), memory, ends[0])
        return _Contrast(_positives(batch, noise.data, data_noise), ends[0], memory, *ends[1:])

    return staged(init, draw, prepare, _objective(energy, regularization))
