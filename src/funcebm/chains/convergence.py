"""R-hat and the effective sample size without draws: statistics that a run collects as it goes, and ranks merge."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import checks, tree
from ..diagnostics.effective_sample_size import ess_from
from ..types import Tree
from ._reducer import Reducer

__all__ = ["Convergence", "convergence"]


class Convergence(NamedTuple):
    """What :func:`convergence` gives; ``print`` shows the worst coordinates.

    Attributes:
        mean: over all chains and draws, like one position; float64, as all others.
        sd: the unbiased standard deviation over all chains and draws.
        mcse: the Monte Carlo standard error of ``mean``, ``sd / sqrt(ess)``.
        ess: the effective sample size for the mean; NaN where the correlation outlasts ``max_lag``.
        rhat: the potential scale reduction factor.
        num_draws: of all chains. ``()``.
    """

    mean: Tree
    sd: Tree
    mcse: Tree
    ess: Tree
    rhat: Tree
    num_draws: Tensor

    def __str__(self) -> str:
        flat = [torch.cat([leaf.reshape(-1) for leaf in tree.leaves(value)]) for value in self[:5]]
        names = [f"{name}[{i}]" for name, leaf in _named(self.rhat) for i in range(leaf.numel())]
        worst = torch.nan_to_num(flat[4], nan=float("inf")).argsort(descending=True, stable=True)[:20].tolist()
        lines = [f"{int(self.num_draws):,} draws, {len(names):,} coordinates"]
        lines += [f"{'':12}{'mean':>10}{'sd':>10}{'mcse':>10}{'ess':>10}{'rhat':>8}"]
        for row in worst:
            mean, sd, mcse, ess, rhat = (float(column[row]) for column in flat)
            lines.append(f"{names[row]:12}{mean:10.4g}{sd:10.4g}{mcse:10.2g}{ess:10.0f}{rhat:8.3f}")
        return "\n".join(lines)


def _named(value: Tree) -> list[tuple[str, Tensor]]:
    return [(name or "x", leaf) for name, leaf in zip(tree.paths(value), tree.leaves(value), strict=True)]


class _Sums(NamedTuple):
    """Of one chain in ``H`` parts: sums over draws ``i`` and those ``k`` steps before, less the first of the part.

    ``num`` counts draws; ``first`` is ``(H, D)``; the others ``(H, L + 1, D)``, for each lag ``k``: the latest draws, sums of
    products, of the later and of the earlier draws.
    """

    num: Tensor
    first: Tensor
    latest: Tensor
    products: Tensor
    later: Tensor
    earlier: Tensor
    example: Tree


class _Merged(NamedTuple):
    """Of many parts of chains: how many, of how many draws, their mean, the spread of theirs, and the mean autocovariance."""

    num_parts: Tensor
    num: Tensor
    mean: Tensor
    between: Tensor
    covariance: Tensor
    example: Tree


def convergence(*, num_samples: int | None = None, max_lag: int = 64) -> Reducer:
    r"""Mean, standard deviation, R-hat and effective sample size of all chains together, without keeping a draw.

    Each chain collects sums of products up to a lag; at the end they are merged over chains and ranks as
    :math:`(L + 4) D` numbers, whatever the number of chains. From them come the autocovariances :math:`\hat\gamma_t`, and from
    these and the means of chains :func:`~funcebm.diagnostics.split_rhat` and :func:`~funcebm.diagnostics.ess`: with
    ``num_samples`` the same numbers, of half chains; without it those of whole chains.

    Args:
        num_samples: N, the draws that each chain will make: then chains are cut in halves, and a run of fewer draws has NaN,
            further draws count for nothing. None takes chains as they are, of any length, in which a drift is not seen.
        max_lag: L, the largest lag of autocovariances. The cost of a draw is L times that of a mean.

    Returns:
        A :class:`~funcebm.chains.reducers.Reducer`, whose result is one :class:`Convergence` of all chains of all ranks.

    Raises:
        ValueError: fewer than 4 draws, or no lag.

    Reference: Vehtari et al. (2021), Bayesian Analysis 16(2):667-718; Geyer (1992), Statistical Science 7(4):473-483.

    >>> import funcebm as ebm
    >>> sampler = ebm.samplers.mala(lambda params, x: (x**2).sum() / 2, step_size=1.0)
    >>> options = {"num_samples": 400, "jit": False, "reduce": convergence(num_samples=400)}
    >>> found = ebm.sample(ebm.random.key(0), sampler, (), torch.zeros(8, 1), **options).reduced
    >>> bool(found.rhat < 1.05), bool(found.ess > 500)
    (True, True)
    """
    if num_samples is not None:
        checks.positive_int("num_samples", num_samples, minimum=4)
    checks.positive_int("max_lag", max_lag)
    num_parts = 1 if num_samples is None else 2
    half = 0 if num_samples is None else num_samples // 2
    starts = (0,) if num_samples is None else (0, num_samples - half)

    def flat(value: Tree) -> Tensor:
        found = tree.ravel(value)[0]
        return found.to(torch.float32 if found.device.type == "mps" else torch.float64)

    def init(value: Tree) -> _Sums:
        x = flat(value)
        lags = x.new_zeros(num_parts, max_lag + 1, *x.shape)
        num = torch.zeros((), dtype=torch.int64, device=x.device)
        return _Sums(num, lags[:, 0].clone(), lags, lags.clone(), lags.clone(), lags.clone(), tree.zeros_like(value))

    def update(sums: _Sums, value: Tree) -> _Sums:
        x = flat(value)
        lags = torch.arange(max_lag + 1, device=x.device)
        parts = []
        for part, start in enumerate(starts):
            index = sums.num - start
            counts = index >= 0
            if num_samples is not None:
                counts = counts & (index < half)
            first = torch.where(index == 0, x, sums.first[part])
            y = torch.where(counts, x - first, 0)
            latest = torch.cat([y[None], sums.latest[part, :-1]])
            known = (counts & (lags <= index))[:, None]
            added = (y * latest, y.expand_as(latest), latest)
            before = (sums.products[part], sums.later[part], sums.earlier[part])
            more = [torch.where(known, old + new, old) for old, new in zip(before, added, strict=True)]
            parts.append((first, torch.where(counts, latest, sums.latest[part]), *more))
        fields = [torch.stack(leaves) for leaves in zip(*parts, strict=True)]
        return _Sums(sums.num + 1, fields[0], fields[1], fields[2], fields[3], fields[4], sums.example)

    def close(sums: _Sums) -> _Merged:
        num = sums.num.to(sums.products.dtype)
        if num_samples is not None:
            num = torch.where(num >= num_samples, torch.full_like(num, half), torch.nan)
        lags = torch.arange(max_lag + 1, device=num.device)[:, None]
        left = (num - lags).clamp(min=0)
        shift = sums.later[:, :1] / num
        centred = sums.products - shift * (sums.later + sums.earlier) + left * shift**2
        means, covariance = sums.first + shift[:, 0], (centred / num).mean(0)
        mean = means.mean(0)
        count = torch.full_like(num, num_parts)
        return _Merged(count, num, mean, (means - mean).square().sum(0), covariance, sums.example)

    def merge(a: _Merged, b: _Merged) -> _Merged:
        count = a.num_parts + b.num_parts
        share, apart = b.num_parts / count, b.mean - a.mean
        between = a.between + b.between + apart**2 * (a.num_parts * share)
        covariance = a.covariance + (b.covariance - a.covariance) * share
        return _Merged(count, torch.maximum(a.num, b.num), a.mean + apart * share, between, covariance, a.example)

    def final(merged: _Merged) -> Convergence:
        num, count = merged.num, merged.num_parts
        within = merged.covariance[0] * num / (num - 1)
        between = merged.between / (count - 1).clamp(min=1)  # of one part there is none
        ess, is_ended = ess_from(merged.covariance, between, count, num)
        ess = torch.where(is_ended, ess, torch.nan)
        total = num * count
        sd = (num * (count * merged.covariance[0] + merged.between) / (total - 1)).sqrt()
        rhat = torch.where(count > 1, ((num - 1) / num + between / within).sqrt(), torch.nan)

        def apart(value: Tensor) -> Tree:
            leaves, structure = tree.flatten(merged.example)
            parts = value.split([leaf.numel() for leaf in leaves])
            return tree.unflatten(structure, [p.reshape(leaf.shape) for p, leaf in zip(parts, leaves, strict=True)])

        return Convergence(apart(merged.mean), apart(sd), apart(sd / ess.sqrt()), apart(ess), apart(rhat), total)

    return Reducer(init, update, final, merge, True, close=close)
