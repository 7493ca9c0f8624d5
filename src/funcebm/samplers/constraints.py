"""Samplers of constrained energies: a kernel on free numbers, seen from the positions that obey the constraints."""

from __future__ import annotations

import functools
import warnings
from typing import Any, Callable, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, tree
from ..bijections import Bijection, Constrained, constrained
from ..energies._guarded import guarded
from ..spaces.space import Space
from ..types import Key, Params, Position, Sampler, Tree
from ._relocation import by_its_init, carry_over, relocation

__all__ = ["ConstrainedState", "check_ensemble", "constrained_sampler", "takes_energy"]

P = ParamSpec("P")
Made = TypeVar("Made", bound=Sampler[Any, Any, Any])


class ConstrainedState(NamedTuple):
    """A position that obeys the constraints, and the state of the kernel on the free numbers."""

    position: Position
    free: Any

    def carry_over(self, fresh: ConstrainedState) -> ConstrainedState:
        """As the function of that name, for the free state."""
        return ConstrainedState(fresh.position, carry_over(self.free, fresh.free))


def constrained_sampler(sampler: Sampler, bijection: Bijection) -> Sampler[ConstrainedState, Any, Any]:
    """The kernel ``sampler`` on free numbers as one on positions: same steps, same tuning, same info.

    Args:
        sampler: of the energy of the free numbers.
        bijection: from them to the positions.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``ConstrainedState``. Warm-ups run ``sampler`` itself.
    """
    apply, inverse, free = bijection.apply, bijection.inverse, sampler._replace(tuning=())

    def init(params: Params, position: Position) -> ConstrainedState:
        y = inverse(position)
        return ConstrainedState(tree.map(torch.clone, apply(y)[0]), free.init(params, y))

    def draw(key: Key, position: Position) -> Tree:
        # noise has the shapes of the free numbers, whatever they are: mapped, an inverse raises no error
        like = vmap(inverse)(tree.map(lambda leaf: leaf[None], position))
        return free.draw(key, tree.map(lambda leaf: leaf[0], like))

    def step(params: Params, tuning: Tree, state: ConstrainedState, noise: Tree) -> tuple[ConstrainedState, Any]:
        inner, info = free.step(params, tuning, state.free, noise)
        return ConstrainedState(tree.map(torch.clone, apply(inner.position)[0]), inner), info

    def batched(params: Params, tuning: Tree, state: ConstrainedState, noise: Tree) -> tuple[ConstrainedState, Any]:
        inner, info = free.batched_step(params, tuning, state.free, noise)  # type: ignore[misc]
        return ConstrainedState(tree.map(torch.clone, vmap(apply)(inner.position)[0]), inner), info

    step.__qualname__ = batched.__qualname__ = sampler.step.__qualname__
    return sampler._replace(
        init=init,
        draw=draw,
        step=step,
        batched_step=None if sampler.batched_step is None else batched,
        unconstrained=sampler,
        bijection=bijection,
        parts=(),
        relocation=by_its_init(init, lambda state: relocation(free).num_gradients(state.free, {})),
    )


def takes_energy(make: Callable[P, Made]) -> Callable[P, Made]:
    """Marks a factory of samplers: its energy is checked, and may be a :func:`~funcebm.bijections.constrained` one."""

    @functools.wraps(make)
    def of_energy(*args: P.args, **kwargs: P.kwargs) -> Any:
        energy: Any = args[0] if args else kwargs.get("energy")
        bijection: Bijection | None = None
        if isinstance(energy, Constrained):
            energy, bijection = energy
        else:
            _check(make.__name__, energy)
            if make.__name__ != "parallel_tempering" and kwargs.get("proposal") is None:
                _warn_of_discrete(make.__name__, energy)
        if args:
            args = (guarded(energy), *args[1:])  # type: ignore[assignment]
        else:
            kwargs["energy"] = guarded(energy)
        if bijection is None:
            made = make(*args, **kwargs)
            if kwargs.get("proposal") is None:
                made.init.__dict__["moves_all"] = True  # for cycles, which look who moves what
            return made
        reference: Any = kwargs.get("reference")  # of parallel tempering, over the same positions
        if callable(reference):
            kwargs["reference"] = constrained(reference, bijection).energy
        if make.__name__ == "svgd":  # whose positions are many particles
            bijection = _of_many(bijection)
        return constrained_sampler(make(*args, **kwargs), bijection)

    return of_energy


def _warn_of_discrete(name: str, energy: Any) -> None:
    """A sampler that moves real numbers, and an energy that says that its states are discrete."""
    kinds = sorted(
        {part.kind for part in tree.leaves(getattr(energy, "space", ())) if isinstance(part, Space)} - {"real"}
    )
    if kinds:
        fix = (
            "Use samplers.gibbs, gibbs_with_gradients or discrete_langevin; of mixed positions move the real leaves alone, by "
            f'samplers.on("x", {name}).'
        )
        text = checks.message(f"{name} moves real numbers", f"an energy of {' and '.join(kinds)} states", fix)
        warnings.warn(text, UserWarning, stacklevel=3)


def _check(name: str, energy: Any) -> None:
    if isinstance(energy, torch.nn.Module):
        fix = f"Use energy, params = funcebm.energies.from_module(module), then {name}(energy, ...)."
        raise TypeError(checks.message(f"{name} takes an energy (params, x) -> ()", "a torch.nn.Module", fix))
    if isinstance(energy, Sampler):
        fix = f"Give {name} the energy itself."
        raise TypeError(checks.message(f"{name} takes an energy (params, x) -> ()", "a sampler", fix))
    if isinstance(energy, tuple) and len(energy) == 2 and callable(energy[0]):
        fix = f"Write energy, params = ..., then {name}(energy, ...); params go to funcebm.sample."
        raise TypeError(checks.message(f"{name} takes an energy (params, x) -> ()", "a pair (energy, params)", fix))
    fix = "Give a function of the params and of one position, such as lambda params, x: (x**2).sum() / 2."
    checks.require(callable(energy), f"{name} takes an energy (params, x) -> ()", energy, fix, TypeError)


def _of_many(bijection: Bijection) -> Bijection:
    def apply(y: Position) -> tuple[Position, Tensor]:
        x, log_dets = vmap(bijection.apply)(y)
        return x, log_dets.sum()

    def inverse(x: Position) -> Position:
        check_ensemble(x)
        return vmap(bijection.inverse)(x)

    return Bijection(apply, inverse)


def check_ensemble(position: Position) -> None:
    """All leaves of a position of many particles lead with the axis of these."""
    shapes = [tuple(leaf.shape) for leaf in tree.leaves(position)]
    right = all(shapes) and len({shape[0] for shape in shapes}) == 1
    fix = "One position of svgd is an ensemble (n, *event): give funcebm.sample positions (num_chains, n, *event)."
    checks.require(right, "every leaf of a position must lead with one particle axis", f"shapes {shapes}", fix)
