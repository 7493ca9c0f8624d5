"""The shapes of everything: type aliases and the three algorithm triples.

An *energy* is a pure function ``(params, position) -> ()`` of one particle, and it defines the density
``p(x) = exp(-E(x)) / Z``. Samplers, losses and optimizers are ``NamedTuple``s of pure functions: no inheritance, no
hidden state. Randomness is data: ``draw`` makes all the noise of one application, the other functions are deterministic.
"""

from __future__ import annotations

import sys
from typing import Any, Callable, Generic, TypeVar, Union

from torch import Tensor
from torch.func import vmap

if sys.version_info >= (3, 11):
    from typing import NamedTuple
else:  # where typing's own cannot be generic; torch brings this one
    from typing_extensions import NamedTuple

__all__ = [
    "Adaptation",
    "Batch",
    "Energy",
    "Info",
    "Key",
    "Loss",
    "LossAux",
    "MetricLike",
    "Number",
    "Optimizer",
    "Params",
    "Position",
    "Sampler",
    "Schedule",
    "Tree",
    "step_of_chains",
]

Tree = Any
"""A nested dict, list, tuple or NamedTuple with tensor leaves; ``()`` is "nothing"."""

Number = Union[float, Tensor]
"""A Python number, or a 0-d tensor, which may be traced."""

Key = Tensor
"""Integer words of shape ``(..., 2)``, made by :func:`funcebm.random.key`; opaque."""

Params = Tree
"""The parameters theta of an energy; an argument everywhere, since training changes them."""

Position = Tree
"""Where one chain is: a tensor ``(*event,)`` or any tree of tensors."""

MetricLike = Union[float, Tree, None]
"""An inverse mass or a preconditioner as users give it; None is the identity, a number, a vector or a tree like one position is
diagonal, a matrix ``(D, D)`` is dense over the ravelled position. Those of :mod:`funcebm.metrics` say it explicitly."""

Batch = Tree
"""Data with a leading batch axis on every leaf."""

Energy = Callable[[Params, Position], Tensor]
"""``(params, position) -> ()``, minus the log density up to a constant."""

Schedule = Callable[[Tensor], Tensor]
"""Step index ``()`` to value ``()``."""

StateT = TypeVar("StateT")
InfoT = TypeVar("InfoT")
TuningT = TypeVar("TuningT")
MemoryT = TypeVar("MemoryT")


class Info(NamedTuple):
    """What every sampler tells of one step; for the reader, never for the next step.

    Attributes:
        acceptance_rate: the Metropolis acceptance probability, in [0, 1]; 1 for unadjusted samplers. ``()``.
        is_accepted: whether the proposal was taken. ``()`` bool.
        is_divergent: whether the proposal (or, unadjusted, the new position) met a number that is not finite, or an
            energy error beyond 1000. ``()`` bool.
        num_gradients: how many gradients of the energy the step cost. ``()`` int32.
        energy: the energy of the new position. ``()``.
    """

    acceptance_rate: Tensor
    is_accepted: Tensor
    is_divergent: Tensor
    num_gradients: Tensor
    energy: Tensor


class Sampler(NamedTuple, Generic[StateT, InfoT, TuningT]):
    """A Markov kernel on one chain, as pure functions; generic in its state, its info and its tuning.

    Attributes:
        init: ``(params, position) -> state``.
        draw: ``(key, position) -> noise``, all the random numbers of one step.
        step: ``(params, tuning, state, noise) -> (state, info)``, deterministic given the noise.
        tuning: the default tuning of the kernel, a tree of tensors.
        batched_step: optionally, ``step`` over a leading chain axis of ``state`` and ``noise``, for kernels
            whose control flow depends on the data; :func:`funcebm.chains.sample` prefers it to ``vmap(step)``.
        target_acceptance: the acceptance rate at which the kernel works best, a hint for the warm-up; None where
            there is no acceptance test.
        unconstrained: of a sampler of a :func:`~funcebm.bijections.constrained` energy, the kernel on the free numbers, which
            warm-ups run.
        bijection: with it, from the free numbers to positions.
        parts: the samplers that it is made of, without their tunings, so that a warm-up reaches each of them.
        adaptation: the warm-up that suits it, a name that :func:`funcebm.adaptation.default` knows, such as ``"window"``; None
            leaves the choice to the warm-up.
        relocation: how its states follow a chain that another sampler moved; None where the fields ``energy`` and ``gradient``
            of a state belong to its ``position`` and all others persist.
        is_weighted: whether draws count with weights of their own, as holding times, and alone follow another distribution; such
            a kernel cannot be a part of others. Static.
        weight: how many plain steps one of its steps counts as, where ``jit=None`` decides by the amount of work; None is 1, or
            10 with a ``batched_step``.
    """

    init: Callable[[Params, Position], StateT]
    draw: Callable[[Key, Position], Any]
    step: Callable[[Params, Any, StateT, Any], tuple[StateT, InfoT]]
    tuning: TuningT
    batched_step: Callable[[Params, Any, Any, Any], tuple[Any, Any]] | None = None
    target_acceptance: float | None = None
    unconstrained: Sampler[Any, Any, Any] | None = None
    bijection: Any = None
    parts: tuple[Any, ...] = ()
    adaptation: str | None = None
    relocation: Any = None
    weight: int | None = None
    is_weighted: bool = False

    def __call__(self, key: Key, params: Params, state: StateT, tuning: TuningT | None = None) -> tuple[StateT, InfoT]:
        """Draws the noise of one step and applies it: ``(state, info)``."""
        noise = self.draw(key, state.position)  # type: ignore[attr-defined]
        return self.step(params, self.tuning if tuning is None else tuning, state, noise)


