"""Samplers from samplers: one after the other, one at random, many steps as one."""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, NamedTuple, Sequence

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, loops, random, tree
from ..types import Info, InfoT, Key, Params, Position, Sampler, StateT, Tree, TuningT, step_of_chains
from ._kernel import Chains, lockstep
from ._relocation import Known, by_its_init, carry_over, relocation
from ._surfaces import check_surfaces

__all__ = ["CompositeInfo", "CompositeState", "MixNoise", "check_samplers", "cycle", "mix", "thin"]


class CompositeState(NamedTuple):
    """A position, and the state of each sampler.

    The last state is that of the position; the others are moved there before they are used.
    """

    position: Position
    states: tuple[Any, ...]

    def carry_over(self, fresh: CompositeState) -> CompositeState:
        """As the function of that name, for each state."""
        states = tuple(carry_over(old, new) for old, new in zip(self.states, fresh.states, strict=True))
        return CompositeState(fresh.position, states)


class CompositeInfo(NamedTuple):
    """The fields of :class:`~funcebm.types.Info`, and the acceptance rate of each sampler, ``(M,)``."""

    acceptance_rate: Tensor
    is_accepted: Tensor
    is_divergent: Tensor
    num_gradients: Tensor
    energy: Tensor
    acceptance_rates: Tensor


class MixNoise(NamedTuple):
    """Which sampler makes the step, ``()`` int64, and the noise of each."""

    choice: Tensor
    noises: tuple[Tree, ...]


# -- combinators --------------------------------------------------------------------------------------------------


def cycle(
    *samplers: Sampler | Sequence[Sampler], same_energy: bool = False
) -> Sampler[CompositeState, CompositeInfo, tuple[Any, ...]]:
    r"""A step of each sampler, one after the other: the product :math:`P_1 P_2 \cdots P_M` of their kernels.

    It leaves invariant what all of them do. Each sampler keeps what is its own, such as a momentum; energy and gradient
    are computed again where another moved the chain, at one gradient for each sampler that keeps a gradient.

    Args:
        samplers: one or more, one by one or in a list, over the same positions. Their energies may differ:
            :func:`~funcebm.samplers.elliptical_slice` takes that of a likelihood, others that of the posterior.
        same_energy: all samplers were made with one energy, so that they can tell each other its value and gradient, and
            nothing is computed twice; static.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``CompositeState`` and ``CompositeInfo``; its tuning is the tuple of the tunings.
        Of the info, ``acceptance_rate`` is the mean over the samplers, flags hold where one of them does, ``num_gradients``
        counts everything, ``energy`` is that of the last sampler.

    Raises:
        ValueError: no sampler; from ``init``, one without the constraint that keeps others on a surface, such as a simplex.
        TypeError: something that is not a sampler.

    Reference: Tierney (1994), Annals of Statistics 22(4):1701-1728, on mixtures and cycles.

    >>> from funcebm import samplers
    >>> energy = lambda params, x: (x**2).sum() / 2
    >>> both = cycle(samplers.random_walk(energy), samplers.hmc(energy, num_leapfrog=3))
    >>> state, info = both(random.key(0), (), both.init((), torch.zeros(2)))
    >>> int(info.num_gradients)
    4
    """
    members, tunings = _members("cycle", checks.given_parts(samplers))

    def draw(key: Key, position: Position) -> tuple[Tree, ...]:
        return _draw_each(members, random.split(key, len(members)), position)

    def step(
        chains: Chains, params: Params, tuning: tuple[Tree, ...], state: CompositeState, noise: tuple[Tree, ...]
    ) -> tuple[CompositeState, CompositeInfo]:
        states, infos, num_moves = [], [], 0
        known = _known(members[-1], state.states[-1], None, same_energy)
        for member, its_tuning, current, drawn in zip(members, tuning, state.states, noise, strict=True):
            if len(members) > 1:
                follow = relocation(member)
                num_moves += follow.num_gradients(current, known)
                current = chains(partial(follow.to, params))(current, known)
            current, info = _step_of(member, chains)(params, its_tuning, current, drawn)
            known = _known(member, current, info, same_energy)
            states.append(current)
            infos.append(info)
        joined = _joined(tree.stack(_standard(infos)), num_moves)
        return CompositeState(states[-1].position, tuple(states)), CompositeInfo(*joined, _rates(infos))

    return _composite(members, draw, step, tunings)


