"""What the sampler itself says of a run, chain by chain, and what the run cost."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import tree
from ..checks import positive, require
from .draws import by_blocks, check_shapes, halves, scores
from .ebfmi import ebfmi
from .effective_sample_size import ess_of

__all__ = ["Efficiency", "SamplerReport", "efficiency", "sampler_report"]

_FEW = 40  # draws: quarters of fewer say nothing


class SamplerReport(NamedTuple):
    r"""What :func:`sampler_report` gives; ``None`` where the info of the sampler does not tell.

    Attributes:
        acceptance_rate: the mean over the draws. ``(C,)`` float64, all on the CPU.
        target_acceptance: the rate at which the sampler works best, or ``None`` where that is not known.
        num_divergent: how many draws diverged. ``(C,)`` int64.
        num_gradients: what the draws cost, thinned ones included, burn-in not. ``(C,)`` int64.
        tree_depth: of NUTS, the mean over the draws. ``(C,)`` float64.
        max_tree_depth: of NUTS, the largest. ``(C,)`` int64.
        num_max_depth: how many trajectories of NUTS ended for lack of depth and not by a U-turn. ``(C,)`` int64.
        ebfmi: :func:`~funcebm.diagnostics.ebfmi`, where the info has the total energy. ``(C,)`` float64.
        energy_fraction: what the E-BFMI of a Hamiltonian sampler tends to in stationary chains,
            :math:`D / (\operatorname{var}(E / T) + D / 2)`, estimated from the potential energies of all draws; for
            samplers with an acceptance test and ``D`` coordinates.
        energy_rounding: what rounding leaves uncertain of an energy, its spacing at the median of ``|E|`` in its dtype.
        num_falling: how many chains have, over their last quarter, a mean energy below all energies of their second quarter:
            those that have not arrived, or of an energy without a lower bound.
    """

    acceptance_rate: Tensor | None = None
    target_acceptance: float | None = None
    num_divergent: Tensor | None = None
    num_gradients: Tensor | None = None
    tree_depth: Tensor | None = None
    max_tree_depth: Tensor | None = None
    num_max_depth: Tensor | None = None
    ebfmi: Tensor | None = None
    energy_fraction: float | None = None
    energy_rounding: float | None = None
    num_falling: int | None = None


def sampler_report(samples: Any) -> SamplerReport:
    """Acceptance, divergences, tree depths, E-BFMI and cost of each chain, as far as the info of the sampler tells.

    Args:
        samples: what :func:`funcebm.chains.sample` gives, with draws.

    Returns:
        A :class:`SamplerReport`.

    Raises:
        ValueError: an info that is not ``(C, N)`` like the draws.

    >>> from funcebm import chains, random, samplers
    >>> sampler = samplers.mala(lambda params, x: (x**2).sum() / 2, step_size=0.5)
    >>> samples = chains.sample(random.key(0), sampler, (), torch.zeros(3, 2), num_samples=20, jit=False)
    >>> sampler_report(samples).num_divergent
    tensor([0, 0, 0])
    """
    num_chains, num = tree.first(samples.draws).shape[:2]

    def field(name: str) -> Tensor | None:
        value = getattr(samples.info, name, None)
        if value is None:
            return None
        must = f"samples.info.{name} must be of shape (C, N) like the draws, ({num_chains}, {num})"
        got = f"the shape {tuple(value.shape)}"
        require(tuple(value.shape) == (num_chains, num), must, got, "Pass draws alone where they do not belong.")
        return value.detach().cpu()

    acceptance, divergent, gradients = field("acceptance_rate"), field("is_divergent"), field("num_gradients")
    depth, is_max, energies = field("tree_depth"), field("is_max_depth"), field("total_energy")
    run = getattr(samples, "run", ())
    thin = getattr(run, "thin", 1)
    return SamplerReport(
        acceptance_rate=None if acceptance is None else acceptance.double().mean(1),
        target_acceptance=getattr(getattr(run, "sampler", None), "target_acceptance", None),
        num_divergent=None if divergent is None else divergent.long().sum(1),
        num_gradients=None if gradients is None else gradients.long().sum(1) * thin,
        tree_depth=None if depth is None else depth.double().mean(1),
        max_tree_depth=None if depth is None else depth.long().amax(1),
        num_max_depth=None if is_max is None else is_max.long().sum(1),
        ebfmi=None if energies is None or num < 4 else ebfmi(energies),
        energy_fraction=_energy_fraction(run, samples, field("energy")),
        energy_rounding=_energy_rounding(field("energy")),
        num_falling=_num_falling(field("energy")),
    )


def _energy_rounding(energies: Tensor | None) -> float | None:
    if energies is None or not energies.is_floating_point() or energies.numel() == 0:
        return None
    return float(energies.abs().double().median()) * torch.finfo(energies.dtype).eps


def _num_falling(energies: Tensor | None) -> int | None:
    if energies is None or energies.shape[1] < _FEW:
        return None
    quarter = energies.shape[1] // 4
    return int((energies[:, -quarter:].double().mean(1) < energies[:, quarter : 2 * quarter].amin(1)).sum())


def _energy_fraction(run: Any, samples: Any, energies: Tensor | None) -> float | None:
    target = getattr(getattr(run, "sampler", None), "target_acceptance", None)
    if target is None or energies is None or callable(run.tuning):  # unadjusted, minibatch or annealed
        return None
    temperature = float(getattr(run.tuning, "temperature", 1.0))
    size = sum(leaf[0].numel() for leaf in tree.leaves(samples.state.position))
    energies = energies[energies.amax(1) > energies.amin(1)]  # of chains that move
    spread = float((energies.double() / temperature).var()) if energies.numel() > 1 else math.nan
    return size / (spread + size / 2) if math.isfinite(spread) else None


class Efficiency(NamedTuple):
    """What :func:`efficiency` gives.

    Attributes:
        ess: the least bulk effective sample size of all coordinates.
        num_gradients: what all chains cost together, or ``None`` where the samples do not tell.
        ess_per_gradient: their ratio, or ``None``.
        ess_per_second: or ``None`` without ``seconds``.
    """

    ess: float
    num_gradients: int | None
    ess_per_gradient: float | None
    ess_per_second: float | None


def efficiency(samples: Any, seconds: float | None = None) -> Efficiency:
    """The effective sample size for each gradient and each second: what to compare samplers by.

    It is the least bulk effective sample size of all coordinates, over all gradients of all chains; burn-in is left out.
    The number of gradients of a thinned run is that of its kept steps, times ``thin``.

    Args:
        samples: what :func:`funcebm.chains.sample` gives, with at least 4 draws a chain, or a tree of draws alone.
        seconds: how long the run took, measured by the caller on a warm call.

    Returns:
        An :class:`Efficiency` of numbers.

    Raises:
        ValueError: draws that are not ``(C, N, *event)`` with ``N >= 4``, or seconds that are not positive.

    >>> from funcebm import random
    >>> found = efficiency(random.normal(random.key(0), (4, 1000, 2)), seconds=2.0)
    >>> found.ess_per_second == found.ess / 2
    True
    """
    draws = samples.draws if is_samples(samples) else samples
    check_shapes(draws)
    report = sampler_report(samples) if is_samples(samples) else SamplerReport()
    values = [by_blocks(lambda block: ess_of(scores(halves(block))), leaf.detach()) for leaf in tree.leaves(draws)]
    return efficiency_of(float(torch.cat([value.reshape(-1) for value in values]).min()), report, seconds)


def efficiency_of(ess: float, report: SamplerReport, seconds: float | None) -> Efficiency:
    """:func:`efficiency` of a known effective sample size."""
    positive("seconds", seconds)
    num_gradients = None if report.num_gradients is None else int(report.num_gradients.sum())
    return Efficiency(
        ess=ess,
        num_gradients=num_gradients,
        ess_per_gradient=ess / num_gradients if num_gradients else None,
        ess_per_second=None if seconds is None else ess / seconds,
    )


def is_samples(value: Any) -> bool:
    """Whether this is what :func:`funcebm.chains.sample` gives (or has its fields), and not draws alone."""
    return hasattr(value, "draws") and hasattr(value, "info")