def step_of_chains(sampler: Sampler) -> Callable[[Params, Tree, Any, Tree], tuple[Any, Any]]:
    """The step of many chains in lock step, over a leading axis of ``state`` and ``noise``.

    >>> import torch
    >>> from funcebm import samplers
    >>> sampler = samplers.langevin(lambda params, x: (x**2).sum() / 2)
    >>> state = vmap(sampler.init, (None, 0))((), torch.zeros(3, 2))
    >>> step_of_chains(sampler)((), sampler.tuning, state, torch.ones(3, 2))[0].position.shape
    torch.Size([3, 2])
    """
    if sampler.batched_step is not None:
        return sampler.batched_step
    return vmap(sampler.step, (None, None, 0, 0))


class Adaptation(NamedTuple):
    """How a warm-up finds the tuning of a sampler, from all chains together, as pure functions.

    Attributes:
        init: ``(key, sampler, params, state, pool) -> memory``; every leaf of ``state`` leads with the chain axis, as below.
            ``memory`` is a tree of tensors with the field ``tuning``, the tuning of the next step.
        update: ``(memory, state, info, pool) -> memory``, after each step of all chains.
        final: ``(memory, pool) -> tuning``, the numbers to sample with.
        windows: optionally, ``num_steps -> lengths`` of the parts of the warm-up, which add up to ``num_steps``.
        refresh: optionally, ``(key, sampler, params, memory, state, pool) -> memory`` after each window but the last, outside of
            the compiled loop: linear algebra and searches belong here.
        is_per_chain: whether each chain has a tuning of its own: then the leaves of ``memory.tuning`` lead with the chain axis.

    ``pool``, a :class:`funcebm.distributed.Pool`, shows chains that other ranks hold, of which ``state`` and ``info`` have only
    those of this one; without it they are all chains. An adaptation whose functions have no parameter of that name is given all
    chains on every rank, at the price of a message as large as all of them in each step.
    """

    init: Callable[..., Any]
    update: Callable[..., Any]
    final: Callable[..., Tree]
    windows: Callable[[int], tuple[int, ...]] | None = None
    refresh: Callable[..., Any] | None = None
    is_per_chain: bool = False


class LossAux(NamedTuple, Generic[MemoryT]):
    """What a loss returns beside its value: the new memory, and metrics by name (0-d tensors)."""

    memory: MemoryT
    metrics: dict[str, Tensor]


class Loss(NamedTuple, Generic[MemoryT]):
    """A training objective, as pure functions; generic in what it remembers.

    Attributes:
        init: ``(key, params, batch) -> memory``, ``()`` where there is nothing to remember.
        draw: ``(key, batch) -> noise``, all the random numbers of one evaluation.
        value: ``(params, memory, batch, noise) -> (value, LossAux)``, deterministic given the noise.
        prepare: optionally, the part of ``value`` through which no gradient flows, such as drawing negatives:
            ``(params, memory, batch, noise) -> prepared``. A compiled loop cannot be differentiated through, so
            :func:`funcebm.training.train_step` runs it outside of ``torch.func.grad``.
        objective: the rest, ``(params, prepared) -> (value, LossAux)``; ``value`` is one after the other.
        couple: optionally, what looks at all rows of a batch together, such as optimal transport between noise and data:
            ``(batch, noise) -> noise``, after which ``value`` is a mean over rows. Ranks that share a batch call it with the
            whole of it.
    """

    init: Callable[[Key, Params, Batch], MemoryT]
    draw: Callable[[Key, Batch], Any]
    value: Callable[[Params, Any, Batch, Any], tuple[Tensor, LossAux[MemoryT]]]
    prepare: Callable[[Params, Any, Batch, Any], Any] | None = None
    objective: Callable[[Params, Any], tuple[Tensor, LossAux[MemoryT]]] | None = None
    couple: Callable[[Batch, Any], Any] | None = None

    def __call__(self, key: Key, params: Params, batch: Batch, memory: Any = ()) -> tuple[Tensor, LossAux[MemoryT]]:
        """Draws the noise of one evaluation and applies it: ``(value, aux)``."""
        return self.value(params, memory, batch, self.draw(key, batch))


class Optimizer(NamedTuple):
    """A gradient transformation with the shape that optax made standard.

    Attributes:
        init: ``params -> state``.
        update: ``(gradients, state, params) -> (updates, state)``; the new params are ``params + updates``.
        is_elementwise: True where each number is updated by itself, whatever leaf it is in: then compiled training may give all
            params as one vector, and ranks may share the memory. False where an update needs other numbers, such as a norm.
            None says nothing: then params keep their leaves, and what needs to know tries it.
    """

    init: Callable[[Params], Tree]
    update: Callable[[Tree, Tree, Params], tuple[Tree, Tree]]
    is_elementwise: bool | None = None
