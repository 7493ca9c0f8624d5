r"""Convergence of Markov chains: split R-hat, effective sample size, Monte Carlo standard error.

All functions take draws ``(C, N, *event)``, the layout of :func:`funcebm.chains.sample`, or any tree of them, and give
one number for each coordinate of the event, in float64. They are plain tensor operations: no loop over coordinates, and
:func:`torch.func.vmap` goes through them. Each one is a few steps on the split chains, so that other functions of the
draws (ranks, indicators) can be put between the split and the estimate.

Reference: Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), "Rank-normalization, folding, and localization: an
improved R-hat for assessing convergence of MCMC", Bayesian Analysis 16(2):667-718.
"""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor

from .. import tree
from ..checks import is_concrete, require
from ..types import Tree

__all__ = ["ess", "mcse_mean", "split_rhat"]

_CHUNK = 1 << 24  # numbers in one Fourier transform


def split_rhat(draws: Tree) -> Tree:
    r"""The potential scale reduction factor of the chains cut in halves.

    With :math:`m` half chains of :math:`n` draws, means :math:`\bar x_j` and variances :math:`s_j^2`,

    .. math:: \hat R = \sqrt{\frac{n-1}{n} + \frac{\operatorname{var}(\bar x_j)}{\operatorname{mean}(s_j^2)}},

    with both variances unbiased. It tends to 1 when all halves see one law; above 1.01 they do not yet. The middle draw
    of an odd number is left out.

    Args:
        draws: a tree of ``(C, N, *event)`` with ``N >= 4``; integers and bools are read as numbers.

    Returns:
        A tree of ``(*event,)`` in float64. NaN for a coordinate that never changes, infinite where every half chain
        stands still but not all at one place.

    Raises:
        ValueError: a leaf has no chain and draw axes, fewer than 4 draws, or a number that is not finite (under
            ``vmap``, where numbers cannot be looked at, such a coordinate gives NaN).
        TypeError: a leaf is not a tensor of real numbers.

    Reference: Gelman et al. (2013), Bayesian Data Analysis, 3rd ed., section 11.4.

    >>> from funcebm import random
    >>> draws = random.normal(random.key(0), (4, 1000, 3))
    >>> bool((split_rhat(draws) < 1.01).all())
    True
    """
    return _each_leaf(lambda leaf: rhat_of(halves(leaf)), draws)


def ess(draws: Tree) -> Tree:
    r"""The effective sample size for the mean: the number of independent draws with the same standard error.

    .. math:: \mathrm{ESS} = \frac{m n}{\hat\tau}, \qquad \hat\tau = -1 + 2 \sum_{k=0}^{K-1} \hat P_k + \hat\rho_{2K},
        \qquad \hat\rho_t = 1 - \frac{W - \hat\gamma_t}{\hat V},

    over the :math:`m` half chains of :math:`n` draws. :math:`\hat\gamma_t` is their mean autocovariance at lag
    :math:`t`, :math:`W` their mean variance and :math:`\hat V = \frac{n-1}{n} W + \operatorname{var}(\bar x_j)`, so
    chains that disagree count for little. The sum runs over pairs :math:`\hat P_k = \hat\rho_{2k} + \hat\rho_{2k+1}`
    while they are positive (Geyer's initial positive sequence), each cut down to the least one before it (initial
    monotone sequence). :math:`\hat\tau` is at least :math:`1/\log_{10}(mn)`. The numbers are those of ArviZ
    (``az.ess(method="mean")``), except that "constant" means exactly constant, whatever the scale.

    Args:
        draws: a tree of ``(C, N, *event)`` with ``N >= 4``.

    Returns:
        A tree of ``(*event,)`` in float64; a coordinate that never changes gives the number of draws.

    Raises:
        ValueError, TypeError: as :func:`split_rhat`.

    Reference: Geyer (1992), Statistical Science 7(4):473-483, section 3.3; Vehtari et al. (2021), section 3.2.

    >>> from funcebm import random
    >>> draws = random.normal(random.key(0), (4, 1000))
    >>> 3000 < float(ess(draws)) < 5000
    True
    """
    return _each_leaf(lambda leaf: ess_of(halves(leaf)), draws)


def mcse_mean(draws: Tree) -> Tree:
    r"""The Monte Carlo standard error of the mean, :math:`\mathrm{sd} / \sqrt{\mathrm{ESS}}`.

    Args:
        draws: a tree of ``(C, N, *event)`` with ``N >= 4``.

    Returns:
        A tree of ``(*event,)`` in float64, in units of the draws.

    Raises:
        ValueError, TypeError: as :func:`split_rhat`.

    Reference: Vehtari et al. (2021), section 3.2.

    >>> from funcebm import random
    >>> error = mcse_mean(random.normal(random.key(0), (4, 2500)))
    >>> 0.009 < float(error) < 0.011
    True
    """
    return _each_leaf(mcse_of, draws)


