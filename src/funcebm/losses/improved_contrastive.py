"""Improved contrastive divergence: the term that plain CD leaves out, through the last steps of the chain."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, tree
from ..types import Batch, Energy, Key, Loss, Params, Position, Sampler, Tree
from . import _buffer
from ._buffer import BufferNoise, PersistentMemory
from ._constrained import of_densities
from ._contrast import (
    Contrast,
    MakeSampler,
    compared,
    energies_of,
    options_of,
    run_chain,
    sampler_of,
    tuning_like,
)

__all__ = ["ImprovedNoise", "improved_contrastive_divergence", "nearest_neighbour_entropy"]

_EULER = 0.5772156649015329


class ImprovedNoise(NamedTuple):
    """Which chains continue, which others are neighbours ``(bank_size,)``, and the noise of the steps and on the data."""

    buffer: BufferNoise
    bank: Tensor
    chain: Tree
    data: Tree


class _Differentiated(NamedTuple):
    """What the steps through which gradients flow start from: positions, noise, neighbours, and params as constants."""

    before: Tree
    noise: Tree
    bank: Tree
    params: Params


@of_densities
def improved_contrastive_divergence(
    energy: Energy,
    sampler: Sampler | MakeSampler,
    num_steps: int,
    *,
    buffer_size: int,
    bank_size: int = 100,
    num_differentiated: int = 1,
    divergence_weight: float | Tensor = 1.0,
    entropy_weight: float | Tensor = 1.0,
    restart_probability: float | Tensor = 0.05,
    initial: _buffer.Initial = None,
    regularization: float | Tensor = 0.0,
    gradient_penalty: float | Tensor = 0.0,
    trim: float = 0.0,
    clamp: float | Tensor | None = None,
    data_noise: float | Tensor = 0.0,
    tuning: Tree | None = None,
) -> Loss[PersistentMemory]:
    r"""Improved contrastive divergence: persistent CD, and the divergence of the chains' distribution from the model.

    .. math:: L = L_{\mathrm{PCD}} + u\,\Bigl(\overline{E_{\bar\theta}(x^-(\theta))} - s\,\hat H[x^-(\theta)]\Bigr), \qquad
        \hat H = \frac{d}{B} \sum_i \log \min_b |x_i^- - x_b| + \mathrm{const}

    The second term estimates :math:`KL(q_\theta \| p_{\bar\theta})`, with :math:`q_\theta` the distribution of the negatives:
    their energy under params that are held fixed, :math:`\bar\theta = \theta`, less their entropy. Its gradient flows through
    the last ``num_differentiated`` steps of the chain, which move with :math:`\theta` while their noise stays. It teaches
    the energy to be one on which short chains arrive. The entropy is that of Kozachenko and Leonenko, from the distances to
    the nearest of a bank of other chains of the buffer.

    Args:
        energy: ``(params, x) -> ()``, twice differentiable.
        sampler: ``energy -> Sampler``, or a sampler of this energy, whose step is smooth in the params: ``langevin``. What a
            Metropolis test decides has no gradient.
        num_steps: k, static.
        buffer_size: how many chains are kept; at least the batch size and ``bank_size``.
        bank_size: how many other chains are looked at for neighbours, static.
        num_differentiated: how many steps, at most k; unrolled, so keep it small. The paper takes 1.
        divergence_weight: :math:`u`. ``()``.
        entropy_weight: :math:`s`. The paper leaves the dimension d of the position out: its term has :math:`s = 1/d`. ``()``.
        restart_probability: as in :func:`persistent_contrastive_divergence`. ``()``.
        initial: as in :func:`persistent_contrastive_divergence`.
        regularization, gradient_penalty, trim, clamp, data_noise: as in :func:`contrastive_divergence`.
        tuning: the tuning of the sampler; by default its own.

    Returns:
        A :class:`~funcebm.types.Loss` with the memory and the metrics of :func:`persistent_contrastive_divergence`, and with
        ``entropy``, :math:`\hat H` in nats.

    Raises:
        ValueError: a bad count or number, or a buffer that is too small.

    Reference: Du, Li, Tenenbaum and Mordatch (2021), ICML, arXiv:2012.01316. They augment the data between steps and
    take neighbours from earlier samples; augment in ``initial`` or in the data.

    >>> from funcebm import random, samplers
    >>> energy = lambda params, x: params * (x**2).sum() / 2
    >>> make_sampler = lambda energy: samplers.langevin(energy, step_size=0.1)
    >>> loss = improved_contrastive_divergence(energy, make_sampler, 5, buffer_size=20, bank_size=10)
    >>> params, batch = torch.tensor(1.0), torch.zeros(4, 2)
    >>> value, aux = loss(random.key(1), params, batch, loss.init(random.key(0), params, batch))
    >>> sorted(set(aux.metrics) - {"acceptance_rate", "divergence_rate"})
    ['buffer_age', 'energy_gap', 'entropy', 'negative_energy', 'positive_energy']
    """
    options = options_of(regularization, gradient_penalty, trim, clamp, data_noise)
    kernel = sampler_of(energy, sampler, num_steps)
    checks.positive_int("bank_size", bank_size)
    checks.positive_int("num_differentiated", num_differentiated)
    must = "num_differentiated must be at most num_steps"
    checks.require(num_differentiated <= num_steps, must, f"{num_differentiated} and {num_steps}", "Try 1.")
    num_first = num_steps - num_differentiated
    weight, entropy_factor = tree.number(divergence_weight), tree.number(entropy_weight)
    energies, start, step = energies_of(energy), vmap(kernel.init, (None, 0)), vmap(kernel.step, (None, None, 0, 0))

    def draw_initial(key: Key, batch: Batch, num: int) -> Position:
        return _buffer.draw_initial(key, batch, num, initial, energy)

    def last_steps(params: Params, positions: Position, noise: Tree) -> tuple[Any, list[Any]]:
        """The differentiated steps, unrolled: a compiled loop cannot be differentiated through."""
        tuned, state, infos = tuning_like(kernel, tuning, positions), start(params, positions), []
        for index in range(num_differentiated):
            state, info = step(params, tuned, state, tree.map(lambda leaf: leaf[index], noise))  # noqa: B023
            infos.append(info)
        return state, infos

    def run(
        params: Params, memory: PersistentMemory, before: Position, noise: ImprovedNoise
    ) -> tuple[Any, dict[str, Tensor], _Differentiated]:
        bank = tree.map(lambda leaf: leaf[noise.bank], memory.positions)
        rates: dict[str, Tensor] = {}
        if num_first:
            head = tree.map(lambda leaf: leaf[:num_first], noise.chain)
            state, rates = run_chain(kernel, tuning_like(kernel, tuning, before), num_first, params, before, head)
            before = state.position
        tail = tree.map(lambda leaf: leaf[num_first:], noise.chain)
        end, infos = last_steps(params, before, tail)
        last = {
            "acceptance_rate": torch.stack([info.acceptance_rate.mean() for info in infos]).mean(),
            "divergence_rate": torch.stack([info.is_divergent.to(info.energy.dtype).mean() for info in infos]).mean(),
        }
        share = num_first / num_steps
        metrics = {name: share * rates.get(name, 0.0) + (1 - share) * rate for name, rate in last.items()}
        return end, metrics, _Differentiated(before, tail, bank, params)

    def divergence(params: Params, contrast: Contrast) -> tuple[Tensor, dict[str, Tensor]]:
        before, noise, bank, constant_params = contrast.constants
        moving = last_steps(params, before, noise)[0].position
        entropy = nearest_neighbour_entropy(moving, bank)
        value = energies(constant_params, moving).mean() - entropy_factor.to(entropy) * entropy
        return weight.to(value) * value, {"entropy": entropy.detach()}

    buffer = _buffer.buffered(buffer_size, restart_probability, draw_initial, num_more=bank_size)
    buffer = buffer._replace(are_given=_buffer.is_given(initial))
    is_checked = isinstance(sampler, Sampler)
    return compared(
        energy,
        kernel,
        num_steps,
        options,
        tuning,
        buffer,
        ImprovedNoise,
        is_checked=is_checked,
        run=run,
        term=divergence,
    )


def nearest_neighbour_entropy(positions: Tree, bank: Tree) -> Tensor:
    r"""The entropy of a density, from the distances of its draws to the nearest of a bank of other draws.

    .. math:: \hat H = \frac{d}{B} \sum_i \log \min_b |x_i - x_b| + \log M + \log V_d + \gamma

    with the volume :math:`V_d` of the unit ball and Euler's constant; its bias vanishes as :math:`M \to \infty`.

    Args:
        positions: ``(B, *event)``.
        bank: ``(M, *event)``.

    Returns:
        Nats, ``()``.

    Reference: Kozachenko and Leonenko (1987), Problems of Information Transmission 23(2):95-101.

    >>> from funcebm import random
    >>> x = random.normal(random.key(0), (2000, 1))
    >>> entropy = nearest_neighbour_entropy(x[:1000], x[1000:])  # log(2 pi e) / 2 = 1.42
    >>> bool((entropy - 1.42).abs() < 0.2)
    True
    """
    x, others = (vmap(lambda one: tree.ravel(one)[0])(value) for value in (positions, bank))
    num, dim = others.shape
    squared = (others**2).sum(1) - 2 * x @ others.mT  # but for |x|^2, which does not matter to the nearest
    nearest = others[squared.argmin(1)]
    log_distance = (x - nearest).square().sum(1).log() / 2
    log_volume = dim / 2 * math.log(math.pi) - math.lgamma(dim / 2 + 1)
    return dim * log_distance.mean() + math.log(num) + log_volume + _EULER
