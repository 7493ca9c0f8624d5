r"""R-hat: do the chains see one distribution?

All functions take draws ``(C, N, *event)``, the layout of :func:`funcebm.chains.sample`, or any tree of them, and give
one number for each coordinate of the event, in float64.

Reference: Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), "Rank-normalization, folding, and localization: an
improved R-hat for assessing convergence of MCMC", Bayesian Analysis 16(2):667-718.
"""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor

from .. import tree
from ..checks import positive_int, require
from ..types import Tree
from .draws import Sorted, check_shapes, each_leaf, halves, means_and_deviations, median, ordered, scores, variance

__all__ = ["folded_rhat", "nested_rhat", "rhat", "split_rhat"]


def rhat(draws: Tree) -> Tree:
    r"""Rank-normalised split R-hat, the larger of that of the draws and that of the folded draws.

    .. math:: \hat R = \max\bigl(\hat R(z(x)),\ \hat R(z(|x - \operatorname{median} x|))\bigr)

    with :func:`split_rhat`'s formula on the half chains and :math:`z` the normal scores of the ranks, so that it needs no
    moments of the target. The first sees chains in other places, the second (:func:`folded_rhat`) chains of other
    spread. Above 1.01 the chains do not agree yet. It is ArviZ's ``az.rhat`` and BlackJAX's ``rhat``.

    Args:
        draws: a tree of ``(C, N, *event)`` with ``N >= 4``; integers and bools are read as numbers. One chain is judged
            by its halves (ArviZ gives NaN there).

    Returns:
        A tree of ``(*event,)`` in float64. NaN for a coordinate that never changes, infinite where every half chain
        stands still but not all at one place.

    Raises:
        ValueError: a leaf has no chain and draw axes, fewer than 4 draws, or a number that is not finite (under
            ``vmap``, where numbers cannot be looked at, such a coordinate gives NaN).
        TypeError: a leaf is not a tensor of real numbers.

    Reference: Vehtari et al. (2021), section 4.

    >>> from funcebm import random
    >>> draws = random.normal(random.key(0), (4, 1000, 3))
    >>> bool((rhat(draws) < 1.01).all())
    True
    """
    return each_leaf(_with_sorted(rank_rhat_of), draws)


def folded_rhat(draws: Tree) -> Tree:
    r"""Rank-normalised split R-hat of :math:`|x - \operatorname{median} x|`: do the chains have one spread?

    It is ArviZ's ``az.rhat(method="folded")``. Chains with the same centre and another scale have a
    :func:`split_rhat` of 1, and a large one here.

    Args:
        draws: a tree of ``(C, N, *event)`` with ``N >= 4``.

    Returns:
        A tree of ``(*event,)`` in float64; NaN where all draws are equally far from the median.

    Raises:
        ValueError, TypeError: as :func:`rhat`.

    Reference: Vehtari et al. (2021), section 4.

    >>> from funcebm import random
    >>> draws = random.normal(random.key(0), (4, 1000)) * torch.tensor([1.0, 1.0, 1.0, 2.0])[:, None]
    >>> bool(split_rhat(draws) < 1.01), bool(folded_rhat(draws) > 1.05)
    (True, True)
    """
    return each_leaf(_with_sorted(folded_rhat_of), draws)


def split_rhat(draws: Tree) -> Tree:
    r"""The potential scale reduction factor of the chains cut in halves, of the draws as they are.

    With :math:`m` half chains of :math:`n` draws, means :math:`\bar x_j` and variances :math:`s_j^2`,

    .. math:: \hat R = \sqrt{\frac{n-1}{n} + \frac{\operatorname{var}(\bar x_j)}{\operatorname{mean}(s_j^2)}},

    with both variances unbiased. It tends to 1 when all halves see one mean; above 1.01 they do not yet. The middle draw
    of an odd number is left out. It is ArviZ's ``az.rhat(method="split")``, and BlackJAX's
    ``potential_scale_reduction`` of the half chains. :func:`rhat` sees more.

    Args:
        draws: a tree of ``(C, N, *event)`` with ``N >= 4``.

    Returns:
        A tree of ``(*event,)`` in float64; NaN and infinite as :func:`rhat`.

    Raises:
        ValueError, TypeError: as :func:`rhat`.

    Reference: Gelman et al. (2013), Bayesian Data Analysis, 3rd ed., section 11.4.

    >>> from funcebm import random
    >>> draws = random.normal(random.key(0), (4, 1000, 3))
    >>> bool((split_rhat(draws) < 1.01).all())
    True
    """
    return each_leaf(lambda block: rhat_of(halves(block)), draws)


