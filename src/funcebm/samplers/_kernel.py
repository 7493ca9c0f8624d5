"""The words in which samplers are written: a state with its energy, checked numbers, and steps of one chain or of many."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, fields, loops, metrics, random, tree
from ..types import Energy, InfoT, Key, Number, Params, Position, Sampler, StateT, Tree, TuningT

__all__ = [
    "Chains",
    "EnergyState",
    "GradientState",
    "StepTuning",
    "ValueState",
    "evaluated",
    "lockstep",
    "no_noise",
    "normal_and_uniform",
    "positive",
    "step_tuning",
    "travel",
    "valued",
]

_HINTS = {
    "step_size": "Try 0.1, and smaller where chains diverge.",
    "temperature": "Use 1.0 for the density exp(-E).",
    "friction": "Try 1.0, one over the time in which the momentum is to be forgotten.",
}

Evaluate = Callable[[Params, Position], tuple[Tensor, Tree]]
Init = Callable[[Params, Position], StateT]

Chains = Callable[[Callable[..., Any]], Callable[..., Any]]
"""What :func:`lockstep` gives a step: ``vmap``, or a function of one chain as it is."""


class EnergyState(NamedTuple):
    """Where a chain is, with the energy ``()`` and its gradient there: what most samplers keep for the next step."""

    position: Position
    energy: Tensor
    gradient: Tree


class GradientState(NamedTuple):
    """Where a chain is, with the gradient of the energy there: what samplers without a test keep for the next step."""

    position: Position
    gradient: Tree


class ValueState(NamedTuple):
    """Where a chain is, with the energy ``()`` there: what samplers without gradients keep for the next step."""

    position: Position
    energy: Tensor


def positive(name: str, value: Number, hint: str | None = None, *, most: float = torch.inf) -> Tensor:
    """A number above zero, checked at the door, as a tensor; the usual names have hints of their own.

    Of a Python number ``most`` is the largest that is allowed.
    """
    hint = _HINTS[name] if hint is None else hint
    checks.positive(name, value, hint)
    checks.require(isinstance(value, Tensor) or value <= most, f"{name} must be at most {most:g}", value, hint)
    return torch.as_tensor(value)


class StepTuning(NamedTuple):
    """``step_size`` ``()``, the metric, and ``temperature`` ``()`` in units of energy."""

    step_size: Tensor
    metric: Any
    temperature: Tensor


def step_tuning(
    step_size: Number, metric: Any, temperature: Number, name: str = "inverse_mass", step_hint: str | None = None
) -> StepTuning:
    """Checks the numbers and makes tensors of them; ``name`` is what messages call the metric."""
    return StepTuning(
        positive("step_size", step_size, step_hint),
        metrics.of(metric, name=name),
        positive("temperature", temperature),
    )


def evaluated(energy: Energy, metric: Any, name: str = "inverse_mass") -> tuple[Evaluate, Init[EnergyState]]:
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


def valued(energy: Energy, metric: Any, name: str) -> tuple[Energy, Init[ValueState]]:
    """``(params, x) -> E``, which must be a scalar, and the ``init`` of a sampler whose state is a :class:`ValueState`."""
    value, check_shape = fields.value(energy), metrics.shape_check(metric, name=name)

    def init(params: Params, position: Position) -> ValueState:
        check_shape(position)
        return ValueState(position, value(params, position))

    return value, init


def normal_and_uniform(key: Key, position: Position, num: int = 2, shape: tuple[int, ...] = ()) -> tuple[Any, ...]:
    """Standard normals like the position, uniforms of its dtype and of the shape, and the other keys of ``num``."""
    key_normal, key_uniform, *others = random.split(key, num)
    uniform = random.uniform(key_uniform, shape, dtype=tree.first(position).dtype)
    return tree.normal_like(key_normal, position), uniform, *others


def no_noise(key: Key, position: Position) -> Tree:
    """The ``draw`` of a sampler that is deterministic."""
    return ()


def travel(advance: Callable[[Tree], Tree], start: Tree, num: int | Tensor) -> Tree:
    """``advance``, of all chains at once, ``num`` times; a chain with a number of its own waits at its end for the last one."""
    if isinstance(num, int):
        return loops.repeat(advance, start, num)
    carry = (start, torch.zeros_like(num), num)
    return loops.while_loop(lambda at: at[1] < at[2], lambda at: (advance(at[0]), at[1] + 1, at[2]), carry)[0]


def lockstep(
    init: Init[StateT],
    draw: Callable[[Key, Position], Tree],
    step: Callable[..., tuple[StateT, InfoT]],
    tuning: TuningT,
    target_acceptance: float | None = None,
    adaptation: str | None = None,
    weight: int | None = None,
) -> Sampler[StateT, InfoT, TuningT]:
    """A sampler with a loop in its step, which of many chains runs in lock step: the loop is outside of ``vmap``.

    Args:
        init: as of any sampler.
        draw: as of any sampler.
        step: ``(chains, params, tuning, state, noise) -> (state, info)``. State and noise are of one chain, or of many, and
            ``chains(function)(*each)`` calls a function of one chain for all of them.
        tuning: as of any sampler.
        target_acceptance: as of any sampler.
        adaptation: as of any sampler.
        weight: as of any sampler.
    """

    def alone(params: Params, tuning: Tree, state: StateT, noise: Tree) -> tuple[StateT, InfoT]:
        return step(lambda function: function, params, tuning, state, noise)

    def together(params: Params, tuning: Tree, state: StateT, noise: Tree) -> tuple[StateT, InfoT]:
        return step(vmap, params, tuning, state, noise)

    alone.__qualname__ = together.__qualname__ = step.__qualname__
    return Sampler(init, draw, alone, tuning, together, target_acceptance, adaptation=adaptation, weight=weight)
