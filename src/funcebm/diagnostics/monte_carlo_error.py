r"""Monte Carlo standard errors: how far an average of the draws is from the truth, by chance.

All functions take draws ``(C, N, *event)``, the layout of :func:`funcebm.chains.sample`, or any tree of them, and give
one number for each coordinate of the event, in float64 and in units of the draws.

Reference: Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), Bayesian Analysis 16(2):667-718.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..types import Tree
from .draws import check_probability, each_leaf, halves, means_and_deviations, ordered, quantile, variance
from .effective_sample_size import ess_below, ess_by_batches, ess_of, is_batch_means

__all__ = ["mcse_mean", "mcse_quantile", "mcse_sd"]


def mcse_mean(draws: Tree, *, method: str = "initial_sequence") -> Tree:
    r"""The Monte Carlo standard error of the mean, :math:`\mathrm{sd} / \sqrt{\mathrm{ESS}}`.

    It is ArviZ's ``az.mcse`` (its default), and supposes a reversible chain: of one with a persistent momentum, such as
    :func:`~funcebm.samplers.ghmc`'s, it is too large, by a third or threefold, and ``method="batch_means"`` is right.

    Args:
        draws: a tree of ``(C, N, *event)`` with ``N >= 4``.
        method: of :func:`~funcebm.diagnostics.ess`.

    Returns:
        A tree of ``(*event,)`` in float64.

    Raises:
        ValueError, TypeError: as :func:`~funcebm.diagnostics.rhat`.

    Reference: Vehtari et al. (2021), section 3.2.

    >>> from funcebm import random
    >>> error = mcse_mean(random.normal(random.key(0), (4, 2500)))
    >>> 0.009 < float(error) < 0.011
    True
    """
    by_batches = is_batch_means(method)
    return each_leaf(lambda block: mcse_mean_of(block, by_batches), draws)


def mcse_sd(draws: Tree, *, method: str = "initial_sequence") -> Tree:
    r"""The Monte Carlo standard error of the standard deviation.

    By the delta method, with :math:`c = (x - \bar x)^2`,

    .. math:: \frac{1}{2\,\mathrm{sd}} \sqrt{\frac{\operatorname{var}(c)}{\mathrm{ESS}(c)}}.

    It is ArviZ's ``az.mcse(method="sd")``, which needs no normal distribution; variances have the divisor :math:`C N` here. Of a
    chain with a persistent momentum it is some 30 % too small, and ``method="batch_means"`` is right.

    Args:
        draws: a tree of ``(C, N, *event)`` with ``N >= 4``.
        method: of :func:`~funcebm.diagnostics.ess`.

    Returns:
        A tree of ``(*event,)`` in float64; NaN for a coordinate that never changes.

    Raises:
        ValueError, TypeError: as :func:`~funcebm.diagnostics.rhat`.

    Reference: Vehtari et al. (2021), section 3.2, for the effective sample size.

    >>> from funcebm import random
    >>> error = mcse_sd(random.normal(random.key(0), (4, 2500)))
    >>> 0.006 < float(error) < 0.008
    True
    """
    by_batches = is_batch_means(method)
    return each_leaf(lambda block: mcse_sd_of(block, by_batches), draws)


def mcse_quantile(draws: Tree, prob: float) -> Tree:
    r"""The Monte Carlo standard error of a quantile.

    With :math:`S` the effective sample size of the quantile, its probability has the distribution
    :math:`\mathrm{Beta}(S p + 1, S (1 - p) + 1)`. The error is half the distance of the order statistics at the
    quantiles :math:`\Phi(-1)` and :math:`\Phi(1)` of that distribution. It is ArviZ's ``az.mcse(method="quantile", prob=prob)``;
    ``prob=0.5`` is its ``method="median"``.

    Args:
        draws: a tree of ``(C, N, *event)`` with ``N >= 4``.
        prob: :math:`p` in (0, 1).

    Returns:
        A tree of ``(*event,)`` in float64.

    Raises:
        ValueError, TypeError: ``prob`` outside of (0, 1); else as :func:`~funcebm.diagnostics.rhat`.

    Reference: Vehtari et al. (2021), section 4.4.

    >>> from funcebm import random
    >>> error = mcse_quantile(random.normal(random.key(0), (4, 2500)), 0.5)
    >>> 0.010 < float(error) < 0.015
    True
    """
    check_probability(prob)
    return each_leaf(lambda block: mcse_quantile_of(block, prob), draws)


# -- one block (C, N, d), without checks -----------------------------------------------------------------------------


def mcse_mean_of(draws: Tensor, by_batches: bool = False) -> Tensor:
    """:func:`mcse_mean` of draws ``(C, N, d)``."""
    effective = ess_by_batches(draws) if by_batches else ess_of(halves(draws))
    return variance(draws.flatten(0, 1)).sqrt() / effective.sqrt()


def mcse_sd_of(draws: Tensor, by_batches: bool = False) -> Tensor:
    """:func:`mcse_sd` of draws ``(C, N, d)``."""
    squares = means_and_deviations(draws.flatten(0, 1)[None])[1].square().unflatten(1, draws.shape[:2])[0]
    mean = squares.mean((0, 1))
    spread = squares.square().mean((0, 1)) - mean.square()
    effective = ess_by_batches(squares) if by_batches else ess_of(halves(squares))
    return (spread / effective / mean / 4).sqrt()


def mcse_quantile_of(draws: Tensor, prob: float) -> Tensor:
    """:func:`mcse_quantile` of draws ``(C, N, d)``."""
    values = ordered(draws).values
    size = values.shape[-1]
    effective = ess_below(draws, quantile(values, prob))
    places = beta_quantiles(effective * prob + 1, effective * (1 - prob) + 1) * size - 1
    low = places[..., :1].floor().clamp(min=0).long()
    high = places[..., 1:].ceil().clamp(max=size - 1).long()
    ends = [torch.take_along_dim(values, place, -1)[..., 0] for place in (low, high)]
    return (ends[1] - ends[0]) / 2


def beta_quantiles(a: Tensor, b: Tensor) -> Tensor:
    r"""The quantiles :math:`\Phi(\mp 1)` of :math:`\mathrm{Beta}(a, b)`, for ``a, b >= 1``: ``(*shape, 2)``.

    In the logit :math:`t` the density :math:`\sigma(t)^a \sigma(-t)^b` has one smooth hump, whose area Gauss and
    Legendre's rule gives to about ten digits; the quantile is found by bisection.
    """
    nodes, weights = _gauss_legendre(256)
    nodes, weights = nodes.to(a.device), weights.to(a.device)
    a, b = a[..., None], b[..., None]
    top = (a / b).log()
    width = (1 / a + 1 / b).sqrt()
    low, high = top - 9 * width - 40 / a, top + 9 * width + 40 / b
    log_sigmoid = torch.nn.functional.logsigmoid
    peak = a * log_sigmoid(top) + b * log_sigmoid(-top)

    def area(end: Tensor) -> Tensor:
        t = low[..., None] + (end - low)[..., None] * nodes
        density = (a[..., None] * log_sigmoid(t) + b[..., None] * log_sigmoid(-t) - peak[..., None]).exp()
        return (end - low) * (density * weights).sum(-1)

    probs = torch.tensor([0.5 * math.erfc(math.sqrt(0.5)), 0.5 * math.erfc(-math.sqrt(0.5))], dtype=a.dtype)
    wanted = probs.to(a.device) * area(high)
    lower, upper = low.expand_as(wanted), high.expand_as(wanted)
    for _ in range(60):
        middle = (lower + upper) / 2
        is_below = area(middle) < wanted
        lower, upper = torch.where(is_below, middle, lower), torch.where(is_below, upper, middle)
    return torch.sigmoid((lower + upper) / 2)


def _gauss_legendre(num: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1] (Golub and Welsch 1969)."""
    k = torch.arange(1, num, dtype=torch.float64)
    beside = k / (4 * k.square() - 1).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(beside, 1) + torch.diag(beside, -1))
    return (values + 1) / 2, vectors[0].square()
