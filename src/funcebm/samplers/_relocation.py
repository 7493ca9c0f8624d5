"""A state at another position: what the parts of a cycle or a mixture do where another one moved their chain."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

from ..types import Params, Position, Sampler, Tree

__all__ = ["Known", "Relocation", "by_its_init", "carry_over", "relocation"]

Known = dict[str, Tree]
"""The ``position``, and the ``energy`` and the ``gradient`` there as far as they are known."""


class Relocation(NamedTuple):
    """How the states of a sampler follow their chain.

    Attributes:
        to: ``(params, state, known) -> state`` at the known position.
        num_gradients: ``(state, known) -> int``, what ``to`` costs.
        tell: ``state -> known``, what the state can tell other samplers of the same energy.
    """

    to: Callable[[Params, Any, Known], Any]
    num_gradients: Callable[[Any, Known], int]
    tell: Callable[[Any], Known]


def relocation(sampler: Sampler) -> Relocation:
    """What the sampler declares; else ``init`` is called unless everything that the state caches is known."""
    return sampler.relocation or _by_init(sampler.init)


def _caches(state: Any) -> list[str]:
    """The fields of a state that belong to its position, by the contract of :class:`~funcebm.types.Sampler`."""
    return [name for name in ("energy", "gradient") if hasattr(state, name)]


def carry_over(old: Any, fresh: Any) -> Any:
    """What the state ``old`` becomes where something else moved its chain to a position whose ``init`` is ``fresh``.

    The fields ``position``, ``energy`` and ``gradient`` belong to the position; all others (a momentum, a counter) persist.
    A state for which this is not so has a method ``carry_over(fresh)``.
    """
    if hasattr(old, "carry_over"):
        return old.carry_over(fresh)
    return old._replace(**{name: getattr(fresh, name) for name in ("position", *_caches(old))})


def by_its_init(init: Callable[[Params, Position], Any], num_gradients: Callable[[Any], int]) -> Relocation:
    """The relocation of a sampler that can use, and tell, the position alone.

    Args:
        init: of the sampler, which is called.
        num_gradients: of a state, how many gradients that costs.
    """
    return Relocation(
        lambda params, state, known: carry_over(state, init(params, known["position"])),
        lambda state, known: num_gradients(state),
        lambda state: {"position": state.position},
    )


def _by_init(init: Callable[[Params, Position], Any]) -> Relocation:
    def is_known(state: Any, known: Known) -> bool:
        return not hasattr(state, "carry_over") and all(name in known for name in _caches(state))

    def to(params: Params, state: Any, known: Known) -> Any:
        if is_known(state, known):
            return state._replace(**{name: known[name] for name in ("position", *_caches(state))})
        return carry_over(state, init(params, known["position"]))

    return Relocation(
        to,
        lambda state, known: int("gradient" in _caches(state) and not is_known(state, known)),
        lambda state: {name: getattr(state, name) for name in ("position", *_caches(state))},
    )
