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
from .convergence import rhat_of
from .draws import check_shapes, halves, variance
from .effective_sample_size import ess_of
from .monte_carlo_error import mcse_mean_of as mcse_of

__all__ = ["Summary", "summary"]

_MAX_ROWS = 20
_MAX_LISTED = 8
_COLUMNS = ("mean", "sd", "mcse", "ess", "rhat")


class Summary(NamedTuple):
    """What :func:`summary` gives; ``print`` shows it as a table.

    Attributes:
        names: the ``D`` coordinates, such as ``x[0,1]`` (a tensor of draws) or ``layer/weight[3]`` (a tree).
        mean: over all chains and draws. ``(D,)``, float64 on the CPU, as the next four.
        sd: the unbiased standard deviation over all chains and draws.
        mcse: the Monte Carlo standard error of ``mean``.
        ess: the effective sample size for ``mean``.
        rhat: split R-hat.
        acceptance_rate: its mean over chains and draws, or ``None`` where the samples do not tell.
        num_divergent: how many draws diverged, or ``None`` where the samples do not tell.
        warnings: what to look into, in words; empty when nothing was found.
        num_chains: ``C``.
        num_samples: ``N``, of each chain.
    """

    names: tuple[str, ...]
    mean: Tensor
    sd: Tensor
    mcse: Tensor
    ess: Tensor
    rhat: Tensor
    acceptance_rate: float | None
    num_divergent: int | None
    warnings: tuple[str, ...]
    num_chains: int
    num_samples: int

    def table(self, max_rows: int = _MAX_ROWS) -> str:
        """The text of the table: all coordinates, or the ``max_rows`` of the largest R-hat."""
        num = len(self.names)
        head = f"{_count(self.num_chains, 'chain')} of {_count(self.num_samples, 'draw')}"
        head += f", {_count(num, 'coordinate')}"
        rows = list(range(num))
        if num > max_rows:
            worst_first = torch.nan_to_num(self.rhat, nan=math.inf, posinf=1e300).argsort(descending=True, stable=True)
            rows = worst_first[:max_rows].tolist()
            head += f", shown: the {max_rows} of the largest R-hat" if max_rows > 0 else ""
        values = [getattr(self, column)[rows].tolist() for column in _COLUMNS]
        cells = [[self.names[row], *_cells(*numbers)] for row, *numbers in zip(rows, *values, strict=True)]
        lines = [["", *_COLUMNS], *cells]
        widths = [max(len(line[i]) for line in lines) for i in range(len(_COLUMNS) + 1)]
        text = [head, ""]
        for name, *numbers in lines if cells else []:
            aligned = [number.rjust(width) for number, width in zip(numbers, widths[1:], strict=True)]
            text.append("  ".join([name.ljust(widths[0]), *aligned]))
        if self.acceptance_rate is not None:
            text += ["", f"acceptance rate  {self.acceptance_rate:.3f}"]
        if self.num_divergent is not None:
            text += [] if self.acceptance_rate is not None else [""]
            text.append(f"divergences      {self.num_divergent:,}")
        if self.warnings:
            text += ["", *(f"warning: {warning}" for warning in self.warnings)]
        return "\n".join(text)

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return self.table()


