"""The words in which samplers are written: a state with its energy, checked numbers, and steps of one chain or of many."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, fields, metrics, tree
from ..types import Energy, InfoT, Key, Params, Position, Sampler, StateT, Tree, TuningT

__all__ = ["Chains", "EnergyState", "STEP_SIZE", "TEMPERATURE", "evaluated", "lockstep", "positive", "tempered_field"]

STEP_SIZE = "Try 0.1, and smaller where chains diverge."
TEMPERATURE = "Use 1.0 for the density exp(-E)."

Evaluate = Callable[[Params, Position], tuple[Tensor, Tree]]

Chains = Callable[[Callable[..., Any]], Callable[..., Any]]
"""What :func:`lockstep` gives: a function ``(params, tuning, ...)`` of one chain to one of many, or to itself."""


class EnergyState(NamedTuple):
    """Where a chain is, with the energy ``()`` and its gradient there: what most samplers keep for the next step."""

    position: Position
    energy: Tensor
    gradient: Tree


def positive(name: str, value: float | Tensor, hint: str) -> Tensor:
    """A number above zero, checked at the door, as a tensor."""
    checks.positive(name, value, hint)
    return torch.as_tensor(value)


def evaluated(energy: Energy, metric: Any, name: str = "inverse_mass") -> tuple[Evaluate, Callable[..., EnergyState]]:
    """``(params, x) -> (E, grad E)``, and the ``init`` of a sampler whose state is an :class:`EnergyState`.

    Args:
        energy: ``(params, x) -> ()``.
        metric: one of :mod:`funcebm.metrics`, which positions must fit.
        name: what messages call the metric.
    """
    evaluate, check_shape = fields.value_and_gradient(energy), metrics.shape_check(metric, name=name)

    def init(params: Params, position: Position) -> EnergyState:
        check_shape(position)
        return EnergyState(position, *evaluate(params, position))

    return evaluate, init


def lockstep(
    init: Callable[[Params, Position], StateT],
    draw: Callable[[Key, Position], Tree],
    make_step: Callable[[Chains], Callable[..., tuple[StateT, InfoT]]],
    tuning: TuningT,
    target_acceptance: float | None = None,
    adaptation: str | None = None,
) -> Sampler[StateT, InfoT, TuningT]:
    """A sampler with a loop in its step, which of many chains runs in lock step: the loop is outside of ``vmap``.

    Args:
        init: as of any sampler.
        draw: as of any sampler.
        make_step: from ``chains`` to a step. ``chains(function)(params, tuning, *each)`` calls a function of one chain for
            all of them: ``params`` and ``tuning`` are shared, everything after them has a chain axis.
        tuning: as of any sampler.
        target_acceptance: as of any sampler.
        adaptation: as of any sampler.
    """

    def of_many(function: Callable[..., Any]) -> Callable[..., Any]:
        def mapped(params: Params, tuning: Tree, *each: Tree) -> Any:
            return vmap(lambda *one: function(params, tuning, *one))(*each)

        return mapped

    alone, together = make_step(lambda function: function), make_step(of_many)
    return Sampler(init, draw, alone, tuning, together, target_acceptance, adaptation=adaptation)


def tempered_field(
    evaluate: Evaluate, params: Params, temperature: Tensor
) -> Callable[[Position], tuple[Tensor, Tree]]:
    """The field that trajectories follow, ``x -> (E(x), grad E(x) / T)``."""

    def field(position: Position) -> tuple[Tensor, Tree]:
        value, gradient = evaluate(params, position)
        return value, tree.scale(1 / temperature, gradient)

    return field