def mix(
    *samplers: Sampler | Sequence[Sampler], weights: Sequence[float] | None = None, same_energy: bool = False
) -> Sampler[CompositeState, CompositeInfo, tuple[Any, ...]]:
    r"""A step of one of the samplers, chosen at random: the mixture :math:`\sum_i w_i P_i` of their kernels.

    It leaves invariant what all of them do, and is reversible where they are. Over many chains all samplers make the step and
    one is kept, so that a step costs as much as :func:`cycle`; what the others remember stays as it was.

    Args:
        samplers: one or more, one by one or in a list, over the same positions. Their energies may differ.
        weights: :math:`w_i > 0`, one for each sampler, of any sum; by default all are equal. Static.
        same_energy: as for :func:`cycle`.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``CompositeState``, ``CompositeInfo`` and ``MixNoise``; its tuning is
        the tuple of the tunings. The info is that of the chosen sampler, but ``num_gradients`` counts what was computed.

    Raises:
        ValueError: no sampler, or weights that are not positive or not as many; from ``init``, as for :func:`cycle`.
        TypeError: something that is not a sampler.

    Reference: Tierney (1994), Annals of Statistics 22(4):1701-1728, on mixtures and cycles.

    >>> from funcebm import samplers
    >>> energy = lambda params, x: (x**2).sum() / 2
    >>> small, large = (samplers.random_walk(energy, step_size=size) for size in (0.1, 1.0))
    >>> either = mix(small, large, weights=[1, 3])
    >>> state, info = either(random.key(0), (), either.init((), torch.zeros(2)))
    >>> state.position.shape
    torch.Size([2])
    """
    given: Any = samplers
    if len(given) == 2 and weights is None and type(given[0]) in (list, tuple):
        given, weights = given[:1], given[1]  # mix(samplers, weights), the order of version 0.1
    members, tunings = _members("mix", checks.given_parts(given))
    shares = (1.0,) * len(members) if weights is None else checks.numbers("weights", weights, "Write weights=[1, 3].")
    right = len(shares) == len(members)
    checks.require(right, "weights must be one for each sampler", f"{len(shares)} for {len(members)}", "One for each.")
    for share in shares:
        checks.positive("each of weights", share, "Leave out a sampler that is never chosen.")
    bounds = tuple(sum(shares[: index + 1]) / sum(shares) for index in range(len(shares) - 1))

    def draw(key: Key, position: Position) -> MixNoise:
        keys = random.split(key, len(members) + 1)
        uniform = random.uniform(keys[0], dtype=torch.float32)
        choice = sum(((uniform >= bound).long() for bound in bounds), torch.zeros_like(uniform, dtype=torch.int64))
        return MixNoise(choice, _draw_each(members, keys[1:], position))

    def choose(index: Tensor, values: Sequence[Tree]) -> Tree:
        chosen = values[0]
        for i, value in enumerate(values[1:], 1):
            chosen = tree.where(index == i, value, chosen)
        return chosen

    def step(
        chains: Chains, params: Params, tuning: tuple[Tree, ...], state: CompositeState, noise: MixNoise
    ) -> tuple[CompositeState, CompositeInfo]:
        def finish(
            index: Tensor, before: tuple[Any, ...], ends: tuple[Any, ...]
        ) -> tuple[CompositeState, CompositeInfo]:
            """Takes the step of one sampler, and moves the others to where it ends."""
            infos = [info for _, info in ends]
            all_known = [_known(member, s, info, same_energy) for member, (s, info) in zip(members, ends, strict=True)]
            names = [name for name in ("position", "energy", "gradient") if all(name in known for known in all_known)]
            known = {name: choose(index, [known[name] for known in all_known]) for name in names}
            states, num_moves = [], 0
            for i, (member, old, (new, _)) in enumerate(zip(members, before, ends, strict=True)):
                if len(members) > 1:
                    follow = relocation(member)
                    num_moves += follow.num_gradients(new, known)
                    new = tree.where(index == i, new, follow.to(params, old, known))
                states.append(new)
            info: Info = choose(index, _standard(infos))
            info = info._replace(num_gradients=sum(info.num_gradients for info in infos) + num_moves)
            return CompositeState(known["position"], tuple(states)), CompositeInfo(*info, _rates(infos))

        each = zip(members, tuning, state.states, noise.noises, strict=True)
        ends = tuple(_step_of(member, chains)(params, *its) for member, *its in each)
        return chains(finish)(noise.choice, state.states, ends)

    return _composite(members, draw, step, tunings)