def summary(samples: Any, *, max_rhat: float = 1.01, min_ess: float | None = None) -> Summary:
    """Mean, spread, standard error, effective sample size and R-hat of every coordinate, and warnings in words.

    Warns of draws that are not finite, chains that never move, coordinates that never change, divergences, an R-hat
    above ``max_rhat`` and an effective sample size below ``min_ess``. Nothing is left out or replaced: a coordinate
    with a NaN in one chain has NaN in its row, and the warning names the chain.

    Args:
        samples: what :func:`funcebm.chains.sample` gives, or a tree of draws ``(C, N, *event)`` with ``N >= 4``.
        max_rhat: the largest R-hat without a warning.
        min_ess: the smallest effective sample size without a warning; by default 100 a chain, and 400 for more than
            four chains (Vehtari et al. 2021, section 4).

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
    is_samples = hasattr(samples, "draws") and hasattr(samples, "info")
    draws, info = (samples.draws, samples.info) if is_samples else (samples, None)
    check_shapes(draws)
    leaves = [leaf.detach() for leaf in tree.leaves(draws)]
    num_chains, num_samples = leaves[0].shape[:2]
    statistics = {
        "mean": lambda leaf: leaf.double().mean((0, 1)),
        "sd": lambda leaf: variance(leaf.double().flatten(0, 1)).sqrt(),
        "mcse": lambda leaf: mcse_of(leaf.double()),
        "ess": lambda leaf: ess_of(halves(leaf.double())),
        "rhat": lambda leaf: rhat_of(halves(leaf.double())),
    }
    columns = {
        name: torch.cat([statistic(leaf).reshape(-1).cpu() for leaf in leaves])
        for name, statistic in statistics.items()
    }
    names = _names(draws)
    divergent = _info(info, "is_divergent", num_chains, num_samples)
    acceptance = _info(info, "acceptance_rate", num_chains, num_samples)
    least = 100 * min(num_chains, 4) if min_ess is None else min_ess
    warnings = [
        *_warn_not_finite(leaves, names),
        *_warn_still(leaves, names),
        *_warn_divergent(divergent),
        *_warn_rhat(columns["rhat"], names, max_rhat),
        *_warn_ess(columns["ess"], names, least),
    ]
    return Summary(
        names=names,
        **columns,
        acceptance_rate=None if acceptance is None else float(acceptance.double().mean()),
        num_divergent=None if divergent is None else int(divergent.sum()),
        warnings=tuple(warnings),
        num_chains=num_chains,
        num_samples=num_samples,
    )


def _info(info: Any, name: str, num_chains: int, num_samples: int) -> Tensor | None:
    value = getattr(info, name, None)
    if value is None:
        return None
    must = f"samples.info.{name} must be of shape (C, N) like the draws, ({num_chains}, {num_samples})"
    got = f"the shape {tuple(value.shape)}"
    require(tuple(value.shape) == (num_chains, num_samples), must, got, "Pass draws alone where they do not belong.")
    return value.detach().cpu()


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


# -- words --------------------------------------------------------------------------------------------------------


def _count(num: int, noun: str) -> str:
    return f"{num:,} {noun}" + ("" if num == 1 else "s")


def _listed(items: list[Any]) -> str:
    """``1, 4 and 7``, cut after a few."""
    words = [str(item) for item in items]
    if len(words) > _MAX_LISTED:
        return f"{', '.join(words[:_MAX_LISTED])} and {len(words) - _MAX_LISTED:,} more"
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _chains(flags: Tensor) -> str:
    which = flags.nonzero().flatten().tolist()
    return f"{'chain' if len(which) == 1 else 'chains'} {_listed(which)}"


def _over_coordinates(flags: list[Tensor]) -> Tensor:
    """Flags ``(C, *event)`` of each leaf, side by side: ``(C, D)``."""
    return torch.cat([flag.reshape(flag.shape[0], math.prod(flag.shape[1:])) for flag in flags], 1).cpu()


def _cells(mean: float, sd: float, mcse: float, ess: float, rhat: float) -> list[str]:
    return [f"{mean:.4g}", f"{sd:.4g}", f"{mcse:.2g}", f"{ess:,.0f}", f"{rhat:.3f}"]


def _which(flags: Tensor, names: tuple[str, ...]) -> str:
    return _listed([names[i] for i in flags.nonzero().flatten().tolist()])


def _warn_not_finite(leaves: list[Tensor], names: tuple[str, ...]) -> list[str]:
    bad = _over_coordinates([~torch.isfinite(leaf).all(1) for leaf in leaves])
    if not bool(bad.any()):
        return []
    where = f"{_chains(bad.any(1))} (in {_which(bad.any(0), names)})"
    return [f"NaN or infinite draws in {where}: the energy or its gradient overflowed there; lower step_size."]


def _warn_still(leaves: list[Tensor], names: tuple[str, ...]) -> list[str]:
    still = _over_coordinates([(leaf == leaf[:, :1]).all(1) for leaf in leaves])
    if still.shape[1] == 0:
        return []
    found = []
    stuck = still.all(1)
    if bool(stuck.any()):
        found.append(f"{_chains(stuck)} never moved: all proposals were rejected; lower step_size or start elsewhere.")
    constant = still.all(0)
    if bool(constant.any()) and not bool(stuck.all()):
        found.append(f"{_which(constant, names)} never changed in any chain: R-hat and ESS say nothing there.")
    return found


def _warn_divergent(divergent: Tensor | None) -> list[str]:
    if divergent is None or not bool(divergent.any()):
        return []
    num = int(divergent.sum())
    share = f"{_count(num, 'draw')} of {divergent.numel():,} diverged ({num / divergent.numel():.2%})"
    return [f"{share}, in {_chains(divergent.bool().any(1))}: the draws may miss regions; lower step_size."]


def _warn_rhat(rhat: Tensor, names: tuple[str, ...], limit: float) -> list[str]:
    high = rhat > limit
    if not bool(high.any()):
        return []
    worst = int(torch.where(high, rhat, -math.inf).argmax())
    where = f"{int(high.sum()):,} of {_count(len(names), 'coordinate')} (largest {rhat[worst]:.3f}, {names[worst]})"
    return [f"R-hat is above {limit:g} for {where}: the chains do not agree yet; burn in longer or draw more."]


def _warn_ess(ess: Tensor, names: tuple[str, ...], least: float) -> list[str]:
    low = ess < least
    if not bool(low.any()):
        return []
    worst = int(torch.where(low, ess, math.inf).argmin())
    where = f"{int(low.sum()):,} of {_count(len(names), 'coordinate')} (smallest {ess[worst]:.0f}, {names[worst]})"
    return [f"ESS is below {least:g} for {where}: the standard errors are uncertain; draw more."]
