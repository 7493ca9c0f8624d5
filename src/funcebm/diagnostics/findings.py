"""What is wrong with a run, in words: each function gives no sentence, or those of its finding.

A sentence says what was seen, in which chains or coordinates, and what to do about it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .sampler_report import SamplerReport

__all__ = [
    "acceptance",
    "count",
    "divergences",
    "energies",
    "falling",
    "low_ess",
    "never_moved",
    "not_finite",
    "rhats",
    "rounding",
    "stood_still",
    "tree_depths",
]

_MAX_LISTED = 8
_MOST_ROUNDING = 0.1  # of an energy, in the log of an acceptance ratio
_LEAST_EBFMI = 0.3  # Betancourt (2016)
_LONG_STILL = 20  # draws
_RARE = -10.0  # log10 of the probability of what is called rare


# -- lists of things ----------------------------------------------------------------------------------------------


def count(num: int, noun: str) -> str:
    """``1 draw``, ``2 draws``."""
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


def _coordinates(flags: Tensor, names: tuple[str, ...]) -> str:
    return _listed([names[i] for i in flags.nonzero().flatten().tolist()])


def _over_coordinates(flags: list[Tensor]) -> Tensor:
    """Flags ``(C, *event)`` of each leaf, side by side: ``(C, D)``."""
    return torch.cat([flag.reshape(flag.shape[0], math.prod(flag.shape[1:])) for flag in flags], 1).cpu()


# -- the draws ----------------------------------------------------------------------------------------------------


def not_finite(leaves: list[Tensor], names: tuple[str, ...]) -> list[str]:
    """Draws that are NaN or infinite."""
    bad = _over_coordinates([~torch.isfinite(leaf).all(1) for leaf in leaves])
    if not bool(bad.any()):
        return []
    where = f"{_chains(bad.any(1))} (in {_coordinates(bad.any(0), names)})"
    return [f"NaN or infinite draws in {where}: the energy or its gradient overflowed there; lower step_size."]


def never_moved(leaves: list[Tensor], names: tuple[str, ...]) -> list[str]:
    """Chains, or coordinates, that have one value."""
    still = _over_coordinates([(leaf == leaf[:, :1]).all(1) for leaf in leaves])
    if still.shape[1] == 0:
        return []
    found = []
    stuck = still.all(1)
    if bool(stuck.any()):
        found.append(f"{_chains(stuck)} never moved: all proposals were rejected; lower step_size or start elsewhere.")
    constant = still.all(0)
    if bool(constant.any()) and not bool(stuck.all()):
        found.append(f"{_coordinates(constant, names)} never changed in any chain: R-hat and ESS say nothing there.")
    return found


def stood_still(leaves: list[Tensor]) -> list[str]:
    """Chains that stopped for much longer than the rate of rejections explains.

    Were a draw equal to the one before with one probability ``s`` everywhere, a stretch of ``L`` such draws would be met
    with a probability below ``C N s^L``. A chain that is caught where the step size is too large, as in the neck of a
    funnel, breaks that rule.
    """
    repeats = [leaf[:, 1:] == leaf[:, :-1] for leaf in leaves if leaf[0, 0].numel() > 0]
    if not repeats:
        return []
    still = torch.stack([flags.reshape(*flags.shape[:2], -1).all(2) for flags in repeats]).all(0).cpu()  # (C, N - 1)
    place = torch.arange(1, still.shape[1] + 1)
    stretch = (place - torch.where(still, 0, place).cummax(1).values).amax(1)
    moving = stretch < still.shape[1]
    if not bool(moving.any()):
        return []
    rate = float(still[moving].double().mean())
    log_rate = math.log10(rate) if rate > 0 else -math.inf
    rare = (stretch.double() * log_rate + math.log10(still.numel()) < _RARE) & (stretch >= _LONG_STILL) & moving
    if not bool(rare.any()):
        return []
    longest = int(stretch[rare].max())
    where = f"{_chains(rare)} stood still for long (at most {longest:,} draws in a row)"
    return [
        f"{where}, though {rate:.0%} of all draws repeat the one before: the step size is too large for a region that "
        "they entered, and others like it may be missed; lower step_size or reparameterise."
    ]


def rhats(
    rhat: Tensor, ess: Tensor, names: tuple[str, ...], limit: float, least_ess: float, num_chains: int
) -> list[str]:
    """Chains that do not agree.

    In stationary chains the square of R-hat is about ``1 + 1 / n`` with ``n`` the effective draws of a half chain, so that
    many short chains have a large one though they are enough together.
    """
    high = rhat > limit
    if not bool(high.any()):
        return []
    worst = int(torch.where(high, rhat, -math.inf).argmax())
    where = f"{int(high.sum()):,} of {count(len(names), 'coordinate')} (largest {rhat[worst]:.3f}, {names[worst]})"
    advice = "burn in longer or draw more"
    if num_chains >= 16 and float(ess[worst]) >= least_ess:
        advice += f"; chains of few effective draws give that too (here {float(ess[worst]) / num_chains:.0f} each): "
        advice += "see nested_rhat"
    return [f"R-hat is above {limit:g} for {where}: the chains do not agree yet; {advice}."]


def low_ess(bulk: Tensor, tail: Tensor, names: tuple[str, ...], least: float, report: SamplerReport) -> list[str]:
    """Too few effective draws, of the bulk or of the tails."""
    found = []
    for kind, ess in (("ESS", bulk), ("tail ESS", tail)):
        low = ess < least
        if bool(low.any()):
            worst = int(torch.where(low, ess, math.inf).argmin())
            where = (
                f"{int(low.sum()):,} of {count(len(names), 'coordinate')} (smallest {ess[worst]:.0f}, {names[worst]})"
            )
            what = "the standard errors are" if kind == "ESS" else "the quantiles of 5 % and 95 % are"
            found.append(f"{kind} is below {least:g} for {where}: {what} uncertain; {_more_draws(report)}.")
    return found


def _more_draws(report: SamplerReport) -> str:
    """What to do about few effective draws: a step that is far too small or too large comes first."""
    if report.acceptance_rate is None or report.target_acceptance is None:
        return "draw more"
    rate, target = float(report.acceptance_rate.mean()), report.target_acceptance
    if (1 - rate) < 0.25 * (1 - target):
        return f"draw more, or raise step_size (acceptance {rate:.2f}, best near {target:.2g})"
    if rate < 0.5 * target:
        return f"lower step_size (acceptance {rate:.2f}, best near {target:.2g}) or draw more"
    return "draw more"


# -- the sampler --------------------------------------------------------------------------------------------------


def divergences(report: SamplerReport, num_samples: int) -> list[str]:
    """Trajectories that diverged."""
    divergent = report.num_divergent
    if divergent is None or not bool(divergent.any()):
        return []
    num, total = int(divergent.sum()), divergent.numel() * num_samples
    share = f"{count(num, 'draw')} of {total:,} diverged ({num / total:.2%})"
    return [f"{share}, in {_chains(divergent > 0)}: the draws may miss regions; lower step_size, or reparameterise."]


def acceptance(report: SamplerReport) -> list[str]:
    """Chains in which hardly a proposal is accepted."""
    if report.acceptance_rate is None:
        return []
    least = 0.05 if report.target_acceptance is None else 0.25 * report.target_acceptance
    low = report.acceptance_rate < least
    if not bool(low.any()):
        return []
    where = f"{_chains(low)} (least {float(report.acceptance_rate[low].min()):.3f})"
    return [f"The acceptance rate is below {least:.2g} in {where}: lower step_size."]


def tree_depths(report: SamplerReport, num_samples: int) -> list[str]:
    """Trajectories of NUTS that were cut before they turned."""
    cut = report.num_max_depth
    if cut is None or not bool(cut.any()):
        return []
    num, total = int(cut.sum()), cut.numel() * num_samples
    share = f"{num:,} of {total:,} trajectories ({num / total:.2%})"
    where = f"reached the largest tree depth before they turned, in {_chains(cut > 0)}"
    return [f"{share} {where}: slow, not wrong; warm up a metric, raise step_size or max_depth."]


def energies(report: SamplerReport) -> list[str]:
    """Energies that spread wider than new momenta reach."""
    advice = (
        "heavy tails or a scale that changes from place to place; reparameterise, a smaller step_size does not help"
    )
    if report.ebfmi is not None:
        low = report.ebfmi < _LEAST_EBFMI
        if bool(low.any()):
            where = f"{_chains(low)} (least {float(report.ebfmi[low].min()):.2f})"
            return [f"E-BFMI is below {_LEAST_EBFMI:g} in {where}: {advice}."]
    elif report.energy_fraction is not None and report.energy_fraction < _LEAST_EBFMI:
        value = f"{report.energy_fraction:.2f}, below {_LEAST_EBFMI:g}"
        return [f"E-BFMI, estimated from the spread of the energies, is {value}: {advice}."]
    return []


def falling(report: SamplerReport) -> list[str]:
    """Chains that are on their way, or that have nowhere to arrive."""
    if not report.num_falling or report.acceptance_rate is None:
        return []
    num_chains = len(report.acceptance_rate)
    if 2 * report.num_falling < num_chains:
        return []
    where = f"The energy still falls in {report.num_falling} of {num_chains} chains"
    advice = "burn in longer; where it falls without end, it has no lower bound, or is a log density (an energy is minus that)"
    return [f"{where}: {advice}."]


def rounding(report: SamplerReport) -> list[str]:
    """Energies so large that rounding hides their differences."""
    spacing = report.energy_rounding
    if spacing is None or not spacing > _MOST_ROUNDING:
        return []
    where = f"Energies are so large that rounding leaves {spacing:.2g} of them uncertain"
    advice = "use float64 positions and params, or subtract a constant, such as the energy at the mode"
    return [f"{where}: acceptance tests, which compare them, are wrong; {advice}."]