def nested_rhat(draws: Tree, num_superchains: int) -> Tree:
    r"""Nested R-hat, for many short chains: chains that started at one point are judged together.

    Chains come in :math:`K` superchains of :math:`M = C / K` neighbours: chains :math:`kM` to :math:`(k+1)M - 1` share
    their start. With :math:`B` the variance of the :math:`K` superchain means and :math:`W` the mean over superchains of
    (variance of the chain means inside) + (mean variance inside a chain),

    .. math:: \hat R_\nu = \sqrt{1 + B / W},

    all variances unbiased, the first part of :math:`W` zero for :math:`M = 1` and the second for :math:`N = 1`. What the
    superchains have forgotten of their starts is seen even in chains too short for :func:`rhat`: in stationary chains
    :math:`\hat R_\nu^2` is about :math:`1 + 1 / (M n)` with :math:`n` the effective number of draws of a chain, down to
    one draw each. It is neither split nor rank-normalised, as in the paper.

    Args:
        draws: a tree of ``(C, N, *event)`` with ``N >= 1``.
        num_superchains: :math:`K >= 2`, a divisor of ``C``. Start the chains with
            ``starts.repeat_interleave(C // K, 0)``.

    Returns:
        A tree of ``(*event,)`` in float64; NaN for a coordinate that never changes.

    Raises:
        ValueError: superchains that do not divide the chains, or hold one draw each; else as :func:`rhat`.
        TypeError: as :func:`rhat`.

    Reference: Margossian, Hoffman, Sountsov, Riou-Durand, Vehtari and Gelman (2024), "Nested R-hat: assessing the
    convergence of Markov chain Monte Carlo when running many short chains", Bayesian Analysis, arXiv:2110.13017.

    >>> from funcebm import random
    >>> draws = random.normal(random.key(0), (512, 2, 3))
    >>> bool((nested_rhat(draws, 8) < 1.02).all())
    True
    """
    check_shapes(draws, minimum=1)
    positive_int("num_superchains", num_superchains, minimum=2)
    num_chains, num = tree.first(draws).shape[:2]
    fix = "Start chains.sample with starts.repeat_interleave(C // K, 0), and pass K."
    must = f"num_superchains must divide the {num_chains} chains"
    require(num_chains % num_superchains == 0, must, num_superchains, fix)
    must = "a superchain must hold more than one draw"
    require(num_chains > num_superchains or num > 1, must, "one chain of one draw", fix)

    def statistic(block: Tensor) -> Tensor:
        groups = block.unflatten(0, (num_superchains, -1))  # (K, M, N, d)
        means = means_and_deviations(groups.flatten(0, 1))[0].unflatten(0, (num_superchains, -1))
        within = torch.zeros_like(block[0, 0])
        if means.shape[1] > 1:
            within = within + variance(means, 1).mean(0)
        if num > 1:
            within = within + variance(groups, 2).mean((0, 1))
        centres = means_and_deviations(means)[0]
        return (1 + variance(centres) / within).sqrt()

    return each_leaf(statistic, draws, minimum=1)


# -- one block (m, n, d), without checks -----------------------------------------------------------------------------


def rhat_of(chains: Tensor) -> Tensor:
    """The potential scale reduction factor of chains ``(m, n, d)``, as they are."""
    num = chains.shape[1]
    means, deviations = means_and_deviations(chains)
    within = deviations.square().sum(1).mean(0) / (num - 1)
    return ((num - 1) / num + variance(means) / within).sqrt()


def rank_rhat_of(chains: Tensor, found: Sorted) -> Tensor:
    """:func:`rhat` of half chains ``(m, n, d)`` and their values sorted."""
    # the folded draws of a fair coin do not vary: fmax leaves their NaN out
    return torch.fmax(rhat_of(scores(chains, found)), folded_rhat_of(chains, found))


def folded_rhat_of(chains: Tensor, found: Sorted) -> Tensor:
    """:func:`folded_rhat` of half chains ``(m, n, d)`` and their values sorted."""
    return rhat_of(scores((chains - median(found.values)).abs()))


def _with_sorted(statistic: Callable[[Tensor, Sorted], Tensor]) -> Callable[[Tensor], Tensor]:
    def of_halves(block: Tensor) -> Tensor:
        chains = halves(block)
        return statistic(chains, ordered(chains))

    return of_halves
