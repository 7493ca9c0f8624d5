"""The warm-up of samplers that are made of others: each part gets a tuning of its own."""

from __future__ import annotations

from typing import Any, NamedTuple

from .. import metrics, random
from ..distributed.pool import Pool
from ..samplers.combinators import CompositeState
from ..samplers.parts import PartState
from ..types import Adaptation, Info, Key, Params, Position, Sampler, Tree
from .unchanged import unchanged
from .window import window_adaptation

__all__ = ["PartsMemory", "is_on_part", "of_parts"]


class PartsMemory(NamedTuple):
    """What the adaptation of each part remembers."""

    members: tuple[Any, ...]

    @property
    def tuning(self) -> tuple[Tree, ...]:
        """The tuning of the next step."""
        return tuple(member.tuning for member in self.members)


class PartView(NamedTuple):
    """The state of :func:`~funcebm.samplers.on` as its adaptation sees it: at the position of the part."""

    position: Position
    whole: PartState


def is_on_part(sampler: Sampler) -> bool:
    """Whether :func:`~funcebm.samplers.on` made it."""
    return sampler.adaptation == "part"


def of_parts(sampler: Sampler) -> Adaptation:
    """To each part of a :func:`~funcebm.samplers.cycle` or :func:`~funcebm.samplers.mix` its own step size and metric.

    A part with an acceptance test and a step size gets :func:`window_adaptation`, from its own acceptance rates and, of
    :func:`~funcebm.samplers.on`, the draws of its leaves alone; all others stay as they are (Gibbs, and what has no test).

    Args:
        sampler: the whole.

    Returns:
        An :class:`~funcebm.types.Adaptation`.

    >>> from funcebm import samplers
    >>> energy = lambda params, x: ((x["x"] - x["z"]) ** 2).sum() / 2
    >>> move_x = samplers.on("x", lambda e: samplers.hmc(e, step_size=0.01), energy)
    >>> sampler = samplers.cycle(move_x, samplers.on("z", samplers.gibbs, energy))
    >>> of_parts(sampler).windows(1000)
    (75, 25, 50, 100, 200, 500, 50)
    """
    if type(sampler.tuning) is not tuple:
        adaptation = _of_one(sampler)
        return _on_part(adaptation) if is_on_part(sampler) else adaptation
    members = _members(sampler)
    adaptations = [of_parts(member) for member in members]

    def init(
        key: Key, sampler: Sampler, params: Params, state: CompositeState, pool: Pool | None = None
    ) -> PartsMemory:
        keys = random.split(key, len(adaptations)).unbind(0)
        own = zip(adaptations, keys, _members(sampler), state.states, strict=True)
        return PartsMemory(tuple(adaptation.init(k, m, params, s, pool) for adaptation, k, m, s in own))

    def update(memory: PartsMemory, state: CompositeState, info: Any, pool: Pool | None = None) -> PartsMemory:
        own = zip(adaptations, memory.members, state.states, _infos(info, len(adaptations)), strict=True)
        return PartsMemory(tuple(adaptation.update(m, s, i, pool) for adaptation, m, s, i in own))

    def final(memory: PartsMemory, pool: Pool | None = None) -> tuple[Tree, ...]:
        return tuple(adaptation.final(m, pool) for adaptation, m in zip(adaptations, memory.members, strict=True))

    def refresh(
        key: Key,
        sampler: Sampler,
        params: Params,
        memory: PartsMemory,
        state: CompositeState,
        pool: Pool | None = None,
    ) -> PartsMemory:
        keys = random.split(key, len(adaptations)).unbind(0)
        own = zip(adaptations, keys, _members(sampler), memory.members, state.states, strict=True)
        return PartsMemory(
            tuple(m if a.refresh is None else a.refresh(k, s, params, m, x, pool) for a, k, s, m, x in own)
        )

    windows = next((adaptation.windows for adaptation in adaptations if adaptation.windows is not None), None)
    return Adaptation(init, update, final, windows, refresh)


def _members(sampler: Sampler) -> list[Sampler]:
    return [part._replace(tuning=tuning) for part, tuning in zip(sampler.parts, sampler.tuning, strict=True)]


def _infos(info: Any, num: int) -> list[Info]:
    """The info of each part, as far as a composite tells it."""
    standard = Info(*(getattr(info, name) for name in Info._fields))
    return [standard._replace(acceptance_rate=info.acceptance_rates[..., index]) for index in range(num)]


def _of_one(sampler: Sampler) -> Adaptation:
    tuning = sampler.tuning
    if not hasattr(tuning, "step_size") or sampler.target_acceptance is None:
        return unchanged()
    metric: str | None = "dense" if isinstance(getattr(tuning, "metric", None), metrics.Dense) else "diagonal"
    metric = None if sampler.adaptation == "step_size" else metric
    average = "harmonic" if sampler.adaptation == "harmonic_window" else "mean"
    return window_adaptation(metric=metric, average=average)


def _view(state: PartState) -> PartView:
    return PartView(state.inner.position, state)


def _viewed(sampler: Sampler) -> Sampler:
    """The sampler over views."""
    inner = sampler.parts[0]

    def step(params: Params, tuning: Tree, state: PartView, noise: Tree) -> tuple[PartView, Any]:
        after, info = sampler.step(params, tuning, state.whole, noise)
        return _view(after), info

    return Sampler(sampler.init, inner.draw, step, sampler.tuning, target_acceptance=sampler.target_acceptance)


def _on_part(adaptation: Adaptation) -> Adaptation:
    """The adaptation of a sampler, seen through :func:`~funcebm.samplers.on`."""
    refresh = adaptation.refresh

    def init(key: Key, sampler: Sampler, params: Params, state: PartState, pool: Pool | None = None) -> Any:
        return adaptation.init(key, _viewed(sampler), params, _view(state), pool)

    def update(memory: Any, state: PartState, info: Any, pool: Pool | None = None) -> Any:
        return adaptation.update(memory, _view(state), info, pool)

    def refresh_part(
        key: Key, sampler: Sampler, params: Params, memory: Any, state: PartState, pool: Pool | None = None
    ) -> Any:
        return memory if refresh is None else refresh(key, _viewed(sampler), params, memory, _view(state), pool)

    return adaptation._replace(init=init, update=update, refresh=None if refresh is None else refresh_part)
