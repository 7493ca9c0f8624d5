"""Loops that mean the same eager and compiled: ``scan`` and its friends.

Under :func:`funcebm.transforms.jit` a loop is one higher-order operator with a compiled body; otherwise it is a Python
loop, the reference semantics, with the same numbers.
"""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor

from . import tree
from .types import Tree

try:
    from torch._higher_order_ops.scan import scan as _scan_operator
except ImportError:  # a torch without the operator: every loop is a Python loop
    _scan_operator = None

__all__ = ["has_scan", "is_compiling", "repeat", "scan"]

has_scan = _scan_operator is not None
"""Whether this torch can compile a loop."""


def is_compiling() -> bool:
    """Whether the code that asks is being traced by ``torch.compile``."""
    check = getattr(getattr(torch, "compiler", None), "is_compiling", None)
    return check() if check is not None else False


def scan(body: Callable[[Tree, Tree], tuple[Tree, Tree]], init: Tree, xs: Tree) -> tuple[Tree, Tree]:
    """Carries a state through ``body`` along the leading axis of ``xs``, and stacks what it emits.

    Args:
        body: ``(carry, x) -> (carry, y)``; the carry keeps its structure, shapes and dtypes. ``y`` may be ``()``.
        init: the first carry.
        xs: a tree whose leaves share a leading axis of length ``T``.

    Returns:
        The last carry, and the ``y`` stacked on a leading axis of length ``T``.

    >>> total, sums = scan(lambda carry, x: (carry + x, carry + x), torch.tensor(0), torch.arange(4))
    >>> total, sums
    (tensor(6), tensor([0, 1, 3, 6]))
    """
    if is_compiling() and has_scan:
        return _compiled_scan(body, init, xs)
    carry, ys = init, []
    for index in range(tree.batch_size(xs)):
        carry, y = body(carry, tree.map(lambda leaf: leaf[index], xs))  # noqa: B023
        ys.append(y)
    return carry, tree.stack(ys)


def _compiled_scan(body: Callable[[Tree, Tree], tuple[Tree, Tree]], init: Tree, xs: Tree) -> tuple[Tree, Tree]:
    """The operator refuses aliases of its inputs, and wants at least one output to stack."""

    def wrapped_body(carry: Tree, x: Tree) -> tuple[Tree, tuple[Tree, Tensor]]:
        new_carry, y = body(carry, x)
        filler = torch.zeros((), device=tree.first(carry).device)
        return tree.map(lambda _, leaf: leaf.clone(), carry, new_carry), (tree.map(torch.clone, y), filler)

    carry, (ys, _) = _scan_operator(wrapped_body, tree.map(torch.clone, init), xs)
    return carry, ys


def repeat(function: Callable[[Tree], Tree], init: Tree, num: int) -> Tree:
    """Applies ``function`` ``num`` times.

    >>> repeat(lambda x: 2 * x, torch.tensor(1), 3)
    tensor(8)
    """
    if num == 0:
        return init
    if num == 1:
        return function(init)
    device = tree.first(init).device
    return scan(lambda carry, _: (function(carry), ()), init, torch.zeros(num, device=device))[0]
