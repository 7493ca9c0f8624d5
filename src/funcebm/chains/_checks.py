"""Checks at the door of everything that runs chains: :func:`funcebm.sample` and :func:`funcebm.warm_up`."""

from __future__ import annotations

import warnings
from typing import Any, Callable

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, metrics, random, samplers, tree
from ..types import Position, Sampler, Tree
from . import reducers
from .reducers import Reducer

__all__ = [
    "collected",
    "float_leaf",
    "free_positions",
    "is_flat",
    "is_sampler",
    "no_graph",
    "outermost",
    "params",
    "positions",
    "reducer",
    "start",
    "tuning",
]


def outermost(jit: bool, arguments: Tree) -> None:
    """``jit`` compiles a whole run, so no transform may be around it."""
    fix = "Pass jit=False here, and compile the whole: funcebm.jit(torch.func.vmap(...))."
    checks.require(
        not (jit and checks.is_traced(arguments)), "jit=True must be outermost", "a call inside vmap or grad", fix
    )


def positions(positions: Position, sampler: Sampler | None = None, params: Any = ()) -> None:
    """Tensors that lead with one chain axis, of floating point but where a sampler is given that does without."""
    others = []
    found = tree.leaves(positions)
    fix = "Stack the starts of the chains on a leading axis, for example torch.zeros(num_chains, dim)."
    checks.require(bool(found), "positions must hold a tensor", "an empty tree", fix)
    for name, leaf in zip(tree.paths(positions), found, strict=True):
        where = f"leaf {name!r}, " if name else ""
        if not isinstance(leaf, Tensor):
            raise TypeError(checks.message("positions must hold tensors", where + repr(leaf), fix))
        checks.require(leaf.ndim > 0, "positions must lead with a chain axis", where + "a 0-d tensor", fix)
        is_dense = leaf.layout == torch.strided
        checks.require(is_dense, "positions must be dense", f"{where}{leaf.layout}", "Use positions.to_dense().")
        if not leaf.is_floating_point():
            others.append(f"{where}{leaf.dtype}")
    lengths = {leaf.shape[0] for leaf in found}
    checks.require(len(lengths) == 1, "all positions must share one chain axis", f"lengths {sorted(lengths)}", fix)
    checks.require(min(lengths) > 0, "there must be at least one chain", "a chain axis of length 0", fix)
    if others:
        _do_without_floats(others[0], positions, sampler, params)


def _do_without_floats(got: str, positions: Position, sampler: Sampler | None, params: Any) -> None:
    """One step of one chain, which must keep the dtypes, shows whether a sampler takes integers and bools."""
    must = "positions must be floating point"
    fix = "Use positions.float(); whole numbers and bools are for samplers that neither differentiate there nor add noise."
    error: Exception | None = None
    kinds = [leaf.dtype for leaf in tree.leaves(positions)]
    if sampler is not None:
        try:
            row = tree.map(lambda leaf: leaf[0].clone(), positions)
            noise = sampler.draw(random.key(0, device=tree.first(row).device), row)
            state, _ = sampler.step(params, sampler.tuning, sampler.init(params, row), noise)
            found = [leaf.dtype for leaf in tree.leaves(state.position)]
            if found == kinds:
                return
        except Exception as raised:
            error = raised
    raise TypeError(checks.message(must, got, fix)) from error


def float_leaf(positions: Position) -> Tensor:
    """The first floating-point leaf, whose dtype tunings take; where there is none, the first."""
    return next((leaf for leaf in tree.leaves(positions) if leaf.is_floating_point()), tree.first(positions))


def params(params: Any) -> None:
    """A tree; a module, or what yields its parameters, is none."""
    for leaf in tree.leaves(params):
        is_right = isinstance(leaf, Tensor) or not (isinstance(leaf, torch.nn.Module) or hasattr(leaf, "__next__"))
        fix = "Write energy, params = funcebm.energies.from_module(module), or dict(module.named_parameters())."
        checks.require(is_right, "params must be a tree of tensors", f"a {type(leaf).__name__}", fix, TypeError)


