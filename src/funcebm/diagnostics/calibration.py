"""Simulation-based calibration: whether a way of drawing posteriors is right, by data whose parameters are known."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, random, tree
from ..types import Key, Tree

__all__ = ["Calibration", "simulation_based_calibration"]

_LEVEL = 1e-3
_LEAST = 10  # simulations in a bin


class Calibration(NamedTuple):
    """What :func:`simulation_based_calibration` finds; ``print`` says it in words.

    Attributes:
        ranks: of each simulation, how many draws are below the truth, from 0 to L. ``(S, *event)`` int64.
        num_draws: L. ``()``.
        chi_square: the distance of the histogram of the ranks from a flat one. ``(*event,)``.
        p_value: how often a right posterior has one as large. ``(*event,)`` float64.
    """

    ranks: Tree
    num_draws: Tensor
    chi_square: Tree
    p_value: Tree

    @property
    def warnings(self) -> tuple[str, ...]:
        """The quantities whose ranks are not uniform, in words, at the level 0.001 shared by all; empty if all are."""
        pairs = list(zip(tree.paths(self.p_value), tree.leaves(self.p_value), tree.leaves(self.ranks), strict=True))
        level = _LEVEL / sum(p.numel() for _, p, _ in pairs)
        found = []
        for name, p, ranks in pairs:
            for place in (p < level).reshape(-1).nonzero().flatten().tolist():
                own = ranks.reshape(len(ranks), -1)[:, place].double() / int(self.num_draws)
                where = (name or "x") + (f"[{place}]" if p.numel() > 1 else "")
                found.append(
                    f"the ranks of {where} are not uniform (p = {float(p.reshape(-1)[place]):.1g}): {_shape(own)}."
                )
        return tuple(found)

    def __str__(self) -> str:
        num = len(tree.first(self.ranks))
        lines = [f"calibration over {num:,} simulations of {int(self.num_draws):,} draws"]
        for name, p in zip(tree.paths(self.p_value), tree.leaves(self.p_value), strict=True):
            lines.append(f"  {name or 'x':15} least p-value {float(p.min()):.3g} of {p.numel()}")
        lines += [f"warning: {warning}" for warning in self.warnings] or ["all ranks are uniform"]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Calibration: {tree.describe(self.ranks)}" if checks.is_traced(self.ranks) else str(self)


def _shape(ranks: Tensor) -> str:
    """What ranks in [0, 1] say about the draws."""
    off, spread = float(ranks.mean()) - 0.5, float(ranks.var()) * 12
    error = (1 / (12 * len(ranks))) ** 0.5
    if abs(off) > 3 * error:
        return f"the draws are too {'low' if off > 0 else 'high'}"
    return "the draws are spread too little" if spread > 1 else "the draws are spread too much"


def simulation_based_calibration(
    key: Key,
    prior: Callable[[Key], Tree],
    simulate: Callable[[Key, Tree], Tree],
    posterior: Callable[[Key, Tree], Tree],
    *,
    num_simulations: int,
    quantities: Callable[[Tree, Tree], Tree] | None = None,
    num_bins: int | None = None,
) -> Calibration:
    r"""Draws parameters from the prior, data from the parameters, and posterior draws from the data, again and again.

    With :math:`\theta \sim p(\theta)`, :math:`y \sim p(y \mid \theta)` and :math:`\theta_1, \dots, \theta_L` independent draws of
    :math:`p(\theta \mid y)`, the rank

    .. math:: r = \#\{l : f(\theta_l, y) < f(\theta, y)\}

    of the truth among the draws is uniform on :math:`0, \dots, L`, whatever :math:`f` is. So the histogram of the ranks is
    flat where model and sampler fit together, and its form says what is wrong where not: a slope for draws that are shifted,
    a bowl for draws that are spread too little, a hill for too much. Draws of one chain are not independent: thin them, or
    take one of each of many chains. All simulations are made at once by ``vmap``.

    Args:
        key: ``(2,)``.
        prior: ``key -> theta``, one draw, a tree.
        simulate: ``(key, theta) -> data``, a tree.
        posterior: ``(key, data) -> draws``, like ``theta`` with a leading axis L: for instance ``warm_up`` and ``sample`` with
            ``jit=False`` and data as the params. A pure function.
        num_simulations: S.
        quantities: :math:`f`, ``(theta, data) -> tree``; by default ``theta``. Ranks of ``theta`` alone cannot see a posterior
            that ignores some of the data; add the log-likelihood for that.
        num_bins: of the histogram that is tested; by default as many as have ten simulations each, at most L + 1.

    Returns:
        :class:`Calibration`; :func:`funcebm.plotting.calibration` shows it.

    Raises:
        ValueError: a count that is too low, draws that are not like the parameters, or numbers that are not finite.

    Reference: Talts, Betancourt, Simpson, Vehtari and Gelman (2018), arXiv:1804.06788; Modrák et al. (2023), Bayesian
    Analysis, on quantities that depend on the data. Equal values take a rank at random among them.

    >>> from funcebm import random
    >>> def posterior(key, y):  # of a normal mean with a normal prior, exactly
    ...     return y / 2 + 0.5**0.5 * random.normal(key, (19,))
    >>> simulate = lambda key, mean: mean + random.normal(key)
    >>> print(simulation_based_calibration(random.key(0), random.normal, simulate, posterior, num_simulations=200))
    calibration over 200 simulations of 19 draws
      x               least p-value ... of 1
    all ranks are uniform
    """
    random.check_key(key)
    checks.positive_int("num_simulations", num_simulations, minimum=2 * _LEAST)
    follow = (lambda theta, data: theta) if quantities is None else quantities

    def one(key: Key) -> tuple[Tree, Tensor, Tensor]:
        key_prior, key_data, key_draws, key_ties = random.split(key, 4).unbind(0)
        theta = prior(key_prior)
        data = simulate(key_data, theta)
        draws = posterior(key_draws, data)
        _check_draws(theta, draws)
        truth, drawn = follow(theta, data), vmap(follow, (0, None))(draws, data)
        is_finite = tree.all_finite(drawn) & tree.all_finite(truth)
        keys = random.split(key_ties, len(tree.leaves(truth))).unbind(0)
        ranks = [_rank(*each) for each in zip(keys, tree.leaves(truth), tree.leaves(drawn), strict=True)]
        num = torch.tensor(tree.batch_size(draws), device=key.device)
        return tree.unflatten(tree.structure(truth), ranks), is_finite, num

    ranks, is_finite, num = vmap(one)(random.split(key, num_simulations))
    if checks.is_concrete(is_finite) and not bool(is_finite.all()):
        got = f"NaN or infinity in simulations {(~is_finite).nonzero().flatten().tolist()[:10]}"
        raise ValueError(checks.message("draws must be finite", got, "Look at one of these data sets alone."))
    first = num.reshape(-1)[0]
    num_draws = int(first) if checks.is_concrete(first) else tree.batch_size(ranks)
    bins = min(num_draws + 1, max(num_simulations // _LEAST, 2)) if num_bins is None else num_bins
    checks.positive_int("num_bins", bins, minimum=2)
    must = "num_bins must be at most the number of draws and one"
    checks.require(bins <= num_draws + 1, must, f"{bins} for {num_draws} draws", "Draw more, or use fewer bins.")
    found = tree.map(lambda leaf: _chi_square(leaf, num_draws, bins), ranks)
    p_value = tree.map(lambda value: torch.special.gammaincc(torch.full_like(value, (bins - 1) / 2), value / 2), found)
    return Calibration(ranks, first, found, p_value)


def _check_draws(theta: Tree, draws: Tree) -> None:
    must, fix = "posterior must return draws like the parameters, with a leading axis", "Reshape them to (L, *event)."
    checks.one_structure("what posterior returns", draws, "the parameters", theta)
    for name, truth, drawn in zip(tree.paths(theta), tree.leaves(theta), tree.leaves(draws), strict=True):
        right = drawn.ndim == truth.ndim + 1 and drawn.shape[1:] == truth.shape
        checks.require(right, must, f"{name or 'draws'} {tuple(drawn.shape)} for {tuple(truth.shape)}", fix)


def _rank(key: Key, truth: Tensor, draws: Tensor) -> Tensor:
    """How many draws are below the truth; equal ones by chance."""
    below, equal = (draws < truth).sum(0), (draws == truth).sum(0)
    return below + (random.uniform(key, tuple(truth.shape), dtype=torch.float64) * (equal + 1)).long()


def _chi_square(ranks: Tensor, num_draws: int, bins: int) -> Tensor:
    """Of a histogram of ranks ``(S, *event)`` in bins of nearly equal widths."""
    edges = torch.arange(bins + 1, device=ranks.device) * (num_draws + 1) // bins
    expected = (edges[1:] - edges[:-1]).double() * (ranks.shape[0] / (num_draws + 1))
    place = torch.bucketize(ranks, edges[1:], right=True)
    total: Any = 0
    for index in range(bins):
        count = (place == index).sum(0).double()
        total = total + (count - expected[index]) ** 2 / expected[index]
    return total
