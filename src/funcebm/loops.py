"""Loops that mean the same eager and compiled: ``scan`` and its friends.

Under :func:`funcebm.transforms.jit` a loop is one higher-order operator with a compiled body; otherwise it is a Python
loop, the reference semantics, with the same numbers. Inside ``torch.func.grad`` it is always a Python loop, which the
compiler unrolls: the operator cannot be differentiated through.
"""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor

from . import tree
from ._torch import traced_loops
from ._torch.tracing import is_differentiating, is_tracing, plain
from .types import Tree

__all__ = ["call", "fold", "is_compiling", "repeat", "scan", "while_loop"]


def is_compiling() -> bool:
    """Whether the code that asks is being traced, by :func:`funcebm.jit` or by ``torch.compile``."""
    return is_tracing()


def _is_recorded() -> bool:
    """Whether a loop becomes one node of a graph."""
    return traced_loops.is_active() and not is_differentiating()


def scan(body: Callable[[Tree, Tree], tuple[Tree, Tree]], init: Tree, xs: Tree) -> tuple[Tree, Tree]:
    """Carries a state through ``body`` along the leading axis of ``xs``, and stacks what it emits.

    Args:
        body: ``(carry, x) -> (carry, y)``; the carry keeps its structure, shapes and dtypes. ``y`` may be ``()``.
        init: the first carry.
        xs: a tree whose leaves share a leading axis of length ``T``.

    Returns:
        The last carry, and the ``y`` stacked on a leading axis of length ``T``.

    Raises:
        ValueError: compiled, a carry that changes its shapes or dtypes.

    >>> total, sums = scan(lambda carry, x: (carry + x, carry + x), torch.tensor(0), torch.arange(4))
    >>> total, sums
    (tensor(6), tensor([0, 1, 3, 6]))
    """
    if _is_recorded():
        return _traced_scan(body, init, xs)
    carry, ys = init, []
    for index in range(tree.batch_size(xs)):
        carry, y = body(carry, tree.map(lambda leaf: leaf[index], xs))  # noqa: B023
        ys.append(y)
    return carry, tree.stack(ys)


def _traced_scan(body: Callable[[Tree, Tree], tuple[Tree, Tree]], init: Tree, xs: Tree) -> tuple[Tree, Tree]:
    """One node of the graph that is being recorded; it takes flat lists."""
    init_leaves, carry_structure = tree.flatten(init)
    x_leaves, x_structure = tree.flatten(xs)
    count = len(init_leaves)
    y_structures: list[Any] = []

    def flat_body(*leaves: Tensor) -> list[Tensor]:
        carry = tree.unflatten(carry_structure, list(leaves[:count]))
        carry, y = body(carry, tree.unflatten(x_structure, list(leaves[count:])))
        y_leaves, y_structure = tree.flatten(y)
        y_structures.append(y_structure)
        return [*tree.leaves(carry), *y_leaves]

    results = traced_loops.scan(flat_body, init_leaves, x_leaves)
    return tree.unflatten(carry_structure, results[:count]), tree.unflatten(y_structures[-1], results[count:])


def fold(body: Callable[[Tree, Tree], Tree], init: Tree, xs: Tree) -> Tree:
    """A :func:`scan` that emits nothing: ``body`` is ``(carry, x) -> carry``, the result the last carry.

    >>> fold(lambda carry, x: carry + x, torch.tensor(0), torch.arange(4))
    tensor(6)
    """
    if _is_recorded():
        return _traced_scan(lambda carry, x: (body(carry, x), ()), init, xs)[0]
    carry = init
    for index in range(tree.batch_size(xs)):
        carry = body(carry, tree.map(lambda leaf: leaf[index], xs))  # noqa: B023
    return carry


def repeat(function: Callable[[Tree], Tree], init: Tree, num: int) -> Tree:
    """Applies ``function`` ``num`` times.

    >>> repeat(lambda x: 2 * x, torch.tensor(1), 3)
    tensor(8)
    """
    if num == 0:
        return init
    if num == 1:
        return function(init)
    return fold(lambda carry, _: function(carry), init, torch.zeros(num, device=tree.first(init).device))


def call(function: Callable[[Tree], Tree], x: Tree) -> Tree:
    """``function(x)``, which has the structure, shapes and dtypes of ``x``; equal calls of large functions are compiled once.

    >>> call(lambda x: 2 * x, torch.tensor(1))
    tensor(2)
    """
    if not _is_recorded():
        return function(x)
    leaves, structure = tree.flatten(x)
    results = traced_loops.call(lambda *leaves: tree.leaves(function(tree.unflatten(structure, list(leaves)))), leaves)
    return tree.unflatten(structure, results)


def while_loop(
    condition: Callable[[Tree], Tensor], body: Callable[[Tree], Tree], init: Tree, *, is_masked: bool = True
) -> Tree:
    """Applies ``body`` while ``condition`` holds; many loops at once run in lock step until the last has ended.

    Args:
        condition: ``carry -> ()`` bool. It may have leading axes, one for each of many loops, which every leaf of the
            carry then leads with: a loop whose condition is False keeps its carry as it is while others continue.
        body: ``carry -> carry``; it keeps structure, shapes and dtypes.
        init: the first carry.
        is_masked: False where ``body`` itself leaves a carry whose condition is False as it is, which saves a copy an iteration.

    Returns:
        The last carry.

    Raises:
        RuntimeError: compiled inside of ``grad`` or ``jvp``, which would have to know how often it runs.

    >>> while_loop(lambda x: x < 10, lambda x: 2 * x, torch.tensor([1, 3, 50]))
    tensor([16, 12, 50])
    """

    def masked(carry: Tree) -> Tree:
        if not is_masked:
            return body(carry)
        goes_on = condition(carry)
        keep = lambda new, old: torch.where(goes_on.reshape(goes_on.shape + (1,) * (new.ndim - goes_on.ndim)), new, old)  # noqa: E731
        return tree.map(keep, body(carry), carry)

    if traced_loops.is_active():
        if is_differentiating():
            raise RuntimeError(
                "a while_loop cannot be compiled inside of grad or jvp: how often it runs is not known, so it cannot be "
                "unrolled. Use fold with a fixed number of iterations, or pass jit=False."
            )
        leaves, structure = tree.flatten(init)
        last = traced_loops.while_loop(
            lambda *leaves: condition(tree.unflatten(structure, list(leaves))).any(),
            lambda *leaves: tree.leaves(masked(tree.unflatten(structure, list(leaves)))),
            leaves,
        )
        return tree.unflatten(structure, last)
    carry = init
    while _any(condition(carry)):
        carry = masked(carry)
    return carry


def _any(flags: Tensor) -> bool:
    """Whether any flag is set, in any of the loops that ``vmap`` maps over."""
    return bool(plain(flags).any())
