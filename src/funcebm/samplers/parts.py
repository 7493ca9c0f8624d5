"""Any sampler on a part of a position, the rest frozen: the blocks of a sampler for mixed states."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple, Sequence

from .. import checks, tree
from ..energies._carried import with_space_of_part
from ..types import Energy, Info, Key, Params, Position, Sampler, Tree
from ._relocation import by_its_init, carry_over, relocation

__all__ = ["Frozen", "PartState", "on", "part_of"]


class Frozen(NamedTuple):
    """The params of a sampler on a part: those of the whole, and what is held fixed."""

    params: Params
    position: Position


class PartState(NamedTuple):
    """The whole position, and the state of the sampler on its part."""

    position: Position
    inner: Any

    def carry_over(self, fresh: PartState) -> PartState:
        """What is cached belongs to the whole position; what persists is the inner sampler's."""
        return PartState(fresh.position, carry_over(self.inner, fresh.inner))


def on(
    leaves: str | Sequence[str], sampler: Callable[[Energy], Sampler] | Sampler, energy: Energy | None = None
) -> Any:
    r"""A sampler on some leaves of a position, the others frozen: a kernel of :math:`p(x_{part} \mid x_{rest})`.

    It leaves the whole density invariant, so blocks that together cover the position make a sampler of it:

    ``cycle(on("x", hmc, energy), on("z", lambda e: gibbs(e, blocks), energy))``.

    The rest is a part of the *params*, so that nothing compiles when it moves. Tuning, warm-up and the target acceptance rate are
    those of the sampler.

    Args:
        leaves: the name of one entry of a dict (or NamedTuple) of positions, such as ``"z"`` or ``"layers/weight"``, which the
            sampler sees as its position; or several names, which it sees as a dict.
        sampler: a function from the energy of the part to a sampler, such as ``lambda e: hmc(e, step_size=0.1)``. Or a sampler
            made with an energy of the part, whose params are a :class:`Frozen`: ``(frozen, part) -> ()`` with
            ``frozen.params`` and the whole ``frozen.position``, in which the part is old.
        energy: of the whole position, ``(params, x) -> ()``. None with a function gives back a function from an energy to the
            sampler, for :func:`~funcebm.samplers.parallel_tempering` and losses that make samplers themselves.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``PartState`` and the info of the sampler; without an energy, a function that
        makes one.

    Raises:
        TypeError: names that are no strings, something that is neither a sampler nor a function.
        ValueError: from ``init``, a name that the position does not have.

    Reference: Tierney (1994), Annals of Statistics 22(4):1701-1728, on cycles of kernels; Robert and Casella (2004), Monte Carlo
    Statistical Methods, section 10.3 (Metropolis within Gibbs).

    >>> import torch
    >>> from funcebm import random, samplers
    >>> energy = lambda params, x: ((x["x"] - 3 * x["z"]) ** 2).sum() / 2
    >>> move_x = on("x", lambda e: samplers.hmc(e, step_size=0.5), energy)
    >>> move_z = on("z", samplers.gibbs, energy)
    >>> sampler = samplers.cycle(move_x, move_z)
    >>> state = sampler.init((), {"x": torch.zeros(2), "z": torch.zeros(2)})
    >>> state, info = sampler(random.key(0), (), state)
    >>> bool(((state.position["z"] == 0) | (state.position["z"] == 1)).all())
    True
    """
    is_one = isinstance(leaves, str)
    names = (leaves,) if isinstance(leaves, str) else tuple(leaves)
    fix = 'Write on("x", ...) or on(("x", "y"), ...).'
    right = bool(names) and all(isinstance(name, str) for name in names)
    checks.require(right, "leaves must be names", repr(leaves), fix, TypeError)
    fix = 'Write on("x", lambda e: hmc(e, step_size=0.1), energy).'
    right = isinstance(sampler, Sampler) or callable(sampler)
    checks.require(right, "on takes a sampler or a function that makes one", repr(sampler), fix, TypeError)
    if not isinstance(sampler, Sampler):
        make = sampler
        checks.takes("the function that makes the sampler", make, ("energy",), fix)
        if energy is None:
            return lambda energy: on(leaves, make, energy)
        whole = energy

        def energy_of_part(frozen: Frozen, part: Position) -> Any:
            return whole(frozen.params, put(frozen.position, part))

        with_space_of_part(energy_of_part, whole, names, is_one=is_one)
        sampler = make(energy_of_part)
        checks.require(isinstance(sampler, Sampler), "the function must make a sampler", repr(sampler), fix, TypeError)
    # the chains have different rests, so a step of many chains is one of each
    member = sampler._replace(tuning=())

    def take(position: Position) -> Position:
        found = {name: part_of(position, name) for name in names}
        return found[names[0]] if is_one else found

    def put(position: Position, part: Position) -> Position:
        for name in names:
            position = _replaced(position, name.split("/"), part if is_one else part[name])
        return position

    def init(params: Params, position: Position) -> PartState:
        return PartState(position, member.init(Frozen(params, position), take(position)))

    def draw(key: Key, position: Position) -> Tree:
        return member.draw(key, take(position))

    def step(params: Params, tuning: Tree, state: PartState, noise: Tree) -> tuple[PartState, Info]:
        inner, info = member.step(Frozen(params, state.position), tuning, state.inner, noise)
        return PartState(put(state.position, inner.position), inner), info

    init.__dict__.update(leaves=names, is_one=is_one)  # for cycles, which look who moves what
    inner = relocation(member)
    follow = by_its_init(init, lambda state: inner.num_gradients(state.inner, {}))
    rest: Any = {"target_acceptance": sampler.target_acceptance, "parts": (member,), "is_weighted": sampler.is_weighted}
    return Sampler(init, draw, step, sampler.tuning, **rest, adaptation="part", relocation=follow)


def part_of(position: Position, name: str) -> Position:
    """The part of a position with the name ``"a/b"``."""
    for key in name.split("/"):
        is_field = hasattr(position, "_fields") and key in position._fields
        right = is_field or (isinstance(position, dict) and key in position)
        found = ", ".join(tree.paths(position)) or type(position).__name__
        checks.require(right, f"the position must have a leaf {name!r}", found, "Name one of its entries.")
        position = getattr(position, key) if is_field else position[key]
    return position


def _replaced(position: Position, path: list[str], part: Position) -> Position:
    if not path:
        return part
    key, *rest = path
    if isinstance(position, dict):
        return {**position, key: _replaced(position[key], rest, part)}
    return position._replace(**{key: _replaced(getattr(position, key), rest, part)})