def reducer(reduce: Any) -> None:
    """A reducer, or a dict of them."""
    for part in reduce.values() if isinstance(reduce, dict) else (reduce,):
        name = getattr(part, "__name__", "")
        fix = (
            f"Call it: reducers.{name}()."
            if hasattr(reducers, name)
            else "Write reducers.mean(), or a dict of reducers."
        )
        right = part is None or isinstance(part, Reducer)
        checks.require(right, "reduce must be a Reducer, or a dict of them", repr(part), fix, TypeError)


def collected(value: Any) -> Any:
    """What ``collect`` returned, which must be a tree of tensors."""
    bad = [leaf for leaf in ([value] if value is None else tree.leaves(value)) if not isinstance(leaf, Tensor)]
    fix = "Return a tensor or a tree of them, such as state.position; () keeps nothing."
    checks.require(
        not bad, "collect must return a tree of tensors", f"a {type((bad or [0])[0]).__name__}", fix, TypeError
    )
    return value


def is_sampler(sampler: Any) -> None:
    """A sampler that was built."""
    if isinstance(sampler, Sampler):
        return
    name = getattr(sampler, "__name__", "")
    is_factory = callable(sampler) and hasattr(samplers, name)
    got = f"the function samplers.{name}" if is_factory else repr(sampler)
    fix = (
        f"Call it with an energy: samplers.{name}(energy)."
        if is_factory
        else "Make one, such as samplers.nuts(energy)."
    )
    raise TypeError(checks.message("sampler must be a funcebm.Sampler", got, fix))


def free_positions(bijection: Any, positions: Position) -> Position:
    """The free numbers of the starts of all chains, which must be in the range of the bijection."""
    free = vmap(bijection.inverse)(positions)
    flags = vmap(tree.all_finite)(free)
    if checks.is_concrete(flags) and not bool(flags.all()):
        start(free, bijection.inverse, positions)
    return free


def tuning(tuning: Any, default: Tree, position: Position) -> None:
    """A tuning, or what a schedule of it gives first, must be like the default, but for the kind of its metric."""
    if callable(tuning):
        tuning = tuning(torch.zeros((), dtype=torch.int64, device=tree.first(position).device))
    checks.one_structure("tuning", _without_metrics(tuning), "sampler.tuning", _without_metrics(default))
    for name, leaf in zip(tree.paths(tuning), tree.leaves(tuning), strict=True):
        if not isinstance(leaf, Tensor):
            raise ValueError(checks.message("tuning must hold tensors", f"{name} = {leaf!r}", "Use torch.tensor."))
        if name.endswith("step_size"):
            checks.positive(name, leaf, "Try a smaller number above zero.")
    if isinstance(getattr(tuning, "metric", None), (metrics.Diagonal, metrics.Dense)):
        metrics.check_shape(tuning.metric, position)
        if checks.is_concrete(tree.first(tuning.metric)):
            inverse_mass = tuning.metric.inverse_mass
            metrics.dense(inverse_mass) if isinstance(tuning.metric, metrics.Dense) else metrics.diagonal(inverse_mass)


