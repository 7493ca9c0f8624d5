r"""Effective sample size: the number of independent draws that would be as good.

All functions take draws ``(C, N, *event)``, the layout of :func:`funcebm.chains.sample`, or any tree of them, and give
one number for each coordinate of the event, in float64.

Reference: Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), Bayesian Analysis 16(2):667-718.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..checks import require
from ..types import Tree
from .draws import check_probability, each_leaf, halves, means_and_deviations, ordered, quantile, scores, variance

__all__ = ["ess", "ess_bulk", "ess_quantile", "ess_tail"]

_CHUNK = 1 << 24  # numbers in one Fourier transform


def ess(draws: Tree, *, method: str = "initial_sequence") -> Tree:
    r"""The effective sample size for the mean: the number of independent draws with the same standard error.

    .. math:: \mathrm{ESS} = \frac{m n}{\hat\tau}, \qquad \hat\tau = -1 + 2 \sum_{k=0}^{K-1} \hat P_k + \hat\rho_{2K},
        \qquad \hat\rho_t = 1 - \frac{W - \hat\gamma_t}{\hat V},

    over the :math:`m` half chains of :math:`n` draws. :math:`\hat\gamma_t` is their mean autocovariance at lag
    :math:`t`, :math:`W` their mean variance and :math:`\hat V = \frac{n-1}{n} W + \operatorname{var}(\bar x_j)`, so
    chains that disagree count for little. The sum runs over pairs :math:`\hat P_k = \hat\rho_{2k} + \hat\rho_{2k+1}`
    while they are positive (Geyer's initial positive sequence), each cut down to the least one before it (initial
    monotone sequence). :math:`\hat\tau` is at least :math:`1/\log_{10}(mn)`. The numbers are those of ArviZ
    (``az.ess(method="mean")``), except that "constant" means exactly constant, whatever the scale.

    The sequence supposes a reversible chain, for which the pairs are positive and decrease. A chain with a persistent
    momentum (:func:`~funcebm.samplers.ghmc`, ``mclmc``, ``underdamped_langevin``) is none, and its correlations swing: the sum
    then ends too early or counts a swing as noise. ``method="batch_means"`` supposes nothing of the kind,

    .. math:: \mathrm{ESS} = \frac{m n \, s^2}{b \operatorname{var}(\bar y_k)},

    with the means :math:`\bar y_k` of all batches of :math:`b = n^{2/3}` draws of :math:`m` chains. It is right where
    :math:`b` is many times longer than the correlations (with :math:`\sqrt n`, the usual choice, errors are a fifth too
    small where a momentum persists for some ten steps and :math:`n = 2500`), and noisier: by a part of :math:`\sqrt{b / 2 m n}`.

    Args:
        draws: a tree of ``(C, N, *event)`` with ``N >= 4``.
        method: ``"initial_sequence"`` or ``"batch_means"``.

    Returns:
        A tree of ``(*event,)`` in float64; a coordinate that never changes gives the number of draws.

    Raises:
        ValueError, TypeError: another method; else as :func:`~funcebm.diagnostics.rhat`.

    Reference: Geyer (1992), Statistical Science 7(4):473-483, section 3.3; Vehtari et al. (2021), section 3.2; batch means of
    several chains: Gupta and Vats (2020), arXiv:2007.04229.

    >>> from funcebm import random
    >>> draws = random.normal(random.key(0), (4, 1000))
    >>> 3000 < float(ess(draws)) < 5000
    True
    """
    by_batches = is_batch_means(method)
    return each_leaf(lambda block: ess_by_batches(block) if by_batches else ess_of(halves(block)), draws)


def ess_bulk(draws: Tree) -> Tree:
    r"""The effective sample size of the rank-normalised draws: how well the bulk of the distribution is known.

    It is :func:`ess` of the normal scores of the ranks, so it exists where the target has no variance. It is ArviZ's
    ``az.ess`` (its default) and BlackJAX's ``ess_bulk``. Ask for 100 a chain.

    Args:
        draws: a tree of ``(C, N, *event)`` with ``N >= 4``.

    Returns:
        A tree of ``(*event,)`` in float64.

    Raises:
        ValueError, TypeError: as :func:`~funcebm.diagnostics.rhat`.

    Reference: Vehtari et al. (2021), section 4.

    >>> from funcebm import random
    >>> cauchy = torch.tan(torch.pi * (random.uniform(random.key(0), (4, 1000)) - 0.5))
    >>> 3000 < float(ess_bulk(cauchy)) < 5000
    True
    """
    return each_leaf(lambda block: ess_of(scores(halves(block))), draws)


def ess_quantile(draws: Tree, prob: float) -> Tree:
    r"""The effective sample size for a quantile: :func:`ess` of the indicator :math:`1(x \le \hat q)`.

    :math:`\hat q` is the quantile of all draws, linear between the order statistics. It is ArviZ's
    ``az.ess(method="quantile", prob=prob)``; ``prob=0.5`` is its ``method="median"``.

    Args:
        draws: a tree of ``(C, N, *event)`` with ``N >= 4``.
        prob: in (0, 1).

    Returns:
        A tree of ``(*event,)`` in float64.

    Raises:
        ValueError, TypeError: ``prob`` outside of (0, 1); else as :func:`~funcebm.diagnostics.rhat`.

    Reference: Vehtari et al. (2021), section 4.

    >>> from funcebm import random
    >>> draws = random.normal(random.key(0), (4, 1000))
    >>> 3000 < float(ess_quantile(draws, 0.9)) < 5000
    True
    """
    check_probability(prob)
    return each_leaf(lambda block: ess_below(block, quantile(ordered(block).values, prob)), draws)


def ess_tail(draws: Tree, prob: float = 0.05) -> Tree:
    r"""The effective sample size of the tails: the smaller one of the two quantiles ``prob`` and ``1 - prob``.

    It is ArviZ's ``az.ess(method="tail")``, at 5 % and 95 %, and BlackJAX's ``ess_tail``. Ask for 100 a chain.

    Args:
        draws: a tree of ``(C, N, *event)`` with ``N >= 4``.
        prob: in (0, 1).

    Returns:
        A tree of ``(*event,)`` in float64.

    Raises:
        ValueError, TypeError: as :func:`ess_quantile`.

    Reference: Vehtari et al. (2021), section 4.

    >>> from funcebm import random
    >>> draws = random.normal(random.key(0), (4, 1000))
    >>> 3000 < float(ess_tail(draws)) < 5000
    True
    """
    check_probability(prob)
    # 1 - 0.05 and 0.95 are one float: the two quantiles are those of ArviZ to the last bit
    return each_leaf(lambda block: ess_outside(block, ordered(block).values, (prob, 1 - prob)), draws)


# -- one block (m, n, d), without checks -----------------------------------------------------------------------------


def ess_below(draws: Tensor, threshold: Tensor) -> Tensor:
    """The effective sample size of ``draws <= threshold``, for draws ``(C, N, d)`` and a threshold ``(d,)``."""
    return ess_of(halves((draws <= threshold).double()))


def ess_outside(draws: Tensor, values: Tensor, probs: tuple[float, float]) -> Tensor:
    """The least effective sample size of two quantiles, of draws ``(C, N, d)`` that are sorted in ``(d, C N)``."""
    low, high = (ess_below(draws, quantile(values, prob)) for prob in probs)
    return torch.minimum(low, high)


def is_batch_means(method: str) -> bool:
    """Which of the two methods a name means."""
    right, fix = method in ("initial_sequence", "batch_means"), 'Write "initial_sequence" or "batch_means".'
    require(right, "method must be one of two", method, fix)
    return method == "batch_means"


def ess_by_batches(chains: Tensor) -> Tensor:
    """The effective sample size of chains ``(m, n, *event)`` by means of batches."""
    num_chains, num = chains.shape[:2]
    size = round(num ** (2 / 3))
    batches = chains[:, num % size :].unflatten(1, (num // size, size))
    between = size * variance(batches.mean(2).flatten(0, 1))
    total = variance(chains.flatten(0, 1))
    count = torch.full_like(total, num_chains * num)
    return torch.where(total == 0, count, count * total / between)


def ess_of(chains: Tensor) -> Tensor:
    """The effective sample size of chains ``(m, n, *event)``, as they are."""
    num_chains, num = chains.shape[:2]
    means, deviations = means_and_deviations(chains)
    covariance = _mean_autocovariance(deviations)
    between = variance(means) if num_chains > 1 else torch.zeros_like(covariance[0])
    return ess_from(covariance, between, num_chains, num)[0]


def ess_from(covariance: Tensor, between: Tensor, num_chains: Any, num: Any) -> tuple[Tensor, Tensor]:
    """The effective sample size from autocovariances, and whether its sum has ended before they do.

    Args:
        covariance: their mean over chains, divisor ``n``, for each lag. ``(L, *event)``.
        between: the unbiased variance of the means of chains. ``(*event,)``.
        num_chains: how many chains.
        num: ``n``, the draws of each.
    """
    num_lags = covariance.shape[0]
    count, length = (
        torch.as_tensor(value, device=covariance.device).to(covariance.dtype) for value in (num_chains, num)
    )
    within = covariance[0] * (length / (length - 1))
    total = covariance[0] + between
    correlation = 1 - (within - covariance) / total
    correlation = torch.cat([torch.ones_like(correlation[:1]), correlation[1:]])

    num_pairs = num_lags // 2
    even, odd = correlation[0 : 2 * num_pairs : 2], correlation[1 : 2 * num_pairs : 2]
    pairs = even + odd
    # pairs of lags that are so long that hardly any draws have them are left out
    index = torch.arange(num_pairs, device=pairs.device).reshape(-1, *[1] * (pairs.ndim - 1))
    most = torch.div(length - 3, 2, rounding_mode="floor").clamp(min=0)
    kept = ((pairs[:-1] > 0) & (index[:-1] < most)).long().cumprod(0)
    monotone = torch.cummin(pairs, 0).values[:-1]
    last = kept.sum(0, keepdim=True)  # the pair that ends the sequence gives its even lag
    end = torch.take_along_dim(torch.where(pairs >= 0, even, even.clamp(min=0)), last, 0)[0]
    time = -1 + 2 * (kept * monotone).sum(0) + end
    is_ended = (last[0] < num_pairs - 1) | (pairs[-1] <= 0) | (num_pairs - 1 >= most)

    draws = (count * length).expand_as(time)
    value = draws / torch.maximum(time, 1 / draws.log10())
    return torch.where(total == 0, draws, value), is_ended


def _mean_autocovariance(deviations: Tensor) -> Tensor:
    """Autocovariances (divisor ``n``) of centred chains ``(m, n, *event)`` at all lags, averaged: ``(n, *event)``.

    The Fourier transform is linear, so the power spectra are averaged before the one transform back.
    """
    num_chains, num = deviations.shape[:2]
    padded = 1 << (2 * num - 1).bit_length()
    rows = max(1, _CHUNK // max(1, padded * deviations[0, 0].numel()))
    power = 0
    for part in deviations.split(rows):
        spectrum = torch.fft.rfft(part, n=padded, dim=1)
        power = power + (spectrum.real.square() + spectrum.imag.square()).sum(0)
    return torch.fft.irfft(power, n=padded, dim=0)[:num] / (num * num_chains)