def thin(sampler: Sampler[StateT, InfoT, TuningT], num: int) -> Sampler[StateT, InfoT, TuningT]:
    """``num`` steps as one: the power of a kernel.

    ``thin`` of :func:`funcebm.sample` does the same for a whole run; this one can be a part of other samplers.

    Args:
        sampler: whose state and tuning stay what they are.
        num: steps; static.

    Returns:
        A :class:`~funcebm.types.Sampler`. Its info is that of the last step, but ``acceptance_rate`` is the mean over the
        steps, ``is_accepted`` and ``is_divergent`` hold where they do for one of them, and ``num_gradients`` is the sum.

    Raises:
        ValueError: a number of steps below 1.
        TypeError: something that is not a sampler.

    >>> from funcebm import samplers
    >>> sampler = thin(samplers.mala(lambda params, x: (x**2).sum() / 2, step_size=0.5), 3)
    >>> state, info = sampler(random.key(0), (), sampler.init((), torch.zeros(2)))
    >>> int(info.num_gradients)
    3
    """
    check_samplers("thin", (sampler,))
    checks.positive_int("num", num)
    whole: Any = sampler
    member = whole._replace(tuning=(), unconstrained=None)

    def draw(key: Key, position: Position) -> Tree:
        return vmap(member.draw, (0, None))(random.split(key, num), position)

    def step(chains: Chains, params: Params, tuning: Tree, state: Any, noise: Tree) -> tuple[Any, Any]:
        noise = tree.map(lambda leaf: leaf.movedim(1, 0), noise) if chains is vmap else noise
        xs = (torch.arange(num, device=tree.first(state).device), noise)  # the index is for samplers without noise
        one = _step_of(member, chains)
        state, infos = loops.scan(lambda state, x: one(params, tuning, state, x[1]), state, xs)
        last = tree.map(lambda leaf: leaf[-1], infos)
        return state, last._replace(**_joined(infos, 0)._asdict())

    name = getattr(whole.step, "__qualname__", "").split(".")[0]
    step.__qualname__ = f"thin({name}).step"
    power = lockstep(whole.init, draw, step, whole.tuning)
    unconstrained = None if sampler.unconstrained is None else thin(sampler.unconstrained, num)
    adaptation = None if sampler.adaptation == "part" else sampler.adaptation
    rest: Any = {"unconstrained": unconstrained, "adaptation": adaptation}
    return sampler._replace(draw=draw, step=power.step, batched_step=power.batched_step, **rest)


# -- parts --------------------------------------------------------------------------------------------------------


def check_samplers(name: str, samplers: Sequence[Any]) -> tuple[Sampler, ...]:
    """What ``name`` takes must be samplers, and one at least."""
    checks.require(len(samplers) > 0, f"{name} takes one sampler or more", "none", "Give samplers.")
    for sampler in samplers:
        fix = "Give what a factory such as hmc(energy) returns."
        if callable(sampler) and not isinstance(sampler, Sampler):
            fix = f"Call it with an energy: {getattr(sampler, '__name__', 'hmc')}(energy)."
        elif isinstance(sampler, (list, tuple)):
            fix = "Give samplers one by one or in one list, and weights by name: weights=[...]."
        checks.require(isinstance(sampler, Sampler), f"{name} takes samplers", sampler, fix, TypeError)
    return tuple(samplers)


def _members(name: str, samplers: Sequence[Any]) -> tuple[tuple[Sampler, ...], tuple[Tree, ...]]:
    """The kernels of what a combinator is given, and their tunings."""
    samplers = check_samplers(name, samplers)
    for sampler in samplers:
        checks.unweighted(name, sampler)
    kernels = tuple(sampler._replace(tuning=(), unconstrained=None) for sampler in samplers)
    return kernels, tuple(sampler.tuning for sampler in samplers)


def _draw_each(members: Sequence[Sampler], keys: Key, position: Position) -> tuple[Tree, ...]:
    return tuple(member.draw(key, position) for member, key in zip(members, keys.unbind(0), strict=True))


def _step_of(member: Sampler, chains: Chains) -> Callable[..., tuple[Any, Any]]:
    return step_of_chains(member) if chains is vmap else member.step


def _known(member: Sampler, state: Any, info: Any | None, same_energy: bool) -> Known:
    """What one sampler can tell another of the position where it is."""
    if not same_energy:
        return {"position": state.position}
    energy = {} if info is None else {"energy": info.energy}
    return {**energy, **relocation(member).tell(state), "position": state.position}


def _composite(members: tuple[Sampler, ...], draw: Any, step: Any, tunings: Tree) -> Sampler:
    """With a batched step, where one of the members has one; relocated by the relocation of each part."""
    parts = [relocation(member) for member in members]

    def init(params: Params, position: Position) -> CompositeState:
        check_surfaces(members, position)
        return CompositeState(position, tuple(member.init(params, position) for member in members))

    def num_gradients(state: CompositeState) -> int:
        return sum(part.num_gradients(s, {}) for part, s in zip(parts, state.states, strict=True))

    def tell(state: CompositeState) -> Known:
        return {**parts[-1].tell(state.states[-1]), "position": state.position}

    follow = by_its_init(init, num_gradients)._replace(tell=tell)
    sampler = lockstep(init, draw, step, tunings, adaptation="parts")
    batched = sampler.batched_step if any(member.batched_step is not None for member in members) else None
    return sampler._replace(batched_step=batched, parts=members, relocation=follow)


def _standard(infos: Sequence[Any]) -> list[Info]:
    """The five fields that all have, in one dtype."""
    return [Info(*(getattr(info, name) for name in Info._fields)) for info in infos]


def _rates(infos: Sequence[Any]) -> Tensor:
    """The acceptance rates of several samplers, side by side."""
    return torch.stack([info.acceptance_rate for info in infos], -1)


def _joined(infos: Any, num_more: int) -> Info:
    """One info of several steps, stacked on a leading axis."""
    return Info(
        acceptance_rate=infos.acceptance_rate.mean(0),
        is_accepted=infos.is_accepted.any(0),
        is_divergent=infos.is_divergent.any(0),
        num_gradients=infos.num_gradients.sum(0, dtype=torch.int32) + num_more,
        energy=infos.energy[-1],
    )
