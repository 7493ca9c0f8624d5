"""A table of the chains for a person to read, with what is wrong in words."""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import tree
from ..checks import positive, require
from ..types import Tree
from . import findings
from .convergence import rank_rhat_of
from .draws import by_blocks, check_shapes, halves, ordered, quantile, scores, variance
from .effective_sample_size import ess_of, ess_outside
from .findings import count
from .monte_carlo_error import mcse_mean_of, mcse_sd_of
from .sampler_report import Efficiency, SamplerReport, efficiency_of, is_samples, sampler_report

__all__ = ["Summary", "summary"]

_MAX_ROWS = 20
_COLUMNS = {
    "mean": "mean",
    "sd": "sd",
    "q05": "5%",
    "q95": "95%",
    "mcse_mean": "mcse_mean",
    "mcse_sd": "mcse_sd",
    "ess_bulk": "ess_bulk",
    "ess_tail": "ess_tail",
    "rhat": "rhat",
}


class Summary(NamedTuple):
    """What :func:`summary` gives; ``print`` shows it as a table.

    Attributes:
        names: the ``D`` coordinates, such as ``x[0,1]`` (a tensor of draws) or ``layer/weight[3]`` (a tree).
        mean: over all chains and draws. ``(D,)``, float64 on the CPU, as the next eight.
        sd: the unbiased standard deviation over all chains and draws.
        q05: the quantile of 5 %.
        q95: the quantile of 95 %.
        mcse_mean: the Monte Carlo standard error of ``mean``; also ``mcse``.
        mcse_sd: that of ``sd``.
        ess_bulk: the effective sample size of the bulk; also ``ess``.
        ess_tail: that of the quantiles of 5 % and 95 %, the smaller one.
        rhat: rank-normalised split R-hat.
        acceptance_rate: its mean over chains and draws, or ``None`` where the samples do not tell.
        num_divergent: how many draws diverged, or ``None`` where the samples do not tell.
        warnings: what to look into, in words; empty when nothing was found.
        num_chains: ``C``.
        num_samples: ``N``, of each chain.
        report: what the sampler says, chain by chain; see :func:`funcebm.diagnostics.sampler_report`.
        efficiency: the least ``ess_bulk`` for each gradient and second; see :func:`funcebm.diagnostics.efficiency`.
    """

    names: tuple[str, ...]
    mean: Tensor
    sd: Tensor
    q05: Tensor
    q95: Tensor
    mcse_mean: Tensor
    mcse_sd: Tensor
    ess_bulk: Tensor
    ess_tail: Tensor
    rhat: Tensor
    acceptance_rate: float | None
    num_divergent: int | None
    warnings: tuple[str, ...]
    num_chains: int
    num_samples: int
    report: SamplerReport
    efficiency: Efficiency

    @property
    def ess(self) -> Tensor:
        """``ess_bulk``."""
        return self.ess_bulk

    @property
    def mcse(self) -> Tensor:
        """``mcse_mean``."""
        return self.mcse_mean

    def table(self, max_rows: int = _MAX_ROWS) -> str:
        """The text of the table: all coordinates, or the ``max_rows`` of the largest R-hat."""
        num = len(self.names)
        head = f"{count(self.num_chains, 'chain')} of {count(self.num_samples, 'draw')}"
        head += f", {count(num, 'coordinate')}"
        rows = list(range(num))
        if num > max_rows:
            worst_first = torch.nan_to_num(self.rhat, nan=math.inf, posinf=1e300).argsort(descending=True, stable=True)
            rows = worst_first[:max_rows].tolist()
            head += f", shown: the {max_rows} of the largest R-hat" if max_rows > 0 else ""
        values = [getattr(self, column)[rows].tolist() for column in _COLUMNS]
        cells = [[self.names[row], *_cells(*numbers)] for row, *numbers in zip(rows, *values, strict=True)]
        lines = [["", *_COLUMNS.values()], *cells]
        widths = [max(len(line[i]) for line in lines) for i in range(len(_COLUMNS) + 1)]
        text = [head, ""]
        for name, *numbers in lines if cells else []:
            aligned = [number.rjust(width) for number, width in zip(numbers, widths[1:], strict=True)]
            text.append("  ".join([name.ljust(widths[0]), *aligned]))
        foot = self._foot()
        text += ["", *foot] if foot else []
        if self.warnings:
            text += ["", *(f"warning: {warning}" for warning in self.warnings)]
        return "\n".join(text)

    def _foot(self) -> list[str]:
        lines = []
        if self.acceptance_rate is not None:
            lines.append(f"acceptance rate  {self.acceptance_rate:.3f}")
        if self.num_divergent is not None:
            lines.append(f"divergences      {self.num_divergent:,}")
        report, efficiency = self.report, self.efficiency
        if report.tree_depth is not None and report.max_tree_depth is not None:
            lines.append(f"tree depth       {report.tree_depth.mean():.1f}, at most {int(report.max_tree_depth.max())}")
        if report.ebfmi is not None:
            lines.append(f"E-BFMI           {report.ebfmi.min():.2f} at least")
        rates = []
        if efficiency.ess_per_gradient is not None:
            rates.append(f"{efficiency.ess_per_gradient:.3g} a gradient ({efficiency.num_gradients:,})")
        if efficiency.ess_per_second is not None:
            rates.append(f"{efficiency.ess_per_second:,.3g} a second")
        if rates:
            lines.append(f"least ess_bulk   {', '.join(rates)}")
        return lines

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return self.table()


