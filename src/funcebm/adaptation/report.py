"""What a warm-up found, in numbers and in words."""

from __future__ import annotations

from typing import Generic

import torch
from torch import Tensor

from ..types import NamedTuple, Position, TuningT

__all__ = ["LATE", "STUCK", "Report", "WarmUp"]

LATE = 0.25  # the last part of a warm-up, in which chains should move
STUCK = 0.01  # of an acceptance rate
_FEW = 20  # steps, in which no search for a step size ends
_FEW_LAST = 15  # steps in the last window
_FLAT = 1e9  # a step size that no energy of a proper density has
_FALL = 1e3  # of energies in the last part
_ROUNDING = 0.1  # of an energy, in the log of an acceptance ratio
_NEAR = 1.25  # of the step size that comes back: what longer ones do on the way of the search is no matter


class Report(NamedTuple):
    """What happened in a warm-up; ``print`` says it in words.

    Attributes:
        step_size: at each step, its mean over chains where they differ. ``(num_steps,)``.
        acceptance_rate: its mean over the chains, at each step. ``(num_steps,)``.
        num_divergent: how many chains diverged at each step. ``(num_steps,)``.
        num_gradients: how many gradients each step cost, over all chains. ``(num_steps,)``.
        late_acceptance_rate: of each chain, its mean over the last quarter. ``(C,)``.
        late_divergent: of each chain, how often it diverged in the last quarter. ``(C,)``.
        final_step_size: the one that comes back in the tuning, its mean over chains where they differ. ``()``.
        num_last: steps after the last change of the metric, in which the step size for it was found. ``()``.
        energy: the median over the chains, at each step; of more than 4,096 the median of the medians of 64 blocks.
            ``(num_steps,)``.
        is_complete: False where Ctrl-C ended it; then there are fewer steps. ``()`` bool.
        sampler: what was warmed up, in words, as codes of letters, uint8: :func:`funcebm.load` refuses another one.
    """

    step_size: Tensor
    acceptance_rate: Tensor
    num_divergent: Tensor
    num_gradients: Tensor
    late_acceptance_rate: Tensor
    late_divergent: Tensor
    final_step_size: Tensor
    num_last: Tensor = torch.tensor(1000)
    energy: Tensor = torch.zeros(1)
    is_complete: Tensor = torch.tensor(True)
    sampler: Tensor = torch.zeros(0, dtype=torch.uint8)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to look into, in words; empty when nothing was found."""
        found = []
        if not bool(self.is_complete):
            found.append(f"it was interrupted after {len(self.step_size)} steps: the tuning is what was found by then.")
        has_step_size = float(self.final_step_size) != 0  # 0 is of samplers without one
        if len(self.step_size) < _FEW and has_step_size:
            found.append(f"{len(self.step_size)} steps are too few to find a step size: take 100 or more.")
        elif int(self.num_last) < _FEW_LAST and has_step_size:
            few = (
                f"{int(self.num_last)} steps after the last change of the metric are too few to find a step size for it"
            )
            found.append(f"{few}: take 100 steps or more.")
        stuck = (self.late_acceptance_rate < STUCK).nonzero().flatten().tolist()
        if stuck:
            found.append(f"chains {_listed(stuck)} hardly ever accepted: start elsewhere, or warm up longer.")
        late = round(LATE * len(self.step_size))
        if float(self.step_size.max()) > _FLAT:
            found.append("the step size grew without bound: the energy is flat where the chains are.")
            return tuple(found)
        before, after = float(self.energy[-min(max(late, 1), len(self.energy))]), float(self.energy[-1])
        if after < 1.3 * before < 0 and after < before - _FALL:
            found.append(
                f"the energy still falls, from {before:.3g} to {after:.3g}: it has no lower bound, or is a log density; an "
                "energy is minus the log density."
            )
            return tuple(found)
        # in a short warm-up the search for the step size, begun again after each window, makes one or two on its way
        divergent = (self.late_divergent > max(0.05 * late, 2)).nonzero().flatten().tolist()
        is_near = self.step_size[-max(late, 1) :] <= _NEAR * self.final_step_size
        num_near = int(self.num_divergent[-max(late, 1) :][is_near].sum())
        if divergent and num_near > max(0.05 * int(is_near.sum()), 2):
            found.append(f"chains {_listed(divergent)} still diverged at the end: the energy may be too steep there.")
        rounding = abs(after) * torch.finfo(self.energy.dtype).eps
        if rounding > _ROUNDING:
            where = f"energies are so large that rounding leaves {rounding:.2g} of them uncertain"
            found.append(f"{where}: use float64, or subtract a constant.")
        if not bool(torch.isfinite(self.step_size).all()):
            found.append("the step size met a number that is not finite: start closer to the bulk of the density.")
        return tuple(found)

    def __str__(self) -> str:
        late = max(round(LATE * len(self.step_size)), 1)
        size = float(self.final_step_size)
        lines = [
            f"warm-up of {len(self.late_acceptance_rate):,} chains, {len(self.step_size):,} steps",
            *(
                [f"step size        {size:.4g}"] if size != 0 else []
            ),  # samplers of parts have one in each of their tunings
            f"acceptance rate  {float(self.acceptance_rate[-late:].mean()):.3f} over the last {late:,} steps",
            f"divergences      {int(self.num_divergent.sum()):,}, {int(self.num_divergent[-late:].sum()):,} of them late",
            f"gradients        {int(self.num_gradients.sum()):,}",
            *(f"warning: {warning}" for warning in self.warnings),
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)


def _listed(indices: list[int], most: int = 8) -> str:
    return ", ".join(map(str, indices[:most])) + (f" and {len(indices) - most} more" if len(indices) > most else "")


class WarmUp(NamedTuple, Generic[TuningT]):
    """What ``warm_up`` returns: where the chains are ``(C, ...)``, the numbers to sample with, and a :class:`Report`."""

    positions: Position
    tuning: TuningT
    report: Report