# -- one leaf, without checks ---------------------------------------------------------------------------------------


def mcse_of(draws: Tensor) -> Tensor:
    """:func:`mcse_mean` of one leaf ``(C, N, *event)``, unchecked."""
    draws = draws.double()
    return variance(draws.flatten(0, 1)).sqrt() / ess_of(halves(draws)).sqrt()


def halves(draws: Tensor) -> Tensor:
    """``(C, N, *event)`` to ``(2C, N // 2, *event)`` in float64; the middle draw of an odd number is left out."""
    half = draws.shape[1] // 2
    return torch.cat([draws[:, :half], draws[:, draws.shape[1] - half :]]).double()


def variance(values: Tensor) -> Tensor:
    """The unbiased variance over the first axis; exactly zero where all values are equal."""
    return (values - values[:1]).var(0)


def _means_and_deviations(chains: Tensor) -> tuple[Tensor, Tensor]:
    """Chain means ``(m, *event)``, and the chains minus their means; exact for chains that stand still."""
    start = chains[:, :1]
    shifted = chains - start
    mean = shifted.mean(1, keepdim=True)
    return (start + mean).squeeze(1), shifted - mean


def rhat_of(chains: Tensor) -> Tensor:
    """The potential scale reduction factor of chains ``(m, n, *event)``, as they are."""
    num = chains.shape[1]
    means, deviations = _means_and_deviations(chains)
    within = deviations.square().sum(1).mean(0) / (num - 1)
    return ((num - 1) / num + variance(means) / within).sqrt()


def ess_of(chains: Tensor) -> Tensor:
    """The effective sample size of chains ``(m, n, *event)``, as they are."""
    num_chains, num = chains.shape[:2]
    means, deviations = _means_and_deviations(chains)
    covariance = _mean_autocovariance(deviations)
    within = covariance[0] * (num / (num - 1))
    total = covariance[0] + variance(means) if num_chains > 1 else covariance[0]
    correlation = 1 - (within - covariance) / total
    correlation = torch.cat([torch.ones_like(correlation[:1]), correlation[1:]])

    num_pairs = max((num - 3) // 2, 0) + 1
    even, odd = correlation[0 : 2 * num_pairs : 2], correlation[1 : 2 * num_pairs : 2]
    pairs = even + odd
    kept = (pairs[:-1] > 0).long().cumprod(0)
    monotone = torch.cummin(pairs, 0).values[:-1]
    last = kept.sum(0, keepdim=True)  # the pair that ends the sequence gives its even lag
    end = torch.take_along_dim(torch.where(pairs >= 0, even, even.clamp(min=0)), last, 0)[0]
    time = -1 + 2 * (kept * monotone).sum(0) + end

    count = torch.full_like(time, num_chains * num)
    value = count / torch.maximum(time, 1 / count.log10())
    return torch.where(total == 0, count, value)


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


# -- the door -----------------------------------------------------------------------------------------------------


def check_shapes(draws: Tree) -> None:
    """All leaves must be tensors ``(C, N, *event)`` with one ``C`` and one ``N >= 4``, of real numbers."""
    leaves = tree.leaves(draws)
    fix = "Pass what chains.sample gives as draws."
    require(len(leaves) > 0, "draws must hold at least one tensor", draws, fix)
    for leaf in leaves:
        real = isinstance(leaf, Tensor) and not leaf.is_complex()
        got = str(leaf.dtype) if isinstance(leaf, Tensor) else type(leaf).__name__
        require(real, "draws must be tensors of real numbers", got, fix, TypeError)
        shape = tuple(leaf.shape)
        must = "draws must have a chain axis and a draw axis, (C, N, *event)"
        require(leaf.ndim >= 2, must, f"the shape {shape}", "For one chain, pass draws[None].")
        require(shape[0] >= 1, "draws must hold at least one chain", f"the shape {shape}", fix)
        fix_count = "Draw more with chains.resume, or put the draw axis second."
        require(shape[1] >= 4, "draws must hold at least 4 draws a chain", f"the shape {shape}", fix_count)
    shapes = {tuple(leaf.shape[:2]) for leaf in leaves}
    require(len(shapes) == 1, "all leaves must have the same chain and draw axes", f"{sorted(shapes)}", fix)


def _each_leaf(statistic: Callable[[Tensor], Tensor], draws: Tree) -> Tree:
    check_shapes(draws)
    for name, leaf in zip(tree.paths(draws), tree.leaves(draws), strict=True):
        if is_concrete(leaf) and not bool(torch.isfinite(leaf).all()):
            bad = (~torch.isfinite(leaf)).flatten(1).any(1).nonzero().flatten().tolist()
            where = f"NaN or infinity in {name or 'draws'}, chains {', '.join(map(str, bad))}"
            require(False, "draws must be finite", where, "Leave those chains out, or see summary(draws) for the rest.")
    return tree.map(statistic, draws)
