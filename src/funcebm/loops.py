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
from .types import Tree

_scan_operator: Any
try:
    from torch._higher_order_ops.scan import scan as _scan_operator
except ImportError:  # a torch without the operator: every loop is a Python loop
    _scan_operator = None

__all__ = ["fold", "has_scan", "is_compiling", "repeat", "scan"]

has_scan = _scan_operator is not None
"""Whether this torch can compile a loop."""


def is_compiling() -> bool:
    """Whether the code that asks is being traced by ``torch.compile``."""
    check = getattr(getattr(torch, "compiler", None), "is_compiling", None)
    return check() if check is not None else False


def _is_differentiating() -> bool:
    """Whether the code that asks runs inside ``torch.func.grad`` (``jacrev``, ``vjp``)."""
    stack = torch._C._functorch.get_interpreter_stack() or []
    return any(level.key() == torch._C._functorch.TransformType.Grad for level in stack)


def _is_mapping() -> bool:
    """Whether the code that asks runs inside ``torch.func.vmap``."""
    stack = torch._C._functorch.get_interpreter_stack() or []
    return any(level.key() == torch._C._functorch.TransformType.Vmap for level in stack)


for _question in (_is_differentiating, _is_mapping):
    _question._dynamo_marked_constant = True  # type: ignore[attr-defined]  # asked while tracing, not traced


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
    if is_compiling() and has_scan and not _is_differentiating():
        # only a call can tell what the body emits; this one is dead code, which the compiler drops
        after, y = body(init, tree.map(lambda leaf: leaf[0], xs))
        carry, y_leaves = _call_operator(body, _mapped_like(init, after) if _is_mapping() else init, xs)
        return carry, tree.unflatten(tree.structure(y), y_leaves)
    carry, ys = init, []
    for index in range(tree.batch_size(xs)):
        carry, y = body(carry, tree.map(lambda leaf: leaf[index], xs))  # noqa: B023
        ys.append(y)
    return carry, tree.stack(ys)


def fold(body: Callable[[Tree, Tree], Tree], init: Tree, xs: Tree) -> Tree:
    """A :func:`scan` that emits nothing: ``body`` is ``(carry, x) -> carry``, the result the last carry.

    >>> fold(lambda carry, x: carry + x, torch.tensor(0), torch.arange(4))
    tensor(6)
    """
    if is_compiling() and has_scan and not _is_differentiating():
        if _is_mapping():
            init = _mapped_like(init, body(init, tree.map(lambda leaf: leaf[0], xs)))
        return _call_operator(lambda carry, x: (body(carry, x), ()), init, xs)[0]
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


def _mapped_like(init: Tree, after: Tree) -> Tree:
    """The same numbers, all mapped by each ``vmap`` that maps a leaf of ``after``, the carry of one step later.

    The operator wants it of its carry from the start; what one step maps in one leaf, the next may map in others.
    """
    never = torch.stack([leaf.new_zeros((), dtype=torch.bool) for leaf in tree.leaves(after)]).any()
    return tree.map(lambda leaf: torch.where(never, leaf, leaf), init)


def _own(leaf: Tensor) -> Tensor:
    """A copy with the plain strides of its shape: the operator compares strides too."""
    return leaf.clone(memory_format=torch.contiguous_format)


def _call_operator(body: Callable[[Tree, Tree], tuple[Tree, Tree]], init: Tree, xs: Tree) -> tuple[Tree, list[Tensor]]:
    """The last carry, and the stacked leaves of what was emitted.

    The operator takes flat lists, refuses aliases of its inputs, and wants at least one output to stack.
    """
    init_leaves, carry_structure = tree.flatten(init)
    all_x_leaves, x_structure = tree.flatten(xs)
    shapes, is_mapping = [leaf.shape for leaf in init_leaves], _is_mapping()

    def pack(leaf: Tensor) -> Tensor:  # an axis of length 1 has no one stride, and vmap gives it several
        return _own(leaf.squeeze() if is_mapping else leaf)

    def flat_body(carry_leaves: list[Tensor], x_leaves: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        carry_leaves = [leaf.reshape(shape) for leaf, shape in zip(carry_leaves, shapes, strict=True)]
        carry, y = body(tree.unflatten(carry_structure, carry_leaves), tree.unflatten(x_structure, x_leaves))
        filler = torch.zeros((), device=carry_leaves[0].device)
        return [pack(leaf) for leaf in tree.leaves(carry)], [*(_own(leaf) for leaf in tree.leaves(y)), filler]

    carry_leaves, y_leaves = _scan_operator(flat_body, [pack(leaf) for leaf in init_leaves], all_x_leaves)
    carry_leaves = [leaf.reshape(shape) for leaf, shape in zip(carry_leaves, shapes, strict=True)]
    return tree.unflatten(carry_structure, carry_leaves), y_leaves[:-1]