def summary(
    samples: Any, *, max_rhat: float = 1.01, min_ess: float | None = None, seconds: float | None = None
) -> Summary:
    """Mean, spread, quantiles, errors, effective sample sizes and R-hat of every coordinate, and warnings in words.

    Warns of draws that are not finite, chains that never move or stand still for long, coordinates that never change,
    divergences, low acceptance, trees of NUTS that were cut, energies that spread too wide (E-BFMI below 0.3), an R-hat
    above ``max_rhat`` and an effective sample size of bulk or tails below ``min_ess``. Nothing is left out or replaced: a
    coordinate with a NaN in one chain has NaN in its row, and the warning names the chain. No warning is no proof: a mode
    that no chain has seen leaves no trace.

    Args:
        samples: what :func:`funcebm.chains.sample` gives, or a tree of draws ``(C, N, *event)`` with ``N >= 4``.
        max_rhat: the largest R-hat without a warning.
        min_ess: the smallest effective sample size without a warning; by default 100 a chain, and 400 for more than
            four chains (Vehtari et al. 2021).
        seconds: how long the run took, for the effective sample size a second.

    Returns:
        A :class:`Summary`.

    Raises:
        ValueError: a leaf has no chain and draw axes or fewer than 4 draws (samples kept by ``reduce`` have none).

    >>> from funcebm import random
    >>> result = summary(random.normal(random.key(0), (4, 1000, 2)))
    >>> result.names
    ('x[0]', 'x[1]')
    >>> result.warnings
    ()
    """
    positive("max_rhat", max_rhat)
    positive("min_ess", min_ess)
    draws = samples.draws if is_samples(samples) else samples
    if is_samples(samples):
        fix = "Its statistics are samples.reduced; for a summary sample without reduce, and collect the positions."
        require(bool(tree.leaves(draws)), "samples must hold draws", "a run that kept none", fix)
    check_shapes(draws)
    report = sampler_report(samples) if is_samples(samples) else SamplerReport()
    leaves = [leaf.detach() for leaf in tree.leaves(draws)]
    num_chains, num_samples = leaves[0].shape[:2]
    names = _names(draws)
    blocks = [by_blocks(_statistics, leaf) for leaf in leaves]
    table = torch.cat([block.reshape(len(_COLUMNS), block[0].numel()).cpu() for block in blocks], 1)
    columns = dict(zip(_COLUMNS, table, strict=True))
    bulk, tail, rhat = columns["ess_bulk"], columns["ess_tail"], columns["rhat"]
    least = 100 * min(num_chains, 4) if min_ess is None else min_ess
    warnings = [
        *findings.not_finite(leaves, names),
        *findings.never_moved(leaves, names),
        *findings.stood_still(leaves),
        *findings.divergences(report, num_samples),
        *findings.acceptance(report),
        *findings.tree_depths(report, num_samples),
        *(findings.falling(report) or findings.energies(report)),  # its spread is that of the fall
        *findings.rounding(report),
        *findings.rhats(rhat, torch.minimum(bulk, tail), names, max_rhat, least, num_chains),
        *findings.low_ess(bulk, tail, names, least, report),
    ]
    return Summary(
        names=names,
        **columns,
        acceptance_rate=None if report.acceptance_rate is None else float(report.acceptance_rate.mean()),
        num_divergent=None if report.num_divergent is None else int(report.num_divergent.sum()),
        warnings=tuple(warnings),
        num_chains=num_chains,
        num_samples=num_samples,
        report=report,
        efficiency=efficiency_of(float(bulk.min()) if len(names) else math.nan, report, seconds),
    )


def _statistics(block: Tensor) -> Tensor:
    """The columns of a block ``(C, N, d)``: ``(columns, d)``. The draws are sorted once for all of them."""
    chains = halves(block)
    found = ordered(chains)
    values = found.values if block.shape[1] % 2 == 0 else ordered(block).values
    return torch.stack(
        [
            block.mean((0, 1)),
            variance(block.flatten(0, 1)).sqrt(),
            quantile(values, 0.05),
            quantile(values, 0.95),
            mcse_mean_of(block),
            mcse_sd_of(block),
            ess_of(scores(chains, found)),
            ess_outside(block, values, (0.05, 0.95)),
            rank_rhat_of(chains, found),
        ]
    )


def _names(draws: Tree) -> tuple[str, ...]:
    """One name for each coordinate, in the order of the flattened leaves."""
    names: list[str] = []
    for path, leaf in zip(tree.paths(draws), tree.leaves(draws), strict=True):
        name, event = path or "x", leaf.shape[2:]
        if not event:
            names.append(name)
        else:
            names += [f"{name}[{','.join(map(str, i))}]" for i in itertools.product(*map(range, event))]
    return tuple(names)


def _cells(
    mean: float, sd: float, q05: float, q95: float, mcse: float, mcse_sd: float, bulk: float, tail: float, rhat: float
) -> list[str]:
    numbers = [f"{value:.4g}" for value in (mean, sd, q05, q95)]
    return [*numbers, f"{mcse:.2g}", f"{mcse_sd:.2g}", f"{bulk:,.0f}", f"{tail:,.0f}", f"{rhat:.3f}"]
