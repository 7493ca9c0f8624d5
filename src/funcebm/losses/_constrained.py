"""Losses of constrained energies: on the free numbers where that is the same objective, else refused."""

from __future__ import annotations

import functools
from typing import Any, Callable, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, tree
from ..bijections import Bijection, Constrained, constrained
from ..types import Batch, Key, Loss, LossAux, Params, Sampler, Tree
from ._staged import objective, prepare

__all__ = ["of_densities", "of_positions"]

P = ParamSpec("P")
Made = TypeVar("Made", bound=Loss[Any])


def of_positions(make: Callable[P, Made]) -> Callable[P, Made]:
    """Marks a factory of losses that compare slopes, noise or neighbours of positions: a constrained energy is refused.

    Of the free numbers these are other objectives, and data are no free numbers.
    """

    @functools.wraps(make)
    def of_energy(*args: P.args, **kwargs: P.kwargs) -> Made:
        energy = args[0] if args else kwargs.get("energy")
        fix = (
            "Give the energy of the positions; or train on free numbers, on which the loss is another one: "
            f"{make.__name__}(energy.energy, ...) with the data torch.func.vmap(energy.bijection.inverse)(data)."
        )
        must = f"{make.__name__} needs an energy of the data as they are"
        checks.require(not isinstance(energy, Constrained), must, "a constrained one, of free numbers", fix)
        return make(*args, **kwargs)

    return of_energy


def of_densities(make: Callable[P, Made]) -> Callable[P, Made]:
    """Marks a factory of losses that are functions of densities alone: of a constrained energy, on its free numbers.

    The Kullback-Leibler divergence of data from a model is the same in all coordinates. So data (in the positions), starts and
    samplers of them are mapped, and the chains, with what is remembered of them, are free numbers.
    """

    @functools.wraps(make)
    def of_energy(*args: P.args, **kwargs: P.kwargs) -> Any:
        energy: Any = args[0] if args else kwargs.get("energy")
        if not isinstance(energy, Constrained):
            return make(*args, **kwargs)
        bijection, change = energy.bijection, functools.partial(_free_argument, energy)
        names = (*_POSITIONAL, *(str(index) for index in range(len(args))))
        free: Any = [change(name, value) for name, value in zip(names, args, strict=False)]
        more: Any = {name: change(name, value) for name, value in kwargs.items()}
        return _mapped(make(*free, **more), bijection, is_likelihood="reference_params" in kwargs)

    return of_energy


_POSITIONAL = ("energy", "sampler")


def _free_argument(energy: Constrained, name: str, value: Any) -> Any:
    """An argument of a loss of positions as one of the loss of free numbers."""
    inverse = energy.bijection.inverse
    if name == "energy":
        return energy.energy
    if name == "sampler" and isinstance(value, Sampler):
        return _free_kernel(value)
    if name == "reference" and callable(value) and not hasattr(value, "sample"):  # a rung of tempering, of positions
        return constrained(value, energy.bijection).energy
    if name in ("start", "initial") and callable(value):
        return lambda key: inverse(value(key))
    if name in ("start", "initial") and not isinstance(value, (str, type(None))):
        return vmap(inverse)(value)
    return value


def _free_kernel(sampler: Sampler) -> Sampler:
    fix = "Make it with the constrained energy, or give a function: lambda energy: samplers.langevin(energy, step_size=0.1)."
    must = "the sampler of a constrained energy must know its constraint"
    checks.require(sampler.unconstrained is not None, must, "one without", fix)
    assert sampler.unconstrained is not None
    return sampler.unconstrained._replace(tuning=sampler.tuning)


def _mapped(loss: Loss, bijection: Bijection, *, is_likelihood: bool) -> Loss:
    """A loss of free numbers as one of positions; a likelihood with the log determinants that make it one of these."""

    free = vmap(bijection.inverse)

    def checked(batch: Batch) -> Batch:
        y = free(batch)
        are_finite = vmap(tree.all_finite)(y)
        if checks.is_concrete(are_finite) and not bool(are_finite.all()):
            bijection.inverse(tree.index(batch, int(are_finite.long().argmin())))  # raises, in words
        return y

    def constant(y: Batch) -> Tensor:
        if not is_likelihood:
            return torch.zeros_like(tree.first(y).sum())
        return vmap(bijection.log_det)(y).mean().detach()

    def init(key: Key, params: Params, batch: Batch) -> Any:
        return loss.init(key, params, checked(batch))

    def draw(key: Key, batch: Batch) -> Any:
        return loss.draw(key, checked(batch))

    def begin(params: Params, memory: Tree, batch: Batch, noise: Tree) -> tuple[Tree, Tensor]:
        y = free(batch)
        return prepare(loss, params, memory, y, noise), constant(y)

    def end(params: Params, prepared: tuple[Tree, Tensor]) -> tuple[Tensor, LossAux]:
        value, aux = objective(loss, params, prepared[0])
        return value + prepared[1], aux

    def value(params: Params, memory: Tree, batch: Batch, noise: Tree) -> tuple[Tensor, LossAux]:
        return end(params, begin(params, memory, batch, noise))

    inner = loss.couple
    couple = None if inner is None else lambda batch, noise: inner(free(batch), noise)
    return Loss(init, draw, value, begin, end, couple)