def _without_metrics(value: Tree) -> Tree:
    """A tuning with a number in the place of each metric: identity, diagonal and dense ones may replace one another."""
    if isinstance(value, (metrics.Diagonal, metrics.Dense)):
        return torch.zeros(())
    if isinstance(value, tuple):
        parts = [_without_metrics(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def start(state: Any, init: Callable[[Position], Any], positions: Position, first: int = 0) -> None:
    """What the state of every chain caches (energies, gradients) must be finite; if not, ``init`` by itself may say why.

    ``first`` is the number of the first chain, among those of all ranks.
    """
    flags = vmap(tree.all_finite)(state)
    if not checks.is_concrete(flags):
        return
    _no_hidden_graph(state, (getattr(init, "args", ()), positions))
    if bool(flags.all()):
        _connected(state, init, positions)
        return
    bad = torch.nonzero(~flags).flatten().tolist()
    shown = ", ".join(str(first + index) for index in bad[:10]) + (
        f" and {len(bad) - 10} more" if len(bad) > 10 else ""
    )
    try:  # not under vmap, where a kernel can look at its numbers
        init(tree.map(lambda leaf: leaf[bad[0]], positions))
    except ValueError as error:
        raise ValueError(f"{error} This is so at the start of chains {shown}.") from error
    fix = "Start these chains inside the support, where the energy and its gradient are finite."
    raise ValueError(checks.message("energy and gradient must be finite at the start", f"chains {shown}", fix))


def is_flat(state: Any) -> bool:
    """Whether a state has an energy, and a gradient of zero in all chains."""
    return hasattr(state, "energy") and hasattr(state, "gradient") and not _is_nonzero(state.gradient)


def _connected(state: Any, init: Callable[[Position], Any], positions: Position) -> None:
    """An energy that differs from place to place has a gradient; one that is detached has none."""
    if not is_flat(state):
        return
    energies = [state.energy]
    for shift in (0.013, -0.027, 0.057):  # not only where the chains start, which may be a mode
        moved = vmap(init)(tree.map(lambda leaf: leaf + shift * (1 + leaf.abs()), positions))  # noqa: B023
        if _is_nonzero(moved.gradient):
            return
        energies.append(moved.energy)
    values = torch.stack(energies)
    values = values[torch.isfinite(values)]
    if bool((values != values[0]).any()):
        must = "an energy must have a gradient where it differs from place to place"
        fix = "Compute it from its position with torch alone: no detach(), .data, no_grad, round, numpy or counts on the way."
        raise ValueError(checks.message(must, "a gradient of zero everywhere", fix))


def _is_nonzero(gradient: Tree) -> bool:
    return any(bool((leaf != 0).any()) for leaf in tree.leaves(gradient))


_warned: set[str] = set()


def _no_hidden_graph(state: Any, given: Tree) -> None:
    """An energy that reads tensors that require grad, such as those of a module that it calls, is told so, once."""
    of_state, of_given = (
        [leaf for leaf in tree.leaves(value) if isinstance(leaf, Tensor) and leaf.requires_grad]
        for value in (state, given)
    )
    if of_state and not of_given and "hidden" not in _warned:
        _warned.add("hidden")
        fix = "Write energy, params = funcebm.energies.from_module(module), or detach what it reads."
        what = "an energy that reads tensors that require grad makes an eager run keep the graph of all its steps"
        warnings.warn(f"{what}, and its memory. {fix}", UserWarning, stacklevel=2)


def no_graph(params: Any, jit: bool, name: str = "params") -> Any:
    """Params, or positions, of an eager run: those of a module are detached, and who keeps a graph is warned, once."""
    leaves = [leaf for leaf in tree.leaves(params) if isinstance(leaf, Tensor) and checks.is_concrete(leaf)]
    if jit or not torch.is_grad_enabled() or not any(leaf.requires_grad for leaf in leaves):
        return params
    are_of_modules = all(isinstance(leaf, torch.nn.Parameter) for leaf in leaves if leaf.requires_grad)
    what = (
        "are detached here" if are_of_modules else "make an eager run keep the graph of all its steps, and its memory"
    )
    if name + what not in _warned:
        _warned.add(name + what)
        fix = (
            f"Detach them: funcebm.tree.map(lambda leaf: leaf.detach(), {name}); torch.func.grad differentiates a run."
        )
        warnings.warn(f"{name} that require grad {what}. {fix}", UserWarning, stacklevel=3)
    return tree.map(lambda leaf: leaf.detach(), params) if are_of_modules else params
