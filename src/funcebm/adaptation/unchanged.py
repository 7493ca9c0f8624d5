"""No adaptation: for samplers with nothing to tune."""

from __future__ import annotations

from typing import Any, NamedTuple

from .. import tree
from ..distributed.pool import Pool
from ..types import Adaptation, Key, Params, Sampler, Tree

__all__ = ["UnchangedMemory", "unchanged"]


class UnchangedMemory(NamedTuple):
    """The tuning of the next step, which is that of all steps."""

    tuning: Tree


def unchanged() -> Adaptation:
    """No adaptation: chains move to the bulk of the density, and every number stays as it is.

    For samplers with nothing to tune, and for those whose numbers should be kept.

    Returns:
        An :class:`~funcebm.types.Adaptation`.

    >>> unchanged().windows is None
    True
    """

    def init(key: Key, sampler: Sampler, params: Params, state: Any, pool: Pool | None = None) -> UnchangedMemory:
        return UnchangedMemory(tree.cast_like(sampler.tuning, tree.first(state.position)))

    def update(memory: UnchangedMemory, state: Any, info: Any, pool: Pool | None = None) -> UnchangedMemory:
        return memory

    def final(memory: UnchangedMemory, pool: Pool | None = None) -> Tree:
        return memory.tuning

    return Adaptation(init, update, final)
