"""What ``print(samples)`` says: shapes and health, in ten lines."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import checks, tree

__all__ = ["text_of"]


def text_of(samples: Any) -> str:
    """A few lines about :class:`~funcebm.chains.Samples`; inside of a transform, shapes alone."""
    lines = [_title(samples), *_tree_lines("draws", samples.draws), *_tree_lines("reduced", samples.reduced)]
    if checks.is_traced((samples.draws, samples.info, samples.state)):
        return "\n".join([*lines, "  (inside of a transform or a compiled function)"])
    info = samples.info
    if hasattr(info, "acceptance_rate"):
        rate = _by_chain(info.acceptance_rate)
        lines.append(
            f"  acceptance rate {_number(rate.mean())} (chains {_number(rate.min())} to {_number(rate.max())})"
        )
    if hasattr(info, "is_divergent"):
        divergent = info.is_divergent.double()
        flags = (
            f"{int(divergent.sum())} of {divergent.numel()}"
            if divergent.ndim == 2
            else f"{float(divergent.mean()):.1%}"
        )
        lines.append(f"  divergent       {flags} draws")
    if hasattr(info, "energy"):
        energy = _by_chain(info.energy)
        lines.append(
            f"  energy          {_number(energy.mean())} (chains {_number(energy.min())} to {_number(energy.max())})"
        )
    finite = (
        bool(tree.all_finite((samples.draws, samples.reduced)))
        if tree.leaves((samples.draws, samples.reduced))
        else True
    )
    if not finite:
        lines.append("  there are numbers that are not finite")
    lines.append("  more: funcebm.diagnostics.summary(samples); go on: funcebm.resume(samples, num_samples=...)")
    return "\n".join(lines)


def _title(samples: Any) -> str:
    positions = samples.state.position if hasattr(samples.state, "position") else samples.state
    leaves = tree.leaves(positions)
    num_chains = leaves[0].shape[0] if leaves and leaves[0].ndim else "?"
    drawn = tree.leaves(samples.draws) or [leaf for leaf in tree.leaves(samples.info) if leaf.ndim == 2]
    draws = f" x {drawn[0].shape[1]} draws" if drawn and drawn[0].ndim > 1 else ""
    end = "" if samples.is_complete in (True, ()) else ", interrupted"
    if end and getattr(samples.run, "num_burn_in", 0) > 0:
        end = f", interrupted in the burn-in, of which {samples.run.num_burn_in} steps are missing"
    return f"Samples: {num_chains} chains{draws}{end}"


def _tree_lines(name: str, value: Any) -> list[str]:
    return [f"  {name:15} {tree.describe(value)}"] if tree.leaves(value) else []


def _by_chain(value: Tensor) -> Tensor:
    """The mean of each chain."""
    return value.double().reshape(value.shape[0], -1).mean(1) if value.ndim else value.double()[None]


def _number(value: Tensor) -> str:
    return f"{float(value):.3g}"
