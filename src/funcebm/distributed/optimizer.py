"""An optimizer whose memory ranks share: each keeps the moments of its part of the parameters."""

from __future__ import annotations

from typing import Callable, NamedTuple

import torch
from torch import Tensor

from .. import checks, tree
from ..types import Optimizer, Params, Tree
from .mesh import Mesh, stacked

__all__ = ["ShardedState", "check_elementwise", "is_sharded", "own_slices", "sharded_optimizer", "whole_slices"]


class ShardedState(NamedTuple):
    """What an optimizer remembers of the parameters of this rank, as one line of numbers; ``num`` is that of all. ``()``."""

    inner: Tree
    num: Tensor


def sharded_optimizer(optimizer: Optimizer, mesh: Mesh) -> Optimizer:
    """An element-wise optimizer that keeps, on each rank, its memory of one part of the parameters.

    The parameters are one line of numbers, cut into W equal parts. Each rank updates its part, and one message puts the updates
    together; so they are those of the whole, bit for bit, and the memory of a rank is W times smaller. Gradients and parameters
    are whole on all ranks.

    What :func:`funcebm.fit` returns and writes holds the memory of all ranks, and goes on with another number of them.

    Args:
        optimizer: one of which each number moves by its own gradient: ``sgd``, ``adam``, ``adamw`` and chains of them. What
            needs all gradients comes before: ``chain(clip_by_global_norm(1.0), sharded_optimizer(adam(1e-3), mesh))``.
        mesh: of ``fit(..., mesh=mesh)``.

    Returns:
        An :class:`~funcebm.types.Optimizer`, with :class:`ShardedState`.

    Raises:
        ValueError: an optimizer that is not element-wise; at the start, parameters of several dtypes.

    >>> from funcebm import optimizers
    >>> from funcebm.distributed import single
    >>> optimizer = sharded_optimizer(optimizers.sgd(0.5), single)
    >>> params = {"a": torch.ones(2), "b": torch.ones(())}
    >>> optimizer.update(params, optimizer.init(params), params)[0]["a"]
    tensor([-0.5000, -0.5000])
    """
    fix = "Chain what needs all gradients before it: chain(clip_by_global_norm(1.0), sharded_optimizer(adam(1e-3), mesh))."
    check_elementwise(optimizer, "a sharded optimizer", fix)

    def parts(value: Tree) -> tuple[Tensor, Callable[[Tensor], Tree], int]:
        line, back = tree.ravel(value)
        return _own(line, mesh), back, line.shape[0]

    def init(params: Params) -> ShardedState:
        dtypes = sorted({str(leaf.dtype) for leaf in tree.leaves(params)})
        fix = "Convert them to one, or leave the optimizer whole."
        checks.require(len(dtypes) == 1, "a sharded optimizer needs parameters of one dtype", dtypes, fix)
        own, _, num = parts(params)
        return ShardedState(optimizer.init(own), torch.full((), num, dtype=torch.int64, device=own.device))

    def update(gradients: Params, state: ShardedState, params: Params) -> tuple[Params, ShardedState]:
        own, back, num = parts(gradients)
        updates, inner = optimizer.update(own, state.inner, parts(params)[0])
        whole = updates if mesh.size == 1 else stacked([updates], mesh.size, mesh.name)[0].flatten()[:num]
        return back(whole), ShardedState(inner, state.num.clone())

    return Optimizer(init, update)


def _own(line: Tensor, mesh: Mesh) -> Tensor:
    """The part of this rank, filled up with zeros."""
    each = -(-line.shape[0] // mesh.size)
    missing = each * mesh.size - line.shape[0]
    line = torch.cat([line, line.new_zeros(missing)]) if missing else line
    return line[mesh.rank * each : (mesh.rank + 1) * each]


def check_elementwise(optimizer: Optimizer, who: str, fix: str) -> None:
    """An optimizer must move each number by itself: as it declares, or, where it says nothing, as a trial shows.

    The trial compares a line of numbers with its half and with a matrix and a number, at gradients that are large enough to be
    clipped. It does not see an optimizer that goes by the names of leaves, so training trusts declarations alone.
    """
    checks.require(isinstance(optimizer, Optimizer), "optimizer must be an Optimizer", optimizer, fix, TypeError)
    got = "one that needs other numbers too" if optimizer.is_elementwise is False else ""
    if optimizer.is_elementwise is None:
        got = _found_by_trial(optimizer)
    checks.require(not got, f"{who} must be element-wise", got, fix)


def _found_by_trial(optimizer: Optimizer) -> str:
    """What is not element-wise, or nothing."""
    gradients, params = torch.linspace(1e6, 2e6, 9), torch.linspace(1.0, 2.0, 9)

    def updates(cut: Callable[[Tensor], Tree]) -> Tensor:
        return tree.ravel(optimizer.update(cut(gradients), optimizer.init(cut(params)), cut(params))[0])[0]

    try:
        whole, half = updates(lambda line: line), updates(lambda line: line[:4])
        apart = updates(lambda line: {"matrix": line[:8].reshape(2, 4), "number": line[8]})
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
        return f"one that does not take a line of numbers ({error})"
    is_right = torch.equal(whole[:4], half) and torch.equal(whole, apart)
    return "" if is_right else "other updates of a part than of the whole"


# -- in the memory of a run ---------------------------------------------------------------------------------------


def _sizes(state: Tree) -> list[int]:
    """For each leaf, how many numbers it has on all ranks, where it is a part of a line; else 0."""
    if isinstance(state, ShardedState):
        leaves = tree.leaves(state.inner)
        return [int(state.num) if leaf.ndim == 1 else 0 for leaf in leaves] + [0]
    if isinstance(state, (tuple, list)):
        return [size for part in state for size in _sizes(part)]
    return [0] * len(tree.leaves(state))


def is_sharded(state: Tree) -> bool:
    """Whether a state of an optimizer holds parts."""
    return any(_sizes(state))


def whole_slices(state: Tree, mesh: Mesh) -> Tree:
    """The state of an optimizer, with the parts of all ranks where it is sharded."""
    sizes = _sizes(state)
    if mesh.size == 1 or not any(sizes):
        return state
    leaves, structure = tree.flatten(state)
    pairs = zip(leaves, sizes, strict=True)
    return tree.unflatten(structure, [mesh.gather(leaf)[:size] if size else leaf for leaf, size in pairs])


def own_slices(state: Tree, like: Tree, mesh: Mesh) -> Tree:
    """The parts of this rank, of what :func:`whole_slices` gave on some ranks; by name where there are any."""
    sizes = _sizes(like)
    if mesh.size == 1 or not any(sizes):
        return state
    found = dict(zip(tree.paths(state), tree.leaves(state), strict=True))
    names = zip(tree.paths(like), sizes, strict=True)
    is_part = {name: size > 0 and name in found and found[name].shape == (size,) for name, size in names}
    return {name: _own(leaf, mesh).clone() if is_part.get(name) else leaf for name, leaf in found.items()}
